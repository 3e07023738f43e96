"""Bulk runs: shards, parts and resuming, with a captioner whose numbers depend on its batches."""

import json
import os
import resource
import threading

import numpy as np
import pytest

from captioner.bulk.parts import ALL, PartFolder, Shard
from captioner.bulk.run import caption_parts, counted_in_background, run_shard
from captioner.captions import Caption
from captioner.config.schema import DecodingConfig
from captioner.data.lists import ImageItem
from captioner.data.sources import open_source
from captioner.errors import CaptionerError, ImageError, UsageError
from captioner.locking import LockedError
from captioner.progress import Progress

RUN = {"weights": ["abc"], "decoding": {"beam": 3}, "part_size": 4}


class FakeCaptioner:
    """Captions the image "7.jpg" with "image 7"; names with an x cannot be read."""

    def __init__(self):
        self.batches = []

    def prepare(self, image):
        name = os.path.basename(os.fspath(image))
        if "x" in name:
            raise ImageError(name, "is broken")
        return np.array([int(name.removesuffix(".jpg"))])

    def caption_pixels(self, pixels, *, decoding):
        numbers = [int(number) for (number,) in pixels]
        self.batches.append(numbers)
        # As in a real model, what else is in the batch changes the number a little.
        return [Caption(f"image {n}", (), -n - sum(numbers) * 1e-9) for n in numbers]


@pytest.fixture
def make_source(tmp_path):
    """A list of images by their names without the suffix."""

    def make(names):
        (tmp_path / "list.txt").write_text("".join(f"{name}.jpg\n" for name in names))
        return open_source([str(tmp_path / "list.txt")])

    return make


@pytest.fixture
def bulk(tmp_path, make_source):
    """Run a shard into a folder, and return its progress."""

    def run(
        names, folder="out", shard=ALL, captioner=None, form="jsonl", batch_size=3, tell=None, **run
    ):
        parts = PartFolder.open(str(tmp_path / folder), form, RUN | run)
        with Progress("captioning") as progress:
            run_shard(
                make_source(names),
                parts,
                captioner or FakeCaptioner(),
                shard=shard,
                part_size=4,
                decoding=DecodingConfig(),
                batch_size=batch_size,
                progress=progress,
                on_outcome=tell or (lambda item, outcome: None),
            )
        return progress

    return run


def content(folder):
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def images(folder):
    files = sorted(folder.glob("part-*.jsonl"))
    return [json.loads(line)["image"] for file in files for line in file.open()]


def test_parts_have_a_row_for_each_image_in_order(bulk, tmp_path):
    progress = bulk([0, "x", 2, 3, 4])
    assert (progress.done, progress.failed) == (5, 1)
    assert sorted(content(tmp_path / "out")) == [
        *(".run.json", "part-00000000.jsonl", "part-00000001.jsonl")
    ]
    first, broken, *_ = (tmp_path / "out" / "part-00000000.jsonl").read_text().splitlines()
    assert json.loads(first) | {"log_prob": 0} == {
        **{"image": "0.jpg", "caption": "image 0", "log_prob": 0},
        **{"confidence": None, "error": None},
    }
    assert json.loads(broken) == {
        **{"image": "x.jpg", "caption": None, "log_prob": None},
        **{"confidence": None, "error": "is broken"},
    }


@pytest.mark.row(45)
@pytest.mark.parametrize("form", ["jsonl", "parquet"])
def test_eight_shards_write_what_one_writes_byte_for_byte(bulk, tmp_path, form):
    if form == "parquet":
        pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    names = [*range(40), "x", *range(41, 50)]
    bulk(names, "one", form=form)
    for index in (3, 1, 8, 2, 7, 4, 6, 5):
        bulk(names, "eight", Shard(index, 8), form=form)
    assert content(tmp_path / "eight") == content(tmp_path / "one")
    assert len(content(tmp_path / "one")) == 13 + 1


def test_a_batch_never_has_images_of_two_parts(make_source):
    captioner = FakeCaptioner()
    parts = make_source(range(10)).parts(4)
    batches = list(caption_parts(captioner, parts, decoding=DecodingConfig(), batch_size=3))
    assert captioner.batches == [[0, 1, 2], [3], [4, 5, 6], [7], [8, 9]]
    assert [(each.part, each.ends_part) for each in batches] == [
        *((0, False), (0, True), (1, False), (1, True), (2, True))
    ]


def test_images_of_the_next_part_are_read_while_one_is_captioned(make_source):
    read = []

    class Recorder(FakeCaptioner):
        def prepare(self, image):
            read.append(os.path.basename(image))
            if len(read) == 6:
                six.set()
            return super().prepare(image)

        def caption_pixels(self, pixels, *, decoding):
            # Would wait in vain if the second part were read after the first is captioned.
            assert six.wait(10)
            return super().caption_pixels(pixels, decoding=decoding)

    six = threading.Event()
    parts = make_source(range(6)).parts(2)
    list(caption_parts(Recorder(), parts, decoding=DecodingConfig(), batch_size=2))
    assert len(read) == 6


def test_parts_that_exist_are_not_captioned_again(bulk, tmp_path):
    bulk(range(12))
    expected = content(tmp_path / "out")
    (tmp_path / "out" / "part-00000001.jsonl").unlink()
    captioner = FakeCaptioner()
    progress = bulk(range(12), captioner=captioner)
    assert captioner.batches == [[4, 5, 6], [7]]
    assert content(tmp_path / "out") == expected
    assert (progress.done, progress.skipped) == (12, 8)


def test_a_run_that_fails_in_the_middle_keeps_whole_parts_only(bulk, tmp_path):
    def fail(item, outcome):
        if item.name == "9.jpg":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        bulk(range(12), tell=fail)
    assert images(tmp_path / "out") == [f"{number}.jpg" for number in range(8)]
    bulk(range(12))
    assert images(tmp_path / "out") == [f"{number}.jpg" for number in range(12)]


def test_a_source_that_has_grown_is_continued(bulk, tmp_path):
    bulk(range(6))
    bulk(range(9))
    assert images(tmp_path / "out") == [f"{number}.jpg" for number in range(9)]


def test_a_source_that_has_grown_and_changed_is_refused(bulk):
    bulk(range(6))
    with pytest.raises(UsageError, match=r"part-00000001\.jsonl .* changed since"):
        bulk([*range(5), 9, 6])


@pytest.mark.parametrize(
    ("names", "part"),
    [
        ([1, 0, *range(2, 8)], 0),  # another first image
        ([*range(7), 9], 1),  # another last image
        (range(4), 1),  # it has become shorter
        (range(6), 1),
    ],
)
def test_a_source_that_has_changed_is_refused(bulk, tmp_path, names, part):
    bulk(range(8))
    before = content(tmp_path / "out")
    with pytest.raises(UsageError, match=rf"part-0000000{part}\.jsonl .*source.* changed since"):
        bulk(names)
    assert content(tmp_path / "out") == before


def test_names_that_are_twice_in_a_list_have_two_rows(bulk, tmp_path):
    bulk([1, 1, 1, 1, 1, 2])
    assert images(tmp_path / "out") == ["1.jpg"] * 5 + ["2.jpg"]
    assert bulk([1, 1, 1, 1, 1, 2]).skipped == 6


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weights": ["abd"]}, r"weights was \['abc'\], and is \['abd'\]"),
        ({"decoding": {"beam": 4}}, "decoding was beam=3, and is beam=4"),
        ({"part_size": 5}, "part_size was 4, and is 5"),
        ({"form": "parquet"}, "format was 'jsonl', and is 'parquet'"),
    ],
)
def test_a_folder_of_another_run_is_refused_and_the_difference_told(bulk, change, message):
    bulk(range(3))
    with pytest.raises(UsageError, match=f"has parts of another run: {message}"):
        bulk(range(3), **change)


def test_a_folder_whose_run_is_not_known_is_refused(bulk, tmp_path):
    bulk(range(3))
    (tmp_path / "out" / ".run.json").write_text("{}")
    with pytest.raises(UsageError, match=r"run\.json is not of a bulk run"):
        bulk(range(3))
    (tmp_path / "out" / ".run.json").unlink()
    with pytest.raises(UsageError, match=r"has parts without their \.run\.json: copy"):
        bulk(range(3))


@pytest.mark.parametrize("data", [b"", b"x\n", b"[]\n", b'{"image": 1'])
def test_a_part_that_no_run_wrote_is_named(bulk, tmp_path, data):
    bulk(range(3))
    (tmp_path / "out" / "part-00000000.jsonl").write_bytes(data)
    with pytest.raises(
        UsageError, match=r"part-00000000\.jsonl is not a part of this run .*delete"
    ):
        bulk(range(3))


def test_a_second_process_with_the_same_shard_is_refused(bulk, tmp_path):
    bulk(range(8))
    parts = PartFolder.open(str(tmp_path / "out"), "jsonl", RUN)
    with parts.claim(Shard(1, 2)):
        bulk(range(8), shard=Shard(2, 2))
        with pytest.raises(LockedError, match="out, shard 1 of 2, is in use by process"):
            bulk(range(8), shard=Shard(1, 2))


def test_what_a_killed_process_left_of_its_parts_is_removed(bulk, tmp_path):
    (tmp_path / "out").mkdir()
    own, other, foreign = (
        tmp_path / "out" / f".{name}.77.captioner-tmp"
        for name in ("part-00000002.jsonl", "part-00000001.jsonl", "photo.jpg")
    )
    for file in (own, other, foreign):
        file.touch()
    bulk(range(12), shard=Shard(1, 2))
    assert [file.exists() for file in (own, other, foreign)] == [False, True, True]


@pytest.mark.parametrize("text", ["0/8", "9/8", "1", "1/0", "a/b", "-1/2", "1/2/3", ""])
def test_a_shard_is_one_of_a_number(text):
    with pytest.raises(UsageError, match=r"shard .*: give i/n with i from 1 to n"):
        Shard.parse(text)


def test_each_part_is_of_one_shard():
    shards = [Shard.parse(f"{index}/3") for index in (1, 2, 3)]
    taken = [[part for part in range(7) if shard.takes(part)] for shard in shards]
    assert taken == [[0, 3, 6], [1, 4], [2, 5]]


def test_a_folder_that_cannot_be_made_is_an_error(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(CaptionerError, match="file/out cannot be written"):
        PartFolder.open(str(tmp_path / "file" / "out"), "jsonl", RUN)


@pytest.mark.row(45)
def test_a_full_disk_keeps_the_parts_before_and_leaves_no_half_one(bulk, tmp_path):
    def fill(item, outcome):
        if item.name == "5.jpg":  # in the second part
            resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))

    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        with pytest.raises(CaptionerError, match=r"part-00000001\.jsonl cannot be written: File"):
            bulk(range(12), tell=fill)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert sorted(content(tmp_path / "out")) == [".run.json", "part-00000000.jsonl"]


def test_the_total_of_a_shard_is_counted(make_source, monkeypatch):
    monkeypatch.setattr("captioner.bulk.run.COUNT_AFTER", 0)
    progress = Progress("captioning")
    with counted_in_background(make_source(range(10)), 4, Shard(1, 2), progress):
        for thread in threading.enumerate():
            if thread.name == "count-images":
                thread.join(10)
    assert progress.total == 6  # parts 0 and 2


def test_a_store_gets_the_same_parts(bulk, tmp_path, monkeypatch, make_source):
    fs = pytest.importorskip("pyarrow.fs", reason="pyarrow is not installed")
    from captioner.data import filesystems

    local = fs.SubTreeFileSystem(str(tmp_path), fs.LocalFileSystem())
    monkeypatch.setattr(filesystems, "_file_system", lambda scheme, bucket: local)
    (tmp_path / "bucket" / "out").mkdir(parents=True)
    bulk(range(6))
    for _ in range(2):
        parts = PartFolder.open("s3://bucket/out/", "jsonl", RUN)
        captioner = FakeCaptioner()
        options = {"part_size": 4, "decoding": DecodingConfig(), "batch_size": 3}
        progress = Progress("captioning")
        run_shard(make_source(range(6)), parts, captioner, shard=ALL, progress=progress, **options)
    assert content(tmp_path / "bucket" / "out") == content(tmp_path / "out")
    assert captioner.batches == []  # of the second run


def test_items_are_told_of_in_order(bulk):
    told = []
    bulk([0, "x", 2], tell=lambda item, outcome: told.append((item, type(outcome))))
    assert [(item.name, kind) for item, kind in told] == [
        *(("0.jpg", Caption), ("x.jpg", ImageError), ("2.jpg", Caption))
    ]
    assert isinstance(told[0][0], ImageItem)
