"""The command line's options that several commands share. Imports no torch."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

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


class LengthNorm(StrEnum):
    """What a log-probability is divided by to rank captions."""

    NONE = "none"
    AVERAGE = "average"
    WU = "wu"


class Java(StrEnum):
    """Metrics that Java computes."""

    METEOR = "METEOR_java"
    SPICE = "SPICE"


ModelsOption = Annotated[
    list[Path] | None,
    typer.Option(
        "--model", metavar="FOLDER", help="Model folder; several make an ensemble.", show_default="the bundled model"
    ),
]
ModelOption = Annotated[
    Path | None, typer.Option("--model", metavar="FOLDER", help="Model folder.", show_default="the bundled model")
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
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON, one object per line.")]
ReportOption = Annotated[
    Path | None, typer.Option(metavar="FILE.html", help="Also write a page to look at.", show_default=False)
]
ExplainOption = Annotated[
    bool, typer.Option("--explain", help="Find the part of the photo each word hangs on; 50 times the work.")
]

_DECODING: dict[str, Any] = {
    "captions": Annotated[
        int | None, typer.Option("--num-captions", min=1, max=100, help="Captions of each image.", show_default=False)
    ],
    "max_length": Annotated[int | None, typer.Option(min=1, help="Words at most.", show_default=False)],
    "min_length": Annotated[int | None, typer.Option(min=0, help="Words at least.", show_default=False)],
    "min_confidence": Annotated[
        float | None, typer.Option(min=0, max=1, help="Stay silent below it.", show_default=False)
    ],
    "beam": Annotated[
        int | None, typer.Option(min=1, max=100, help="Beams of the search; 1 is greedy.", show_default=False)
    ],
    "length_norm": Annotated[
        LengthNorm | None, typer.Option(help="How captions of different lengths are ranked.", show_default=False)
    ],
    "length_alpha": Annotated[
        float | None, typer.Option(min=0, max=2, help="Of wu: larger favours longer captions.", show_default=False)
    ],
    "groups": Annotated[
        int | None,
        typer.Option(
            "--diverse",
            metavar="GROUPS",
            min=1,
            help="Groups of beams that avoid each other's words.",
            show_default=False,
        ),
    ],
    "diversity": Annotated[
        float | None, typer.Option(min=0, help="How much --diverse groups avoid each other.", show_default=False)
    ],
    "sample": Annotated[bool, typer.Option("--sample", help="Draw captions instead of searching.")],
    "temperature": Annotated[
        float | None, typer.Option(min=0.01, help="Of --sample: below 1 safer, above 1 bolder.", show_default=False)
    ],
    "top_k": Annotated[
        int | None, typer.Option(min=1, help="Of --sample: from so many likeliest words.", show_default=False)
    ],
    "top_p": Annotated[
        float | None,
        typer.Option(
            min=0.01, max=1, help="Of --sample: from the likeliest words with this probability.", show_default=False
        ),
    ],
    "seed": Annotated[int | None, typer.Option(help="Of --sample: equal seeds, equal captions.", show_default=False)],
    "prefix": Annotated[str | None, typer.Option(metavar="TEXT", help="Begin with this.", show_default=False)],
    "require": Annotated[
        list[str] | None, typer.Option(metavar="WORD", help="Hold this word; may be given again.", show_default=False)
    ],
    "forbid": Annotated[
        list[str] | None,
        typer.Option(metavar="WORD", help="Hold no such word; may be given again.", show_default=False),
    ],
    "no_repeat_ngram": Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Say no N words in a row twice.", show_default=False)
    ],
    "no_double_words": Annotated[bool, typer.Option("--no-double-words", help="Say no word twice in a row.")],
}


def with_decoding(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command every option of decoding; what is set arrives as its argument `decoding`, by setting."""
    signature = inspect.signature(command, eval_str=True)
    own = [parameter for name, parameter in signature.parameters.items() if name != "decoding"]
    more = [
        inspect.Parameter(
            name, inspect.Parameter.KEYWORD_ONLY, default=None if "None" in str(kind) else False, annotation=kind
        )
        for name, kind in _DECODING.items()
    ]

    @functools.wraps(command)
    def wrapped(**given: Any) -> None:
        decoding = {name: given.pop(name) for name in _DECODING}
        asked = {name: value for name, value in decoding.items() if value not in (None, False, [])}
        if asked.pop("sample", False):
            asked["method"] = "sample"
        command(decoding=asked, **given)

    wrapped.__signature__ = signature.replace(parameters=[*own, *more])  # type: ignore[attr-defined]
    wrapped.__annotations__ = {**command.__annotations__, **_DECODING}
    del wrapped.__annotations__["decoding"]
    return wrapped
