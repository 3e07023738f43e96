"""Turn arrays and tensors of pixels into 8-bit images, or say why they cannot be images."""

from __future__ import annotations

import sys
from typing import Protocol

import numpy as np
from PIL import Image

from captioner.data.pixels import UnreadableError, check_size

CHANNELS = (1, 3, 4)  # grey, RGB, RGB and transparency
ROUNDING = 0.5 / 255  # floats this far outside of 0..1 still round to 0 or 255


class ArrayLike(Protocol):
    """An array of NumPy, a tensor of PyTorch, or anything else that NumPy can convert."""

    @property
    def shape(self) -> tuple[int, ...]:
        """The lengths of the axes."""

    @property
    def dtype(self) -> object:
        """The type of the values."""


def to_pillow(source: ArrayLike, *, max_pixels: int) -> Image.Image:
    """Return an array or a tensor as a Pillow image with 8 bits a channel; 16 for grey uint16.

    An array is (H, W), (H, W, 1), (H, W, 3) or (H, W, 4), a tensor (H, W), (1, H, W), (3, H, W) or
    (4, H, W): grey, RGB, or RGB with transparency. The values are uint8 or another integer type in
    0..255, uint16 in 0..65535, bool, or floats in 0..1. Grey of any integer type whose largest
    value is in 256..65535 is of 16 bits, as in a file. A uint16 array whose largest value is in
    1..255 is refused, though such a file is read as nearly black: its values are likely of 8 bits.

    Raises:
        UnreadableError: names the shape, type and range of what cannot be an image.
    """
    pixels = _channels_last(source, max_pixels)
    kind = pixels.dtype.kind
    if kind not in "biuf":
        raise _refusal(source, "expected uint8, uint16, bool, or floats in 0..1")
    low, high = pixels.min(), pixels.max()
    is_16_bit = kind == "u" and pixels.dtype.itemsize == 2  # in either order of bytes
    if kind == "f":
        if not (low >= -ROUNDING and high <= 1 + ROUNDING):  # true for NaN
            raise _refusal(source, _expected_of_floats(float(low), float(high)), pixels)
        scaled = np.multiply(pixels, 255, dtype=np.float32)
        pixels = np.rint(scaled, out=scaled).clip(0, 255)
    elif kind == "b":
        pixels = pixels * np.uint8(255)
    elif is_16_bit and 0 < high <= 255:
        raise _refusal(source, "8-bit values need uint8: 16 bits are 0..65535", pixels)
    elif pixels.ndim == 2 and low >= 0 and 255 < high <= 65535:
        # The same image as of a 16-bit grey file, which Pillow also gives as int32.
        return Image.fromarray(np.ascontiguousarray(pixels, dtype=np.uint16))
    elif is_16_bit:
        pixels = pixels >> 8  # as Pillow reads 16-bit files in colour
    elif not (low >= 0 and high <= 255):
        raise _refusal(source, "integers must be in 0..255, or uint16", pixels)
    return Image.fromarray(np.ascontiguousarray(pixels, dtype=np.uint8))


def _channels_last(source: ArrayLike, max_pixels: int) -> np.ndarray:
    """Return the pixels (H, W) or (H, W, C) in the type of the source; check the shape."""
    if getattr(source, "is_nested", False):  # it has no shape
        raise UnreadableError("is a nested tensor: give its images one by one, as of unbind()")
    is_tensor, shape = _is_tensor(source), tuple(source.shape)
    expected = "(1 | 3 | 4, H, W)" if is_tensor else "(H, W, 1 | 3 | 4)"
    if len(shape) == 1 and not is_tensor:
        hint = "a file's content goes in as bytes: array.tobytes()"
        raise _refusal(source, f"expected (H, W) or {expected}; {hint}")
    if len(shape) == 4:
        raise _refusal(source, f"a batch: give its images {expected} one by one")
    if len(shape) not in (2, 3):
        raise _refusal(source, f"expected (H, W) or {expected}")
    first, last = (0, -1) if is_tensor else (-1, 0)
    if len(shape) == 3 and shape[first] not in CHANNELS:
        hint = "permute(2, 0, 1)" if is_tensor else "transpose(1, 2, 0)"
        is_swapped = shape[last] in CHANNELS
        raise _refusal(source, f"expected {expected}{': use ' + hint if is_swapped else ''}")
    height, width = shape[-2:] if is_tensor else shape[:2]
    check_size(width, height, max_pixels)
    pixels = _tensor_values(source) if is_tensor else np.asarray(source)
    if is_tensor and len(shape) == 3:
        pixels = np.moveaxis(pixels, 0, -1)  # (C, H, W) to (H, W, C)
    return pixels[..., 0] if pixels.ndim == 3 and pixels.shape[-1] == 1 else pixels


def _is_tensor(source: object) -> bool:
    torch = sys.modules.get("torch")  # a tensor exists only where torch is imported
    return torch is not None and isinstance(source, torch.Tensor)


def _tensor_values(source: ArrayLike) -> np.ndarray:
    import torch

    assert isinstance(source, torch.Tensor)
    if source.layout != torch.strided or source.is_quantized or source.is_meta:
        what = "is on the meta device, without values" if source.is_meta else "is not dense"
        raise _refusal(source, f"the tensor {what}")
    if source.is_floating_point():
        source = source.float()  # NumPy lacks bfloat16 and float8
    values: np.ndarray = source.numpy(force=True)
    return values


def _expected_of_floats(low: float, high: float) -> str:
    expected = "floats must be in 0..1"
    if low < 0:
        return f"{expected}: undo the normalisation (image * std + mean)"
    if 1 < high <= 255:
        return f"{expected}: divide by 255, or convert to uint8"
    return expected


def _refusal(source: ArrayLike, why: str, pixels: np.ndarray | None = None) -> UnreadableError:
    """Return an error that names shape, type and, of `pixels`, the range; never the values."""
    dtype = str(getattr(source, "dtype", "unknown")).removeprefix("torch.").partition("[")[0]
    facts = f"has shape {tuple(source.shape)}, dtype {dtype[:40]}"
    if pixels is not None:
        finite = pixels[np.isfinite(pixels)]
        values = [f"{finite.min():g} to {finite.max():g}"] if finite.size else []
        values += ["NaN"] if np.isnan(pixels).any() else []
        values += ["infinity"] if np.isinf(pixels).any() else []
        facts += f" and values {' and '.join(values)}"
    return UnreadableError(f"{facts}: {why}")
