"""Trunks of the package timm: their grid, stages, pixels and weights.

A model of timm runs as a whole, up to the features that its classifier would read
(`forward_features`), because its modules are no chain. Wightman 2019, "PyTorch Image Models".
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterable, Mapping
from copy import deepcopy
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from captioner.config.schema import RGB, ImageEncoderConfig
from captioner.config.trunks import TIMM
from captioner.console import console
from captioner.errors import CaptionerError, MissingPackageError, UsageError, first_few
from captioner.models.backbones import TrunkLayout
from captioner.models.timm_stages import find_stages
from captioner.models.weights import read_state_dict

_WEIGHTS = "model.safetensors"  # in a repository of the hub
_GRIDS = "timm/resnet50, timm/convnext_tiny or timm/vit_small_patch16_224"  # for messages


class Pixels(NamedTuple):
    """The images that a model was trained with, as its `pretrained_cfg` in timm describes them."""

    size: int  # side, in pixels
    mean: RGB  # for pixels from 0 to 1
    std: RGB
    is_fixed: bool  # whether a model has to be built for another size


class TimmLayout(TrunkLayout):
    """The layout of a model of timm, which runs as a whole; its stages are frozen or trained."""

    def run(self, trunk: nn.Module, images: Tensor) -> Tensor:
        """Run a trunk on normalised images (B, 3, S, S); return its feature map (B, C, h, w)."""
        return _as_map(trunk, cast(Any, trunk).forward_features(images))


def read_pixels(trunk: str) -> Pixels:
    """Return the pixels that a model of timm was trained with.

    Raises:
        MissingPackageError: timm is not installed.
        UsageError: timm has no model or no weights of this name.
    """
    settings = _pretrained_settings(trunk)
    if settings is None:
        default = TrunkLayout
        return Pixels(default.image_size, default.mean, default.std, is_fixed=False)
    mean, std = (tuple(map(float, values)) for values in (settings.mean, settings.std))
    size = int(settings.input_size[-1])
    return Pixels(size, cast(RGB, mean), cast(RGB, std), bool(settings.fixed_input_size))


def with_pixels(encoder: ImageEncoderConfig) -> ImageEncoderConfig:
    """Return the settings of an encoder with the pixels of its trunk written out, if it is timm's.

    The size, if it is left out, the mean and the standard deviation are those that the model was
    trained with. They are stored with the model: another version of timm may have other defaults.

    Raises:
        CaptionerError: timm is not installed, or has no such model.
    """
    if not encoder.trunk.startswith(TIMM):
        return encoder
    pixels = read_pixels(encoder.trunk)
    found: dict[str, Any] = {
        "mean": encoder.mean or pixels.mean,
        "std": encoder.std or pixels.std,
    }
    if "image_size" not in encoder.model_fields_set:
        found["image_size"] = pixels.size
    return encoder.model_copy(update=found)


def build_timm_trunk(trunk: str, *, image_size: int | None) -> tuple[nn.Module, TrunkLayout]:
    """Build a model of timm without its classifier, with random weights, and return its layout.

    Raises:
        MissingPackageError: timm is not installed.
        UsageError: timm has no such model, it does not fit the size, or it gives no grid.
    """
    pixels = read_pixels(trunk)
    size = image_size or pixels.size
    model = _create(trunk, size, pixels)
    channels = _remove_unused(model, trunk, size, pixels)
    return model, TimmLayout(find_stages(model), channels, "", pixels.mean, pixels.std, size)


def read_timm_weights(
    trunk: str, state: Mapping[str, Tensor] | None, *, weights: str, image_size: int
) -> dict[str, Tensor]:
    """Return the weights of a trunk, adapted by timm to the size of the images.

    Args:
        trunk: its name.
        state: a state dict with the names of timm or of the model's authors, with or without a
            classifier; None: the pretrained weights, which timm downloads once.
        weights: where they are from, for messages.
        image_size: side of the images in pixels.

    Raises:
        CaptionerError: the weights cannot be downloaded, or are not those of this trunk.
    """
    pixels, settings = read_pixels(trunk), _pretrained_settings(trunk)
    if state is None:
        model = _download(trunk, image_size, pixels, settings)
    else:
        model = _load(trunk, image_size, pixels, settings, state, weights)
    _remove_unused(model, trunk, image_size, pixels)
    return model.state_dict()


def _import_timm(trunk: str) -> Any:
    if find_spec("timm") is None:
        raise MissingPackageError(
            f"encoder.trunk={trunk} needs the package timm, which is not installed: "
            "pip install 'timm>=1.0'"
        )
    import timm

    return timm


def _pretrained_settings(trunk: str) -> Any:
    """Return timm's `PretrainedCfg` of a model, or None if timm has none.

    Raises:
        UsageError: timm has no such model, or no such weights of it.
    """
    timm, name = _import_timm(trunk), trunk.removeprefix(TIMM)
    architecture, _, tag = name.partition(".")
    if not timm.is_model(architecture):
        meant = _nearest(architecture, timm.list_models())
        raise UsageError(
            f"encoder.trunk={trunk}: timm {timm.__version__} has no model {architecture}{meant}; "
            "timm.list_models() lists all"
        )
    try:
        return timm.models.get_pretrained_cfg(name)
    except RuntimeError:  # the tag
        tags = [
            known.partition(".")[2]
            for known in timm.list_pretrained()
            if known.partition(".")[0] == architecture
        ]
        raise UsageError(
            f"encoder.trunk={trunk}: timm {timm.__version__} has no weights '{tag}' of "
            f"{architecture}{_nearest(tag, tags)}; it has {first_few(tags) or 'none'}"
        ) from None


def _nearest(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f": did you mean {near[0]}?" if near else ""


def _create(trunk: str, size: int, pixels: Pixels, **pretrained: Any) -> nn.Module:
    """Create a model without classifier; pixels that it depends on have this size."""
    timm = _import_timm(trunk)
    sizes = {"img_size": size} if pixels.is_fixed and size != pixels.size else {}
    try:
        model: nn.Module = timm.create_model(
            trunk.removeprefix(TIMM), num_classes=0, **sizes, **pretrained
        )
    except (TypeError, AssertionError, ValueError, ZeroDivisionError) as error:
        if not sizes:
            raise
        raise _size_error(trunk, size, pixels, error) from None
    return model


def _size_error(trunk: str, size: int, pixels: Pixels, error: Exception) -> UsageError:
    reason = " ".join(str(error).split())[:200] or type(error).__name__
    return UsageError(
        f"encoder.image_size={size} does not fit encoder.trunk={trunk} ({reason}): set it to "
        f"{pixels.size}, the size that the model was trained with"
    )


def _remove_unused(model: nn.Module, trunk: str, size: int, pixels: Pixels) -> int:
    """Remove the modules that a feature map does not depend on; return its channels C.

    Such as a norm or a convolution between pooling and classifier. They would have no gradient.

    Raises:
        UsageError: the model gives no feature map of images of this size.
    """
    # tensors on `meta` have a shape and no values, so that nothing is computed
    has_rnn = any(isinstance(module, nn.RNNBase) for module in model.modules())
    device = "cpu" if has_rnn else "meta"  # an RNN on `meta` takes half a minute
    with torch.inference_mode(False), torch.enable_grad():
        copy = deepcopy(model).eval().to(device).requires_grad_(True)
        try:
            features = cast(Any, copy).forward_features(torch.zeros(1, 3, size, size).to(device))
        except (AssertionError, RuntimeError, ValueError) as error:
            raise _size_error(trunk, size, pixels, error) from None
        try:
            grid = _as_map(copy, features)
        except ValueError as error:
            raise UsageError(
                f"encoder.trunk={trunk} gives no grid of features ({error}): choose a trunk that "
                f"does, such as {_GRIDS}"
            ) from None
        torch.autograd.backward(grid.sum())
    unused = {name for name, weight in copy.named_parameters() if weight.grad is None}
    for name, module in list(copy.named_modules()):
        weights = {f"{name}.{weight}" for weight, _ in module.named_parameters()}
        if name and weights and weights <= unused:
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, nn.Identity())
            unused -= weights
    return grid.shape[1]


def _as_map(trunk: nn.Module, features: object) -> Tensor:
    """Return what `forward_features` of square images returned as a feature map (B, C, h, w).

    Raises:
        ValueError: it holds no grid, and why.
    """
    if not isinstance(features, Tensor):
        raise ValueError("its features are several tensors")
    if features.dim() == 4:
        is_last = str(getattr(trunk, "output_fmt", None)) == "NHWC"  # as in Swin Transformers
        return features.permute(0, 3, 1, 2) if is_last else features
    if features.dim() != 3:
        raise ValueError(f"its features have {features.dim()} dimensions")
    # tokens (B, N, C): those of a class and registers, then one for each patch of the image
    first = getattr(trunk, "num_prefix_tokens", None)
    if first is None:
        first = 0 if getattr(trunk, "cls_token", None) is None else 1
    patches = int(features.shape[1]) - first
    side = math.isqrt(max(patches, 0))
    if patches < 1 or side**2 != patches:
        raise ValueError(f"its {int(features.shape[1])} tokens are no square of patches")
    # (B, N, C) → (B, C, h, w)
    return features[:, first:].transpose(1, 2).reshape(-1, features.shape[2], side, side)


def _download(trunk: str, size: int, pixels: Pixels, settings: Any) -> nn.Module:
    """Return a model with its pretrained weights, from the cache of the hub or downloaded."""
    if settings is None or not settings.has_weights:
        raise UsageError(
            f"timm has no pretrained weights for {trunk}: set encoder.weights to a state dict "
            "file, or to none"
        )
    from huggingface_hub import HfApi, try_to_load_from_cache

    repository = settings.hf_hub_id
    if repository:
        file = try_to_load_from_cache(repository, _WEIGHTS)
        if isinstance(file, str):  # the hub's client would ask the network first
            state = read_state_dict(Path(file))
            return _load(trunk, size, pixels, settings, state, file)
    source = f"https://huggingface.co/{repository}" if repository else settings.url
    try:
        if repository:
            HfApi().model_info(repository, timeout=10)  # fails at once; a download tries for long
        console.print(f"downloading pretrained weights from {source}", markup=False)
        return _create(trunk, size, pixels, pretrained=True)
    except UsageError:
        raise
    except Exception as error:  # of the library, its HTTP client, the network or the disk
        reason = " ".join(str(error).split())[:150] or type(error).__name__
        raise CaptionerError(
            f"pretrained weights for {trunk} could not be downloaded from {source} ({reason}): "
            f"put its {_WEIGHTS} anywhere and set encoder.weights to its path, or to none"
        ) from None


def _load(
    trunk: str,
    size: int,
    pixels: Pixels,
    settings: Any,
    state: Mapping[str, Tensor],
    weights: str,
) -> nn.Module:
    """Return a model with the weights of a state dict, without those of a classifier."""
    names = getattr(settings, "classifier", None) or ()
    classifiers = tuple(f"{name}." for name in ([names] if isinstance(names, str) else names))
    kept = {name: value for name, value in state.items() if not name.startswith(classifiers)}
    # timm loads strictly if a file has as many classes as the model, which has none
    overlay = {"state_dict": kept, "num_classes": 0, "label_offset": 0}
    try:
        return _create(trunk, size, pixels, pretrained=True, pretrained_cfg_overlay=overlay)
    except (RuntimeError, KeyError) as error:
        reason = re.sub(r"^.*?state_dict for \w+: ", "", " ".join(str(error).split()))[:300]
        raise CaptionerError(
            f"encoder.weights={weights} does not fit encoder.trunk={trunk}: {reason}"
        ) from None
