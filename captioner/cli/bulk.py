"""The bulk runs of `captioner caption`: lists, tars, shards, and output in parts or tables."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from captioner.cli.cluster import read_decoding, report_lost
from captioner.cli.options import load_captioner
from captioner.config.schema import DecodingConfig, InferenceConfig
from captioner.console import console, one_line, print_results
from captioner.data.filesystems import exists, import_pyarrow, is_remote
from captioner.data.films import SUFFIXES as FILM_SUFFIXES
from captioner.data.images import SUFFIXES
from captioner.data.lists import SUFFIXES as LISTS
from captioner.data.lists import ImageItem
from captioner.data.sources import TAR, Source, open_source
from captioner.errors import ImageError, UsageError
from captioner.progress import Progress
from captioner.results.rows import TABLES, Row, RowFormat, check_table, write_table

if TYPE_CHECKING:
    from captioner.bulk.parts import PartFolder
    from captioner.bulk.ray_data import Pool
    from captioner.bulk.run import OnOutcome, Outcome
    from captioner.inference.captioner import Captioner

FILES = (*TABLES, ".json", ".jsonl", ".vtt", ".html")
"""Endings of an output that is a file. Others can be a folder."""

MAX_PRINTED = 20  # images that cannot be read; the rows have all of them

ShardOption = Annotated[
    str | None,
    typer.Option(
        metavar="I/N",
        help="Caption one of N shares of the images, into the folder of --output: run 1/N to N/N, "
        "at once or one after another, on one machine or on several.",
        show_default=False,
    ),
]
FormatOption = Annotated[
    RowFormat | None,
    typer.Option(
        "--format",
        help="Format of the rows in the folder of --output.",
        show_default="jsonl",
    ),
]
ColumnOption = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Column of the images in a list (.csv, .tsv, .jsonl, .parquet).",
        show_default="image, file_name, path, ...",
    ),
]
PartSizeOption = Annotated[
    int | None,
    typer.Option(
        min=1,
        metavar="IMAGES",
        help="Images of a file in the folder of --output: a killed run repeats at most these.",
        show_default="1000",
    ),
]
LogJsonOption = Annotated[
    bool, typer.Option("--log-json", help="Write progress and messages on stderr as JSON lines.")
]


class BulkOptions(NamedTuple):
    """The options that belong to bulk runs, as given."""

    shard: str | None
    form: RowFormat | None
    column: str | None
    part_size: int | None
    pool: Pool | None = None  # of --ray

    def refuse(self) -> None:
        """Raise an error for one that was given without a bulk run.

        Raises:
            UsageError: names the option.
        """
        given = {"--format": self.form, "--column": self.column, "--part-size": self.part_size}
        for option, value in given.items():
            if value is not None:
                raise UsageError(
                    f"{option} has no effect without a list, a tar or an output folder: leave it "
                    "out, or name a folder as in --output captions/"
                )


class Run(NamedTuple):
    """A bulk run whose arguments are checked."""

    source: Source
    output: str | None
    shard: str | None
    form: RowFormat
    part_size: int
    coco: bool  # whether a file gets COCO results instead of rows
    pool: Pool | None = None  # the actors of Ray; None: this process captions

    def done_parts(self) -> set[int]:
        """Return the numbers of the parts that exist."""
        from captioner.bulk.parts import PartFolder

        folder = _folder_of(self.output) if self.output else ""
        return PartFolder(folder, self.form).numbers() if folder and exists(folder) else set()


def is_folder(output: str) -> bool:
    """Return whether an output is a folder: it exists, or its name ends in a slash."""
    return output.endswith(("/", os.sep)) or is_remote(output) or os.path.isdir(output)


def is_list_or_tar(path: str) -> bool:
    """Return whether a path, a glob or a brace range stands for lists or tars, by its ending."""
    return _suffix(path) in (TAR, *LISTS) and not os.path.isdir(path)


def without_captions(paths: Sequence[str]) -> list[str]:
    """Return paths without the .txt files that are beside images of the same name, as in a/*.

    Such a file is the caption of its image, and no list.
    """
    images = {os.path.splitext(path)[0] for path in paths if _suffix(path) in SUFFIXES}
    return [
        path for path in paths if _suffix(path) != ".txt" or os.path.splitext(path)[0] not in images
    ]


def is_bulk(paths: Sequence[str], output: str | None, options: BulkOptions) -> bool:
    """Return whether a command is a bulk run."""
    if options.shard or options.pool or any(map(is_list_or_tar, paths)):
        return True
    return output is not None and (
        is_folder(output) or options.form is not None or _suffix(output) in TABLES
    )


def _suffix(path: str) -> str:
    return os.path.splitext(path)[1].lower()


def open_run(
    paths: Sequence[str],
    output: str | None,
    options: BulkOptions,
    others: Mapping[str, object],
) -> Run:
    """Check the arguments of a bulk run, before a model is loaded.

    Args:
        paths: the sources.
        output: a folder, a file, or None: captions are printed.
        options: of bulk runs.
        others: options that have no effect on bulk runs, with their values.

    Raises:
        UsageError: an argument is wrong, or the paths have no image.
    """
    from captioner.bulk.parts import PART_SIZE, Shard

    for option, value in others.items():
        if value:
            what = "with a folder or a table as --output" if output else "on lists and tars"
            raise UsageError(f"{option} has no effect {what}: leave it out")
    shard, form, column, part_size, pool = options
    if shard:
        Shard.parse(shard)
    if output is None and (shard or pool or form or part_size):
        option = "--shard" if shard else "--ray" if pool else "--format" if form else "--part-size"
        raise UsageError(f"{option} needs a folder for the output: add --output FOLDER/")
    if output is not None and not is_folder(output):
        _check_file(output, shard, form)
    elif output is not None and os.path.isfile(output.rstrip("/")):
        raise UsageError(f"{output.rstrip('/')} is a file: name another folder")
    if form == "parquet":
        import_pyarrow("--format parquet")
    for path in paths:
        if _suffix(path) in FILM_SUFFIXES and os.path.isfile(path):
            raise UsageError(f"{path} is a film, and this run is of images: caption it alone")
    source = open_source(paths, column=column, exclude=output and _folder_of(output))
    coco = output is not None and not form and _suffix(output) in (".json", ".jsonl")
    return Run(source, output, shard, form or "jsonl", part_size or PART_SIZE, coco, pool)


def _check_file(output: str, shard: str | None, form: RowFormat | None) -> None:
    suffix = _suffix(output)
    if shard and suffix not in FILES:
        return  # a folder that is yet to be made
    if shard:
        raise UsageError(f"--shard needs a folder, and {output} is a file: name a folder")
    if form and suffix != f".{form}":
        raise UsageError(f"--format {form} and {output} differ: leave out --format")
    if form:
        check_table(Path(output))
        return
    if suffix not in (*TABLES, ".json", ".jsonl"):
        raise UsageError(
            f"{output}: end a file in .csv, .parquet, .json or .jsonl, and a folder in a slash"
        )
    if suffix in TABLES:
        check_table(Path(output))
    else:
        from captioner.results.files import check_destination

        check_destination(Path(output))


def _folder_of(output: str) -> str:
    """Return the folder of the parts: of an output file, one beside it."""
    return f"{output}.parts" if _suffix(output) in FILES and not is_folder(output) else output


def caption_bulk(
    run: Run,
    models: Sequence[str] | None,
    inference: InferenceConfig,
    changes: Mapping[str, object],
    *,
    show: Callable[..., None],
    provenance: Callable[[Sequence[str] | None, DecodingConfig], Mapping[str, object]],
    json_lines: bool,
    on_outcome: OnOutcome | None = None,
) -> None:
    """Caption the images of a bulk run, and report how many could not be read.

    Args:
        run: of `open_run`.
        models: of --model.
        inference: how a model is run.
        changes: the decoding settings that were given.
        show: prints a caption where there is no output: see `captioner.cli.caption`.
        provenance: returns what the captions depend on.
        json_lines: show the progress as JSON lines.
        on_outcome: is told of each image that this process captions.

    Raises:
        Exit: some images or paths could not be read.
    """
    captioner = None if run.pool else load_captioner(models, inference)
    decoding = captioner.decoding_config(changes) if captioner else read_decoding(models, changes)
    num_abstained = num_printed = 0
    several = decoding.captions > 1

    def tell(item: ImageItem, outcome: Outcome) -> None:
        nonlocal num_abstained, num_printed
        if isinstance(outcome, ImageError):
            num_printed += 1
            if num_printed <= MAX_PRINTED:
                message = f"{item.name}: {outcome.reason}"
                console.print(f"captioner: {one_line(message)}", markup=False)
            if num_printed == MAX_PRINTED:
                console.print("captioner: further images that cannot be read are only counted")
        else:
            num_abstained += outcome.abstained
            if run.output is None:
                named = {"image": item.name}
                show(print_line, one_line(item.name), named, outcome, several=several)
        if on_outcome:
            on_outcome(item, outcome)

    with (
        print_results(files=False) as print_line,
        Progress("captioning", json_lines=json_lines) as progress,
    ):
        work = _Work(run, models, inference, decoding, captioner, progress, tell)
        lost: Sequence[int] = []
        if run.output is None:
            _print_all(work)
        else:
            num_elsewhere, lost = _write_parts(work, run.output, provenance(models, decoding))
            num_abstained += num_elsewhere
        if not lost:
            progress.total = progress.done  # short work ends before its images are counted
    problems = run.source.problems
    for problem in problems:
        console.print(f"captioner: {one_line(problem)}", markup=False)
    if num_abstained:
        console.print(
            f"captioner: {num_abstained:,} of {progress.done:,} captions are not shown: "
            "low confidence"
        )
    if progress.failed:
        console.print(
            f"captioner: {progress.failed:,} of {progress.done:,} images could not be read"
        )
    if problems:
        console.print(f"captioner: {len(problems):,} paths could not be read completely")
    if lost:
        report_lost(lost)
    if progress.failed or problems or lost:
        raise typer.Exit(3)


class _Work(NamedTuple):
    """What captions the images of a run, and what is told of it."""

    run: Run
    models: Sequence[str] | None
    inference: InferenceConfig
    decoding: DecodingConfig
    captioner: Captioner | None  # None: actors of Ray have theirs
    progress: Progress
    tell: OnOutcome


def _print_all(work: _Work) -> None:
    from captioner.bulk.parts import ALL
    from captioner.bulk.run import caption_parts, counted_in_background

    run, captioner = work.run, work.captioner
    assert captioner is not None  # Ray needs an output
    with counted_in_background(run.source, run.part_size, ALL, work.progress):
        parts = run.source.parts(run.part_size)
        for batch in caption_parts(
            captioner, parts, decoding=work.decoding, batch_size=work.inference.batch_size
        ):
            for item, outcome in batch.outcomes:
                work.tell(item, outcome)
                work.progress.advance(failed=isinstance(outcome, ImageError))


def _write_parts(
    work: _Work, output: str, provenance: Mapping[str, object]
) -> tuple[int, Sequence[int]]:
    """Write the parts of a run, and merge them if the output is a file.

    Returns:
        How many captions of actors of Ray are not shown, and the parts that their deaths cost.
    """
    from captioner.bulk.parts import ALL, PartFolder, Shard
    from captioner.bulk.run import counted_in_background, run_shard

    run, progress = work.run, work.progress
    folder_name = _folder_of(output)
    is_file = folder_name != output
    settings = {
        **provenance,
        "sources": [path.rstrip("/") or "/" for path in run.source.paths],
        "column": run.source.column,
        "part_size": run.part_size,
    }
    folder = PartFolder.open(folder_name, "jsonl" if is_file else run.form, settings)
    shard = Shard.parse(run.shard) if run.shard else ALL
    num_abstained, lost = 0, list[int]()
    try:
        with counted_in_background(run.source, run.part_size, shard, progress):
            if work.captioner is None:
                num_abstained, lost = _write_on_ray(work, folder)
            else:
                run_shard(
                    run.source,
                    folder,
                    work.captioner,
                    shard=shard,
                    part_size=run.part_size,
                    decoding=work.decoding,
                    batch_size=work.inference.batch_size,
                    progress=progress,
                    on_outcome=work.tell,
                )
    except UsageError:
        raise
    except BaseException:
        console.print(
            f"captioner: {len(folder.paths()):,} parts are kept in {folder.folder}: run the same "
            "command again to continue",
            markup=False,
        )
        raise
    if progress.skipped:
        console.print(
            f"captioner: {progress.skipped:,} of {progress.done:,} images were captioned by an "
            "earlier run"
        )
    if is_file and not lost:
        progress.failed = _merge(folder, Path(output), work.decoding, coco=run.coco)
    return num_abstained, lost


def _write_on_ray(work: _Work, folder: PartFolder) -> tuple[int, list[int]]:
    """Write the parts that are not done with actors, and return what `_write_parts` does."""
    from captioner.bulk.actors import PartSummary
    from captioner.bulk.ray_data import make_job, run_on_ray

    run, progress = work.run, work.progress
    assert run.pool is not None
    num_abstained = 0

    def count(part: PartSummary) -> None:
        nonlocal num_abstained
        num_abstained += part.abstained
        progress.skip(part.skipped)
        progress.advance(part.failed, failed=True)
        progress.advance(part.captioned)
        for name, reason in part.errors:
            work.tell(ImageItem(name, name), ImageError(name, reason))
        if part.replaced:
            console.print(
                f"captioner: a process of Ray died: {part.replaced} continues with part {part.part}"
            )

    job = make_job(
        run.source,
        folder,
        models=work.models or [],
        inference=work.inference,
        decoding=work.decoding,
        part_size=run.part_size,
        pool=run.pool,
    )
    summary = run_on_ray(job, run.pool, count)
    run.source.add_problems(summary.problems)
    return num_abstained, summary.lost


def _merge(folder: PartFolder, output: Path, decoding: DecodingConfig, *, coco: bool) -> int:
    """Write the rows of all parts to a file, remove the parts, and count the rows with errors."""
    num_failed = 0

    def rows() -> Iterator[Row]:
        nonlocal num_failed
        for row in chain.from_iterable(map(folder.rows, folder.paths())):
            num_failed += row.error is not None
            yield row

    write_table(output, rows(), several=decoding.captions > 1, coco=coco)
    folder.remove()
    return num_failed
