"""captioner: caption an image, train on COCO, evaluate BLEU."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from captioner.captions import Caption
    from captioner.inference.captioner import Captioner

    __version__: str

__all__ = ["Caption", "Captioner", "__version__"]


def __getattr__(name: str) -> Any:
    """Import torch only when a model is asked for: `captioner --help` should not wait for it."""
    if name == "__version__":
        from importlib.metadata import version

        return version("captioner")
    if name in ("Caption", "Captioner"):
        from captioner.inference import captioner as inference

        return getattr(inference, name)
    raise AttributeError(f"module 'captioner' has no attribute {name!r}")
