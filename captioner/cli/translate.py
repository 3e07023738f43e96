"""`captioner translate`: translate a text line by line, or each line as you type it."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from captioner.captions import Translation
from captioner.cli.lines import is_interactive, open_lines, prompt_groups, read_groups
from captioner.cli.options import (
    JsonOption,
    ReportOption,
    TextModelsOption,
    check_distinct,
    check_outputs,
    load_translator,
    with_options,
)
from captioner.config.schema import InferenceConfig
from captioner.console import console, print_results
from captioner.data.lines import Line
from captioner.data.parallel import STDIN
from captioner.data.problems import MAX_EXAMPLES
from captioner.progress import track
from captioner.results.values import translation_values
from captioner.storage import atomic_file, check_new

EXAMPLE = "captioner translate --model runs/multi30k/best test.en > test.de"

_BREAKS = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")  # they would end a line, or a column

Translate = Callable[[Iterable[str]], Iterator[Translation]]

FileArgument = Annotated[
    Path,
    typer.Argument(metavar="FILE|-", help="The text; without it, stdin.", show_default=False),
]
OutputOption = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Write to this file, not to stdout.", show_default=False),
]
AlignOption = Annotated[
    bool,
    typer.Option(
        "--align",
        help="Also print the source token that each token attends to most; with --json, the "
        "attention weights.",
    ),
]


@partial(with_options, reads="text")
def translate(
    decoding: dict[str, object],
    inference: InferenceConfig,
    model: TextModelsOption,
    file: FileArgument = Path(STDIN),
    output: OutputOption = None,
    report: ReportOption = None,
    align: AlignOption = False,
    as_json: JsonOption = False,
) -> None:
    """Translate text: one line in, one line out.

    Reads stdin without FILE; on a terminal it translates each line as you type it. With several
    translations, prints the line number, the log-probability and the translation of each,
    separated by tabs. Settings you leave out keep the model folder's defaults.
    """
    check_outputs(None, report)
    if output:
        check_distinct(output=output, report=report)
        check_new(output)
    name = "stdin" if str(file) == STDIN else str(file)
    reported: list[tuple[Line, Translation]] = []  # for a report only: it would grow with the lines
    num_problems = 0
    with open_lines(file) as stream:
        translator = load_translator(model, inference)
        settings = translator.decoding_config(decoding)
        translate_texts: Translate = partial(
            translator.stream,
            decoding=settings,
            align=align or (report is not None and translator.has_attention),
            batch_size=inference.batch_size,
        )
        translate_texts([])  # wrong settings are an error before anything is read
        groups = prompt_groups() if is_interactive(file) else read_groups(stream, name)
        results = _translate(groups, translate_texts)
        # a pipe such as <(...) is no file: counting its lines would use them up
        is_countable = str(file) != STDIN and file.is_file()
        if is_countable and (output or not sys.stdout.isatty()):
            results = track(results, total=_count(file), doing="translating", unit="lines")
        several = settings.captions > 1
        with _open_output(output, files=report is not None) as write:
            for line, translation in results:
                if translation is None:
                    num_problems += 1
                    _report_problem(line, name, num_problems)
                elif report and translation.source:
                    reported.append((line, translation))
                for row in _rows(line, translation, several=several, align=align, as_json=as_json):
                    write(row)
    if report:
        from captioner.report.alignment import TextEntry, report_translations

        entries = [TextEntry(line.number, line.text, result) for line, result in reported]
        report_translations(report, entries, models=model, decoding=settings, name=name)
    if num_problems:
        lines = f"{num_problems:,} line{'' if num_problems == 1 else 's'}"
        console.print(f"captioner: {name}: {lines} could not be read", markup=False)
        raise typer.Exit(3)


def _translate(
    groups: Iterable[Sequence[Line]], translate_texts: Translate
) -> Iterator[tuple[Line, Translation | None]]:
    """Yield each line with its translation, or with None if it cannot be read."""
    for lines in groups:
        results = translate_texts(line.text for line in lines if not line.problem)
        for line in lines:
            yield line, None if line.problem else next(results)


def _count(file: Path) -> int:
    """Return the number of lines, for the progress bar."""
    with file.open("rb") as stream:
        return sum(1 for _ in stream)


@contextmanager
def _open_output(path: Path | None, *, files: bool) -> Iterator[Callable[[str], None]]:
    """Yield a function that writes a line to a file, or to stdout without one.

    On stdout it is UTF-8, whatever the locale is, unless somebody reads it on a terminal.

    Raises:
        CaptionerError: the file cannot be written; an existing one is kept.
    """
    if path is None:
        if not sys.stdout.isatty():
            sys.stdout.reconfigure(encoding="utf-8", newline="\n")  # type: ignore[union-attr]
        with print_results(files=files) as print_line:
            yield print_line
        return
    with atomic_file(path) as file:
        yield lambda text: print(text, file=file)


def _report_problem(line: Line, name: str, count: int) -> None:
    """Name a line that cannot be read. Only the first ones are named."""
    if line.problem and count <= MAX_EXAMPLES:
        reason = line.problem.reason
        console.print(f"captioner: {name}, line {line.number}: {reason}", markup=False)


def _rows(
    line: Line, translation: Translation | None, *, several: bool, align: bool, as_json: bool
) -> Iterator[str]:
    """Yield the rows of a line: one, or one for each translation; their columns have tabs between.

    A line that cannot be read has an empty row.
    """
    if as_json:
        yield json.dumps(_to_json(line, translation, several=several, align=align))
        return
    if translation is None:
        yield f"{line.number}\t\t" if several else ""
        return
    for each in (translation, *translation.others):
        columns = [each.text]
        if align:
            columns.append(_alignment(each))
        if several:
            columns = [str(line.number), f"{each.log_prob:.4f}", *columns]
        yield "\t".join(_BREAKS.sub(" ", column) for column in columns)


def _alignment(translation: Translation) -> str:
    """Return each token with the source token of the largest weight: "Hund←dog rennt←runs"."""
    pairs = []
    for word, weights in zip(translation.words, translation.alignment or (), strict=True):
        attended = translation.source[weights.index(max(weights))]
        pairs.append(f"{word.text}←{attended}".replace(" ", "␣"))  # a space can be a token
    return " ".join(pairs)


def _to_json(
    line: Line, translation: Translation | None, *, several: bool, align: bool
) -> dict[str, Any]:
    """Return a line and its translation as JSON values."""
    if translation is None:
        problem = line.problem and line.problem.reason
        return {"source": None, "text": None, "problem": problem}
    values = translation_values(translation, align=align, several=several)
    return {"source": line.text, **values}
