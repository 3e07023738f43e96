"""Arrays and tensors as images: the forms that are taken, and one line for those that are not."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from pictures import encoded, reason, scene
from PIL import Image

from captioner.data.images import read_image
from captioner.errors import ImageError

RNG = np.random.default_rng(0)
COLOUR = RNG.integers(0, 256, (5, 7, 3), dtype=np.uint8)
GREY = COLOUR[..., 0]
EXPECTED = Image.fromarray(COLOUR)


def same(source, expected=EXPECTED):
    image = read_image(source)
    assert image.mode == "RGB"
    return image.tobytes() == expected.convert("RGB").tobytes()


@pytest.mark.parametrize(
    "convert",
    [
        lambda pixels: pixels,
        lambda pixels: pixels.astype(np.int64),
        lambda pixels: pixels.astype(np.uint16) * 257,
        lambda pixels: (pixels.astype(np.uint16) * 257).astype(">u2"),  # the other order of bytes
        lambda pixels: pixels / 255,
        lambda pixels: (pixels / 255).astype(np.float16),
        lambda pixels: pixels / np.float32(255) * 1.0001 - 0.00001,  # noise of rounding
        lambda pixels: np.asfortranarray(pixels),
        lambda pixels: pixels[::-1][::-1],
    ],
)
def test_all_types_of_one_array_give_the_same_image(convert):
    assert same(convert(COLOUR))
    assert same(convert(GREY), Image.fromarray(GREY))
    assert same(convert(GREY[..., None]), Image.fromarray(GREY))


@pytest.mark.parametrize(
    "convert",
    [
        lambda pixels: pixels,
        lambda pixels: pixels.long(),
        lambda pixels: pixels.double() / 255,
        lambda pixels: (pixels / 255).requires_grad_(),
        lambda pixels: (pixels / 255).half(),
        lambda pixels: pixels.flip(-1).flip(-1),
    ],
)
def test_all_types_of_one_tensor_give_the_same_image(convert):
    pixels = torch.from_numpy(COLOUR).permute(2, 0, 1)  # (3, H, W)
    assert same(convert(pixels))
    assert same(convert(pixels[:1]), Image.fromarray(GREY))
    assert same(convert(pixels[0]), Image.fromarray(GREY))


def test_a_bfloat16_tensor_is_read_to_its_own_precision():
    ones = torch.ones(3, 2, 2, dtype=torch.bfloat16)
    assert same(ones, Image.new("RGB", (2, 2), "white"))


def test_true_is_white():
    mask = np.array([[True, False]])
    assert list(read_image(mask).tobytes()) == [255] * 3 + [0] * 3
    assert same(torch.tensor(mask), Image.fromarray(mask))


def test_the_fourth_channel_is_transparency_before_white():
    clear = np.zeros((1, 2, 4), dtype=np.uint8)
    clear[0, 0, 3] = 255  # an opaque black pixel and a transparent one
    for source in (clear, clear / 255, torch.from_numpy(clear).permute(2, 0, 1)):
        assert list(read_image(source).tobytes()) == [0] * 3 + [255] * 3


def test_16_bit_arrays_give_the_image_that_their_16_bit_file_gives():
    deep = RNG.integers(0, 65536, (5, 7), dtype=np.uint16)
    deep[0, 0] = 65535
    expected = read_image(encoded(Image.fromarray(deep)))
    assert same(deep, expected)
    assert same(deep.astype(">u2"), expected)
    wide = Image.fromarray(deep.astype(np.int32))  # of the mode "I", as Pillow reads some files
    assert same(wide, expected)
    assert same(np.asarray(wide), expected)
    assert same(torch.from_numpy(deep.astype(np.int64)), expected)


def test_the_array_stays_as_it_was():
    for pixels in (COLOUR.copy(), COLOUR / 255):
        before = pixels.copy()
        read_image(pixels).paste("red", (0, 0, 5, 5))
        assert (pixels == before).all()


NORMALISED = torch.linspace(-2.1, 2.6, 48).view(3, 4, 4)


@pytest.mark.parametrize(
    ("source", "words"),
    [
        (NORMALISED, ["(3, 4, 4)", "float32", "-2.1 to 2.6", "normalisation"]),
        (np.linspace(-1, 1, 48).reshape(4, 4, 3), ["float64", "-1 to 1", "normalisation"]),
        (
            COLOUR.astype(np.float32),
            ["(5, 7, 3)", "float32", f"to {COLOUR.max()}:", "divide by 255"],
        ),
        (np.full((2, 2), np.nan), ["(2, 2)", "float64", "NaN"]),
        (np.array([[0.5, np.nan, np.inf]]), ["0.5 to 0.5 and NaN and infinity"]),
        (torch.full((3, 2, 2), float("-inf")), ["infinity"]),
        (np.full((2, 2, 3), 300), ["int64", "300 to 300", "0..255"]),
        (np.full((2, 2, 3), -1, dtype=np.int8), ["int8", "-1 to -1"]),
        (np.full((2, 2), 65536), ["int64", "65536 to 65536", "0..255"]),
        (np.array([[-1, 300]]), ["int64", "-1 to 300", "0..255"]),
        (COLOUR.astype(np.uint16), ["uint16", "8-bit values need uint8"]),
        (COLOUR.astype(">u2"), [">u2", "8-bit values need uint8"]),
        (np.ones((2, 2, 3), dtype=complex), ["complex128"]),
        (torch.ones(3, 2, 2, dtype=torch.complex64), ["complex64"]),
        (torch.ones(3, 2, 2).to_sparse(), ["(3, 2, 2)", "float32", "not dense"]),
        (torch.ones(3, 2, 2, device="meta"), ["(3, 2, 2)", "meta device"]),
        (np.array([["a", "b"]]), ["<U1"]),
        (np.array([[None, {}]]), ["object"]),
        (COLOUR.transpose(2, 0, 1), ["(3, 5, 7)", "uint8", "transpose(1, 2, 0)"]),
        (torch.from_numpy(COLOUR), ["(5, 7, 3)", "uint8", "permute(2, 0, 1)"]),
        (np.ones((4, 4, 2)), ["(4, 4, 2)", "(H, W, 1 | 3 | 4)"]),
        (torch.ones(5, 4, 4), ["(5, 4, 4)", "(1 | 3 | 4, H, W)"]),
        (np.frombuffer(encoded(scene()), dtype=np.uint8), ["tobytes()"]),
        (np.ones((2, 2, 2, 3)), ["(2, 2, 2, 3)", "a batch"]),
        (np.ones(()), ["()", "float64"]),
        (np.ones((0, 4, 3)), ["has no pixels"]),
        (np.broadcast_to(np.uint8(0), (10**5, 10**5)), ["too large", "100,000 x 100,000"]),
    ],
)
def test_what_cannot_be_an_image_is_refused_in_a_line_without_its_values(source, words):
    why = reason(source)
    assert len(why) < 250
    for word in words:
        assert word in why


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_a_nested_tensor_is_refused_as_such():
    images = [torch.ones(2, 2), torch.ones(1, 2)]
    for layout in (torch.strided, torch.jagged):
        nested = torch.nested.nested_tensor(images, layout=layout)
        assert reason(nested).startswith("is a nested tensor: give its images one by one")


# The other forms


def test_the_content_of_a_file_is_read_in_every_form(tmp_path):
    data = encoded(scene())
    (tmp_path / "a.png").write_bytes(data)
    seekable = io.BytesIO(data)
    seekable.read()  # read from its start all the same
    unseekable = io.BufferedReader(io.BytesIO(data))
    unseekable.seekable = lambda: False
    with (tmp_path / "a.png").open("rb") as file:
        forms = [data, bytearray(data), memoryview(data), seekable, unseekable, file]
        for form in forms:
            assert same(form, scene())
        assert same(file, scene())  # twice


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("https://example.org/a.jpg", "is a URL: download it"),
        ("s3://bucket/a.jpg", "is a URL"),
        (Path("https://example.org/a.jpg"), "is a URL: download it"),
        ("file:///photos/a.jpg", "is a URL: give the path of the file"),
        ("", "image (str): the path is empty"),
        ("data:image/png;base64,iVBORw0KGgo=", "is a URL"),
        (io.StringIO("text"), "not open in binary mode"),
        (7, "image (int): expected a path"),
        (None, "expected a path"),
        ([1, 2], "image (list): expected a path"),
        ("a" * 100_000, "..."),
        ("a\0b", "embedded null"),
    ],
)
def test_what_is_no_image_is_refused_in_one_line(source, words):
    with pytest.raises(ImageError) as caught:
        read_image(source)
    assert words in str(caught.value)
    assert len(str(caught.value)) < 400
    assert "\n" not in str(caught.value)


def test_a_closed_file_is_named(tmp_path):
    file = (tmp_path / "a.png").open("wb")
    file.close()
    assert reason(file) == "the file is closed"


def test_exceptions_of_any_class_become_image_errors_but_those_that_stop(monkeypatch):
    class PanicError(BaseException):
        pass

    def fail(error):
        def load(_):
            raise error

        monkeypatch.setattr(Image.Image, "load", load)

    image = scene()
    fail(PanicError("plugin"))
    assert "plugin" in reason(image)
    fail(KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        read_image(image)
