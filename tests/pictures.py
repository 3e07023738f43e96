"""Images for tests, and bytes that only start like one."""

import io
import random
import struct
import zlib
from pathlib import Path

import pytest
from PIL import Image

from captioner.data.images import read_image
from captioner.errors import ImageError


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(width: int, height: int, depth: int, colour: int, row: bytes, *extra: bytes) -> bytes:
    """Write a PNG that Pillow cannot write: one row of pixels, with any size in the header."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    data = chunk(b"IDAT", zlib.compress(b"\0" + row))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(extra) + data + chunk(b"IEND", b"")


def scene(width: int = 64, height: int = 48) -> Image.Image:
    """Draw red left, blue right and green on top: all eight orientations of it differ."""
    image = Image.new("RGB", (width, height), (0, 0, 255))
    image.paste((255, 0, 0), (0, 0, width // 2, height))
    image.paste((0, 255, 0), (0, 0, width, height // 4))
    return image


def noise(width: int, height: int) -> Image.Image:
    return Image.frombytes("RGB", (width, height), random.Random(0).randbytes(width * height * 3))


def close(left: Image.Image, right: Image.Image, tolerance: int) -> bool:
    assert left.size == right.size
    return all(
        abs(a - b) <= tolerance for a, b in zip(left.tobytes(), right.tobytes(), strict=True)
    )


def reason(source: str | Path | bytes | Image.Image, **options: int) -> str:
    with pytest.raises(ImageError) as caught:
        read_image(source, **options)
    assert "\n" not in str(caught.value)
    return caught.value.reason
