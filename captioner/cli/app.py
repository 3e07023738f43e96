"""The command line. Imports torch only once there is something to compute."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from captioner.cli.options import (
    BatchOption,
    Device,
    DeviceOption,
    ExplainOption,
    ImagesOption,
    JavaOption,
    JsonOption,
    ModelOption,
    ModelsOption,
    PartialOption,
    Precision,
    PrecisionOption,
    ReferencesOption,
    ReportOption,
    SettingsArgument,
    SplitOption,
    with_decoding,
)
from captioner.errors import CaptionerError, UsageError

INTERRUPTED = 130  # the exit code that typer gives a Ctrl-C

EXAMPLES = {
    "caption": "Example: captioner caption photo.jpg holiday/ 'archive/*.png' --output captions.json",
    "train": "Example: captioner train configs/shapes.yaml training.batch_size=32 --output runs/first",
    "check": "Example: captioner check photos/captions.jsonl --html checkup.html",
    "evaluate": "Example: captioner evaluate --annotations captions_val2017.json --images val2017",
    "compare": "Example: captioner compare greedy.json beam.json --annotations captions_val2017.json",
    "score": "Example: captioner score photo.jpg --caption 'a dog runs' --caption 'a cat sleeps'",
    "defaults": "Example: captioner defaults --model runs/first/best beam=5 length_alpha=0.7",
    "calibrate": "Example: captioner calibrate --model runs/first/best --annotations captions_val2017.json",
}

app = typer.Typer(
    help="Caption images; train a captioner; score, compare and look at captions.",
    epilog=EXAMPLES["caption"],
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.command(epilog=EXAMPLES["caption"])
@with_decoding
def caption(
    paths: Annotated[
        list[str],
        typer.Argument(
            metavar="PATH...", help="Image files, folders and globs.", show_default=False
        ),
    ],
    decoding: dict[str, object],
    model: ModelsOption = None,
    batch_size: BatchOption = 16,
    device: DeviceOption = Device.AUTO,
    precision: PrecisionOption = Precision.AUTO,
    output: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Also write COCO results (.json) or JSON lines (.jsonl); after an interruption, go on from FILE.part.",
            show_default=False,
        ),
    ] = None,
    report: ReportOption = None,
    explain: ExplainOption = False,
    as_json: JsonOption = False,
) -> None:
    """Caption images: print each path and its caption, tab between.

    What is not said of decoding is as the model folder has it; the bundled one has 3 beams and 20 words at most.
    """
    from captioner.cli.caption import caption_files

    failed = caption_files(
        paths,
        models=model or [],
        decoding=decoding,
        batch_size=batch_size,
        device=device.value,
        precision=precision.value,
        output=output,
        report=report,
        explain=explain,
        as_json=as_json,
    )
    if failed:
        raise typer.Exit(3)


@app.command(epilog=EXAMPLES["train"])
def train(
    config: Annotated[
        Path,
        typer.Argument(metavar="CONFIG", help="A YAML file; see configs/.", show_default=False),
    ],
    settings: SettingsArgument = None,
    resume: Annotated[
        str | None,
        typer.Option(
            metavar="auto|PATH",
            help="Go on from the newest sound checkpoint, or from this one.",
            show_default=False,
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Where the run goes.", show_default="the config's"),
    ] = None,
    device: DeviceOption = Device.AUTO,
) -> None:
    """Train a captioner; the best model on dev ends up in the run's folder `best`. Ctrl-C saves a checkpoint first."""
    from captioner.training.settings import load_config

    loaded = load_config(config, settings or [], output=output)
    from captioner.training.train import train as run

    best = run(loaded, device=device.value, resume=resume)
    if os.environ.get("RANK", "0") == "0":  # under torchrun, the first rank speaks for all
        typer.echo(best)


@app.command(epilog=EXAMPLES["check"])
def check(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="CONFIG|ANNOTATIONS",
            help="A config (.yaml), whose train and dev are checked together, or annotations of any format.",
            show_default=False,
        ),
    ],
    settings: SettingsArgument = None,
    images: ImagesOption = None,
    html: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.html", help="Also write a page with histograms.", show_default=False
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Look a data set over: what is wrong with annotations and images, what splits share, and what they are like.

    Every image is read to its end. Exits with 0 if nothing is wrong, with 3 if something is.
    """
    from captioner.cli.check import check_data

    if check_data(source, settings=settings or [], images=images, page=html, as_json=as_json):
        raise typer.Exit(3)


@app.command(epilog=EXAMPLES["evaluate"])
@with_decoding
def evaluate(
    annotations: ReferencesOption,
    decoding: dict[str, object],
    model: ModelsOption = None,
    images: ImagesOption = None,
    results: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Where captions go; without --model and --images: captions to score.",
            show_default=False,
        ),
    ] = None,
    split: SplitOption = None,
    allow_partial: PartialOption = False,
    seen: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Annotations of training, to tell new captions.",
            show_default=False,
        ),
    ] = None,
    seen_split: Annotated[
        str | None, typer.Option(help="Which split of --seen.", show_default=False)
    ] = None,
    java: JavaOption = None,
    report: ReportOption = None,
    explain: ExplainOption = False,
    batch_size: BatchOption = 16,
    device: DeviceOption = Device.AUTO,
    precision: PrecisionOption = Precision.AUTO,
    as_json: JsonOption = False,
) -> None:
    """Score captions with COCO's metrics: a model's, or those of a results file. Notes the scores beside it.

    What is not said of decoding is as the model folder has it; the bundled one has 3 beams and 20 words at most.
    """
    from captioner.cli import evaluate as command

    if model is None and images is None and results is not None:
        if report or explain or decoding:
            raise UsageError(
                f"{results} holds captions already: to caption, or for a report, add --model or --images"
            )
        if not results.exists():
            raise UsageError(
                f"{results}: no such results; to have a model write them, add --model FOLDER or `bundled`"
            )
        command.score_results(
            results,
            annotations,
            split=split,
            seen=seen,
            seen_split=seen_split,
            java=[metric.value for metric in java or []],
            allow_partial=allow_partial,
            as_json=as_json,
        )
        return
    failed = command.evaluate_model(
        model or [],
        annotations,
        decoding=decoding,
        images=images,
        split=split,
        seen=seen,
        seen_split=seen_split,
        java=[metric.value for metric in java or []],
        results=results,
        report=report,
        explain=explain,
        batch_size=batch_size,
        device=device.value,
        precision=precision.value,
        as_json=as_json,
    )
    if failed:
        raise typer.Exit(3)


@app.command(epilog=EXAMPLES["compare"])
def compare(
    a: Annotated[
        Path, typer.Argument(metavar="A.json", help="One results file.", show_default=False)
    ],
    b: Annotated[
        Path,
        typer.Argument(metavar="B.json", help="Another, of the same images.", show_default=False),
    ],
    annotations: ReferencesOption,
    split: SplitOption = None,
    allow_partial: PartialOption = False,
    as_json: JsonOption = False,
) -> None:
    """Say which of two results files is better, by how much, how sure that is, and on which images most."""
    from captioner.cli.compare import compare_results

    compare_results(a, b, annotations, split=split, allow_partial=allow_partial, as_json=as_json)


@app.command(epilog=EXAMPLES["score"])
def score(
    image: Annotated[
        str | None,
        typer.Argument(
            metavar="[IMAGE]", help="One image, to rank captions of.", show_default=False
        ),
    ] = None,
    caption: Annotated[
        list[str] | None,
        typer.Option(help="A caption of it; may be given again.", show_default=False),
    ] = None,
    captions: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="More captions of it, one a line.", show_default=False),
    ] = None,
    annotations: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Instead: a data set, to find its least likely captions.",
            show_default=False,
        ),
    ] = None,
    images: ImagesOption = None,
    split: SplitOption = None,
    worst: Annotated[int, typer.Option(min=1, help="With --annotations: how many to show.")] = 20,
    model: ModelsOption = None,
    device: DeviceOption = Device.AUTO,
    precision: PrecisionOption = Precision.AUTO,
    as_json: JsonOption = False,
) -> None:
    """Say how probable captions are: mean log-probability of a word, of the caption, image, caption.

    Of one image, the likeliest first. Of a data set, the least likely first: where annotations may be wrong.
    """
    from captioner.cli import score as command

    if image is not None and annotations is None:
        given = [*(caption or []), *(command.read_captions(captions) if captions else [])]
        failed = command.score_captions(
            image,
            given,
            models=model or [],
            device=device.value,
            precision=precision.value,
            as_json=as_json,
        )
    elif annotations is not None and image is None:
        failed = command.score_annotations(
            annotations,
            images=images,
            split=split,
            worst=worst,
            models=model or [],
            device=device.value,
            precision=precision.value,
            as_json=as_json,
        )
    else:
        raise UsageError("name one image with its captions, or a data set with --annotations")
    if failed:
        raise typer.Exit(3)


@app.command(epilog=EXAMPLES["calibrate"])
def calibrate(
    annotations: Annotated[
        Path,
        typer.Option(
            metavar="FILE", help="Captions of images it has not learnt from.", show_default=False
        ),
    ],
    model: ModelOption = None,
    images: ImagesOption = None,
    split: SplitOption = None,
    batch_size: BatchOption = 16,
    device: DeviceOption = Device.AUTO,
    precision: PrecisionOption = Precision.AUTO,
) -> None:
    """Fit how sure a model's captions may be, say how far that can be believed, and keep it in the model folder."""
    from captioner.cli.calibrate import calibrate as run

    found, before = run(
        model,
        annotations,
        images=images,
        split=split,
        batch_size=batch_size,
        device=device.value,
        precision=precision.value,
    )
    typer.echo(f"temperature {found.temperature:.3f}, fitted on {found.images} images")
    typer.echo(
        f"expected calibration error {found.error:.3f} on images it was not fitted on; {before:.3f} without"
    )


@app.command(epilog=EXAMPLES["defaults"])
def defaults(
    settings: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[KEY=VALUE]...", help="What to change; nothing: only show.", show_default=False
        ),
    ] = None,
    model: ModelOption = None,
) -> None:
    """Show how a model folder's captions are found where nothing else is asked for, or change it."""
    from captioner.cli.defaults import change_defaults
    from captioner.config.loading import to_json

    for name, value in to_json(change_defaults(model, settings or [])).items():
        typer.echo(f"{name}={json.dumps(value)}")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command; what the user can mend is said in one line, with the exit code that belongs to it."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    try:
        app(args=arguments, prog_name="captioner")
    except SystemExit as end:
        if end.code == UsageError.exit_code and arguments:
            typer.echo(EXAMPLES.get(arguments[0], EXAMPLES["caption"]), err=True)
        if end.code == INTERRUPTED:
            typer.echo("captioner: interrupted", err=True)
        raise
    except CaptionerError as error:
        typer.echo(f"captioner: {error}", err=True)
        sys.exit(error.exit_code)
