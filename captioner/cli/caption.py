"""`captioner caption`: caption image files."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from captioner.captions import Caption, ImageId
from captioner.cli.bulk import (
    BulkOptions,
    ColumnOption,
    FormatOption,
    LogJsonOption,
    PartSizeOption,
    ShardOption,
    caption_bulk,
    is_bulk,
    open_run,
    without_captions,
)
from captioner.cli.cluster import (
    ActorsOption,
    CpusOption,
    GpusOption,
    RayOption,
    RayOptions,
)
from captioner.cli.films import (
    EVERY,
    FilmOptions,
    caption_films,
    check_films,
    find_films,
    parse_every,
)
from captioner.cli.options import (
    ExplainOption,
    JsonOption,
    ModelsOption,
    ReportOption,
    check_distinct,
    check_outputs,
    load_captioner,
    with_options,
)
from captioner.cli.sidecars import (
    AltHtmlOption,
    ExistingOption,
    ImageTexts,
    PrefixTextOption,
    SidecarFolderOption,
    SidecarOption,
    SuffixTextOption,
    TextOptions,
    XmpOption,
    open_texts,
    with_texts,
)
from captioner.config.schema import DecodingConfig, InferenceConfig
from captioner.console import console, one_line, print_results
from captioner.data.films import SUFFIXES as FILM_SUFFIXES
from captioner.data.images import SUFFIXES, find_images
from captioner.data.lists import ImageItem
from captioner.errors import UsageError
from captioner.progress import messages_as_json, skip_unreadable
from captioner.results.values import caption_values

if TYPE_CHECKING:
    from captioner.results.resumable import ResumableResults

SECTIONS = {
    "Options of texts and metadata": (
        *("sidecar", "sidecar_dir", "prefix_text", "suffix_text", "existing", "xmp", "alt_html"),
    ),
    "Options for many images": (
        *("shard", "form", "part_size", "column", "log_json"),
        *("ray", "actors", "cpus_per_actor", "gpus_per_actor"),
    ),
}
"""Headings of the help text, with the parameters under each."""

EXAMPLE = "captioner caption photo.jpg holiday/ 'archive/*.png' --output captions.json"

OutputOption = Annotated[
    str | None,
    typer.Option(
        metavar="FILE|FOLDER/",
        help="Also write COCO results (.json or .jsonl), of films JSON lines or subtitles (.vtt); "
        "or, instead of printing captions, a table (.csv or .parquet), or a folder of tables: see "
        "--shard. After an interruption, the same command continues.",
        show_default=False,
    ),
]
IdsOption = Annotated[
    Path | None,
    typer.Option(
        "--annotations",
        metavar="FILE",
        help="Caption the images that this file lists, such as image_info_test2017.json, and "
        "name them by its ids.",
        show_default=False,
    ),
]
EveryOption = Annotated[
    str | None,
    typer.Option(
        metavar="TIME",
        help="Caption a frame of a film this often: 2s, 500ms, 1m or 0.5 (seconds). Frames that "
        "hardly differ from the last captioned one are left out.",
        show_default=f"{EVERY:g}s",
    ),
]


@partial(with_options, reads="image", sections=SECTIONS)
def caption(
    paths: Annotated[
        list[str],
        typer.Argument(
            metavar="PATH...",
            help="Image files, folders and globs; lists of images (.txt, .csv, .jsonl, .parquet); "
            "tars; film files and globs. Films in a folder are left out: name them.",
            show_default=False,
        ),
    ],
    decoding: dict[str, object],
    inference: InferenceConfig,
    model: ModelsOption = None,
    output: OutputOption = None,
    shard: ShardOption = None,
    ray: RayOption = None,
    actors: ActorsOption = None,
    cpus_per_actor: CpusOption = None,
    gpus_per_actor: GpusOption = None,
    form: FormatOption = None,
    part_size: PartSizeOption = None,
    column: ColumnOption = None,
    annotations: IdsOption = None,
    report: ReportOption = None,
    explain: ExplainOption = False,
    as_json: JsonOption = False,
    every: EveryOption = None,
    sidecar: SidecarOption = None,
    sidecar_dir: SidecarFolderOption = None,
    prefix_text: PrefixTextOption = None,
    suffix_text: SuffixTextOption = None,
    existing: ExistingOption = None,
    xmp: XmpOption = False,
    alt_html: AltHtmlOption = False,
    log_json: LogJsonOption = False,
) -> None:
    """Caption images and films.

    Prints each path and its caption, separated by a tab; of a film, the time of each frame is
    between them. A last column says `unsure` if the confidence is below the threshold of
    `captioner calibrate`. Settings you leave out keep the model folder's defaults.
    """
    if explain and not (report or as_json):
        raise UsageError("--explain has no effect without --report or --json: add one of them")
    paths = without_captions(paths)
    of_texts = {"--sidecar": sidecar, "--xmp": xmp, "--alt-html": alt_html, "--shard": shard}
    of_ray = RayOptions(ray, actors, cpus_per_actor, gpus_per_actor)
    pool = of_ray.check(inference, of_texts) if any(map(_is_given, of_ray)) else None
    bulk = BulkOptions(shard, form, column, part_size, pool)
    of_each = TextOptions(sidecar, sidecar_dir, prefix_text, suffix_text, existing, xmp, alt_html)
    of_each.check(output=output, report=report, as_json=as_json)
    with messages_as_json(log_json), open_texts(of_each, paths) as texts:
        if is_bulk(paths, output, bulk):
            others: dict[str, object] = {
                "--report": report,
                "--annotations": annotations,
                "--explain": explain,
            }
            others |= {"--every": every, "--json": as_json and output}
            others |= {"--alt-html": alt_html and output}
            caption_bulk(
                with_texts(open_run(paths, output, bulk, others), texts),
                model,
                inference,
                decoding,
                show=partial(_print, as_json=as_json, alt_html=alt_html),
                provenance=_provenance,
                json_lines=log_json,
                on_outcome=texts.add,
            )
            return
        bulk.refuse()
        _caption_files(
            paths,
            decoding,
            inference,
            model,
            output=Path(output) if output else None,
            annotations=annotations,
            report=report,
            explain=explain,
            as_json=as_json,
            every=every,
            log_json=log_json,
            of_each=of_each,
            texts=texts,
        )


def _is_given(value: object) -> bool:
    return value is not None


def _caption_files(
    paths: Sequence[str],
    decoding: Mapping[str, object],
    inference: InferenceConfig,
    model: Sequence[str] | None,
    *,
    output: Path | None,
    annotations: Path | None,
    report: Path | None,
    explain: bool,
    as_json: bool,
    every: str | None,
    log_json: bool,
    of_each: TextOptions,
    texts: ImageTexts,
) -> None:
    """Caption image and film files. All names are in memory, and captions with a report."""
    seconds = parse_every(every)
    check_distinct(output=output, report=report)
    try:
        found = find_images(paths, in_globs=(*SUFFIXES, *FILM_SUFFIXES))
    except UsageError:
        check_outputs(output, report)  # a wrong option is named before a wrong path
        raise
    films = find_films(found.files, paths, animations=every is not None)
    of_each.refuse_films(films)
    check_films(
        films,
        found.files,
        output=output,
        report=report,
        annotations=annotations,
        every=every,
    )
    check_outputs(None if films else output, report)
    for problem in found.problems:
        console.print(f"captioner: {one_line(problem)}", markup=False)
    ids = _image_ids([file for file in found.files if file not in films], annotations)
    items = {file: ImageItem(str(file), str(file)) for file in ids}
    is_new = not (output and output.with_name(f"{output.name}.part").exists())
    if is_new:  # otherwise only what an interrupted run has left is checked, below
        texts.check(list(items.values()))
    captioner = load_captioner(model, inference)
    settings = captioner.decoding_config(decoding)
    captioned: dict[Path, Caption] = {}  # for a report only: it would grow with the images
    num_read = num_abstained = 0
    readable = partial(skip_unreadable, doing="captioning", json_lines=log_json)
    films_are_complete = True
    with print_results(files=bool(output or report)) as print_line:
        show = partial(
            _print,
            print_line,
            several=settings.captions > 1,
            as_json=as_json,
            alt_html=of_each.alt_html,
        )
        of_images = None if films else output
        with _open_results(of_images, ids, model, settings, resume=not report) as results:
            remaining = _remaining(ids, results.captions if results else {})
            if not is_new:
                texts.check([items[file] for file in remaining])
            remaining = [file for file in remaining if texts.wanted([items[file]])]
            stream = captioner.stream(
                remaining, decoding=settings, explain=explain, batch_size=inference.batch_size
            )
            for file, generated in readable(remaining, stream):
                named = {"image": str(file), **({"image_id": ids[file]} if annotations else {})}
                show(one_line(file), named, generated)
                num_read += 1
                num_abstained += generated.abstained
                texts.add(items[file], generated)  # before the results, which say what is done
                if results and not generated.abstained:
                    results.add(ids[file], generated.shown)
                if report:
                    captioned[file] = generated
        if report:
            from captioner.report.build import report_captions

            cropped = captioner.crops
            report_captions(report, captioned, model or [], settings, cropped=cropped)
        if films:
            films_are_complete = caption_films(
                films,
                captioner,
                FilmOptions(settings, seconds, inference.batch_size, explain),
                show=show,
                output=output,
                provenance=lambda: _provenance(model, settings),
            )
    _finish(
        len(ids),
        num_abstained=num_abstained,
        num_failed=len(remaining) - num_read,
        num_missing=len(found.problems),
    )
    if not films_are_complete:
        raise typer.Exit(3)


def _open_results(
    output: Path | None,
    ids: Mapping[Path, ImageId],
    models: Sequence[str | Path] | None,
    decoding: DecodingConfig,
    *,
    resume: bool,
) -> AbstractContextManager[ResumableResults | None]:
    """Return the results to add captions to, with those of an interrupted run; None: no output."""
    if output is None:
        return nullcontext()
    from captioner.results.resumable import resumable_results

    provenance = _provenance(models, decoding)
    return resumable_results(output, list(ids.values()), provenance=provenance, resume=resume)


def _provenance(models: Sequence[str | Path] | None, decoding: DecodingConfig) -> dict[str, object]:
    """Return what captions depend on, as values for JSON."""
    from captioner.models.folder import weights_digests

    return {"weights": weights_digests(models), "decoding": decoding.to_json()}


def _image_ids(files: Sequence[Path], annotations: Path | None) -> dict[Path, ImageId]:
    """Return the id of each image: its path, or that of the annotations, which may lack images.

    Raises:
        UsageError: the annotations lack all images, or name an id twice.
    """
    if annotations is None:
        return {file: str(file) for file in files}
    from captioner.data.image_ids import load_image_ids

    known = load_image_ids(annotations)
    found = {file: image for file in files if (image := known.find(file)) is not None}
    if not found:
        raise UsageError(f"{annotations} lists none of these images, such as {files[0].name}")
    names: dict[ImageId, Path] = {}
    for file, image in found.items():
        if (other := names.setdefault(image, file)) != file:
            raise UsageError(f"{other} and {file} are both image {image!r}: name one of them")
    for number, what in (
        (len(files) - len(found), f"are not in {annotations} and are left out"),
        (len(known.files) - len(found), f"of {annotations} are not among these files"),
    ):
        if number:
            console.print(f"captioner: {number:,} images {what}", markup=False)
    return found


def _remaining(
    ids: Mapping[Path, ImageId], captions: Mapping[ImageId, str | Sequence[str]]
) -> list[Path]:
    """Return the files that an interrupted run did not caption, and report the number of others."""
    remaining = [file for file, image in ids.items() if image not in captions]
    if num_done := len(ids) - len(remaining):
        console.print(
            f"captioner: an interrupted run captioned {num_done:,} of {len(ids):,} images: "
            "continuing"
        )
    return remaining


def _finish(num_files: int, *, num_abstained: int, num_failed: int, num_missing: int) -> None:
    """Report how many images have no caption; raise `Exit` if some cannot be read or found."""
    if num_abstained:
        console.print(
            f"captioner: {num_abstained} of {num_files} captions are not shown: low confidence"
        )
    if num_failed:
        console.print(f"captioner: {num_failed} of {num_files} images could not be read")
    if num_missing:
        paths = "path" if num_missing == 1 else "paths"
        console.print(f"captioner: {num_missing} {paths} could not be found or listed")
    if num_failed or num_missing:
        raise typer.Exit(3)


def _print(
    print_line: Callable[[str], None],
    columns: str,
    named: Mapping[str, object],
    caption: Caption,
    *,
    several: bool,
    as_json: bool,
    alt_html: bool,
) -> None:
    if alt_html:
        from captioner.results.html import image_tag

        print_line(image_tag(str(named["image"]), None if caption.abstained else caption.text))
        return
    if as_json:
        print_line(json.dumps({**named, **caption_values(caption, several=several)}))
        return
    for each in (caption, *caption.others):
        text = "" if each.abstained else each.text
        unsure = "\tunsure" if each.sure is False and not each.abstained else ""
        print_line(f"{columns}\t{text}{unsure}")
