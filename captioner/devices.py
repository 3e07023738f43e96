"""The device that computes, and its precision. Imports torch only when it is needed."""

from __future__ import annotations

import platform
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Literal

from captioner.errors import UsageError, parameter

if TYPE_CHECKING:
    import torch

DeviceName = Literal["auto", "cpu", "cuda", "mps"]
PrecisionName = Literal["auto", "fp32", "bf16"]


def pick_device(device: DeviceName) -> torch.device:
    """Return the device with this name; `auto` is the first available of cuda, mps and cpu.

    Raises:
        UsageError: the device is not available.
    """
    import torch

    has_mps = torch.backends.mps.is_available()
    available = {"cuda": torch.cuda.is_available(), "mps": has_mps, "cpu": True}
    if device == "auto":
        return torch.device(next(name for name, usable in available.items() if usable))
    if not available[device]:
        raise UsageError(
            f"{parameter('device')} '{device}' is not available to torch {torch.__version__} "
            "on this machine: use 'cpu' or 'auto'"
        )
    return torch.device(device)


def autocast(device: torch.device, precision: PrecisionName) -> AbstractContextManager[object]:
    """Return a context that computes in bfloat16 for `bf16`, or for `auto` if that is faster here.

    Weights stay in float32.

    Raises:
        UsageError: `bf16` on an x86 CPU that cannot run an RNN with it.
    """
    import torch

    if precision == "bf16" and device.type == "cpu" and not _cpu_runs_bf16():
        raise UsageError(
            f"{parameter('precision')} 'bf16' needs a CPU with AVX-512 BF16, which this one "
            "lacks: use 'auto' or 'fp32'"
        )
    if precision == "bf16" or (precision == "auto" and _bf16_is_faster(device)):
        return torch.autocast(device.type, torch.bfloat16)
    return nullcontext()


def _cpu_runs_bf16() -> bool:
    """Return whether PyTorch's RNNs run in bfloat16 here: on x86, they need AVX-512 BF16."""
    import torch

    if platform.machine().lower() not in ("x86_64", "amd64"):
        return True
    has_bf16 = getattr(torch.cpu, "_is_avx512_bf16_supported", None)  # not public in torch yet
    return has_bf16 is None or bool(has_bf16())


def _bf16_is_faster(device: torch.device) -> bool:
    """Return whether the GPU supports bfloat16 natively, or the CPU has matrix tiles (AMX)."""
    import torch

    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    has_tiles = getattr(torch.cpu, "_is_amx_tile_supported", None)  # not public in torch yet
    return device.type == "cpu" and has_tiles is not None and bool(has_tiles())
