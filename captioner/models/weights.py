"""Weights that a trunk starts from: torchvision's, downloaded once, or a file. Nothing in them is ever executed."""

from __future__ import annotations

import hashlib
from http.client import HTTPException
from pathlib import Path
from urllib.parse import urlparse

import torch
import torchvision
from torch import Tensor

from captioner.config.schema import TrunkName
from captioner.errors import CaptionerError, UsageError


def download_weights(trunk: TrunkName) -> dict[str, Tensor]:
    """Give torchvision's ImageNet weights, from torch's cache where they are there already.

    Raises:
        CaptionerError: they cannot be downloaded, or what is in the cache is not them. No part of a file is left.
    """
    if trunk == "small_cnn":
        raise UsageError("small_cnn has no pretrained weights: set encoder.weights=none")
    url = torchvision.models.get_model_weights(trunk).DEFAULT.url
    target = Path(torch.hub.get_dir()) / "checkpoints" / Path(urlparse(url).path).name
    digest = target.stem.rpartition("-")[
        2
    ]  # the name ends in the first digits of the file's SHA-256
    try:
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(url, str(target), hash_prefix=digest)
        with target.open("rb") as file:
            sound = hashlib.file_digest(file, "sha256").hexdigest().startswith(digest)
    except (OSError, HTTPException, RuntimeError) as error:
        raise CaptionerError(
            f"ImageNet weights for {trunk} could not be downloaded from {url} ({error}): "
            f"put that file at {target}, or set encoder.weights to a state dict file, or to none"
        ) from None
    if not sound:
        raise CaptionerError(
            f"{target} is not the file at {url} (another SHA-256): delete it, to download it anew"
        )
    return read_state_dict(target)


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """Read a state dict file, .safetensors or what `torch.save` writes: tensors only.

    Raises:
        CaptionerError: there is no such file, or it holds something else.
    """
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise CaptionerError(f"encoder.weights={path}: there is no such file") from None
    except Exception as error:  # what torch.load raises for a bad file is not documented
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise CaptionerError(
            f"encoder.weights={path} is not a state dict of tensors ({reason}), and nothing in it was executed: where "
            "you trust it, convert it with torch.save(model.state_dict(), file)"
        ) from None
    if not isinstance(state, dict) or not all(
        isinstance(value, Tensor) for value in state.values()
    ):
        raise CaptionerError(f"encoder.weights={path} is not a state dict: save model.state_dict()")
    return state
