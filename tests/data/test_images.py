"""Reading images: reduced JPEGs, errors, finding files. Hostile files: see reliability/."""

import io
import os
import pickle
import struct
import threading
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from pictures import close, encoded, reason, scene
from PIL import Image, ImageFile

from captioner.data.images import find_images, is_image, read_image
from captioner.errors import ImageError, UsageError


def test_the_callers_image_is_left_as_it_was():
    image = scene()
    image.info["exif"] = b"Exif\0\0"
    copy = read_image(image)
    copy.paste((0, 0, 0), (0, 0, *copy.size))
    assert image.info == {"exif": b"Exif\0\0"}
    assert image.tobytes() == scene().tobytes()


# JPEG decoded at a reduced size


@pytest.mark.parametrize("size", [(1600, 1200), (333, 1001), (224, 5000)])
@pytest.mark.parametrize("min_side", [1, 100, 224, 333, 2000])
def test_a_reduced_jpeg_is_never_smaller_than_min_side(size, min_side):
    reduced = read_image(encoded(Image.new("RGB", size), "JPEG"), min_side=min_side)
    assert min(reduced.size) >= min(min_side, *size)
    assert reduced.width / reduced.height == pytest.approx(size[0] / size[1], rel=0.1)


@pytest.mark.parametrize("mode", ["RGB", "CMYK"])
def test_a_reduced_jpeg_is_the_same_picture(mode):
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encoded(scene(640, 480).convert(mode), "JPEG", quality=95, subsampling=0, exif=exif)
    reduced, full = read_image(data, min_side=100), read_image(data)
    assert (full.size, reduced.size) == ((480, 640), (120, 160))
    for x, y in ((10, 10), (60, 10), (100, 10), (10, 100), (60, 100), (90, 40)):
        near, exact = reduced.getpixel((x, y)), full.getpixel((4 * x + 2, 4 * y + 2))
        assert all(abs(a - b) < 12 for a, b in zip(near, exact, strict=True))


def test_other_formats_keep_their_size():
    assert read_image(encoded(scene()), min_side=4).size == (64, 48)


# One image or several


class MapStyle:
    """A map-style data set of PyTorch: it has indices and a length, and no `__iter__`."""

    def __len__(self):
        return 2

    def __getitem__(self, index):
        return [b"first", b"second"][index]


def test_what_has_indices_or_can_be_iterated_is_several_images():
    for several in (MapStyle(), [], (), iter([]), {}, range(3), np.zeros((2, 4, 4, 3))):
        assert not is_image(several)
    for one in ("a.jpg", Path("a.jpg"), b"", io.BytesIO(), scene(), np.zeros((4, 4, 3)), 7, None):
        assert is_image(one)


# Errors


def test_a_missing_file_is_named(tmp_path):
    path = tmp_path / "photo.jpg"
    with pytest.raises(ImageError) as caught:
        read_image(path)
    assert str(caught.value) == f"{path}: no such file"


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


def test_errors_name_bytes_and_pillow_images_as_such():
    for source, name in ((b"", "image (bytes)"), (Image.new("RGB", (0, 3)), "image")):
        with pytest.raises(ImageError) as caught:
            read_image(source)
        assert caught.value.name == name


@pytest.mark.parametrize(
    "error", [SyntaxError, struct.error, ValueError, OSError, MemoryError, zlib.error, EOFError]
)
def test_any_exception_of_pillow_becomes_an_image_error(monkeypatch, error):
    def raise_error(*_: object) -> None:
        raise error("first line\nsecond line")

    monkeypatch.setattr(ImageFile.ImageFile, "load", raise_error)
    assert reason(encoded(scene()))


def test_the_error_travels_from_a_worker_process():
    with pytest.raises(ImageError) as caught:
        read_image(b"")
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


# Many threads


def test_threads_leave_the_warning_filters_as_they_were():
    data = encoded(scene())
    before = list(warnings.filters)
    threads = [
        threading.Thread(target=lambda: [read_image(data) for _ in range(20)]) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert list(warnings.filters) == before


# Finding image files


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
    return [path.as_posix() for path in find_images(paths).files]


def test_a_folder_gives_all_images_below_it_but_no_hidden_ones(photos):
    assert names(".") == ["a.png", "b.JPG", "sub/c.webp", "x[1].gif"]


def test_a_named_file_is_kept_whatever_its_suffix(photos):
    assert names("notes.txt", ".hidden.png") == ["notes.txt", ".hidden.png"]


def test_globs_are_expanded_and_take_only_images(photos):
    assert names("*") == ["a.png", "b.JPG", "x[1].gif"]
    assert names("**/*.webp") == ["sub/c.webp"]


def test_a_file_that_looks_like_a_glob_is_a_file(photos):
    assert names("x[1].gif") == ["x[1].gif"]


def test_the_order_of_arguments_is_kept_without_repetitions(photos):
    assert names("sub/c.webp", "./a.png", ".", str(photos / "a.png")) == [
        "sub/c.webp",
        "a.png",
        "b.JPG",
        "x[1].gif",
    ]


@pytest.mark.parametrize("path", ["gone.jpg", "empty", "*.tiff", "gone/*", ""])
def test_a_path_without_images_is_named(photos, path):
    with pytest.raises(UsageError) as caught:
        find_images([path])
    assert str(caught.value).startswith(f"{path or repr(path)}: no ")


def test_a_url_in_place_of_a_path_is_named_as_such(photos):
    found = find_images(["a.png", "https://example.org/x.jpg?size=2"])
    assert len(found.files) == 1
    [problem] = found.problems
    assert problem.startswith("https://example.org/x.jpg?size=2: is a URL: download it")


def test_a_path_that_looks_like_a_url_is_read_if_it_exists(photos):
    Path("http:").mkdir()
    Path("http:/a.png").write_bytes(encoded(scene()))
    assert names("http:/a.png") == ["http:/a.png"]
    assert read_image("http:/a.png").size == (64, 48)


def test_what_is_missing_is_named_and_the_rest_is_found(photos):
    found = find_images(["gone.jpg", "a.png", "empty", "gone/*", "sub"])
    assert [path.as_posix() for path in found.files] == ["a.png", "sub/c.webp"]
    assert [problem.partition(": ")[0] for problem in found.problems] == [
        "gone.jpg",
        "empty",
        "gone/*",
    ]
    with pytest.raises(UsageError, match=r"gone\.jpg: no such .*; empty: no images"):
        find_images(["gone.jpg", "empty"])


# Real photographs


@pytest.mark.data
def test_reduced_photographs_show_the_same():
    folder = os.environ.get("CAPTIONER_DATA")
    if not folder:
        pytest.skip("CAPTIONER_DATA does not name the research data")
    for path in find_images([f"{folder}/coco/val2017"]).files[:20]:
        full, reduced = read_image(path), read_image(path, min_side=100)
        assert 100 <= min(reduced.size) < min(full.size)
        tiny, other = (
            full.resize((8, 8), Image.Resampling.BOX),
            reduced.resize((8, 8), Image.Resampling.BOX),
        )
        assert close(tiny, other, 10)
