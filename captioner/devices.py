"""Where to compute, and how precisely."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch

from captioner.config.schema import DeviceName, PrecisionName
from captioner.errors import UsageError


def pick_device(name: DeviceName) -> torch.device:
    """Turn `auto` into the best device there is.

    Raises:
        UsageError: the device asked for is not there.
    """
    there = {
        "cpu": True,
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
    }
    if name == "auto":
        return torch.device(next(kind for kind in ("cuda", "mps", "cpu") if there[kind]))
    if not there[name]:
        raise UsageError(
            f"--device {name}: this machine has none that torch {torch.__version__} can use; try --device auto"
        )
    return torch.device(name)


def autocast(device: torch.device, precision: PrecisionName) -> AbstractContextManager[object]:
    """Compute in bfloat16 where asked to, or, by `auto`, where the hardware gains from it; weights stay in float32."""
    if precision == "bf16" or (precision == "auto" and _gains_from_bf16(device)):
        return torch.autocast(device.type, torch.bfloat16)
    return nullcontext()


def _gains_from_bf16(device: torch.device) -> bool:
    """Say whether bfloat16 is faster: on CUDA where native, and on a CPU only with matrix tiles (AMX)."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    has_tiles = getattr(torch.cpu, "_is_amx_tile_supported", None)  # public name to come
    return device.type == "cpu" and has_tiles is not None and bool(has_tiles())
