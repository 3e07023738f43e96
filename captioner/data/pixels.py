"""Pixels of any kind to upright 8-bit RGB."""

from __future__ import annotations

from typing import cast

from PIL import Image

ORIENTATION = 0x0112  # the EXIF tag
TRANSPOSE_OF_ORIENTATION = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class UnreadableError(Exception):
    """An image cannot be read. The message is the reason in the `ImageError`."""


def check_size(width: int, height: int, max_pixels: int) -> None:
    """Raise an `UnreadableError` for an image without pixels, or with too many."""
    if not width * height:
        raise UnreadableError(f"has no pixels ({width} x {height})")
    if width * height > max_pixels:
        raise UnreadableError(
            f"too large: {width:,} x {height:,} pixels, the limit is {max_pixels:,} in all"
        )


def to_upright_rgb(image: Image.Image) -> Image.Image:
    """Return an image of any mode as a new upright 8-bit RGB image, with white transparency.

    Raises:
        UnreadableError: the image holds values that are not finite numbers.
    """
    image.load()
    transpose = _read_transpose(image)
    if image.mode == "F" or image.mode.startswith("I"):
        image = _to_8_bits(image)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        rgb = Image.new("RGB", image.size, "white")
        rgb.paste(image, mask=image)
    else:
        rgb = image.convert("RGB")
    rgb.info.clear()  # it holds the EXIF orientation, which must not be applied twice
    return rgb if transpose is None else rgb.transpose(transpose)


def _read_transpose(image: Image.Image) -> Image.Transpose | None:
    try:
        return TRANSPOSE_OF_ORIENTATION.get(image.getexif().get(ORIENTATION, 1))
    except Exception:  # the image itself is fine if its EXIF block is damaged
        return None


def _to_8_bits(image: Image.Image) -> Image.Image:
    """Scale 16-bit, 32-bit and floating-point grey to 0..255, from the range most likely meant.

    16-bit: 0..65535. Others: 0..1 (float), 0..255 or 0..65535 (integer), if all values are in that
    range; otherwise from the smallest to the largest value.
    """
    values = image.convert("F")
    low, high = cast(tuple[float, float], values.getextrema())  # one band
    fits_16_bits = image.mode == "I" and low >= 0 and 255 < high <= 65535
    if fits_16_bits or image.mode.startswith("I;16"):
        low, high = 0.0, 65535.0
    elif low >= 0 and high <= 255:
        low, high = 0.0, 1.0 if image.mode == "F" and high <= 1 else 255.0
    if not high - low < float("inf"):
        raise UnreadableError("holds values that are not finite numbers")
    scale = 255 / ((high - low) or 1)
    grey = values.point(lambda value: value * scale + (0.5 - low * scale)).convert("L")
    grey.info.pop("transparency", None)  # a value of the original range
    return grey
