"""Splits from several sources: text, captions that dev has too, and dev held out from each."""

import json

import pytest
import torch

from captioner.config.run import DataConfig
from captioner.data.datasets import Example
from captioner.data.parallel import Pair
from captioner.data.plain_text import load_text
from captioner.data.problems import Problems
from captioner.data.splits import ExampleSet, find_sources, hold_out, load_splits
from captioner.distributed import Ranks
from captioner.errors import UsageError

ALONE = Ranks(0, 1, torch.device("cpu"))


@pytest.fixture
def load(data_set, tmp_path):
    """Load the data set with a text of these lines beside it."""

    def make(*lines, **data):
        data_set.write()
        (tmp_path / "text.txt").write_text("\n".join(lines) + "\n")
        sources = {
            split: {"annotations": data_set.folder / f"{split}.json"} for split in data_set.content
        }
        sources["train"] = [sources["train"], {"text": tmp_path / "text.txt"}]
        return load_splits(DataConfig.parse(sources | data, source="x"), ALONE)

    return make


def captions_of(splits):
    return [example.caption for example in splits.text[0].examples]


def test_captions_that_are_references_of_dev_are_left_out_whatever_their_case(
    load, capsys, tmp_path
):
    splits = load("A DOG runs.", "a cat sleeps", "a dog runs fast", "a dog runs")
    assert captions_of(splits) == ["a cat sleeps", "a dog runs fast"]
    printed = capsys.readouterr().err
    assert f"2 captions of {tmp_path / 'text.txt'} are references of dev: left out" in printed


def test_captions_that_only_train_has_are_kept(load, data_set, capsys):
    for annotation in data_set.content["train"]["annotations"]:
        annotation["caption"] = "a cat sleeps"
    assert captions_of(load("a cat sleeps", "a bird sings")) == ["a cat sleeps", "a bird sings"]
    assert "left out" not in capsys.readouterr().err


def test_captions_of_a_held_out_dev_are_left_out_too(load):
    splits = load("a dog runs", "a cat sleeps", dev=None)
    assert captions_of(splits) == ["a cat sleeps"]


def test_a_text_of_references_only_is_refused(load):
    with pytest.raises(UsageError, match="every caption is a reference of dev"):
        load("a dog runs")


def test_without_dev_a_share_of_each_source_is_held_out(data_set):
    data_set.write()
    files = [{"annotations": data_set.folder / f"{split}.json"} for split in ("train", "dev")]
    files[0] |= {"repeat": 3, "captions_per_image": 2}
    splits = load_splits(DataConfig.parse({"train": files, "holdout": 0.25}, source="x"), ALONE)
    assert [(each.name, len(each.examples), each.repeat) for each in splits.train] == [
        ("train", 3, 3),
        ("dev", 3, 1),
    ]
    assert [(each.name, len(each.examples)) for each in splits.dev] == [("train", 1), ("dev", 1)]
    assert splits.train[0].captions_per_image == 2
    assert splits.train[1].captions_per_image == 5  # of data.captions_per_image
    kept, held_out = (
        {each.image_id for each in one[0].examples} for one in (splits.train, splits.dev)
    )
    assert kept | held_out == {1, 2, 3, 4}


def test_lines_of_text_are_captions_and_their_places_their_lines(tmp_path):
    (tmp_path / "a.txt").write_bytes("\ufeffa dog, a cat\r\n\n  a café \n\n\n".encode())
    problems = Problems(tmp_path / "a.txt")
    examples = load_text(tmp_path / "a.txt", problems)
    assert examples == [("line 1", "a dog, a cat"), ("line 3", "a café")]
    assert [(each.kind, list(each.cases)) for each in problems] == [
        ("empty captions, left out", ["line 2"])
    ]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", "image,caption\n1.jpg,a dog\n1.jpg,a cat\n"),
        ("a.txt", "1.jpg#0\ta dog\n1.jpg#1\ta cat\n"),
        ("a.jsonl", '{"image": "1.jpg", "captions": ["a dog", "a cat"]}\n'),
        (
            "a.json",
            json.dumps(
                {
                    "images": [{"id": "1.jpg", "file_name": "x"}],
                    "annotations": [
                        {"id": i, "image_id": "1.jpg", "caption": text}
                        for i, text in enumerate(("a dog", "a cat"))
                    ],
                }
            ),
        ),
    ],
)
def test_text_is_read_from_annotations_whose_images_do_not_exist(tmp_path, name, content):
    (tmp_path / name).write_text(content)
    examples = load_text(tmp_path / name, Problems(name))
    assert examples == [("'1.jpg'", "a dog"), ("'1.jpg'", "a cat")]


def test_text_that_cannot_be_read_whole_is_refused(tmp_path):
    images = [{"imgid": 1, "filename": "x", "split": "val", "sentences": [{"raw": "a dog"}]}]
    (tmp_path / "dataset.json").write_text(json.dumps({"images": images}))
    with pytest.raises(UsageError, match="has splits: write the captions of one to a text file"):
        load_text(tmp_path / "dataset.json", Problems("x"))
    (tmp_path / "a.txt").write_bytes("a café\n".encode("latin-1"))
    problems = Problems("x")
    load_text(tmp_path / "a.txt", problems)
    assert [list(each.cases) for each in problems.errors] == [["line 1, column 6 is 0xe9"]]
    (tmp_path / "a.txt").write_text("")
    with pytest.raises(UsageError, match="is empty"):
        load_text(tmp_path / "a.txt", Problems("x"))
    (tmp_path / "a.pdf").write_text("a dog\n")
    with pytest.raises(UsageError, match="unsupported annotation format"):
        load_text(tmp_path / "a.pdf", Problems("x"))


@pytest.fixture
def load_pairs_of(tmp_path):
    """Load splits of these pairs of lines, written to two files for each split."""

    def make(**splits):
        data = {key: splits.pop(key) for key in ("holdout", "captions_per_image") if key in splits}
        for split, pairs in splits.items():
            files = {"source": tmp_path / f"{split}.en", "target": tmp_path / f"{split}.de"}
            for side, file in enumerate(files.values()):
                file.write_text("".join(f"{pair[side]}\n" for pair in pairs))
            data[split] = files
        return load_splits(DataConfig.parse(data, source="x"), ALONE)

    return make


LINES = [(f"text {number}", f"Text {number}") for number in range(20)]


def test_the_pairs_of_two_files_are_the_examples_of_a_split(load_pairs_of, capsys):
    splits = load_pairs_of(train=LINES[:3], dev=LINES[3:5])
    assert [(each.name, each.repeat) for each in splits.train] == [("train", 1)]
    assert splits.train[0].examples[2] == Pair("line 3", "text 2", ("Text 2",))
    assert [pair.source for pair in splits.dev[0].examples] == ["text 3", "text 4"]
    assert splits.text == []
    assert capsys.readouterr().err == ""


def test_without_dev_a_share_of_the_pairs_is_held_out(load_pairs_of):
    splits = load_pairs_of(train=LINES, holdout=0.25)
    assert [len(each.examples) for each in (*splits.train, *splits.dev)] == [15, 5]
    examples = [*splits.train[0].examples, *splits.dev[0].examples]
    assert {pair.source for pair in examples} == {source for source, _ in LINES}


def test_texts_of_dev_that_train_has_too_are_counted_and_kept(load_pairs_of, capsys):
    splits = load_pairs_of(train=LINES[:3], dev=[("text 1", "another"), ("text 9", "Text 1")])
    assert len(splits.dev[0].examples) == 2
    assert "1 of 2 dev texts of dev are in train too: kept" in capsys.readouterr().err


def test_pairs_that_are_left_out_are_logged_with_their_lines(load_pairs_of, tmp_path, caplog):
    lines = [("a", "A"), ("", "B"), ("c", ""), ("d", "D"), ("", "E")]
    with caplog.at_level("WARNING", "captioner"):
        load_pairs_of(train=lines, dev=LINES[:1])
    files = f"{tmp_path / 'train.en'} and {tmp_path / 'train.de'}"
    assert caplog.messages == [
        f"{files}: targets without a source, left out (2): line 2, line 5",
        f"{files}: sources without a target, left out (1): line 3",
    ]


def test_pairs_with_errors_are_refused_with_both_files(load_pairs_of, tmp_path):
    (tmp_path / "a.en").write_text("a\nb\n")
    (tmp_path / "a.de").write_text("A\n")
    data = {"train": {"source": tmp_path / "a.en", "target": tmp_path / "a.de"}}
    with pytest.raises(UsageError, match=r"a\.en and .*a\.de: different numbers of lines"):
        load_splits(DataConfig.parse(data, source="x"), ALONE)


def test_generated_text_is_made_and_loaded(tmp_path):
    made = {"task": "addition", "folder": tmp_path / "sums", "train": 30, "dev": 10}
    splits = load_splits(DataConfig.parse({"generated": made}, source="x"), ALONE)
    assert [(each.name, len(each.examples)) for each in (*splits.train, *splits.dev)] == [
        ("train", 30),
        ("dev", 10),
    ]
    first, second = map(int, splits.dev[0].examples[0].source.split("+"))
    assert splits.dev[0].examples[0].captions == (str(first + second),)


@pytest.mark.parametrize("missing", ["source", "target"])
def test_a_missing_side_is_named_with_the_hint_of_the_config(tmp_path, missing):
    files = {"source": tmp_path / "a.en", "target": tmp_path / "a.de"}
    for side, file in files.items():
        if side != missing:
            file.write_text("a\n")
    data = DataConfig.parse({"train": files, "hint": "Get it."}, source="x")
    with pytest.raises(UsageError, match=rf"data\.train\.{missing}: .* does not exist.* Get it\."):
        find_sources(data)


def test_a_config_without_train_says_how_to_name_images_and_texts():
    with pytest.raises(UsageError, match=r"annotations=.* or .* data\.train\.source=train\.en"):
        find_sources(DataConfig())


def test_a_source_of_one_pair_cannot_be_held_out():
    with pytest.raises(UsageError, match=r"one text in sums: .* set data\.dev, or add texts"):
        hold_out([ExampleSet("sums", [Pair("line 1", "1+1", ("2",))])], 0.1)


def test_a_source_of_one_image_cannot_be_held_out(tmp_path):
    one = ExampleSet("cats", [Example("1.jpg", tmp_path / "1.jpg", ("a cat",))])
    with pytest.raises(UsageError, match=r"one image in cats: .* set data\.dev"):
        hold_out([one], 0.1)
