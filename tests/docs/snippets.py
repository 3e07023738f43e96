"""The fenced blocks of the pages, and the comments that say what a test does with them.

`python tests/docs/snippets.py` prints how many blocks of each page are run.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = ("*.md", "examples/*.md", "captioner/pretrained/*.md", "docs/**/*.md")

COMMANDS = ("sh", "python")
"""The languages of blocks that are run, unless a comment gives a reason not to."""
DATA = ("yaml", "json", "csv", "html", "js", "diff", "toml")
SHOWN = ("text", "console", "math", "mermaid", "bibtex", "markdown")
LANGUAGES = (*COMMANDS, *DATA, *SHOWN)

MARKERS = ("not run", "run with", "file")
_FENCE = re.compile(r"(?P<indent> *)(?P<fence>`{3,}|~{3,})(?P<language>\S*).*")
_MARKER = re.compile(rf"\s*<!-- ({'|'.join(MARKERS)}):\s*(.*?)\s*-->\s*")
_COMMENT = re.compile(r"\s*<!--.*-->\s*")


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    page: Path
    line: int  # of the fence; the first is 1
    language: str
    text: str
    not_run: str = ""  # the reason
    settings: tuple[str, ...] = ()  # for each training in the block
    file: str = ""  # where the text is written, in the folder of the page

    @property
    def place(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"

    @property
    def is_command(self) -> bool:
        return self.language in COMMANDS and not self.file

    @property
    def is_run(self) -> bool:
        return self.is_command and not self.not_run


def find_pages() -> list[Path]:
    """Return all pages; files of a build of the site are none."""
    found = {page for pattern in PAGES for page in ROOT.glob(pattern)}
    return sorted(
        page
        for page in found
        if not any(part.startswith(("_", ".")) for part in page.relative_to(ROOT).parts)
    )


def read_blocks(page: Path) -> list[Block]:
    """Return the fenced blocks of a page in order, also those of lists and quotes."""
    return list(_blocks(page, page.read_text(encoding="utf-8").splitlines()))


def _blocks(page: Path, lines: list[str]) -> Iterator[Block]:
    number = 0
    while number < len(lines):
        fence = _FENCE.fullmatch(lines[number])
        if fence is None:
            number += 1
            continue
        end = number + 1
        while end < len(lines) and not _closes(lines[end], fence["fence"]):
            end += 1
        indent = len(fence["indent"])
        text = "".join(
            f"{line[indent:] if line[:indent].isspace() else line}\n"
            for line in lines[number + 1 : end]
        )
        values = dict(_markers(lines[:number]))
        yield Block(
            page,
            line=number + 1,
            language=fence["language"],
            text=text,
            not_run=values.get("not run", ""),
            settings=tuple(values.get("run with", "").split()),
            file=values.get("file", ""),
        )
        number = end + 1


def _closes(line: str, fence: str) -> bool:
    text = line.strip()
    return set(text) == {fence[0]} and len(text) >= len(fence)


def _markers(before: list[str]) -> Iterator[tuple[str, str]]:
    """Yield the comments directly before a block; one blank line may follow them."""
    if before and not before[-1].strip():
        before = before[:-1]
    for line in reversed(before):
        if not _COMMENT.fullmatch(line):
            return
        if marker := _MARKER.fullmatch(line):
            yield marker[1], marker[2]


def table() -> str:
    """Return how many blocks of each page are run, written to files, and only parsed."""
    rows, total = [], Counter[str]()
    for page in find_pages():
        counts = Counter(_kind(block) for block in read_blocks(page))
        total += counts
        if counts:
            rows.append((str(page.relative_to(ROOT)), counts))
    kinds = ("run", "parsed only", "written or checked", "shown")
    lines = [f"{'page':40}" + "".join(f"{kind:>20}" for kind in kinds)]
    for name, counts in [*rows, ("all", total)]:
        lines.append(f"{name:40}" + "".join(f"{counts[kind]:20}" for kind in kinds))
    return "\n".join(lines)


def _kind(block: Block) -> str:
    if block.is_run:
        return "run"
    if block.is_command:
        return "parsed only"
    return "written or checked" if block.file or block.language == "yaml" else "shown"


if __name__ == "__main__":
    print(table())
