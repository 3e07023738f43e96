"""Options that commands share. Their types, ranges and help texts come from config/schema.py."""

from __future__ import annotations

import inspect
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any, Literal, Optional

import typer
from annotated_types import Ge, Gt, Le
from pydantic.fields import FieldInfo

from captioner.config.schema import DecodingConfig, InferenceConfig
from captioner.config.service import ServiceConfig
from captioner.console import loading
from captioner.devices import DEVICES, LARGEST, DeviceName
from captioner.errors import PARAMETER_MARK, CaptionerError, UsageError
from captioner.hub_names import parse_hub_name
from captioner.models.folder import BUNDLED, read_config, resolve
from captioner.requirements import check_torch

if TYPE_CHECKING:
    from captioner.inference.captioner import Captioner
    from captioner.inference.translator import Translator

Reads = Literal["image", "text"]
"""What a command's models read."""

# Differences from the schema: `method` becomes a flag, and a list takes one item at a time.
_NAMES = {
    **{"captions": "--num-captions", "groups": "--diverse", "method": "--sample/--no-sample"},
    "no_repeat_words": "--no-repeat-words/--repeat-words",  # the bundled model has it on
    "replace_unknown": "--replace-unknown/--no-replace-unknown",
}
_TYPES: dict[str, Any] = {"method": bool, "require": list[str], "forbid": list[str]}
_METAVARS = {
    **{"groups": "GROUPS", "no_repeat_ngram": "N"},
    **{"prefix": "TEXT", "require": "WORD", "forbid": "WORD", "device": DEVICES},
}

_BEAM_SEARCH_ONLY = ("beam", "length_norm", "length_alpha", "groups", "diversity")
_SAMPLING_ONLY = ("temperature", "top_k", "top_p", "seed")
_ONLY: dict[Reads, tuple[str, ...]] = {
    "image": ("min_confidence",),  # a model of text has no calibrated confidence
    "text": ("length_ratio", "replace_unknown"),
}
_WORDS_OF_TEXT = {"caption": "translation", "image": "line", "Image": "Line"}
"""What help texts that speak of captions say in a command that translates."""


def option_name(parameter: str) -> str:
    """Return the option that sets a Python parameter: `--num-captions` for `captions`."""
    return _NAMES.get(parameter, "--" + parameter.replace("_", "-")).partition("/")[0]


def with_option_names(error: CaptionerError) -> str:
    """Return the message of an error, with options in place of the parameters marked in it."""
    marked = f"{PARAMETER_MARK}(.+?){PARAMETER_MARK}"
    return re.sub(marked, lambda match: option_name(match[1]), error.marked_message)


def _parameter(
    name: str,
    field: FieldInfo,
    *,
    reads: Reads | None,
    default: object,
    show_default: bool | str = True,
) -> inspect.Parameter:
    """Return a setting as a parameter of a typer command."""
    option = typer.Option(
        _NAMES.get(name, option_name(name)),
        help=help_text(field, reads),
        metavar=_METAVARS.get(name),
        show_default=show_default,
        **_bounds(field),
    )
    return inspect.Parameter(
        name,
        inspect.Parameter.KEYWORD_ONLY,
        default=default,
        annotation=Annotated[Optional[_TYPES.get(name, field.annotation)], option],  # noqa: UP045
    )


def help_text(field: FieldInfo, reads: Reads | None) -> str:
    """Return the help text of a setting, for a command that `reads` images, text or both."""
    text = field.description or ""
    if reads != "text":
        return text
    for word, word_of_text in _WORDS_OF_TEXT.items():
        text = text.replace(word, word_of_text)
    rest = text.removeprefix("Text: ")
    return rest[:1].upper() + rest[1:] if rest != text else text


def _bounds(field: FieldInfo) -> dict[str, Any]:
    """Return the range of a setting as arguments of `typer.Option`."""
    bounds: dict[str, Any] = {}
    for bound in field.metadata:
        match bound:
            case Ge(ge=int() as low) if low == -LARGEST:
                continue  # the upper bound checks both
            case Le(le=int() as high) if high == LARGEST:  # help texts do not list this one
                bounds["callback"] = _refuse_huge
            case Ge(ge=low):
                bounds["min"] = low
            case Le(le=high):
                bounds["max"] = high
            case Gt(gt=float() | int() as low):  # typer has no open ranges
                bounds["callback"] = _refuse_up_to(low)
    return bounds


def _refuse_huge(value: int | None) -> int | None:
    if value is not None and abs(value) > LARGEST:
        raise typer.BadParameter(f"it must be at most {LARGEST}.")
    return value


def _refuse_up_to(bound: float) -> Callable[[float | None], float | None]:
    def check(value: float | None) -> float | None:
        if value is not None and not math.isfinite(value):
            raise typer.BadParameter(f"{value:g} is not a finite number.")
        if value is not None and value <= bound:
            raise typer.BadParameter(f"{value:g} is not above {bound:g}.")
        return value

    return check


def _decoding_parameters(reads: Reads | None) -> dict[str, inspect.Parameter]:
    """Return a parameter for each setting; its default is None: the model folder's."""
    bundled = {} if reads == "text" else _bundled_decoding()
    left_out = {"image": _ONLY["text"], "text": _ONLY["image"], None: ()}[reads]
    parameters = {}
    for name, field in DecodingConfig.model_fields.items():
        if name in left_out:
            continue
        value = bundled.get(name)
        shown = "none" if value in (None, "", []) else json.dumps(value).strip('"')
        is_bundled = bundled and name not in _ONLY["text"]
        default = f"the model folder's; bundled: {shown}" if is_bundled else "the model folder's"
        parameters[name] = _parameter(name, field, reads=reads, default=None, show_default=default)
    return parameters


def _bundled_decoding() -> dict[str, Any]:
    """Return the decoding settings of the bundled model, or none if it is not in the package."""
    try:
        settings: dict[str, Any] = read_config(BUNDLED)["decoding"]
    except CaptionerError:  # other models still work
        return {}
    return settings | {"method": settings["method"] == "sample"}


def with_options(
    command: Callable[..., None],
    *,
    reads: Reads | None = None,
    without: Sequence[str] = (),
    sections: Mapping[str, Sequence[str]] = MappingProxyType({}),
) -> Callable[..., None]:
    """Replace the parameters `inference` and `decoding` of a command by an option for each setting.

    The command gets an `InferenceConfig`, and in `decoding` a dict of the options that were given.
    So does `service`, a `ServiceConfig`. With `reads`, the command has no option that has no effect
    on models of that kind; settings of `inference` that are `without` an option keep their values.
    Help texts have the options of `decoding`, those of `sections` (names of parameters by heading)
    and those of `inference` under headings of their own.
    """
    signature = inspect.signature(command, eval_str=True)
    expanded = dict(signature.parameters)
    del expanded["inference"]
    decoding = _decoding_parameters(reads) if expanded.pop("decoding", None) else {}
    inference = {
        name: _parameter(name, field, reads=reads, default=field.default)
        for name, field in InferenceConfig.model_fields.items()
        if not (reads == "text" and name == "backend")  # only images have two
        and name not in without
    }
    service = {}
    if expanded.pop("service", None):
        service = {
            name: _parameter(name, field, reads=None, default=field.default)
            for name, field in ServiceConfig.model_fields.items()
        }
    expanded |= decoding | inference | service
    headings = {"Decoding options": [*decoding], **sections, "Hardware options": [*inference]}

    @wraps(command)
    def wrapped(**given: Any) -> None:
        if decoding:
            given["decoding"] = _settings({name: given.pop(name) for name in decoding})
        if service:
            given["service"] = ServiceConfig(**{name: given.pop(name) for name in service})
        settings = InferenceConfig(**{name: given.pop(name) for name in inference})
        command(**given, inference=settings)

    wrapped.__signature__ = signature.replace(parameters=list(expanded.values()))  # type: ignore[attr-defined]
    wrapped.sections = headings  # type: ignore[attr-defined]
    wrapped.__annotations__ = {name: each.annotation for name, each in expanded.items()}
    return wrapped


def load_captioner(models: Sequence[str | Path] | None, inference: InferenceConfig) -> Captioner:
    """Load the models of --model, or the bundled one. Imports torch, so check arguments first."""
    with loading("the model"):
        from captioner.inference.captioner import Captioner

        return Captioner.from_pretrained(
            *(models or []),
            device=inference.device,
            precision=inference.precision,
            backend=inference.backend,
        )


def load_translator(models: Sequence[str | Path], inference: InferenceConfig) -> Translator:
    """Load the models of --model. Imports torch, so check arguments first."""
    with loading("the model"):
        from captioner.inference.translator import Translator

        return Translator.from_pretrained(
            *models, device=inference.device, precision=inference.precision
        )


def check_may_change(model: str | Path | None) -> None:
    """Raise an error if a model folder cannot be changed: the bundled one, or any without torch."""
    if name := parse_hub_name(model):
        raise UsageError(
            f"this would change the copy of {name.name} in the cache: copy it to a folder with "
            f"`hf download {name.name} --local-dir FOLDER`, and name that one with --model"
        )
    if resolve(model).resolve() == BUNDLED.resolve():
        raise UsageError(
            "this would change the model that is installed with captioner: name the folder of "
            f"another one with --model, or copy {BUNDLED} and name the copy"
        )
    check_torch("changing a model folder", way_out="do it where torch is installed")


def check_outputs(results: Path | None, report: Path | None) -> None:
    """Raise an error, before any captioning, if a file cannot be written."""
    if results:
        from captioner.results.files import check_destination

        check_destination(results)
    if report:
        from captioner.report.build import check_report

        check_report(report)


def check_distinct(**outputs: Path | None) -> None:
    """Raise an error if two options, given by their parameters, name the same file to write."""
    options: dict[Path, str] = {}
    for name, path in outputs.items():
        if path and (other := options.setdefault(path.resolve(), name)) != name:
            raise UsageError(
                f"{option_name(other)} and {option_name(name)} both name {path}: "
                "one would replace the other; name two files"
            )


def refuse_options(given: Mapping[str, object], *, reads: Reads, because: str) -> None:
    """Raise an error for the first option that was given but has no effect on this kind of data.

    Args:
        given: decoding settings, and values of other options by their parameter; unset ones are
            None, False or empty.
        reads: the kind of the data.
        because: the option that shows the kind.

    Raises:
        UsageError: names the option.
    """
    left_out = _ONLY["image" if reads == "text" else "text"]
    for name, value in given.items():
        if name in left_out or (value and name not in DecodingConfig.model_fields):
            raise UsageError(f"{option_name(name)} has no effect with {because}: leave out one")


def _settings(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the decoding settings that were given on the command line."""
    given = {name: value for name, value in options.items() if value not in (None, [])}
    _refuse_unused(given)
    if "method" in given:
        given["method"] = "sample" if given["method"] else "beam"
    return given


def _refuse_unused(given: Mapping[str, Any]) -> None:
    """Raise an error for an option that has no effect beside the others.

    Raises:
        UsageError: names it and the option that it needs.
    """
    sampling = given.get("method")
    for name in _BEAM_SEARCH_ONLY if sampling else _SAMPLING_ONLY:
        if name in given:
            conflict = "with --sample: leave out one" if sampling else "without --sample: add it"
            raise UsageError(f"{option_name(name)} has no effect {conflict}")
    if "diversity" in given and "groups" not in given:
        raise UsageError("--diversity has no effect without --diverse: add it")
    if "length_alpha" in given and given.get("length_norm", "wu") != "wu":
        raise UsageError(
            f"--length-alpha has no effect with --length-norm {given['length_norm']}: leave out one"
        )


SettingsArgument = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[KEY=VALUE]...", help="Settings that replace the file's.", show_default=False
    ),
]
DeviceOption = Annotated[
    DeviceName,
    typer.Option(metavar=DEVICES, help=InferenceConfig.model_fields["device"].description),
]
# As text: a path would lose the dot of ./owner/name, which is no model of the hub.
ModelsOption = Annotated[
    list[str] | None,
    typer.Option(
        "--model",
        metavar="FOLDER",
        help="Model folder, `bundled`, or owner/name on the hub; repeat it for an ensemble.",
        show_default="bundled",
    ),
]
ModelOption = Annotated[
    str | None,
    typer.Option(
        "--model",
        metavar="FOLDER",
        help="Model folder, `bundled`, or owner/name on the hub.",
        show_default="bundled",
    ),
]
ImagesOption = Annotated[
    Path | None,
    typer.Option(
        metavar="FOLDER", help="Folder of the images.", show_default="found beside the annotations"
    ),
]
AnnotationsOption = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="References of images: COCO, Karpathy, Flickr8k or captions.jsonl.",
        show_default=False,
    ),
]
ReferencesOption = Annotated[
    list[Path] | None,
    typer.Option(
        metavar="FILE",
        help="References of text, one a line; repeat it for several of each line.",
        show_default=False,
    ),
]
PartialOption = Annotated[
    bool, typer.Option("--allow-partial", help="Allow results that lack some of the images.")
]
SplitOption = Annotated[
    str | None,
    typer.Option(help="A Karpathy split, or a file of image names.", show_default=False),
]
TextModelsOption = Annotated[
    list[str],
    typer.Option(
        "--model",
        metavar="FOLDER",
        help="Folder of a model of text, or owner/name on the hub; repeat it for an ensemble.",
        show_default=False,
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON, one object per line.")]
ReportOption = Annotated[
    Path | None,
    typer.Option(metavar="FILE.html", help="Also write an HTML report.", show_default=False),
]
ExplainOption = Annotated[
    bool,
    typer.Option(
        "--explain",
        help="Show the part of the image that a word depends on; slow without attention.",
    ),
]
