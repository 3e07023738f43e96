"""Shards that are written: what other readers find in them, equal bytes, and continuing."""

import hashlib
import json
import tarfile

import pytest

from captioner.data.datasets import load_examples
from captioner.data.problems import Problems
from captioner.data.shard_examples import load_shards
from captioner.data.shard_writer import plan_shards, write_shards
from captioner.errors import UsageError
from captioner.progress import Progress


@pytest.fixture
def examples(shapes):
    return load_examples(shapes / "captions_dev.json", shapes / "dev")  # 8 PNG files


@pytest.fixture
def write(tmp_path):
    def call(examples, name="shards", **plan):
        progress = Progress("")
        plan = plan_shards(examples, **plan or {"size": 3})
        return write_shards(examples, tmp_path / name, plan, progress), progress

    return call


def names(tar):
    with tarfile.open(tar) as archive:
        return archive.getnames()


def hashes(folder):
    files = sorted(folder.glob("*.tar"))
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def test_a_shard_has_each_image_its_first_caption_and_all_that_is_known(examples, write, tmp_path):
    assert write(examples)[0] == []
    tars = sorted((tmp_path / "shards").glob("*.tar"))
    assert [tar.name for tar in tars] == ["00000.tar", "00001.tar", "00002.tar"]
    samples = {}  # as WebDataset groups members
    for tar in tars:
        with tarfile.open(tar) as archive:
            for member in archive:
                assert (member.mtime, member.uid, member.gid, member.uname) == (0, 0, 0, "")
                key, _, suffix = member.name.partition(".")
                samples.setdefault(key, {})[suffix] = archive.extractfile(member).read()
    assert [*samples] == [f"{number:08}" for number in range(8)]
    for sample, example in zip(samples.values(), examples, strict=True):
        assert [*sample] == ["png", "txt", "json"]
        assert sample["png"] == example.path.read_bytes()
        assert sample["txt"].decode() == example.captions[0]
        assert json.loads(sample["json"]) == {
            "captions": [*example.captions],
            "image_id": example.image_id,
            "file_name": example.path.name,
            "width": 64,
            "height": 64,
        }


def test_shards_are_read_as_the_examples_that_were_written(examples, write, tmp_path):
    write(examples)
    loaded = load_shards([str(tmp_path / "shards")], Problems(""))
    assert [(each.captions, each.path.read()) for each in loaded] == [
        (each.captions, each.path.read_bytes()) for each in examples
    ]
    again, _ = write(loaded, "again")
    assert again == []
    for tar in (tmp_path / "again").glob("*.tar"):
        assert names(tar) == names(tmp_path / "shards" / tar.name)


def test_two_runs_write_equal_tars_and_a_killed_one_continues(
    examples, write, tmp_path, monkeypatch
):
    write(examples)
    expected = hashes(tmp_path / "shards")
    (tmp_path / "killed").mkdir()
    left = tmp_path / "killed" / ".00001.tar.4242.captioner-tmp"
    left.write_bytes(b"half a tar")
    write(examples[:3], "killed")
    first = (tmp_path / "killed" / "00000.tar").stat()
    _, progress = write(examples, "killed")
    assert hashes(tmp_path / "killed") == expected
    assert (tmp_path / "killed" / "00000.tar").stat().st_mtime_ns == first.st_mtime_ns
    assert progress.skipped == 3
    assert progress.done == 8
    assert not left.exists()


def test_an_image_that_cannot_be_read_is_left_out_named_again_and_added_when_it_can(
    data_set, tmp_path, write
):
    data_set.write()
    examples = load_examples(data_set.folder / "train.json")
    path = examples[1].path
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    for _ in ("written", "kept"):
        [error], progress = write(examples, size=100)
        assert error.name == str(path)
        assert "truncated" in error.reason
    assert progress.skipped == len(examples)
    assert "00000001.jpg" not in names(tmp_path / "shards" / "00000.tar")
    path.write_bytes(content)
    assert write(examples, size=100)[0] == []
    assert "00000001.jpg" in names(tmp_path / "shards" / "00000.tar")


def test_the_suffix_in_a_shard_is_that_of_the_content(examples, write, tmp_path):
    wrong = tmp_path / "1.webp"
    wrong.write_bytes(examples[0].path.read_bytes())
    write([examples[0]._replace(path=wrong)])
    assert names(tmp_path / "shards" / "00000.tar")[0] == "00000000.png"


@pytest.mark.parametrize("change", ["captions", "image", "size"])
def test_tars_of_other_data_are_not_replaced(examples, write, tmp_path, change):
    write(examples)
    before = hashes(tmp_path / "shards")
    other = examples[0]._replace(
        **{"captions": ("x",)} if change == "captions" else {"path": examples[1].path}
    )
    with pytest.raises(UsageError, match=r"00000.tar: holds 00000000, with another image or oth"):
        write([other, *examples[1:]] if change != "size" else [examples[1], *examples[2:]])
    with pytest.raises(UsageError, match=r"holds 00002.tar, which is not of this data set"):
        write(examples, size=5)
    assert hashes(tmp_path / "shards") == before


def test_a_shard_of_some_megabytes_is_filled_in_order(examples, tmp_path):
    sizes = [400_000, 500_000, 700_000, 100_000, 900_000, 1_200_000, 10, 20]
    for number, size in enumerate(sizes):
        (tmp_path / str(number)).write_bytes(bytes(size))
        examples[number] = examples[number]._replace(path=tmp_path / str(number))
    plan = plan_shards(examples, megabytes=1)
    assert [[*part] for part in plan] == [[0, 1], [2, 3], [4], [5], [6, 7]]
    assert [*plan_shards(examples, size=3)] == [range(3), range(3, 6), range(6, 8)]
