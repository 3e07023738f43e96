"""The downloader against a server that behaves, one that breaks off, one that lies, and one that has nothing."""

from __future__ import annotations

import importlib.util
import io
import json
import os
import re
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "scripts" / "download_coco.py"
CAPTIONS_ZIP, TRAIN_ZIP, VAL_ZIP = (
    "/annotations/annotations_trainval2017.zip",
    "/zips/train2017.zip",
    "/zips/val2017.zip",
)


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("download_coco", SCRIPT)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["download_coco"] = module
    spec.loader.exec_module(module)
    return module


def zipped(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        for name, content in files.items():
            file.writestr(name, content)
    return buffer.getvalue()


def captions_of(names: list[str]) -> bytes:
    return json.dumps(
        {"images": [{"id": id, "file_name": name} for id, name in enumerate(names)]}
    ).encode()


def images(split: str) -> dict[str, bytes]:
    return {f"{split}2017/{split}{number}.jpg": os.urandom(50_000) for number in range(4)}


@dataclass
class Site:
    """What the server has, how it misbehaves, and what it was asked."""

    files: dict[str, bytes] = field(default_factory=dict)
    ranges: bool = True
    drop_after: int | None = None  # bytes of a body before the line breaks
    promise: int = 0  # bytes that Content-Length has too many
    busy: int = 0  # answers of 503 before it behaves
    no_head: bool = False
    asked: list[str] = field(default_factory=list)
    url: str = ""

    def fetched(self, path: str) -> list[str]:
        return [line for line in self.asked if line.startswith(f"GET {path}")]


class Handler(BaseHTTPRequestHandler):
    site: Site

    def do_HEAD(self) -> None:
        if self.site.no_head:
            self.send_error(405)
        else:
            self.answer(with_body=False)

    def do_GET(self) -> None:
        self.site.asked.append(f"GET {self.path} {self.headers['Range'] or ''}".strip())
        if self.site.busy:
            self.site.busy -= 1
            self.send_error(503)
        else:
            self.answer(with_body=True)

    def answer(self, *, with_body: bool) -> None:
        body = self.site.files.get(self.path)
        if body is None:
            self.send_error(404)
            return
        wanted = (
            re.fullmatch(r"bytes=(\d+)-", self.headers["Range"] or "") if self.site.ranges else None
        )
        start = int(wanted[1]) if wanted else 0
        if wanted and start >= len(body):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(body)}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(206 if wanted else 200)
        self.send_header("Content-Length", str(len(body) - start + self.site.promise))
        if wanted:
            self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        self.end_headers()
        if with_body:
            self.wfile.write(body[start:][: self.site.drop_after])

    def log_message(self, format: str, *args: object) -> None:
        pass


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
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("ThisHandler", (Handler,), {"site": site}))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    site.url = f"http://127.0.0.1:{server.server_address[1]}"
    yield site
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def download(script, site, tmp_path, monkeypatch, capsys):
    """Run the script into a new folder; give the exit code and what it said."""
    monkeypatch.setattr(script, "PAUSES", (0.0, 0.0, 0.0))
    monkeypatch.setattr(script.console, "_width", 1000)

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


def test_captions_and_images_end_up_in_cocos_own_layout_and_nothing_else_is_left(
    download, site, tmp_path
):
    assert download()[0] == 0
    assert contents(tmp_path / "coco") == WHOLE
    with zipfile.ZipFile(io.BytesIO(site.files[VAL_ZIP])) as file:
        assert (tmp_path / "coco/val2017/val3.jpg").read_bytes() == file.read("val2017/val3.jpg")


def test_a_second_run_asks_the_server_for_nothing(download, site):
    download()
    site.asked.clear()
    assert download()[0] == 0
    assert site.asked == []


def test_a_lost_image_is_fetched_again_and_the_others_are_left_alone(download, site, tmp_path):
    download()
    kept = tmp_path / "coco/val2017/val0.jpg"
    (tmp_path / "coco/val2017/val1.jpg").unlink()
    before = kept.stat().st_mtime_ns
    site.asked.clear()
    assert download()[0] == 0
    assert contents(tmp_path / "coco") == WHOLE
    assert kept.stat().st_mtime_ns == before
    assert [line.split()[1] for line in site.asked] == [VAL_ZIP]


def test_only_what_is_asked_for_is_fetched(download, site, tmp_path):
    assert download("--splits", "val")[0] == 0
    assert contents(tmp_path / "coco") == {name for name in WHOLE if "val" in name}
    assert not site.fetched(TRAIN_ZIP)


def test_without_images_only_captions_come(download, tmp_path):
    assert download("--no-images")[0] == 0
    assert contents(tmp_path / "coco") == {name for name in WHOLE if name.startswith("annotations")}


def test_karpathys_splits_lie_beside_the_2014_captions(download, site, tmp_path):
    site.files["/annotations/annotations_trainval2014.zip"] = zipped(
        {"annotations/captions_val2014.json": b"{}"}
    )
    site.files["/k/caption_datasets.zip"] = zipped(
        {"dataset_coco.json": b"[1]", "dataset_flickr8k.json": b"[2]"}
    )
    arguments = ["--year", "2014", "--splits", "val", "--no-images", "--karpathy"]
    assert download(*arguments, "--karpathy-url", site.url + "/k/caption_datasets.zip")[0] == 0
    assert contents(tmp_path / "coco") == {"annotations/captions_val2014.json", "dataset_coco.json"}


def test_a_line_that_keeps_breaking_is_taken_up_where_it_broke(download, site, tmp_path):
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


def test_a_partial_file_longer_than_the_real_one_is_dropped(download, site, tmp_path):
    part = tmp_path / "coco" / "train2017.zip.part"
    part.parent.mkdir()
    part.write_bytes(site.files[TRAIN_ZIP] + b"more")
    assert download()[0] == 0
    assert contents(tmp_path / "coco") == WHOLE


def test_a_server_that_ignores_ranges_makes_it_start_over(download, site, tmp_path):
    site.ranges = False
    part = tmp_path / "coco" / "train2017.zip.part"
    part.parent.mkdir()
    part.write_bytes(b"x" * 70_000)
    assert download()[0] == 0
    assert contents(tmp_path / "coco") == WHOLE


def test_a_busy_server_is_asked_again(download, site):
    site.busy = 2
    code, said = download("--no-images")
    assert code == 0
    assert said.count("HTTP 503") == 2


def test_a_server_that_does_not_know_head_still_serves(download, site):
    site.no_head = True
    assert download("--no-images")[0] == 0


def test_a_body_shorter_than_promised_is_not_taken_for_the_file(download, site, tmp_path):
    site.ranges, site.promise = False, 10
    code, said = download("--no-images")
    assert code == 1
    size = len(site.files[CAPTIONS_ZIP])
    assert (
        f"{site.url}{CAPTIONS_ZIP}: the connection ended after {size} of {size + 10} bytes" in said
    )
    assert "annotations_trainval2017.zip.part: run the same command" in said
    assert contents(tmp_path / "coco") == {"annotations_trainval2017.zip.part"}


def test_a_line_that_never_gives_more_is_given_up_but_its_part_is_kept(download, site, tmp_path):
    site.ranges, site.drop_after = False, 100
    code, said = download("--no-images")
    assert code == 1
    assert "gave up after" in said
    assert (tmp_path / "coco/annotations_trainval2017.zip.part").read_bytes() == site.files[
        CAPTIONS_ZIP
    ][:100]


def test_a_missing_file_is_named_at_once_and_before_any_other_is_fetched(download, site):
    del site.files[VAL_ZIP]
    code, said = download()
    assert code == 1
    assert f"{site.url}{VAL_ZIP}: HTTP 404" in said
    assert "--base-url" in said
    assert not site.fetched(TRAIN_ZIP)


def test_a_server_that_is_not_there_is_named(download):
    code, said = download("--base-url", "http://127.0.0.1:9")
    assert code == 1
    assert "http://127.0.0.1:9/annotations" in said
    assert "refused" in said


def test_a_web_page_in_place_of_the_zip_is_told_and_removed(download, site, tmp_path):
    site.files[CAPTIONS_ZIP] = b"<html>Please log in to this network</html>"
    code, said = download("--no-images")
    assert code == 1
    assert "not the zip file it should be" in said
    assert contents(tmp_path / "coco") == set()


def test_an_archive_with_a_flipped_bit_leaves_no_damaged_image(download, site, tmp_path):
    good = site.files[VAL_ZIP]
    with zipfile.ZipFile(io.BytesIO(good)) as file:
        at = file.getinfo("val2017/val2.jpg").header_offset + 1000
    site.files[VAL_ZIP] = good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :]
    code, said = download("--splits", "val")
    assert code == 1
    assert "CRC" in said
    assert not (tmp_path / "coco/val2017/val2.jpg").exists()
    site.files[VAL_ZIP] = good
    assert download("--splits", "val")[0] == 0
    assert contents(tmp_path / "coco") == {name for name in WHOLE if "val" in name}


def test_an_archive_that_lacks_an_image_is_refused(download, site):
    site.files[VAL_ZIP] = zipped({"val2017/val0.jpg": b"0"})
    code, said = download("--splits", "val")
    assert code == 1
    assert "val1.jpg and 2 more are not in it" in said


def test_nothing_of_a_hostile_archive_lands_outside_its_folder(download, site, tmp_path):
    hostile = images("val") | {
        "../../evil.txt": b"!",
        "/evil.txt": b"!",
        "val2017/../../val9.jpg": b"!",
    }
    site.files[VAL_ZIP] = zipped(hostile)
    assert download("--splits", "val")[0] == 0
    assert contents(tmp_path) == {f"coco/{name}" for name in WHOLE if "val" in name}


@pytest.mark.parametrize("name", ["../evil.jpg", "/evil.jpg", "..", "sub\\evil.jpg"])
def test_captions_that_name_a_path_are_refused(download, site, name):
    site.files[CAPTIONS_ZIP] = zipped({"annotations/captions_val2017.json": captions_of([name])})
    code, said = download("--splits", "val")
    assert code == 1
    assert "not the name of a file" in said


def test_broken_captions_are_named(download, tmp_path):
    broken = tmp_path / "coco/annotations/captions_val2017.json"
    broken.parent.mkdir(parents=True)
    broken.write_text("[]")
    code, said = download("--splits", "val")
    assert code == 1
    assert f"{broken}: is not COCO's captions" in said


def test_a_disk_without_room_is_told_before_anything_is_fetched(
    download, site, script, monkeypatch
):
    size = len(site.files[CAPTIONS_ZIP])
    usage = type("Usage", (), {"free": 2 * size - 1})
    monkeypatch.setattr(script.shutil, "disk_usage", lambda folder: usage)
    code, said = download("--no-images")
    assert code == 1
    assert "GB are free" in said
    assert site.asked == []
    usage.free += 1
    assert download("--no-images")[0] == 0


def test_a_folder_that_cannot_be_made_is_told_without_trying_again(download, site, tmp_path):
    (tmp_path / "coco").write_text("a file")
    code, said = download()
    assert code == 1
    assert f"{tmp_path / 'coco'}: cannot be written" in said
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
    code, said = download(*arguments)
    assert code == 2
    assert hint in said
    assert "Example: python scripts/download_coco.py" in said
    assert site.asked == []


def test_ctrl_c_exits_with_130_and_keeps_what_came(download, site, script, tmp_path, monkeypatch):
    site.drop_after = 100

    def press(seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(script.time, "sleep", press)
    code, said = download("--no-images")
    assert code == 130
    assert "the same command goes on" in said
    assert (tmp_path / "coco/annotations_trainval2017.zip.part").stat().st_size == 100


def test_help_ends_with_an_example_and_does_not_wait_for_torch():
    code = f"import runpy, sys; sys.argv = ['x', '--help']\ntry: runpy.run_path({str(SCRIPT)!r}, run_name='__main__')"
    code += "\nexcept SystemExit as end: assert not end.code\nassert 'torch' not in sys.modules"
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


def test_a_killed_download_goes_on(site, tmp_path):
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
