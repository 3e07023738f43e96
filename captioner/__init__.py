"""captioner: generate captions of images, train captioning models, and evaluate captions."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from captioner.captions import Caption, Translation
    from captioner.config.run import Config
    from captioner.errors import CaptionerError, ImageError, UsageError
    from captioner.inference.captioner import Captioner
    from captioner.inference.evaluate import evaluate
    from captioner.inference.translator import Translator
    from captioner.models.folder import load_config
    from captioner.training.train import train

    __version__: str

__all__ = [
    "Caption",
    "Captioner",
    "CaptionerError",
    "Config",
    "ImageError",
    "Translation",
    "Translator",
    "UsageError",
    "__version__",
    "evaluate",
    "load_config",
    "train",
]

_MODULES = {
    "Caption": "captions",
    "Captioner": "inference.captioner",
    "CaptionerError": "errors",
    "Config": "config.run",
    "ImageError": "errors",
    "Translation": "captions",
    "Translator": "inference.translator",
    "UsageError": "errors",
    "evaluate": "inference.evaluate",
    "load_config": "models.folder",
    "train": "training.train",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is used: `import captioner` does not import torch."""
    if name == "__version__":
        from importlib.metadata import version

        return version("captioner")
    if name in _MODULES:
        try:
            module = import_module(f"captioner.{_MODULES[name]}")
        except ModuleNotFoundError as error:  # of an install without torch, for captioning only
            from captioner.requirements import missing_package

            raise missing_package(error, f"captioner.{name}") or error from None
        return getattr(module, name)
    raise AttributeError(f"module 'captioner' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
