"""`captioner compare`: the verdict on two results files, on the images that both have."""

import json

import pytest

from captioner.cli.compare import compare
from captioner.data.datasets import load_references
from captioner.errors import UsageError
from captioner.results.files import write_results


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
