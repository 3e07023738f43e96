"""Every command and every piece of Python of the pages runs, or at least its options exist.

docs/conf.py builds the chapters of the course, and with them their cells.
"""

import fcntl
import json
import os
import re
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
import snippets
from commands import fault, read_commands
from hubs import TOKEN, Hub, serve
from reader import copy_folder, environment, make_folder
from snippets import LANGUAGES, ROOT, find_pages, read_blocks

from captioner.errors import UsageError
from captioner.models.folder import load_config

HERE = Path(__file__).parent
PAGES = find_pages()
WITH_COMMANDS = sorted(
    (
        page
        for page in PAGES
        if any(block.is_command or block.language == "yaml" for block in read_blocks(page))
    ),
    key=lambda page: sum(block.is_run * len(block.text) for block in read_blocks(page)),
    reverse=True,  # long pages first, so that the processes of the tests end at the same time
)
ANY_DATA = "data.train.annotations=captions.json"  # of a page that shows other settings
LONGEST = 600  # seconds of a block, on a busy machine
BY_PATH = re.compile(
    r"((?<!\\\n)^[ \t]*|[;&|][ \t]*)((?:\w+=\S*[ \t]+)*)[\w.-]*/[\w./-]+(?=\s|$)", re.MULTILINE
)
"""A program that is named by its path, at the start of a command."""
MODEL_ON_HUB, TRANSLATOR_ON_HUB = "owner/name", "owner/translator"


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    """The folder of a reader, made once for all processes of the tests."""
    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent
    folder, done = shared / "reader", shared / "reader.done"
    with open(shared / "reader.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not done.exists():
            make_folder(folder)
            done.touch()
    return folder


@pytest.fixture
def hub_address(made):
    """A hub with a model of images and one of text, in place of the real one."""
    hub = Hub()
    for name, run in ((MODEL_ON_HUB, "first"), (TRANSLATOR_ON_HUB, "multi30k")):
        files = {file.name: file.read_bytes() for file in (made / f"runs/{run}/best").iterdir()}
        repository = hub.add(name, files)
        repository.refs["v1.0"] = repository.refs["main"]
    with serve(hub):
        yield hub.url


class Page:
    """A page whose blocks are run in order, in a folder of its own."""

    def __init__(self, page: Path, folder: Path, notes: Path, hub: str) -> None:
        self.page, self.folder, self.notes = page, folder, notes
        self.variables = environment(folder) | {
            "BASH_ENV": str(HERE / "prelude.sh"),
            "SNIPPETS": str(notes),
            "HF_ENDPOINT": hub,
            "HF_TOKEN": TOKEN,
        }
        self.log = notes / "output"
        self.python: subprocess.Popen[str] | None = None

    def fault(self, block: snippets.Block) -> str:
        """Run a block, or do what its comment says. Return what went wrong, or nothing."""
        if block.file:
            return self.write(block)
        if block.language == "yaml" and not block.not_run:
            return self.read_settings(block)
        if block.language == "python":
            return self.compile(block) if block.not_run else self.run_python(block)
        if block.language == "sh":
            return self.run_shell(block)
        return ""

    def write(self, block: snippets.Block) -> str:
        file = self.folder / block.file
        if not file.resolve().is_relative_to(self.folder):
            return f"{block.file} is not in the folder of the page"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(block.text, encoding="utf-8")
        return ""

    def read_settings(self, block: snippets.Block) -> str:
        file = self.notes / "config.yaml"
        file.write_text(block.text, encoding="utf-8")
        data = [] if block.text.startswith("data:") or "\ndata:" in block.text else [ANY_DATA]
        try:
            load_config(file, data)
        except UsageError as error:
            return str(error)
        return ""

    def compile(self, block: snippets.Block) -> str:
        try:
            compile(block.text, block.place, "exec")
        except SyntaxError as error:
            return str(error)
        return ""

    def run_python(self, block: snippets.Block) -> str:
        if self.python is None:
            self.python = subprocess.Popen(
                [sys.executable, str(HERE / "python_blocks.py")],
                cwd=self.folder,
                env=self.variables,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self.log.open("a"),
                text=True,
            )
        request = {"text": block.text, "name": str(self.page), "line": block.line}
        print(json.dumps(request), file=self.python.stdin, flush=True)
        answer = self.python.stdout.readline()
        return json.loads(answer) if answer else f"Python ended:\n{tail(self.log)}"

    def run_shell(self, block: snippets.Block) -> str:
        script = self.notes / "block.sh"
        text = BY_PATH.sub(r"\1\2program", block.text) if block.not_run else block.text
        script.write_text(text, encoding="utf-8")
        for name in ("line", "commands"):
            (self.notes / name).unlink(missing_ok=True)
        with (
            self.log.open("w") as log,
            subprocess.Popen(
                ["bash", str(script)],
                cwd=self.folder,
                env=self.variables
                | {
                    "SNIPPETS_MODE": "parse" if block.not_run else "run",
                    "SNIPPETS_SETTINGS": json.dumps(block.settings),
                },
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            ) as shell,
        ):
            try:
                code = shell.wait(LONGEST)
            except subprocess.TimeoutExpired:
                os.killpg(shell.pid, signal.SIGKILL)
                code = f"more than {LONGEST} seconds"
        if code:
            with suppress(FileNotFoundError):
                line = int((self.notes / "line").read_text())
                text = block.text.splitlines()[line - 1]
                return f"line {block.line + line}: {text}\nended with {code}:\n{tail(self.log)}"
            return f"ended with {code}:\n{tail(self.log)}"
        faults = [
            f"line {block.line + line}: {' '.join(command)}\n{found}"
            for line, command in read_commands(self.notes / "commands")
            if (found := fault(command, self.folder))
        ]
        return "\n".join(faults)

    def close(self) -> None:
        """End the services that blocks have started, and Python."""
        with suppress(FileNotFoundError):
            for service in (self.notes / "services").read_text().split():
                with suppress(ProcessLookupError):
                    os.kill(int(service), signal.SIGKILL)
        if self.python is not None:
            self.python.stdin.close()
            self.python.wait(LONGEST)


def tail(file: Path) -> str:
    return "\n".join(file.read_text(encoding="utf-8", errors="replace").splitlines()[-30:])


@pytest.mark.docs
@pytest.mark.timeout(2400)
@pytest.mark.parametrize("page", WITH_COMMANDS, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_block_of_a_page_runs(page, made, hub_address, tmp_path):
    folder, notes = tmp_path / "page", tmp_path / "notes"
    copy_folder(made, folder)
    notes.mkdir()
    run = Page(page, folder, notes, hub_address)
    faults = []
    try:
        for block in read_blocks(page):
            start = time.monotonic()
            if found := run.fault(block):
                faults.append(f"{block.place}\n{found}")
            print(f"{time.monotonic() - start:6.1f} s  {block.place}")
    finally:
        run.close()
    assert not faults, "\n\n".join(faults)


@pytest.mark.parametrize(
    "command",
    [
        "captioner caption photo.jpg --beams 3",
        "captioner caption photo.jpg --beam three",
        "captioner describe photo.jpg",
        "captioner train configs/coco.yaml training.batch=8",
        "captioner train configs/coca.yaml",
        "captioner check configs/coco.yaml data.min_counts=3",
        "captioner defaults --model runs/own/best beams=3",
        "torchrun --nproc-per-node 8 -m captioner train configs/coco.yaml training.batch=8",
        "python -m benchmarks.load_of_trains",
        "python -m benchmarks.bulk photos/ --repeats 3",
        "python -m experiments.ablation.ablation configs/compare.yaml decoder.cells=gru",
        "python scripts/bundle.py --model runs/own/best",
        "python scripts/download_photographs.py",
        "pip install .[movies]",
        "pip install -r requirements-movies.txt",
        "pytest tests/test_movies.py",
    ],
)
def test_a_command_with_something_that_does_not_exist_has_a_fault(command):
    assert fault(command.split(), ROOT)


@pytest.mark.parametrize(
    "command",
    [
        "captioner caption photo.jpg --beam 3",
        "captioner train configs/coco.yaml training.batch_size=8 init=runs/own/best",
        "captioner defaults --model runs/own/best beam=3",
        "captioner caption photos/ --output captions/ --ray auto --actors 4-32",
        "torchrun --nproc-per-node 8 -m captioner train configs/coco.yaml",
        "python -m benchmarks.bulk photos/ --rounds 3",
        "python -m experiments.ablation.ablation configs/compare.yaml decoder.cell=gru",
        "python scripts/bundle.py runs/own/best",
        "pip install -e .[dev] -r requirements-caption.txt",
        "pytest tests/docs/test_snippets.py::test_some",
        "docker build .",
    ],
)
def test_a_command_whose_options_exist_has_no_fault_and_is_not_run(command):
    assert not fault(command.split(), ROOT)


def test_a_marker_belongs_to_the_block_after_it(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "<!-- not run: a GPU -->\n<!-- run with: a=1 b=2 -->\n```sh\none\n```\n\n"
        "* in a list:\n\n  <!-- file: two.yaml -->\n  ```yaml\n  two:\n    three\n  ```\n\n"
        "````text\n```sh\nfour\n```\n````\n<!-- not run: too far -->\ntext\n```python\nfive\n```\n"
    )
    one, two, four, five = read_blocks(page)
    assert (one.line, one.text) == (3, "one\n")
    assert (one.not_run, one.settings) == ("a GPU", ("a=1", "b=2"))
    assert (two.language, two.file, two.text) == ("yaml", "two.yaml", "two:\n  three\n")
    assert (four.language, four.text) == ("text", "```sh\nfour\n```\n")
    assert (five.language, five.not_run, five.is_run) == ("python", "", True)


def test_a_block_that_is_not_run_starts_no_program_and_its_commands_are_parsed(tmp_path):
    program, notes = tmp_path / "program", tmp_path / "notes"
    program.write_text("#!/bin/sh\ntouch started\n")
    program.chmod(0o755)
    notes.mkdir()
    page = ROOT / "docs/none.md"
    text = (
        "./program && touch started\nsudo rm -rf here | X=1 ./program\n"
        "P='beam=3'; captioner caption a.jpg --$P > captions.txt\n"
        ". .venv/bin/activate\ncaptioner caption a.jpg --beams 3\n"
    )
    block = snippets.Block(page, line=10, language="sh", text=text, not_run="a test")
    found = Page(page, tmp_path, notes, hub="").fault(block)
    assert found.startswith("line 15: captioner caption a.jpg --beams 3")
    assert not (tmp_path / "started").exists()


def test_every_block_of_commands_is_run_or_says_why_not():
    print(snippets.table())
    for page in PAGES:
        for block in read_blocks(page):
            known = block.language in LANGUAGES or block.language.startswith("{")
            assert known, f"{block.place}: {block.language!r} is none of {', '.join(LANGUAGES)}"
            assert block.is_run or block.not_run or not block.is_command, block.place
