"""Build a release and check it: python scripts/release_check.py [files] [light] [torch].

`files` checks what is in the sdist and the wheel. `light` installs the wheel in a new environment
without PyTorch, as docs/install.md says, and captions examples/; `torch` installs it with all
dependencies and does the same. By default all three run. The environments are temporary, and that
of `torch` may take 7 GB. Needs `pip install -e ".[release]"`. Exit code 1 if a check fails.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tarfile
import time
import tomllib
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple
from zipfile import ZipFile

from captioner.console import program
from captioner.errors import CaptionerError

ROOT = Path(__file__).parents[1]
CHECKS = ("files", "light", "torch")
PYPI_LIMIT = 100e6  # bytes a file: https://docs.pypi.org/project-management/storage-limits/
IN_WHEEL = {
    "captioner/py.typed",
    "captioner/configs/coco.yaml",
    "captioner/pretrained/config.json",
    "captioner/pretrained/encoder.onnx",
    "captioner/pretrained/model.safetensors",
    "captioner/pretrained/step.onnx",
    "captioner/pretrained/vocab.json",
}
IN_SDIST = {"CHANGELOG.md", "CITATION.cff", "LICENSE", "README.md", "docs", "examples", "tests"}
NOT_IN_SDIST = re.compile(
    r"(data|runs|build|dist|\.venv|venv)/|(.*/)?(__pycache__|\.hypothesis|\.[a-z]+_cache)/"
)
LOCAL_PATH = re.compile(rb"/(?:home|Users)/[\w.-]+|/root/|[A-Z]:\\Users\\")

Captions = list[tuple[str, str, str]]  # the path of a photograph, its caption, "unsure" or ""


class Result(NamedTuple):
    """One line of the table."""

    check: str
    passed: bool
    detail: str


def run(*command: str | Path, cwd: Path) -> str:
    """Run a command outside the clone, so that what it imports is installed, and return stdout.

    Raises:
        CaptionerError: it fails; the message ends with its last lines.
    """
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    process = subprocess.run(
        [str(word) for word in command],
        cwd=cwd,
        env={**environment, "NO_COLOR": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    if process.returncode:
        lines = (process.stdout + process.stderr).strip().splitlines()
        raise CaptionerError("\n".join([f"{' '.join(map(str, command))} failed:", *lines[-15:]]))
    return process.stdout


def say(text: str) -> None:
    """Print what begins, as it may take minutes."""
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def problems_of_wheel(wheel: Path, root: Path) -> list[str]:
    """Compare a wheel with the tree that it was built from; look for paths of this machine."""
    expected = {
        path.relative_to(root).as_posix().replace("configs/", "captioner/configs/", 1)
        if folder == "configs"
        else path.relative_to(root).as_posix()
        for folder in ("captioner", "configs")
        for path in (root / folder).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    with ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if not name.endswith("/")}
        local = [
            f"{name} names a local path: {match[0].decode(errors='replace')}"
            for name in sorted(names)
            if (match := _local_path(archive.read(name), root))
        ]
    info = {name for name in names if name.split("/")[0].endswith(".dist-info")}
    missing = (expected | IN_WHEEL) - names
    if not any(name.endswith("/licenses/LICENSE") for name in info):
        missing.add("LICENSE")
    return [
        *(f"{name} is missing" for name in sorted(missing)),
        *(f"{name} does not belong there" for name in sorted(names - info - expected)),
        *local,
    ]


def _local_path(content: bytes, root: Path) -> re.Match[bytes] | None:
    own = re.escape(os.fsencode(root))
    return LOCAL_PATH.search(content) or re.search(own, content)


def problems_of_sdist(sdist: Path) -> list[str]:
    """Look for what an sdist lacks, and for outputs of runs and tools in it."""
    with tarfile.open(sdist) as archive:
        names = [member.name.partition("/")[2] for member in archive if member.isfile()]
    missing = IN_SDIST - {name.split("/")[0] for name in names}
    return [
        *(f"{name} is missing" for name in sorted(missing)),
        *(f"{name} does not belong there" for name in names if NOT_IN_SDIST.match(name)),
    ]


def largest_files(wheel: Path, count: int = 5) -> str:
    """Describe the files of a wheel that take most of it."""
    with ZipFile(wheel) as archive:
        entries = sorted(archive.infolist(), key=lambda entry: -entry.compress_size)[:count]
    return ", ".join(f"{entry.filename} {entry.compress_size / 1e6:.2f} MB" for entry in entries)


def version_problems(root: Path) -> list[str]:
    """Find files of a release that do not name the version of pyproject.toml."""
    version = project_version(root)
    patterns = {
        "CITATION.cff": rf'^version: "?{re.escape(version)}"?$',
        "CHANGELOG.md": rf"^## \[?{re.escape(version)}\b",
    }
    return [
        f"{name} does not name version {version}"
        for name, pattern in patterns.items()
        if not re.search(pattern, (root / name).read_text(encoding="utf-8"), re.MULTILINE)
    ]


def project_version(root: Path) -> str:
    """Return the version of pyproject.toml."""
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return str(project["version"])


def check_files(sdist: Path, wheel: Path) -> Iterator[Result]:
    """Check the two files of a release."""
    problems = version_problems(ROOT)
    yield Result("versions agree", not problems, "; ".join(problems) or project_version(ROOT))
    for file in (sdist, wheel):
        size = file.stat().st_size
        detail = f"{size / 1e6:.1f} MB of {PYPI_LIMIT / 1e6:.0f}"
        yield Result(f"size of {file.name}", size < PYPI_LIMIT, detail)
    say("twine check")
    try:
        run(sys.executable, "-m", "twine", "check", "--strict", sdist, wheel, cwd=sdist.parent)
        yield Result("twine check --strict", True, "both")
    except CaptionerError as error:
        yield Result("twine check --strict", False, str(error).splitlines()[-1])
    problems = problems_of_wheel(wheel, ROOT)
    yield Result("wheel: content", not problems, "; ".join(problems) or largest_files(wheel))
    problems = problems_of_sdist(sdist)
    yield Result("sdist: content", not problems, "; ".join(problems))


def check_environment(kind: str, wheel: Path, folder: Path) -> Iterator[Result]:
    """Install a wheel in a new environment, and caption examples/ there."""
    environment = folder / kind
    say(f"{kind}: install")
    start = time.perf_counter()
    run(sys.executable, "-m", "venv", environment, cwd=folder)
    python = environment / "bin" / "python"
    installs: list[list[str | Path]] = [[wheel]]
    if kind == "light":
        installs = [["-r", ROOT / "requirements-caption.txt"], ["--no-deps", wheel]]
    for arguments in installs:
        run(python, "-m", "pip", "install", "--quiet", *arguments, cwd=folder)
    seconds = time.perf_counter() - start
    [packages] = environment.glob("lib/python*/site-packages")
    size = sum(path.stat().st_size for path in packages.rglob("*") if path.is_file()) / 1e6
    yield Result(f"{kind}: install", True, f"{size:.0f} MB of site-packages in {seconds:.0f} s")
    if kind == "torch":
        run(python, "-m", "pip", "check", cwd=folder)
    else:
        found = [path.name for path in packages.glob("torch*")]
        yield Result("light: no PyTorch", not found, ", ".join(found))

    captioner = environment / "bin" / "captioner"
    version = run(captioner, "--version", cwd=folder).split()[-1]
    yield Result(f"{kind}: --version", version == project_version(ROOT), version)
    expected = captions_of_readme((ROOT / "README.md").read_text(encoding="utf-8"))
    for backend in ["onnx", "torch"] if kind == "torch" else ["onnx"]:
        say(f"{kind}: caption examples/ with {backend}")
        photographs = [str(ROOT / path) for path, _, _ in expected]
        output = run(captioner, "caption", "--backend", backend, *photographs, cwd=folder)
        problems = differences(parse_captions(output), expected)
        equal = f"{len(expected)} captions equal those of README.md"
        yield Result(f"{kind}: captions with {backend}", not problems, "; ".join(problems) or equal)


def captions_of_readme(text: str) -> Captions:
    """Return the rows of the table of photographs."""
    return re.findall(r"^\| `(examples/[^`]+)` \| (.+?) \| *(\w*) *\|$", text, re.MULTILINE)


def parse_captions(output: str) -> Captions:
    """Return what `captioner caption` has printed, with paths as README.md has them."""
    rows = [[*line.split("\t"), ""][:3] for line in output.splitlines()]
    return [(f"examples/{Path(path).name}", caption, mark) for path, caption, mark in rows]


def differences(captions: Captions, expected: Captions) -> list[str]:
    """Describe where captions are not the expected ones."""
    if not expected:
        return ["README.md has no table of captions"]
    found = {path: rest for path, *rest in captions}
    return [
        f"{path} is {' '.join(found.get(path, ['missing'])).strip()!r}"
        for path, *rest in expected
        if found.get(path) != rest
    ]


def check_release(checks: Sequence[str]) -> Iterator[Result]:
    """Build the sdist, and the wheel from it; then check them.

    Raises:
        CaptionerError: a command fails.
    """
    with TemporaryDirectory() as name:
        folder = Path(name)
        say("build")
        run(sys.executable, "-m", "build", "--outdir", folder, ROOT, cwd=folder)
        [sdist], [wheel] = folder.glob("*.tar.gz"), folder.glob("*.whl")
        if "files" in checks:
            yield from check_files(sdist, wheel)
        for kind in ("light", "torch"):
            if kind in checks:
                yield from check_environment(kind, wheel, folder)


def main() -> None:
    """Print a table of the checks; end with exit code 1 if one fails."""
    parser = ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("checks", nargs="*", metavar="CHECK", help=f"{', '.join(CHECKS)}")
    options = parser.parse_args()
    if unknown := set(options.checks) - set(CHECKS):
        parser.error(f"no check '{min(unknown)}': choose from {', '.join(CHECKS)}")
    failed = []
    print("| check | result | |\n|---|---|---|")
    for result in check_release(options.checks or CHECKS):
        word = "pass" if result.passed else "FAIL"
        print(f"| {result.check} | {word} | {result.detail} |", flush=True)
        if not result.passed:
            failed.append(result.check)
    if failed:
        raise CaptionerError(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    with program("release_check"):
        main()
