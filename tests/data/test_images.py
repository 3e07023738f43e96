"""Reading images: every kind comes out upright, RGB and on white; what cannot be read is named, with a reason."""

import io
import os
import pickle
import random
import struct
import sys
import threading
import warnings
import zlib
from pathlib import Path

import pytest
from PIL import Image, ImageFile, ImageOps

from captioner.data.images import find_images, read_image
from captioner.errors import ImageError, UsageError

Pixel = tuple[int, ...]


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(width: int, height: int, depth: int, colour: int, row: bytes, *extra: bytes) -> bytes:
    """Write a PNG by hand, for what Pillow does not write; with a single row of pixels, whatever the header says."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    data = chunk(b"IDAT", zlib.compress(b"\0" + row))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(extra) + data + chunk(b"IEND", b"")


def scene(width: int = 64, height: int = 48) -> Image.Image:
    """Red on the left half and blue on the right, green along the top: no two turns of it look alike."""
    image = Image.new("RGB", (width, height), (0, 0, 255))
    image.paste((255, 0, 0), (0, 0, width // 2, height))
    image.paste((0, 255, 0), (0, 0, width, height // 4))
    return image


def noise(width: int, height: int) -> Image.Image:
    return Image.frombytes("RGB", (width, height), random.Random(0).randbytes(width * height * 3))


def close(left: Image.Image, right: Image.Image, tolerance: int) -> bool:
    assert left.size == right.size
    return all(abs(a - b) <= tolerance for a, b in zip(left.tobytes(), right.tobytes(), strict=True))


def reason(source: str | Path | bytes | Image.Image, **options: int) -> str:
    with pytest.raises(ImageError) as caught:
        read_image(source, **options)
    assert "\n" not in str(caught.value)
    return caught.value.reason


# What the pixels become


WHITE = (255, 255, 255)
RED = (255, 0, 0)


def with_alpha(mode: str, colour: Pixel | int) -> Image.Image:
    return Image.new(mode, (2, 2), colour)


def palette(transparency: int | bytes | None) -> bytes:
    image = Image.new("P", (2, 2), 1)
    image.putpalette([0, 0, 0, 255, 0, 0])
    return encoded(image, **({} if transparency is None else {"transparency": transparency}))


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        pytest.param(encoded(Image.new("RGB", (2, 2), "red")), RED, id="RGB"),
        pytest.param(encoded(Image.new("L", (2, 2), 100)), (100, 100, 100), id="L"),
        pytest.param(encoded(Image.new("1", (2, 2), 1)), WHITE, id="1 bit"),
        pytest.param(palette(None), RED, id="palette"),
        pytest.param(palette(1), WHITE, id="palette, a transparent colour"),
        pytest.param(palette(bytes([255, 128])), (255, 127, 127), id="palette, a half transparent colour"),
        pytest.param(encoded(with_alpha("RGBA", (255, 0, 0, 255))), RED, id="RGBA, opaque"),
        pytest.param(encoded(with_alpha("RGBA", (255, 0, 0, 0))), WHITE, id="RGBA, transparent"),
        pytest.param(encoded(with_alpha("RGBA", (255, 0, 0, 128))), (255, 127, 127), id="RGBA, half transparent"),
        pytest.param(encoded(with_alpha("LA", (0, 0))), WHITE, id="LA, transparent"),
        pytest.param(with_alpha("PA", (0, 0)), WHITE, id="PA, transparent"),
        pytest.param(png(1, 1, 8, 2, bytes(RED), chunk(b"tRNS", struct.pack(">3H", *RED))), WHITE, id="RGB, tRNS"),
        pytest.param(png(1, 1, 8, 0, b"\x64", chunk(b"tRNS", struct.pack(">H", 100))), WHITE, id="L, tRNS"),
        pytest.param(encoded(Image.new("I;16", (2, 2), 40000)), (156, 156, 156), id="16 bit"),  # 40000 / 257
        pytest.param(encoded(Image.new("I;16", (2, 2), 200)), (1, 1, 1), id="16 bit, dark"),
        pytest.param(encoded(Image.new("I;16", (2, 2), 40000), "TIFF"), (156, 156, 156), id="16 bit TIFF"),
        pytest.param(encoded(Image.new("I", (2, 2), 40000), "PPM"), (156, 156, 156), id="16 bit PGM"),
        pytest.param(png(1, 1, 16, 2, struct.pack(">3H", 65535, 32896, 0)), (255, 128, 0), id="16 bit RGB"),
        pytest.param(png(1, 1, 16, 6, struct.pack(">4H", 65535, 0, 0, 0)), WHITE, id="16 bit RGBA"),
        pytest.param(Image.new("I", (2, 2), 200), (200, 200, 200), id="I, in 0..255"),
        pytest.param(Image.new("F", (2, 2), 0.2), (51, 51, 51), id="F, in 0..1"),
        pytest.param(Image.new("F", (2, 2), 51.0), (51, 51, 51), id="F, in 0..255"),
        pytest.param(encoded(Image.new("F", (2, 2), 0.2), "TIFF"), (51, 51, 51), id="F, TIFF"),
        pytest.param(Image.new("CMYK", (2, 2), (0, 255, 255, 0)), RED, id="CMYK"),
        pytest.param(Image.new("YCbCr", (2, 2), (255, 128, 128)), WHITE, id="YCbCr"),
        pytest.param(Image.new("HSV", (2, 2), (0, 255, 255)), RED, id="HSV"),
    ],
)
def test_every_kind_of_pixel_becomes_the_right_rgb(source, expected):
    image = read_image(source)
    assert (type(image), image.mode) == (Image.Image, "RGB")
    assert image.getpixel((0, 0)) == expected


def test_values_beyond_every_usual_range_are_stretched_over_what_they_span():
    image = Image.new("F", (3, 1))
    for x, value in enumerate((-1000.0, 0.0, 1000.0)):
        image.putpixel((x, 0), value)
    assert [read_image(image).getpixel((x, 0))[0] for x in range(3)] == [0, 128, 255]


def test_values_that_are_no_numbers_are_refused():
    assert "not finite" in reason(Image.new("F", (2, 2), float("nan")))
    assert "not finite" in reason(Image.new("F", (2, 2), float("inf")))


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_a_jpeg_of_any_kind_keeps_its_colours(mode):
    original = scene().convert(mode)
    assert close(read_image(encoded(original, "JPEG", quality=95, subsampling=0)), original.convert("RGB"), 16)


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF"])
def test_an_animated_image_gives_its_first_frame(kind):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    image = read_image(encoded(frames[0], kind, save_all=True, append_images=frames[1:]))
    assert close(image, frames[0], 4)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_image_is_turned_upright_and_only_once(kind, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"quality": 100, "subsampling": 0} if kind == "JPEG" else {"lossless": True} if kind == "WEBP" else {}
    data = encoded(scene(), kind, exif=exif, **options)
    expected = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")
    assert close(read_image(data), expected, 0)
    assert close(read_image(read_image(data)), expected, 0)
    assert close(read_image(Image.open(io.BytesIO(data))), expected, 0)


def test_a_broken_exif_block_spoils_no_picture():
    for exif in (b"Exif\0\0", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0" + bytes(range(64))):
        with warnings.catch_warnings(action="ignore"):
            assert read_image(encoded(scene(), "JPEG", exif=exif)).size == (64, 48)


@pytest.mark.parametrize("size", [(1, 1), (20000, 1), (1, 20000)])
def test_extreme_shapes_are_read(size):
    assert read_image(encoded(Image.new("RGB", size, "red"))).size == size


def test_the_callers_image_is_left_as_it_was():
    image = scene()
    image.info["exif"] = b"Exif\0\0"
    copy = read_image(image)
    copy.paste((0, 0, 0), (0, 0, *copy.size))
    assert image.info == {"exif": b"Exif\0\0"}
    assert image.tobytes() == scene().tobytes()


# The fast way for JPEG


@pytest.mark.parametrize("size", [(1600, 1200), (333, 1001), (224, 5000)])
@pytest.mark.parametrize("at_least", [1, 100, 224, 333, 2000])
def test_a_reduced_jpeg_is_never_smaller_than_asked_for(size, at_least):
    reduced = read_image(encoded(Image.new("RGB", size), "JPEG"), at_least=at_least)
    assert min(reduced.size) >= min(at_least, *size)
    assert reduced.width / reduced.height == pytest.approx(size[0] / size[1], rel=0.1)


@pytest.mark.parametrize("mode", ["RGB", "CMYK"])
def test_a_reduced_jpeg_is_the_same_picture(mode):
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encoded(scene(640, 480).convert(mode), "JPEG", quality=95, subsampling=0, exif=exif)
    reduced, full = read_image(data, at_least=100), read_image(data)
    assert (full.size, reduced.size) == ((480, 640), (120, 160))
    for x, y in ((10, 10), (60, 10), (100, 10), (10, 100), (60, 100), (90, 40)):
        near, exact = reduced.getpixel((x, y)), full.getpixel((4 * x + 2, 4 * y + 2))
        assert all(abs(a - b) < 12 for a, b in zip(near, exact, strict=True))


def test_other_formats_keep_their_size():
    assert read_image(encoded(scene()), at_least=4).size == (64, 48)


# What cannot be read


def test_a_missing_file_is_named(tmp_path):
    path = tmp_path / "photo.jpg"
    with pytest.raises(ImageError) as caught:
        read_image(path)
    assert str(caught.value) == f"{path}: no such file"


def test_a_zero_byte_file_is_named_as_empty(tmp_path):
    (tmp_path / "photo.jpg").touch()
    assert reason(tmp_path / "photo.jpg") == "is empty (0 bytes)"


def test_a_folder_is_named_as_such(tmp_path):
    assert reason(str(tmp_path)) == "is a folder, not an image"


def test_a_file_that_may_not_be_read_is_named(tmp_path, monkeypatch):
    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    (tmp_path / "photo.jpg").write_bytes(encoded(scene()))
    monkeypatch.setattr(Path, "open", refuse)
    assert reason(tmp_path / "photo.jpg") == "permission denied"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_pipe_is_refused_where_reading_it_would_wait_for_ever(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    assert reason(tmp_path / "pipe.jpg") == "not a regular file"


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"\n<!DOCTYPE html><html>404</html>", "not an image (looks like an HTML page)"),
        (b"<HTML><body>404", "not an image (looks like an HTML page)"),
        (b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"/>', "not an image (looks like an SVG drawing)"),
        (b"%PDF-1.7", "not an image (looks like a PDF document)"),
        (b"version https://git-lfs.github.com/spec/v1", "Git LFS pointer"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1", "HEIC photo: convert it to JPEG"),
        (b"hello", "not an image in a format that is read here (JPEG, PNG"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not an image in a format that is read here"),
        (encoded(scene())[:20], "truncated"),
        (encoded(scene(), "JPEG")[:4] + b"<?xml", "truncated"),
        (b"\xff\xd8\xff\xe1\0\x02<?xml", "truncated or corrupt: it begins like an image"),
    ],
)
def test_what_is_no_image_is_told_apart(data, expected):
    assert expected in reason(data)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP"])
def test_a_truncated_image_is_refused(kind):
    data = encoded(noise(64, 48), kind)
    said = reason(data[: len(data) // 2])
    assert "truncated" in said or "corrupt" in said


def test_a_truncated_jpeg_is_called_so_on_the_fast_path_too():
    data = encoded(noise(640, 480), "JPEG")
    assert reason(data[: len(data) // 2], at_least=100).startswith("truncated")


def test_bytes_and_pillow_images_have_names_of_their_own():
    for source, name in ((b"", "image (bytes)"), (Image.new("RGB", (0, 3)), "image")):
        with pytest.raises(ImageError) as caught:
            read_image(source)
        assert caught.value.name == name


@pytest.mark.parametrize("error", [SyntaxError, struct.error, ValueError, OSError, MemoryError, zlib.error, EOFError])
def test_whatever_pillow_throws_becomes_an_image_error(monkeypatch, error):
    def throw(*_: object) -> None:
        raise error("first line\nsecond line")

    monkeypatch.setattr(ImageFile.ImageFile, "load", throw)
    assert reason(encoded(scene()))


def test_the_error_travels_from_a_worker_process():
    with pytest.raises(ImageError) as caught:
        read_image(b"")
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


# Images that are too large


@pytest.mark.parametrize("side", [7072, 10_000, 20_000, 60_000])  # 50, 100, 400 and 3600 megapixels
@pytest.mark.filterwarnings("error")
def test_a_forged_huge_header_is_refused_before_decoding(side):
    said = reason(png(side, side, 8, 2, b""))
    assert said.startswith("too large")
    assert f"{side:,} x {side:,}" in said or f"{side * side:,}" in said
    assert "50,000,000" in said


def test_a_webp_that_claims_a_huge_canvas_is_refused():
    data = bytearray(encoded(scene(), "WEBP", lossless=False, exif=b"Exif\0\0II*\0"))  # EXIF asks for the VP8X header
    place = data.index(b"VP8X") + 12
    data[place : place + 6] = (16383).to_bytes(3, "little") * 2
    assert "too large" in reason(bytes(data))


def test_the_limit_counts_pixels_and_is_the_callers():
    data = encoded(Image.new("RGB", (20, 10)))
    assert read_image(data, max_pixels=200).size == (20, 10)
    assert reason(data, max_pixels=199) == "too large: 20 x 10 pixels, the limit is 199 in all"
    assert "too large" in reason(Image.new("RGB", (20, 10)), max_pixels=199)


@pytest.mark.filterwarnings("error")
def test_a_limit_above_pillows_own_warning_is_honoured_in_silence():
    data = encoded(Image.new("1", (10_000, 10_000)))
    assert read_image(data, max_pixels=100_000_000).size == (10_000, 10_000)


@pytest.mark.skipif(sys.platform == "win32", reason="no getrusage")
def test_a_bomb_takes_no_memory():
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    data = encoded(Image.new("1", (9000, 9000)))  # a valid file of 81 megapixels
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    assert "too large" in reason(data)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit - before < 50e6


# Hostile bytes, and many threads


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP"])
@pytest.mark.filterwarnings("ignore")
def test_changed_bytes_give_a_picture_or_an_image_error(kind):
    rng = random.Random(0)
    data = encoded(noise(24, 16), kind)
    for _ in range(150):
        hostile = bytearray(data)
        for _ in range(rng.randint(1, 4)):
            hostile[rng.choice((rng.randrange(len(data)), rng.randrange(min(64, len(data)))))] = rng.randrange(256)
        try:
            assert read_image(bytes(hostile)).mode == "RGB"
        except ImageError as error:
            assert error.reason  # noqa: PT017  # either outcome is right


def test_threads_leave_the_warning_filters_as_they_were():
    data = encoded(scene())
    before = list(warnings.filters)
    threads = [threading.Thread(target=lambda: [read_image(data) for _ in range(20)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert list(warnings.filters) == before


# Which files an argument means


@pytest.fixture
def photos(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in (
        "b.JPG",
        "a.png",
        "notes.txt",
        ".hidden.png",
        "sub/c.webp",
        ".git/d.png",
        "empty/readme.md",
        "x[1].gif",
    ):
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).touch()
    return tmp_path


def names(*paths: str) -> list[str]:
    return [path.as_posix() for path in find_images(paths)]


def test_a_folder_gives_its_images_and_those_below_but_nothing_hidden(photos):
    assert names(".") == ["a.png", "b.JPG", "sub/c.webp", "x[1].gif"]


def test_a_named_file_is_kept_whatever_its_suffix(photos):
    assert names("notes.txt", ".hidden.png") == ["notes.txt", ".hidden.png"]


def test_globs_are_expanded_and_take_only_images(photos):
    assert names("*") == ["a.png", "b.JPG", "x[1].gif"]
    assert names("**/*.webp") == ["sub/c.webp"]


def test_a_file_that_looks_like_a_glob_is_a_file(photos):
    assert names("x[1].gif") == ["x[1].gif"]


def test_the_order_of_arguments_is_kept_and_nothing_comes_twice(photos):
    assert names("sub/c.webp", "./a.png", ".", str(photos / "a.png")) == ["sub/c.webp", "a.png", "b.JPG", "x[1].gif"]


@pytest.mark.parametrize("path", ["gone.jpg", "empty", "*.tiff", "gone/*", ""])
def test_what_gives_no_image_is_named(photos, path):
    with pytest.raises(UsageError) as caught:
        find_images([path])
    assert str(caught.value).startswith(f"{path}: no ")


# Real photographs


@pytest.mark.data
def test_the_fast_path_shows_the_same_photographs():
    folder = os.environ.get("CAPTIONER_DATA")
    if not folder:
        pytest.skip("CAPTIONER_DATA does not name the research data")
    for path in find_images([f"{folder}/coco/val2017"])[:20]:
        full, reduced = read_image(path), read_image(path, at_least=100)
        assert 100 <= min(reduced.size) < min(full.size)
        tiny, other = full.resize((8, 8), Image.Resampling.BOX), reduced.resize((8, 8), Image.Resampling.BOX)
        assert close(tiny, other, 10)
