"""The device that computes, and its precision. Imports torch only when it is needed."""

from __future__ import annotations

import platform
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

from captioner.errors import UsageError, parameter

if TYPE_CHECKING:
    import torch

DeviceName = str
"""`auto`, `cpu`, `mps`, `cuda`, or `cuda:N` for the GPU with number N; the first one has number 0.

A `torch.device` is accepted too."""
DEVICES = "auto|cpu|cuda|cuda:N|mps"
"""Every name, as help texts list them."""

PrecisionName = Literal["auto", "fp32", "bf16"]

BackendName = Literal["auto", "torch", "onnx"]
"""What computes captions: PyTorch, which can do all, or onnxruntime, which starts in a moment."""

LARGEST = 2**63 - 1  # a larger integer fits in no tensor
BATCH_SIZE = 16
"""Sources that are processed at a time, unless told otherwise."""

_SYSTEM = Path("/")  # where Linux keeps its files about memory
_RECLAIMABLE = ("active_file", "inactive_file", "slab_reclaimable")


def check_device_name(device: object) -> DeviceName:
    """Return the name of a device that may exist, also on another machine.

    `cpu:0` and `mps:0`, as PyTorch names the only device of its kind, become `cpu` and `mps`.

    Raises:
        UsageError: there is no such device.
    """
    name = str(device)  # that of a torch.device is its name
    name = {"cpu:0": "cpu", "mps:0": "mps"}.get(name, name)
    if not re.fullmatch(DEVICES.replace("N", "(0|[1-9][0-9]{0,3})"), name):
        names = ", ".join(map(repr, DEVICES.split("|")))
        raise UsageError(
            f"{parameter('device')} {name[:40]!r} is not a device: use {names}, where N is the "
            "number of a GPU"
        )
    return name


def check_precision(precision: object) -> None:
    """Raise a UsageError if there is no precision with this name."""
    _check_name("precision", precision, get_args(PrecisionName))


def check_backend(backend: object) -> None:
    """Raise a UsageError if there is no backend with this name."""
    _check_name("backend", backend, get_args(BackendName))


def _check_name(what: str, name: object, names: Sequence[str]) -> None:
    if name not in names:
        raise UsageError(
            f"{parameter(what)} {str(name)[:40]!r} is not a {what}: use "
            + " or ".join(map(repr, names))
        )


def has_nvidia_gpu() -> bool:
    """Return whether the system has an NVIDIA GPU and its driver, without importing torch."""
    return (_SYSTEM / "dev/nvidiactl").exists() or shutil.which("nvidia-smi") is not None


def pick_device(device: DeviceName | torch.device) -> torch.device:
    """Return the device with this name; `auto` is the first available of cuda, mps and cpu.

    Raises:
        UsageError: there is no such device, or it is not available.
    """
    import torch

    name = check_device_name(device)
    has_mps = torch.backends.mps.is_available()
    available = {"cuda": torch.cuda.is_available(), "mps": has_mps, "cpu": True}
    if name == "auto":
        return torch.device(next(each for each, usable in available.items() if usable))
    kind, _, number = name.partition(":")
    if not available[kind]:
        raise UsageError(
            f"{parameter('device')} '{name}' is not available to torch {torch.__version__} "
            "on this machine: use 'cpu' or 'auto'"
        )
    if number and int(number) >= (count := torch.cuda.device_count()):
        raise UsageError(
            f"{parameter('device')} '{name}' does not exist: the GPUs of this machine are "
            f"{', '.join(f'cuda:{each}' for each in range(count))}"
        )
    return torch.device(name)


def available_memory(device: torch.device | None) -> int | None:
    """Return the bytes that can still be allocated on a device, or None if the system hides it.

    On a CPU, which None stands for too, this is what Linux calls available, or less where a
    container has a limit.
    """
    if device and device.type == "cuda":
        import torch

        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + unused  # what torch holds, and will use first
    if device and device.type != "cpu":
        return None
    found = [*_within_cgroups()]
    with suppress(OSError, KeyError):
        found.append(_sizes(_SYSTEM / "proc/meminfo")["MemAvailable"] * 1024)
    return min(found, default=None)


def _within_cgroups() -> Iterator[int]:
    """Yield what each limit of this process leaves: that of its cgroup, and of those around it.

    It is for version 2 of cgroups. Cached files count as used there, but Linux drops them when a
    process needs their memory.
    """
    own = ""  # a process that does not know its group is within the outermost
    with suppress(OSError):
        lines = (_SYSTEM / "proc/self/cgroup").read_text().splitlines()
        own = next((line for line in lines if line.startswith("0::")), "").removeprefix("0::/")
    group = _SYSTEM / "sys/fs/cgroup" / own
    for each in (group, *group.parents):
        with suppress(OSError, ValueError):  # "max" without a limit
            unused = int((each / "memory.max").read_text())
            unused -= int((each / "memory.current").read_text())
            usage = _sizes(each / "memory.stat")
            yield max(0, unused + sum(usage.get(name, 0) for name in _RECLAIMABLE))


def _sizes(path: Path) -> dict[str, int]:
    """Return the numbers of a file of Linux with lines such as "MemAvailable:  512 kB"."""
    return {name: int(size) for name, size in re.findall(r"(\w+):? +(\d+)", path.read_text())}


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
