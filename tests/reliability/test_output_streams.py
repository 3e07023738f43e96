"""Stdout that lacks a character, is closed or is full; stderr that fails."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from captioner.cli.app import COMMANDS
from captioner.results.files import read_results

pytestmark = pytest.mark.row(40)

ROOT = Path(__file__).parents[2]


@pytest.fixture
def photos(photo, tmp_path):
    """Two images with names that not every encoding has."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in ("1 写真é.png", "2.png"):
        shutil.copy(photo, folder / name)
    return folder


def captioner(*arguments, encoding="utf-8", module=("-m", "captioner"), **streams):
    """Run a command line; return the finished process, with stdout and stderr as bytes."""
    piped = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | streams
    # an empty PYTHONUNBUFFERED counts as unset: what stays in a buffer fails at the end
    settings = {"PYTHONIOENCODING": encoding, "PYTHONUNBUFFERED": "", "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, *module, *map(str, arguments)],
        timeout=100,
        check=False,
        cwd=ROOT,
        env=os.environ | settings,
        **piped,
    )


@pytest.fixture
def closed():
    """The end of a pipe that has no reader."""
    read, write = os.pipe()
    os.close(read)
    yield write
    os.close(write)


@pytest.fixture
def full():
    """A device without space."""
    with open("/dev/full", "wb") as device:
        yield device


@pytest.fixture
def caption(photos, onnx_model):
    """Caption without torch, whose import takes longer than the rest."""
    return lambda *options, model=onnx_model, **streams: captioner(
        "caption", photos, "--model", model, "--device", "cpu", *options, **streams
    )


@pytest.mark.parametrize(
    ("encoding", "name"),
    [
        ("utf-8", "1 写真é.png"),
        ("cp1252", "1 \\u5199\\u771fé.png"),
        ("ascii", "1 \\u5199\\u771f\\xe9.png"),
        ("shift_jis", "1 写真\\xe9.png"),
    ],
)
@pytest.mark.slow
def test_characters_that_the_encoding_of_stdout_lacks_are_escaped(caption, encoding, name):
    done = caption(encoding=encoding)
    assert done.returncode == 0, done.stderr
    first, second = done.stdout.decode(encoding).splitlines()
    assert Path(first.split("\t")[0]).name == name
    assert second.split("\t")[1]


@pytest.mark.slow
def test_a_file_name_that_is_not_utf_8_is_printed(caption, photos):
    with open(os.fsencode(photos) + b"/\xff.png", "wb") as file:
        file.write((photos / "2.png").read_bytes())
    done = caption()
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.decode().splitlines()) == 3


HELP_OF_EACH = """
import contextlib, sys
from captioner.__main__ import main

for name in sys.argv[1:]:
    sys.argv = ["captioner", name, "--help"]
    with contextlib.suppress(SystemExit):
        main()
    print("end of", name)
"""


def test_help_fits_every_encoding():
    done = captioner(*COMMANDS, module=("-c", HELP_OF_EACH), encoding="ascii")
    assert (done.returncode, done.stderr) == (0, b"")
    for name in COMMANDS:
        shown, _, rest = done.stdout.partition(f"end of {name}\n".encode())
        assert b"Usage" in shown, name
        done.stdout = rest


@pytest.mark.parametrize("model", ["tiny_model", "onnx_model"])
def test_a_closed_pipe_ends_the_program_quietly(caption, closed, model, request):
    done = caption(stdout=closed, model=request.getfixturevalue(model))
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["caption", "--help"]])
def test_help_to_a_closed_pipe_is_no_failure(closed, arguments):
    done = captioner(*arguments, stdout=closed)
    assert (done.returncode, done.stderr) == (0, b"")


def test_files_are_complete_although_nobody_reads_stdout(caption, photos, closed, tmp_path):
    results, report = tmp_path / "said.json", tmp_path / "page.html"
    done = caption("--output", results, "--report", report, stdout=closed)
    assert (done.returncode, done.stderr) == (0, b"")
    assert len(read_results(results)) == 2
    assert "2.png" in report.read_text()
    assert not results.with_name("said.json.part").exists()


@pytest.fixture
def evaluate(shapes, tiny_model):
    data = ("--annotations", shapes / "captions_dev.json", "--images", shapes / "dev")
    return lambda *options, **streams: captioner(
        *("evaluate", *data, "--model", tiny_model, "--device", "cpu", *options), **streams
    )


def test_an_evaluation_writes_its_report_although_nobody_reads_the_scores(
    evaluate, closed, tmp_path
):
    done = evaluate(
        "--report", tmp_path / "r.html", "--results", tmp_path / "r.json", stdout=closed
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert sorted(os.listdir(tmp_path)) == ["r.html", "r.json", "scores.json"]


def test_a_check_writes_its_page_although_nobody_reads_the_text(shapes, closed, tmp_path):
    done = captioner(
        "check", shapes / "captions_dev.json", "--html", tmp_path / "c.html", stdout=closed
    )
    assert done.stderr == b""
    assert (tmp_path / "c.html").exists()


def test_translations_have_their_report_although_nobody_reads_them(
    tiny_translator, closed, tmp_path
):
    (tmp_path / "text").write_text("a dog\nthe cat\n")
    done = captioner(
        *("translate", tmp_path / "text", "--model", tiny_translator, "--device", "cpu"),
        *("--report", tmp_path / "t.html"),
        stdout=closed,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert "2 translations" in (tmp_path / "t.html").read_text()


@pytest.mark.parametrize("arguments", [["--help"], ["defaults"]])
def test_a_full_device_is_one_line(full, arguments):
    done = captioner(*arguments, stdout=full)
    assert done.returncode == 1
    [line] = done.stderr.decode().splitlines()
    assert line.startswith("captioner: stdout cannot be written: No space left on device; free")


def test_a_full_device_keeps_the_files_that_were_asked_for(caption, full, tmp_path):
    done = caption("--output", tmp_path / "said.json", "--report", tmp_path / "p.html", stdout=full)
    assert done.returncode == 1
    [line] = done.stderr.decode().splitlines()
    assert "No space left on device" in line
    assert len(read_results(tmp_path / "said.json")) == 2
    assert (tmp_path / "p.html").exists()


def test_stdout_that_the_shell_has_closed_is_one_line(photos, onnx_model):
    command = [sys.executable, "-m", "captioner", "caption", photos, "--model", onnx_model]
    done = subprocess.run(
        ["sh", "-c", '"$@" >&-', "sh", *map(str, command)], cwd=ROOT, capture_output=True
    )
    assert done.returncode == 1
    assert done.stderr.decode().splitlines() == [
        "captioner: stdout is closed: redirect it to a file, or leave it open"
    ]


@pytest.mark.parametrize("stream", ["closed", "full"])
@pytest.mark.slow
def test_messages_that_cannot_be_written_lose_no_caption(caption, photos, stream, request):
    (photos / "bad.png").write_bytes(b"nothing")
    done = caption("--json", stderr=request.getfixturevalue(stream))
    assert done.returncode == 3
    assert len([json.loads(line) for line in done.stdout.splitlines()]) == 2


@pytest.mark.slow
def test_scripts_escape_characters_and_end_quietly(tiny_model, tmp_path, closed, full):
    script = (str(ROOT / "scripts" / "average.py"),)
    for number, (streams, code) in enumerate(
        [({"encoding": "ascii"}, 0), ({"stdout": closed}, 0), ({"stdout": full}, 1)]
    ):
        output = tmp_path / f"平均{number}"
        done = captioner(tiny_model, "--output", output, module=script, **streams)
        assert done.returncode == code, done.stderr
        assert len(done.stderr.splitlines()) == code
        assert (output / "config.json").exists()


PRINT = "from captioner.console import program\nwith program('name'): print('text')"
FAIL = PRINT + "; raise __import__('captioner').errors.CaptionerError('reason')"


def test_what_is_left_in_the_buffer_of_stdout_fails_in_one_line_too(closed, full):
    done = captioner(module=("-c", PRINT), stdout=full)
    assert (done.returncode, done.stderr.count(b"\n")) == (1, 1)
    assert done.stderr.startswith(b"name: stdout cannot be written: No space left on device")
    done = captioner(module=("-c", PRINT), stdout=closed)
    assert (done.returncode, done.stderr) == (0, b"")


def test_an_error_is_shown_although_stdout_fails(closed, full):
    for stream in (closed, full):
        done = captioner(module=("-c", FAIL), stdout=stream)
        assert (done.returncode, done.stderr) == (1, b"name: reason\n")


@pytest.mark.parametrize("name", ["bundle", "draw_examples"])
@pytest.mark.slow
def test_scripts_without_a_command_report_stdout_in_one_line(name, closed, full):
    script = (str(ROOT / "scripts" / f"{name}.py"),)
    done = captioner("--help", module=script, stdout=full)
    assert done.returncode == 1
    assert done.stderr.startswith(f"{name}: stdout cannot be written".encode())
    done = captioner("--help", module=script, stdout=closed)
    assert (done.returncode, done.stderr) == (0, b"")


def test_a_script_without_a_command_reports_an_error_in_one_line():
    done = captioner("no model", module=(str(ROOT / "scripts" / "bundle.py"),))
    assert done.returncode == 1
    assert done.stderr.startswith(b"bundle: no model is not a model folder")
