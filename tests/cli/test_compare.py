"""`captioner compare`: the verdict on two results files, on the images that both have."""

import json

import pytest

from captioner.cli.compare import compare
from captioner.data.datasets import load_references
from captioner.data.image_ids import load_image_ids
from captioner.errors import UsageError
from captioner.results.files import read_results, write_results


@pytest.fixture
def annotations(shapes):
    return shapes / "captions_train.json"


@pytest.fixture
def files(annotations, tmp_path):
    """Results files: references as captions, shifted by one image, and of half of the images."""
    references = {image: captions[0] for image, captions in load_references(annotations).items()}
    images, captions = list(references), list(references.values())
    write_results(tmp_path / "right.json", references)
    write_results(
        tmp_path / "wrong.json", dict(zip(images, captions[-1:] + captions, strict=False))
    )
    write_results(tmp_path / "half.json", {image: references[image] for image in images[::2]})
    return tmp_path


def test_files_metrics_verdict_and_images_are_printed(annotations, files, capsys):
    wrong, right = files / "wrong.json", files / "right.json"
    compare(wrong, right, annotations, as_json=True)
    printed = json.loads(capsys.readouterr().out)
    assert (printed["a"], printed["b"]) == (str(wrong), str(right))
    assert printed["metrics"]["CIDEr"]["b_wins"] == 1
    assert printed["better_b"]
    compare(wrong, right, annotations)
    table = capsys.readouterr().out
    assert table.startswith(f"a: {wrong}\nb: {right}\n")
    assert printed["verdict"] in table


def test_images_that_one_lacks_are_refused_unless_a_subset_is_allowed(annotations, files, capsys):
    right, half = files / "right.json", files / "half.json"
    with pytest.raises(UsageError, match="no caption for 12 images"):
        compare(right, half, annotations)
    compare(right, half, annotations, allow_partial=True, as_json=True)
    out, err = capsys.readouterr()
    printed = json.loads(out)
    assert printed["metrics"]["CIDEr"]["difference"] == 0
    assert "images:12/24|" in printed["signature"]
    assert "12 of 24 images have no caption" in " ".join(err.split())


def test_two_files_without_an_image_in_common_are_refused(annotations, files):
    right = json.loads((files / "right.json").read_text())
    (files / "first.json").write_text(json.dumps(right[:3]))
    (files / "last.json").write_text(json.dumps(right[-3:]))
    with pytest.raises(UsageError, match="no image in common"):
        compare(files / "first.json", files / "last.json", annotations, allow_partial=True)


@pytest.fixture
def texts(tmp_path):
    """Files of 40 references, and of outputs that are right, and half wrong."""
    lines = [f"the dog number {number} runs over the grass" for number in range(40)]
    (tmp_path / "ref.en").write_text("\n".join(lines))
    (tmp_path / "right.en").write_text("\n".join(lines))
    half = [line if number % 2 else "a cat" for number, line in enumerate(lines)]
    (tmp_path / "half.en").write_text("\n".join(half))
    return tmp_path


def test_two_files_of_texts_are_compared_by_sacrebleu(run, texts):
    named = ["compare", texts / "half.en", texts / "right.en", "--references", texts / "ref.en"]
    code, out, _ = run(*named, "--json")
    printed = json.loads(out)
    assert code == 0
    assert (printed["a"], printed["b"]) == (str(texts / "half.en"), str(texts / "right.en"))
    assert printed["metrics"]["BLEU"]["b"] == pytest.approx(1)
    assert printed["verdict"].startswith("b is better: sacreBLEU +")
    lines = [pair["text_id"] for pair in printed["better_b"]]  # from 1: the odd ones are wrong
    assert [line % 2 for line in lines] == [1] * 5
    code, table, _ = run(*named)
    assert table.startswith(f"a: {texts / 'half.en'}\nb: {texts / 'right.en'}\n")
    assert printed["verdict"] in table


def test_texts_of_another_number_of_lines_are_refused(run, texts):
    (texts / "short.en").write_text("a\nb\n")
    code, _, err = run(
        "compare", texts / "short.en", texts / "right.en", "--references", texts / "ref.en"
    )
    assert code == 2
    assert "short.en has 2 lines, but there are references of 40 texts" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "name --annotations to score captions, or --references to score text"),
        (["--annotations", "x", "--references", "y"], "name one kind"),
        (["--references", "y", "--split", "z"], "--split has no effect with --references"),
        (["--references", "y", "--allow-partial"], "--allow-partial has no effect"),
    ],
)
def test_images_or_texts_must_be_named_not_both(run, arguments, message):
    code, out, err = run("compare", "a", "b", *arguments)
    assert (code, out) == (2, "")
    assert message in err


def test_results_that_are_named_by_paths_are_compared_with_results_of_ids(run, shapes, tmp_path):
    annotations = shapes / "captions_dev.json"
    references = load_references(annotations)
    files = {
        image["id"]: image["file_name"] for image in json.loads(annotations.read_text())["images"]
    }
    by_id = {image: captions[0] for image, captions in references.items()}
    by_path = {f"some/where/{files[image]}": "a" for image in by_id}
    for name, captions in (("a.json", by_id), ("b.json", by_path)):
        write_results(tmp_path / name, captions)
    code, out, _ = run(
        "compare", tmp_path / "a.json", tmp_path / "b.json", "--annotations", annotations
    )
    assert code == 0
    assert f"{len(references)} images" in out or f"images:{len(references)}|" in out


def test_annotations_are_read_once_for_the_paths_of_both_files(annotations, files, monkeypatch):
    names = {
        image["id"]: image["file_name"] for image in json.loads(annotations.read_text())["images"]
    }
    for name in ("right", "wrong"):
        captions = read_results(files / f"{name}.json")
        by_path = {f"photos/{names[image]}": caption for image, caption in captions.items()}
        write_results(files / f"{name} by path.json", by_path)
    read = []

    def load(*arguments):
        read.append(arguments)
        return load_image_ids(*arguments)

    monkeypatch.setattr("captioner.cli.compare.load_image_ids", load)
    compare(files / "wrong by path.json", files / "right by path.json", annotations)
    assert len(read) == 1
