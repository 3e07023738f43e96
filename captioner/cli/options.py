"""The command line's options that several commands share. Imports no torch."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from captioner.errors import UsageError


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
    typer.Argument(
        metavar="[KEY=VALUE]...", help="Settings that win over the file's.", show_default=False
    ),
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
    Path | None,
    typer.Option(
        "--model", metavar="FOLDER", help="Model folder, or `bundled`.", show_default="bundled"
    ),
]
ImagesOption = Annotated[
    Path | None,
    typer.Option(
        "--images",
        metavar="FOLDER",
        help="Where the images are.",
        show_default="found beside the file",
    ),
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
    typer.Option(
        "--java", help="Also this, computed by Java; may be given again.", show_default=False
    ),
]
PartialOption = Annotated[
    bool, typer.Option("--allow-partial", help="Score results that lack some of the images.")
]
SplitOption = Annotated[
    str | None,
    typer.Option(help="A Karpathy split, or a file that lists image names.", show_default=False),
]
BatchOption = Annotated[int, typer.Option(min=1, help="Images at a time.")]
DeviceOption = Annotated[Device, typer.Option(help="Where to compute.")]
PrecisionOption = Annotated[
    Precision, typer.Option(help="auto: bfloat16 where the hardware gains from it.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON, one object a line.")]
ReportOption = Annotated[
    Path | None,
    typer.Option(metavar="FILE.html", help="Also write a page to look at.", show_default=False),
]
ExplainOption = Annotated[
    bool,
    typer.Option(
        "--explain",
        help="Find what part of the photo each word hangs on; without attention, 50 times the work.",
    ),
]


class LengthNorm(StrEnum):
    """What a log-probability is divided by to rank captions."""

    NONE = "none"
    AVERAGE = "average"
    WU = "wu"


def _option(kind: type, *names: str, **settings: Any) -> Any:
    return Annotated[kind | None, typer.Option(*names, show_default=False, **settings)]


_OPTIONS: dict[str, Any] = {
    "captions": _option(
        int, "--num-captions", min=1, max=100, help="Captions of each image, at most."
    ),
    "max_length": _option(int, min=1, help="Words at most."),
    "min_length": _option(int, min=0, help="Words at least."),
    "min_confidence": _option(float, min=0, max=1, help="Stay silent below it."),
    "beam": _option(int, min=1, max=100, help="Beams of the search; 1 is greedy."),
    "length_norm": _option(LengthNorm, help="How captions of different lengths are ranked."),
    "length_alpha": _option(float, min=0, max=2, help="Of wu: larger favours longer captions."),
    "groups": _option(
        int, "--diverse", metavar="GROUPS", min=1, max=100, help="Beams in groups that differ."
    ),
    "diversity": _option(
        float, min=0, max=100, help="How much --diverse groups avoid each other's words."
    ),
    "sample": _option(bool, "--sample/--no-sample", help="Draw captions instead of searching."),
    "temperature": _option(
        float, min=0.01, max=100, help="Of --sample: below 1 safer, above 1 bolder."
    ),
    "top_k": _option(int, min=1, help="Of --sample: from so many likeliest words."),
    "top_p": _option(
        float, min=0.01, max=1, help="Of --sample: from the likeliest words with this probability."
    ),
    "seed": _option(int, help="Of --sample: equal seeds, equal captions."),
    "prefix": _option(str, metavar="TEXT", help="Begin with this."),
    "require": _option(list[str], metavar="WORD", help="Hold this word; may be given again."),
    "forbid": _option(list[str], metavar="WORD", help="Hold no such word; may be given again."),
    "no_repeat_ngram": _option(int, metavar="N", min=1, help="Say no N words in a row twice."),
    "no_double_words": _option(bool, "--no-double-words", help="Say no word twice in a row."),
}
_SEARCH = ("beam", "length_norm", "length_alpha", "groups", "diversity")
_SAMPLING = ("temperature", "top_k", "top_p", "seed")


def with_decoding(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command every option of decoding; what is set arrives as its argument `decoding`, by setting."""
    signature = inspect.signature(command, eval_str=True)
    own = [parameter for name, parameter in signature.parameters.items() if name != "decoding"]
    more = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=kind)
        for name, kind in _OPTIONS.items()
    ]

    @functools.wraps(command)
    def wrapped(**given: Any) -> None:
        options = {name: given.pop(name) for name in _OPTIONS}
        asked = {
            name: value for name, value in options.items() if value is not None and value != []
        }
        _refuse_idle(asked)
        if "sample" in asked:
            asked["method"] = "sample" if asked.pop("sample") else "beam"
        command(decoding=asked, **given)

    wrapped.__signature__ = signature.replace(parameters=[*own, *more])  # type: ignore[attr-defined]
    wrapped.__annotations__ = {**command.__annotations__, **_OPTIONS}
    del wrapped.__annotations__["decoding"]
    return wrapped


def _refuse_idle(asked: Mapping[str, Any]) -> None:
    """Refuse an option that would change nothing, so that nobody believes it did.

    Raises:
        UsageError: names it, and what it needs.
    """
    sampling = asked.get("sample", False)
    for name in _SEARCH if sampling else _SAMPLING:
        if name in asked:
            option = "--diverse" if name == "groups" else "--" + name.replace("_", "-")
            raise UsageError(f"{option} has no use {'with' if sampling else 'without'} --sample")
    if "diversity" in asked and "groups" not in asked:
        raise UsageError("--diversity has no use without --diverse")
    if "length_alpha" in asked and asked.get("length_norm", "wu") != "wu":
        raise UsageError(
            f"--length-alpha has no use with --length-norm {asked['length_norm'].value}"
        )
