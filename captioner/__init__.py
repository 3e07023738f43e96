"""captioner: caption an image, train on COCO, evaluate BLEU."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from captioner.inference import Caption, Captioner

__all__ = ["Caption", "Captioner", "__version__"]

try:
    __version__ = version("captioner")
except PackageNotFoundError:  # read from a folder that was never installed
    __version__ = "0+unknown"


def __getattr__(name: str) -> Any:
    """Import torch only when a model is asked for: `captioner --help` should not wait for it."""
    if name in ("Caption", "Captioner"):
        from captioner import inference

        return getattr(inference, name)
    raise AttributeError(f"module 'captioner' has no attribute {name!r}")
