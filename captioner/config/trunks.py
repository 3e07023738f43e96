"""The names of trunks: those of this package, and `timm/NAME` for those of the package timm."""

from __future__ import annotations

import difflib
import re
from typing import Annotated

from pydantic import AfterValidator

TIMM = "timm/"  # what the name of a trunk of timm begins with

_OWN = (
    *("resnet18", "resnet34", "resnet50", "resnet101", "resnet152"),
    "mobilenet_v2",
    *(f"efficientnet_lite{number}" for number in range(5)),
    "small_cnn",
)


def check_trunk_name(name: str) -> str:
    """Return the name of a trunk. That timm has a model of its name is checked when it is built.

    Raises:
        ValueError: it is neither a name of this package nor `timm/NAME`.
    """
    if name in _OWN or re.fullmatch(r"timm/\w+(\.\w+)*", name):
        return name
    if name.startswith(TIMM):
        raise ValueError(
            f"{name[:80]!r} is no name of a model of timm: write it as timm lists it, for example "
            "timm/convnext_tiny.fb_in1k"
        )
    near = difflib.get_close_matches(name, _OWN, n=1, cutoff=0.7)
    meant = f"did you mean {near[0]!r}? choose" if near else "choose"
    raise ValueError(
        f"{name[:80]!r} is not a trunk: {meant} one of {', '.join(_OWN)}, or {TIMM}NAME for a "
        "model of the package timm"
    )


TrunkName = Annotated[str, AfterValidator(check_trunk_name)]
