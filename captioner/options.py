"""The command line's options that several commands share. Imports no torch."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


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


class Java(StrEnum):
    """Metrics that Java computes."""

    METEOR = "METEOR_java"
    SPICE = "SPICE"


SettingsArgument = Annotated[
    list[str] | None,
    typer.Argument(metavar="[KEY=VALUE]...", help="Settings that win over the file's.", show_default=False),
]
ModelsOption = Annotated[
    list[Path] | None,
    typer.Option(
        "--model",
        metavar="FOLDER",
        help="Model folder, or `bundled`; several: an ensemble.",
        show_default="bundled",
    ),
]
ModelOption = Annotated[
    Path | None, typer.Option("--model", metavar="FOLDER", help="Model folder, or `bundled`.", show_default="bundled")
]
ImagesOption = Annotated[
    Path | None,
    typer.Option("--images", metavar="FOLDER", help="Where the images are.", show_default="found beside the file"),
]
ReferencesOption = Annotated[
    Path,
    typer.Option(
        "--annotations",
        metavar="FILE",
        help="References: COCO, Karpathy, Flickr8k or captions.jsonl.",
        show_default=False,
    ),
]
JavaOption = Annotated[
    list[Java] | None,
    typer.Option("--java", help="Also this, computed by Java; may be given again.", show_default=False),
]
PartialOption = Annotated[bool, typer.Option("--allow-partial", help="Score results that lack some of the images.")]
SplitOption = Annotated[
    str | None, typer.Option(help="A Karpathy split, or a file that lists image names.", show_default=False)
]
BatchOption = Annotated[int, typer.Option(min=1, help="Images at a time.")]
DeviceOption = Annotated[Device, typer.Option(help="Where to compute.")]
PrecisionOption = Annotated[Precision, typer.Option(help="auto: bfloat16 where the hardware gains from it.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON, one object a line.")]
ReportOption = Annotated[
    Path | None, typer.Option(metavar="FILE.html", help="Also write a page to look at.", show_default=False)
]
ExplainOption = Annotated[
    bool,
    typer.Option(
        "--explain", help="Find what part of the photo each word hangs on; without attention, 50 times the work."
    ),
]
