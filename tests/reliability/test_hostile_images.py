"""Empty, truncated or no image: the file is named with the reason, others are captioned."""

from pathlib import Path

import pytest
from pictures import encoded, noise, reason, scene
from PIL import Image

pytestmark = pytest.mark.row(13)


@pytest.fixture
def mixed_folder(tmp_path, photo):
    """Return a folder with all kinds of good and bad image files."""
    folder = tmp_path / "mixed"
    (folder / "deeper").mkdir(parents=True)
    image = Image.open(photo).convert("RGB")
    image.save(folder / "good.png")
    image.convert("CMYK").save(folder / "cmyk.jpg", quality=100)
    Image.open(photo).convert("L").convert("I").point(lambda value: value * 257).convert(
        "I;16"
    ).save(folder / "deep.png")
    image.convert("RGBA").save(folder / "alpha.png")
    image.quantize(256).save(folder / "palette.gif")
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned a quarter clockwise
    image.transpose(Image.Transpose.ROTATE_90).save(folder / "deeper" / "turned.png", exif=exif)
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "page.jpg").write_text("<!DOCTYPE html><title>404</title>")
    image.resize((300, 300)).save(folder / "cut.jpg")
    whole = (folder / "cut.jpg").read_bytes()
    (folder / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    return folder


def test_captions_go_to_stdout_and_errors_to_stderr(run, tiny_model, mixed_folder):
    code, out, err = run("caption", mixed_folder, "--model", tiny_model, "--device", "cpu")
    captions = dict(line.split("\t") for line in out.splitlines())
    assert code == 3
    assert {Path(path).name for path in captions} == {
        "good.png",
        "cmyk.jpg",
        "deep.png",
        "alpha.png",
        "palette.gif",
        "turned.png",
    }
    for name, why in (("empty.jpg", "empty"), ("page.jpg", "HTML"), ("cut.jpg", "truncated")):
        assert any(name in line and why in line for line in err.splitlines()), err
    assert "3 of 9 images could not be read" in err


def test_the_same_image_gets_the_same_caption_in_every_lossless_form(run, tiny_model, mixed_folder):
    _, out, _ = run("caption", mixed_folder, "--model", tiny_model, "--device", "cpu")
    captions = {
        Path(path).name: caption
        for path, caption in (line.split("\t") for line in out.splitlines())
    }
    assert captions["good.png"] == captions["alpha.png"] == captions["turned.png"]


def test_a_zero_byte_file_is_named_as_empty(tmp_path):
    (tmp_path / "photo.jpg").touch()
    assert reason(tmp_path / "photo.jpg") == "is empty (0 bytes)"


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"\n<!DOCTYPE html><html>404</html>", "not an image (looks like an HTML page)"),
        (b"<HTML><body>404", "not an image (looks like an HTML page)"),
        (
            b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"/>',
            "not an image (looks like an SVG drawing)",
        ),
        (b"%PDF-1.7", "not an image (looks like a PDF document)"),
        (b"version https://git-lfs.github.com/spec/v1", "Git LFS pointer"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1", "a HEIC photo"),
        (b"hello", "not an image in a supported format (JPEG, PNG"),
        (
            b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
            "not an image in a supported format",
        ),
        (encoded(scene())[:20], "truncated"),
        (encoded(scene(), "JPEG")[:4] + b"<?xml", "truncated"),
        (b"\xff\xd8\xff\xe1\0\x02<?xml", "truncated or corrupt: it starts like an image"),
    ],
)
def test_other_file_types_are_named(data, expected):
    assert expected in reason(data)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP"])
def test_a_truncated_image_is_refused(kind):
    data = encoded(noise(64, 48), kind)
    message = reason(data[: len(data) // 2])
    assert "truncated" in message or "corrupt" in message


def test_a_truncated_jpeg_is_called_truncated_at_reduced_size_too():
    data = encoded(noise(640, 480), "JPEG")
    assert reason(data[: len(data) // 2], min_side=100).startswith("truncated")
