"""Downloads from a server that works, interrupts, sends wrong data, or has no file."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import download_coco
import downloads
import pytest
from file_server import Site, serve, zipped

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "scripts" / "download_coco.py"
CAPTIONS_ZIP, TRAIN_ZIP, VAL_ZIP = (
    "/annotations/annotations_trainval2017.zip",
    "/zips/train2017.zip",
    "/zips/val2017.zip",
)


@pytest.fixture
def script() -> ModuleType:
    return download_coco


def captions_of(names: list[str]) -> bytes:
    return json.dumps(
        {"images": [{"id": id, "file_name": name} for id, name in enumerate(names)]}
    ).encode()


def images(split: str) -> dict[str, bytes]:
    return {f"{split}2017/{split}{number}.jpg": os.urandom(50_000) for number in range(4)}


@pytest.fixture
def site() -> Iterator[Site]:
    """A small COCO: four images in each split."""
    train, val = images("train"), images("val")
    site = Site()
    site.files[CAPTIONS_ZIP] = zipped(
        {
            f"annotations/captions_{split}2017.json": captions_of(
                [name.split("/")[1] for name in files]
            )
            for split, files in (("train", train), ("val", val))
        }
        | {"annotations/instances_val2017.json": b"{}"}
    )
    site.files[TRAIN_ZIP], site.files[VAL_ZIP] = zipped(train), zipped(val)
    with serve(site):
        yield site


@pytest.fixture
def download(script, site, tmp_path, monkeypatch, capsys):
    """Run the script with a new folder; return the exit code and stderr."""
    monkeypatch.setattr(downloads, "PAUSES", (0.0, 0.0, 0.0))
    monkeypatch.setattr(downloads.console, "_width", 1000)

    def run(*arguments: str) -> tuple[int, str]:
        with pytest.raises(SystemExit) as end:
            script.main(["--folder", str(tmp_path / "coco"), "--base-url", site.url, *arguments])
        captured = capsys.readouterr()
        assert captured.out == ""
        assert "Traceback" not in captured.err
        return int(end.value.code or 0), captured.err

    return run


def contents(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


WHOLE = {f"annotations/captions_{split}2017.json" for split in ("train", "val")} | {
    f"{split}2017/{split}{number}.jpg" for split in ("train", "val") for number in range(4)
}


def test_captions_and_images_are_stored_in_cocos_layout_without_leftovers(download, site, tmp_path):
    assert download()[0] == 0
    assert contents(tmp_path / "coco") == WHOLE
    with zipfile.ZipFile(io.BytesIO(site.files[VAL_ZIP])) as file:
        assert (tmp_path / "coco/val2017/val3.jpg").read_bytes() == file.read("val2017/val3.jpg")


def test_a_second_run_sends_no_request(download, site):
    download()
    site.asked.clear()
    assert download()[0] == 0
    assert site.asked == []


def test_a_lost_image_is_downloaded_again_and_the_others_are_kept(download, site, tmp_path):
    download()
    kept = tmp_path / "coco/val2017/val0.jpg"
    (tmp_path / "coco/val2017/val1.jpg").unlink()
    before = kept.stat().st_mtime_ns
    site.asked.clear()
    assert download()[0] == 0
    assert contents(tmp_path / "coco") == WHOLE
    assert kept.stat().st_mtime_ns == before
    assert [line.split()[1] for line in site.asked] == [VAL_ZIP]


def test_only_the_requested_splits_are_downloaded(download, site, tmp_path):
    assert download("--splits", "val")[0] == 0
    assert contents(tmp_path / "coco") == {name for name in WHOLE if "val" in name}
    assert not site.fetched(TRAIN_ZIP)


def test_with_no_images_only_captions_are_downloaded(download, tmp_path):
    assert download("--no-images")[0] == 0
    assert contents(tmp_path / "coco") == {name for name in WHOLE if name.startswith("annotations")}


def test_karpathys_splits_are_stored_beside_the_2014_captions(download, site, tmp_path):
    site.files["/annotations/annotations_trainval2014.zip"] = zipped(
        {"annotations/captions_val2014.json": b"{}"}
    )
    site.files["/k/caption_datasets.zip"] = zipped(
        {"dataset_coco.json": b"[1]", "dataset_flickr8k.json": b"[2]"}
    )
    arguments = ["--year", "2014", "--splits", "val", "--no-images", "--karpathy"]
    assert download(*arguments, "--karpathy-url", site.url + "/k/caption_datasets.zip")[0] == 0
    assert contents(tmp_path / "coco") == {"annotations/captions_val2014.json", "dataset_coco.json"}


def test_a_connection_that_breaks_again_and_again_is_resumed_each_time(download, site, tmp_path):
    site.drop_after = 60_000
    assert download()[0] == 0
    assert contents(tmp_path / "coco") == WHOLE
    size = len(site.files[TRAIN_ZIP])
    expected = ["", *(f" bytes={start}-" for start in range(60_000, size, 60_000))]
    assert site.fetched(TRAIN_ZIP) == [f"GET {TRAIN_ZIP}{part}" for part in expected]


def test_a_partial_file_of_an_earlier_run_is_resumed(download, site, tmp_path):
    part = tmp_path / "coco" / "train2017.zip.part"
    part.parent.mkdir()
    part.write_bytes(site.files[TRAIN_ZIP][:70_000])
    assert download()[0] == 0
    assert site.fetched(TRAIN_ZIP) == [f"GET {TRAIN_ZIP} bytes=70000-"]
    assert contents(tmp_path / "coco") == WHOLE


def test_a_partial_file_that_was_already_complete_is_used(download, site, tmp_path):
    part = tmp_path / "coco" / "train2017.zip.part"
    part.parent.mkdir()
    part.write_bytes(site.files[TRAIN_ZIP])
    assert download()[0] == 0
    assert contents(tmp_path / "coco") == WHOLE


def test_a_partial_file_longer_than_the_real_one_is_discarded(download, site, tmp_path):
    part = tmp_path / "coco" / "train2017.zip.part"
    part.parent.mkdir()
    part.write_bytes(site.files[TRAIN_ZIP] + b"more")
    assert download()[0] == 0
    assert contents(tmp_path / "coco") == WHOLE


def test_a_server_that_ignores_ranges_sends_the_whole_file_again(download, site, tmp_path):
    site.ranges = False
    part = tmp_path / "coco" / "train2017.zip.part"
    part.parent.mkdir()
    part.write_bytes(b"x" * 70_000)
    assert download()[0] == 0
    assert contents(tmp_path / "coco") == WHOLE


def test_a_busy_server_is_tried_again(download, site):
    site.busy = 2
    code, output = download("--no-images")
    assert code == 0
    assert output.count("HTTP 503") == 2


def test_a_server_without_head_requests_works(download, site):
    site.no_head = True
    assert download("--no-images")[0] == 0


def test_a_body_shorter_than_its_content_length_is_not_accepted(download, site, tmp_path):
    site.ranges, site.promise = False, 10
    code, output = download("--no-images")
    assert code == 1
    size = len(site.files[CAPTIONS_ZIP])
    assert (
        f"{site.url}{CAPTIONS_ZIP}: the connection ended after {size} of {size + 10} bytes"
        in output
    )
    assert "annotations_trainval2017.zip.part: run the same command to continue" in output
    assert contents(tmp_path / "coco") == {"annotations_trainval2017.zip.part"}


def test_a_download_without_progress_is_given_up_and_its_part_is_kept(download, site, tmp_path):
    site.ranges, site.drop_after = False, 100
    code, output = download("--no-images")
    assert code == 1
    assert "gave up after" in output
    assert (tmp_path / "coco/annotations_trainval2017.zip.part").read_bytes() == site.files[
        CAPTIONS_ZIP
    ][:100]


def test_a_missing_file_is_reported_before_any_image_is_downloaded(download, site):
    del site.files[VAL_ZIP]
    code, output = download()
    assert code == 1
    assert f"{site.url}{VAL_ZIP}: HTTP 404" in output
    assert "--base-url" in output
    assert not site.fetched(TRAIN_ZIP)


def test_a_server_that_cannot_be_reached_is_named(download):
    code, output = download("--base-url", "http://127.0.0.1:9")
    assert code == 1
    assert "http://127.0.0.1:9/annotations" in output
    assert "refused" in output


def test_a_web_page_in_place_of_the_zip_is_reported_and_removed(download, site, tmp_path):
    site.files[CAPTIONS_ZIP] = b"<html>Please log in to this network</html>"
    code, output = download("--no-images")
    assert code == 1
    assert "not the expected zip file" in output
    assert contents(tmp_path / "coco") == set()


def test_an_archive_with_a_flipped_bit_leaves_no_damaged_image(download, site, tmp_path):
    good = site.files[VAL_ZIP]
    with zipfile.ZipFile(io.BytesIO(good)) as file:
        at = file.getinfo("val2017/val2.jpg").header_offset + 1000
    site.files[VAL_ZIP] = good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :]
    code, output = download("--splits", "val")
    assert code == 1
    assert "CRC" in output
    assert not (tmp_path / "coco/val2017/val2.jpg").exists()
    site.files[VAL_ZIP] = good
    assert download("--splits", "val")[0] == 0
    assert contents(tmp_path / "coco") == {name for name in WHOLE if "val" in name}


def test_an_archive_without_an_image_is_refused(download, site):
    site.files[VAL_ZIP] = zipped({"val2017/val0.jpg": b"0"})
    code, output = download("--splits", "val")
    assert code == 1
    assert "val1.jpg and 2 more are not in it" in output


def test_a_hostile_archive_writes_nothing_outside_its_folder(download, site, tmp_path):
    hostile = images("val") | {
        "../../evil.txt": b"!",
        "/evil.txt": b"!",
        "val2017/../../val9.jpg": b"!",
    }
    site.files[VAL_ZIP] = zipped(hostile)
    assert download("--splits", "val")[0] == 0
    assert contents(tmp_path) == {f"coco/{name}" for name in WHOLE if "val" in name}


@pytest.mark.parametrize("name", ["../evil.jpg", "/evil.jpg", "..", "sub\\evil.jpg"])
def test_captions_with_a_path_as_file_name_are_refused(download, site, name):
    site.files[CAPTIONS_ZIP] = zipped({"annotations/captions_val2017.json": captions_of([name])})
    code, output = download("--splits", "val")
    assert code == 1
    assert "not the name of a file" in output


def test_a_broken_caption_file_is_named(download, tmp_path):
    broken = tmp_path / "coco/annotations/captions_val2017.json"
    broken.parent.mkdir(parents=True)
    broken.write_text("[]")
    code, output = download("--splits", "val")
    assert code == 1
    assert f"{broken} is not a file of COCO's captions" in output


def test_too_little_disk_space_is_reported_before_any_download(download, site, script, monkeypatch):
    size = len(site.files[CAPTIONS_ZIP])
    usage = type("Usage", (), {"free": 2 * size - 1})
    monkeypatch.setattr(downloads.shutil, "disk_usage", lambda folder: usage)
    code, output = download("--no-images")
    assert code == 1
    assert "GB are free" in output
    assert site.asked == []
    usage.free += 1
    assert download("--no-images")[0] == 0


def test_a_folder_that_cannot_be_created_is_reported_without_a_request(download, site, tmp_path):
    (tmp_path / "coco").write_text("a file")
    code, output = download()
    assert code == 1
    assert f"{tmp_path / 'coco'}: cannot be written" in output
    assert site.asked == []


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (["--year", "2015"], "choose 2014 or 2017"),
        (["--splits", "test"], "choose train, val or train,val"),
        (["--splits", ""], "choose train, val or train,val"),
        (["--karpathy"], "add --year 2014"),
        (["--base-url", "file:///etc"], "must begin with http"),
        (["--folders", "x"], "No such option"),
    ],
)
def test_wrong_usage_exits_with_2_and_shows_an_example(download, site, arguments, hint):
    code, output = download(*arguments)
    assert code == 2
    assert hint in output
    assert "Example: python scripts/download_coco.py" in output
    assert site.asked == []


def test_ctrl_c_exits_with_130_and_keeps_the_partial_file(
    download, site, script, tmp_path, monkeypatch
):
    site.drop_after = 100

    def press(seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(downloads.time, "sleep", press)
    code, output = download("--no-images")
    assert code == 130
    assert "the same command continues" in output
    assert (tmp_path / "coco/annotations_trainval2017.zip.part").stat().st_size == 100


def test_help_ends_with_an_example_and_does_not_import_torch():
    code = (
        "import runpy, sys; sys.argv = ['x', '--help']\n"
        f"sys.path.insert(0, {str(SCRIPT.parent)!r})\n"
        f"try: runpy.run_path({str(SCRIPT)!r}, run_name='__main__')\n"
        "except SystemExit as end: assert not end.code\n"
        "assert 'torch' not in sys.modules"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT), "COLUMNS": "200"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr
    assert (
        done.stdout.strip()
        .splitlines()[-1]
        .strip()
        .startswith("Example: python scripts/download_coco.py")
    )


def test_a_killed_download_is_resumed(site, tmp_path):
    site.drop_after = 100
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(SCRIPT), "--folder", str(tmp_path), "--base-url", site.url]
    running = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not site.asked and time.monotonic() < deadline:
        time.sleep(0.01)
    running.kill()
    running.wait()
    site.drop_after = None
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert contents(tmp_path) == WHOLE
