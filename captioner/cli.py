"""The command line: caption, train, evaluate. Imports torch only once there is something to compute."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from captioner.errors import CaptionerError, UsageError

INTERRUPTED = 130  # the exit code that typer gives a Ctrl-C

EXAMPLES = {
    "caption": "Example: captioner caption photo.jpg holiday/ 'archive/*.png' --output captions.json",
    "train": "Example: captioner train configs/shapes.yaml training.batch_size=32 --output runs/first",
    "evaluate": "Example: captioner evaluate --annotations captions_val2017.json --images val2017",
}

app = typer.Typer(
    help="Caption images, train a captioner, evaluate captions.",
    epilog=EXAMPLES["caption"],
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


class Device(StrEnum):
    """Where to compute."""

    AUTO = "auto"
    CPU = "cpu"
    CUDA = "cuda"
    MPS = "mps"


class Precision(StrEnum):
    """How precisely."""

    AUTO = "auto"
    FP32 = "fp32"
    BF16 = "bf16"


ModelOption = Annotated[
    Path | None, typer.Option("--model", metavar="FOLDER", help="Model folder.", show_default="the bundled model")
]
BeamOption = Annotated[
    int | None, typer.Option(min=1, max=100, help="Beams of the search; 1 is greedy.", show_default="the model's, 3")
]
LengthOption = Annotated[int | None, typer.Option(min=1, help="Words at most.", show_default="the model's, 20")]
BatchOption = Annotated[int, typer.Option(min=1, help="Images at a time.")]
DeviceOption = Annotated[Device, typer.Option(help="Where to compute.")]
PrecisionOption = Annotated[Precision, typer.Option(help="auto: bfloat16 where the hardware gains from it.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON, one object per line.")]


@app.command(epilog=EXAMPLES["caption"])
def caption(
    paths: Annotated[
        list[str], typer.Argument(metavar="PATH...", help="Image files, folders and globs.", show_default=False)
    ],
    model: ModelOption = None,
    beam: BeamOption = None,
    max_length: LengthOption = None,
    batch_size: BatchOption = 16,
    device: DeviceOption = Device.AUTO,
    precision: PrecisionOption = Precision.AUTO,
    output: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Also write COCO results (.json) or JSON lines (.jsonl).")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Caption images: print each path and its caption, tab between."""
    from captioner.commands.caption import caption_files

    failed = caption_files(
        paths,
        model=model,
        beam=beam,
        max_length=max_length,
        batch_size=batch_size,
        device=device.value,
        precision=precision.value,
        output=output,
        as_json=as_json,
    )
    if failed:
        raise typer.Exit(3)


@app.command(epilog=EXAMPLES["train"])
def train(
    config: Annotated[Path, typer.Argument(metavar="CONFIG", help="A YAML file; see configs/.", show_default=False)],
    settings: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY=VALUE]...", help="Settings that win over the file's.", show_default=False),
    ] = None,
    resume: Annotated[
        str | None,
        typer.Option(
            metavar="auto|PATH", help="Go on from the newest checkpoint, or from this one.", show_default=False
        ),
    ] = None,
    output: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Where the run goes.", show_default="the config's")
    ] = None,
    device: DeviceOption = Device.AUTO,
) -> None:
    """Train a captioner; the best model on dev ends up in the run's folder `best`."""
    from captioner.commands.settings import load_config

    loaded = load_config(config, settings or [], output=output)
    from captioner.commands.train import train as run

    best = run(loaded, device=device.value, resume=resume)
    if os.environ.get("RANK", "0") == "0":  # under torchrun, the first rank speaks for all
        typer.echo(best)


@app.command(epilog=EXAMPLES["evaluate"])
def evaluate(
    annotations: Annotated[
        Path,
        typer.Option(
            metavar="FILE", help="References: COCO, Karpathy, Flickr8k or captions.jsonl.", show_default=False
        ),
    ],
    model: ModelOption = None,
    images: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Where the images are.", show_default="found beside the annotations"),
    ] = None,
    results: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Where captions go; without --model and --images: captions to score.",
            show_default=False,
        ),
    ] = None,
    split: Annotated[
        str | None, typer.Option(help="A Karpathy split, or a file that lists image names.", show_default=False)
    ] = None,
    beam: BeamOption = None,
    max_length: LengthOption = None,
    batch_size: BatchOption = 16,
    device: DeviceOption = Device.AUTO,
    precision: PrecisionOption = Precision.AUTO,
    as_json: JsonOption = False,
) -> None:
    """Score captions with BLEU-1 to 4 and CIDEr-D: a model's, or those of a results file."""
    from captioner.commands import evaluate as command

    if model is None and images is None and results is not None:
        scores, failed = command.score_results(results, annotations, split=split), False
    else:
        scores, failed = command.evaluate_model(
            model,
            annotations,
            images=images,
            split=split,
            results=results,
            beam=beam,
            max_length=max_length,
            batch_size=batch_size,
            device=device.value,
            precision=precision.value,
        )
    typer.echo(json.dumps(scores.as_dict()) if as_json else scores.table())
    if failed:
        raise typer.Exit(3)


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
