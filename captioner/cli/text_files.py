"""The files of text that `captioner evaluate` and `captioner compare` score."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import typer

from captioner.data.parallel import BOTH_SIDES, load_pairs, pair_problems, read_lines
from captioner.errors import UsageError


class TextSet(NamedTuple):
    """The references of each text, and the sources if they were given."""

    sources: list[str]  # empty without --source
    references: list[list[str]]
    name: str  # of the file that was named first


def check_kind(annotations: Path | None, texts: Sequence[Path]) -> None:
    """End the command, as for a missing option, unless its options name either images or text."""
    if (annotations is None) == bool(texts):
        return
    message = (
        "name --annotations to score captions, or --references to score text"
        if annotations is None
        else "--annotations is for images, --references and --source are for text: name one kind"
    )
    typer.echo(f"captioner: {message}", err=True)
    raise typer.Exit(UsageError.exit_code)


def read_text_set(source: Path | None, references: Sequence[Path]) -> TextSet:
    """Read the references, and the sources where a file holds them.

    Args:
        source: texts, one a line, or with their references in a .tsv or .jsonl file.
        references: one or more for each text, one a line; or a .tsv or .jsonl file alone.

    Raises:
        UsageError: a file cannot be read, has errors, or has another number of lines.
    """
    named = [*([source] if source else []), *references]
    if of_both := [path for path in named if path.suffix.lower() in BOTH_SIDES]:
        if len(named) > 1:
            raise UsageError(f"{of_both[0]} holds both sides: leave out the other files")
        return _read_pairs(of_both[0])
    if not references:
        raise UsageError(
            f"{source} holds one side only: add --references FILE, "
            "which has a line for each of its lines"
        )
    first, *_ = sides = [read_lines(path) for path in named]
    for path, side in zip(named, sides, strict=True):
        if len(side) != len(first):
            raise UsageError(
                f"{named[0]} has {len(first):,} lines and {path} has {len(side):,}: "
                "each line belongs to the same line of the other file"
            )
    if not first:
        raise UsageError(f"{named[0]}: is empty")
    sources, *targets = sides if source else [[], *sides]
    return TextSet(sources, [list(each) for each in zip(*targets, strict=True)], named[0].name)


def _read_pairs(path: Path) -> TextSet:
    problems = pair_problems(path, None)
    pairs = load_pairs(path, None, problems)
    problems.raise_errors()
    return TextSet(
        [pair.source for pair in pairs], [list(pair.captions) for pair in pairs], path.name
    )


def read_outputs(path: Path, texts: TextSet) -> list[str]:
    """Read generated texts, one a line.

    Raises:
        UsageError: the file cannot be read, or has another number of lines than the references.
    """
    outputs = read_lines(path)
    if len(outputs) != len(texts.references):
        raise UsageError(
            f"{path} has {len(outputs):,} lines, but there are references of "
            f"{len(texts.references):,} texts: write one line for each"
        )
    return outputs
