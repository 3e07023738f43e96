"""Data sets of the library `datasets`, in folders: no network."""

import io
import json
import multiprocessing
import pickle

import pytest
from PIL import Image

from captioner import UsageError, train
from captioner.config.run import Config, DataConfig
from captioner.data.batching import CaptionDataset, ImageSource, Loader, sequential_batches
from captioner.data.hf_datasets import RowImage, load_dataset_examples
from captioner.data.images import hash_image, read_header, read_image
from captioner.data.problems import Problems
from captioner.data.transforms import build_transform
from captioner.errors import ImageError, MissingPackageError
from captioner.training.features import content_hash

ROWS = 5


def png(red):
    file = io.BytesIO()
    Image.new("RGB", (8, 6), (red, 0, 0)).save(file, "PNG")
    return file.getvalue()


def texts(row):
    return [f"caption {row}", f" another {row} "]


@pytest.fixture(scope="module")
def datasets():
    return pytest.importorskip("datasets")


@pytest.fixture(scope="module")
def rows(datasets):
    """Five rows: an image, captions as a list and in two columns, and a number."""
    columns = {
        "image": [{"bytes": png(row), "path": f"{row}.png"} for row in range(ROWS)],
        "captions": [texts(row) for row in range(ROWS)],
        "caption_0": [texts(row)[0] for row in range(ROWS)],
        "caption_1": [texts(row)[1] for row in range(ROWS)],
        "number": list(range(ROWS)),
    }
    text = datasets.Value("string")
    features = {"image": datasets.Image(), "captions": [text], "caption_0": text, "caption_1": text}
    return datasets.Dataset.from_dict(
        columns, features=datasets.Features(**features, number=datasets.Value("int64"))
    )


@pytest.fixture(scope="module")
def saved(rows, tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved") / "dogs"
    rows.save_to_disk(folder)
    return folder


@pytest.fixture
def load(tmp_path, monkeypatch, datasets):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))

    def load_examples(name, **options):
        problems = Problems(name)
        examples = load_dataset_examples(str(name), problems=problems, **options)
        load_examples.problems = [str(problem) for problem in problems]
        return examples

    return load_examples


def test_a_saved_data_set_gives_each_image_with_its_captions(load, saved):
    examples = load(saved)
    assert [each.image_id for each in examples] == list(range(ROWS))
    assert [each.captions for each in examples] == [
        (f"caption {row}", f"another {row}") for row in range(ROWS)
    ]
    assert [each.path.read() for each in examples] == [png(row) for row in range(ROWS)]


def test_parquet_files_a_dict_of_splits_and_a_folder_of_images_are_read_too(
    load, rows, datasets, tmp_path, saved
):
    (tmp_path / "parquet").mkdir()
    rows.to_parquet(tmp_path / "parquet" / "train.parquet")
    datasets.DatasetDict(train=rows, test=rows.select([0])).save_to_disk(tmp_path / "dict")
    expected = [(each.captions, each.path.read()) for each in load(saved)]
    for name, split in (("parquet", None), ("parquet/train.parquet", None), ("dict", "train")):
        examples = load(tmp_path / name, split=split)
        assert [(each.captions, each.path.read()) for each in examples] == expected
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "a.png").write_bytes(png(9))
    (folder / "metadata.jsonl").write_text('{"file_name": "a.png", "text": "a dog"}\n')
    (example,) = load(folder)
    assert (example.captions, example.path.read()) == (("a dog",), png(9))


def test_captions_are_in_the_columns_that_are_named_or_in_the_usual_ones(
    load, saved, rows, tmp_path
):
    (first, *_) = load(saved, captions=["caption_1"])
    assert first.captions == ("another 0",)
    rows.remove_columns("captions").save_to_disk(tmp_path / "numbered")
    (first, *_) = load(tmp_path / "numbered")
    assert first.captions == ("caption 0", "another 0")


def test_empty_captions_are_left_out_and_counted(load, rows, tmp_path):
    def with_gaps(row):
        return {
            "captions": [" ", "a dog"] if row["number"] == 1 else [] if row["number"] else ["a"]
        }

    rows.select([0, 1, 2]).map(with_gaps).save_to_disk(tmp_path / "gaps")
    assert [each.captions for each in load(tmp_path / "gaps")] == [("a",), ("a dog",)]
    assert load.problems == [
        "empty captions, left out (1): row 1",
        "images without a caption, left out (1): row 2",
    ]


def test_an_image_is_read_lazily_and_in_copies_that_hold_no_bytes(load, saved):
    examples = load(saved)
    copies = pickle.loads(pickle.dumps(examples))
    assert len(pickle.dumps(examples * 100)) < 60_000  # a reference to the files, and a few numbers
    assert copies == examples
    assert [each.path.read() for each in copies] == [each.path.read() for each in examples]


def test_the_image_has_a_name_a_header_and_a_content_key(load, saved, tmp_path):
    example = load(saved)[3]
    (tmp_path / "same.png").write_bytes(png(3))
    assert str(example.path) == example.path.name == "dogs/3"
    assert read_image(example.path).getpixel((0, 0)) == (3, 0, 0)
    assert read_header(example.path)[:2] == (8, 6)
    assert content_hash(example) == hash_image(tmp_path / "same.png")


def test_a_row_without_an_image_is_an_error_of_this_image_alone():
    addresses = {"bytes": None, "path": "http://a/b.png"}
    rows = [{"image": None}, {"image": {"bytes": None, "path": None}}, {"image": addresses}]
    for row in (0, 1):
        with pytest.raises(ImageError, match=rf"^dogs/train/{row}: the row has no image"):
            read_image(RowImage("kim/dogs", "train", row, rows))
    with pytest.raises(ImageError, match=r"names http://a/b.png, which is no file here"):
        read_image(RowImage("kim/dogs", "train", 2, rows))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"captions": ["capt"]},
            r"has no column capt: its columns are image, captions, .*: set caption to",
        ),
        ({"image": "photo"}, r"has no column photo: .*set image to one of them"),
        ({"image": "number"}, r"the column number holds Value \(int64\), and no images"),
        ({"captions": ["number"]}, r"the captions in number are no texts, such as 0"),
        ({"split": "train"}, r"one split without a name"),
    ],
)
def test_a_wrong_column_or_split_is_named_with_the_way_out(load, saved, options, message):
    with pytest.raises(UsageError, match=message) as caught:
        load(saved, **options)
    assert "\n" not in str(caught.value)


def test_several_splits_need_a_name(load, rows, datasets, tmp_path):
    datasets.DatasetDict(train=rows, test=rows).save_to_disk(tmp_path / "dict")
    with pytest.raises(UsageError, match=r"has the splits train, test: set split to one"):
        load(tmp_path / "dict")
    with pytest.raises(UsageError, match=r"it has no split 'val'"):
        load(tmp_path / "dict", split="val")


def test_a_path_that_does_not_exist_never_goes_to_the_network(tmp_path, monkeypatch, datasets):
    monkeypatch.setattr(datasets, "load_dataset", None)
    for name in (f"{tmp_path}/dogs", "./kim/dogs", "dogs"):
        with pytest.raises(UsageError, match=r"no such folder or parquet file"):
            load_dataset_examples(name, problems=Problems(name))


def test_without_the_library_the_line_names_it(monkeypatch):
    monkeypatch.setattr("captioner.data.hf_datasets.find_spec", lambda name: None)
    with pytest.raises(MissingPackageError, match=r"pip install datasets"):
        load_dataset_examples("kim/dogs", problems=Problems("x"))


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ({"dataset": "d", "annotations": "a.json"}, "annotations and dataset are given"),
        ({"dataset": "d", "images": "i"}, "has its images in a column: leave out images"),
        (
            {"annotations": "a.json", "caption": "c"},
            "annotations has no columns: leave out caption",
        ),
        ({"text": "a.txt", "image": "i"}, "text has no columns: leave out image"),
        ({"dataset": "d", "streaming": True}, "streaming: a run reads each image in each epoch"),
    ],
)
def test_settings_that_do_not_fit_a_data_set_are_refused(source, message):
    with pytest.raises(UsageError, match=message):
        DataConfig.parse({"train": source}, source="test")


def test_one_column_is_a_list_of_one():
    data = DataConfig.parse({"train": {"dataset": "kim/dogs", "caption": "text"}}, source="test")
    assert data.train[0].caption == ("text",)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_workers_read_the_images(load, saved, method, monkeypatch):
    monkeypatch.setattr("multiprocessing.context._default_context._actual_context", None)
    multiprocessing.set_start_method(method, force=True)
    examples = load(saved)
    data = CaptionDataset(
        ImageSource(examples, build_transform("squash", 4)), [[[1, 2]]] * ROWS, 1, seed=0
    )
    loader = Loader(
        data,
        sequential_batches(ROWS, 2),
        workers=2,
        timeout=60,
        file_name=lambda index: str(examples[index].path),
        pin_memory=False,
    )
    reds = [int(image[0, 0, 0]) for batch in loader for image in batch.source]
    assert reds == list(range(ROWS))


@pytest.mark.slow
def test_a_run_learns_from_a_data_set_and_records_its_sizes(tiny, saved, rows, tmp_path):
    source = {"dataset": str(saved), "name": "dogs", "captions_per_image": 1}
    values = tiny(training={"max_steps": 2}).to_json()
    values["data"] = {"train": source, "dev": source, "min_count": 1}
    best = train(Config.parse(values, source="test"), device="cpu")
    sizes = {"name": "dogs", "examples": ROWS, "captions": 2 * ROWS, "repeat": 1}
    recorded = json.loads((best.parent / "splits.json").read_text())
    assert recorded == {"train": [sizes], "dev": [sizes]}
