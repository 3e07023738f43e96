"""Alternative texts in image files: exiftool writes them, and the pixels stay as they were."""

import os
import shutil
import stat
import subprocess
from io import BytesIO
from pathlib import Path

import pytest
from pictures import encoded, noise, scene
from PIL import Image

from captioner.data.images import read_image
from captioner.data.lists import ImageItem
from captioner.errors import MissingPackageError, UsageError
from captioner.results.sidecars import NotWrittenError
from captioner.results.xmp import AltTexts, has_alt_text

TEXT = 'a <b> & "c" é\n-x=y $x @z #[CSTR]'


@pytest.fixture
def exiftool():
    """A function that returns the alternative text of a file, as exiftool reads it."""
    if not shutil.which("exiftool"):
        pytest.skip("exiftool is not installed")

    def read(path):
        command = ["exiftool", "-s3", "-b", "-XMP-iptcCore:AltTextAccessibility", path.resolve()]
        return subprocess.run(command, capture_output=True, check=True).stdout.decode()

    return read


def item(path):
    return ImageItem(str(path), str(path))


def write(path, text=TEXT, existing="error"):
    with AltTexts(existing=existing) as texts:
        texts.check([item(path)])
        texts.add(item(path), [text, "another caption"])


def scan(data):
    """The compressed pixels of a JPEG file: all from the first scan on."""
    return data[data.index(b"\xff\xda") :]


def test_the_best_caption_is_the_alternative_text_and_no_pixel_changes(exiftool, tmp_path):
    photo = tmp_path / "-'\"a\n é.jpg"
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "Maker"
    photo.write_bytes(encoded(noise(64, 48), "JPEG", exif=exif, icc_profile=b"profile"))
    before = photo.read_bytes()
    write(photo)
    after = photo.read_bytes()
    assert exiftool(photo) == TEXT
    assert scan(after) == scan(before)
    with Image.open(BytesIO(after)) as image:
        assert image.getexif()[0x010F] == "Maker"
        assert image.info["icc_profile"] == b"profile"
    assert os.listdir(tmp_path) == [photo.name]


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "GIF", "TIFF", "AVIF", "JPEG2000"])
def test_other_formats_hold_the_text_too_whatever_their_suffix_is(exiftool, tmp_path, kind):
    if kind not in Image.SAVE:
        Image.init()
    if kind not in Image.SAVE:
        pytest.skip(f"this Pillow writes no {kind}")
    photo = tmp_path / "photo.jpg"
    photo.write_bytes(encoded(scene(), kind))
    before = read_image(photo).tobytes()
    write(photo)
    assert has_alt_text(photo)
    assert read_image(photo).tobytes() == before
    photo = photo.rename(tmp_path / f"photo.{kind.lower()}")
    assert exiftool(photo) == TEXT


def test_a_heic_photo_holds_the_text(exiftool, tmp_path):
    pillow_heif = pytest.importorskip("pillow_heif")
    pillow_heif.from_pillow(scene()).save(tmp_path / "a.heic")
    before = read_image(tmp_path / "a.heic").tobytes()
    write(tmp_path / "a.heic")
    assert exiftool(tmp_path / "a.heic") == TEXT
    assert read_image(tmp_path / "a.heic").tobytes() == before


@pytest.fixture
def photo(tmp_path):
    path = tmp_path / "photo.jpg"
    path.write_bytes(encoded(scene(), "JPEG"))
    return path


def test_an_existing_text_is_kept_replaced_or_added_to(exiftool, photo):
    assert not has_alt_text(photo)
    write(photo, "one")
    with pytest.raises(UsageError, match="1 of 1 images have an alternative text already"):
        write(photo, "two")
    with AltTexts() as texts, pytest.raises(NotWrittenError, match="has an alternative text"):
        texts.add(item(photo), ["two"])
    with AltTexts(existing="skip") as texts:
        assert not texts.wants(item(photo))
        texts.add(item(photo), ["two"])
    assert exiftool(photo) == "one"
    write(photo, "two", existing="append")
    assert exiftool(photo) == "one\ntwo"
    write(photo, "three", existing="overwrite")
    assert exiftool(photo) == "three"


def test_permissions_stay_and_the_time_is_now(exiftool, photo):
    photo.write_bytes(encoded(noise(200, 200), "JPEG"))  # larger than a buffer
    photo.chmod(0o604)
    os.utime(photo, (1, 1))
    write(photo)
    status = photo.stat()
    assert stat.S_IMODE(status.st_mode) == 0o604
    assert status.st_mtime > 1e9


def refused(path):
    before = path.read_bytes()
    with AltTexts() as texts, pytest.raises(NotWrittenError) as caught:
        texts.add(item(path), ["a cat"])
    assert path.read_bytes() == before
    return caught.value.reason


def test_read_only_files_links_and_other_formats_are_refused(exiftool, photo):
    link = photo.with_name("link.jpg")
    link.symlink_to(photo)
    assert refused(link).startswith("is a link")
    photo.chmod(0o444)
    assert refused(photo) == "is read-only"
    bitmap = photo.with_name("a.jpg")
    bitmap.write_bytes(encoded(scene(), "BMP"))
    assert refused(bitmap) == "exiftool writes no XMP to BMP files"


def test_a_file_whose_pixels_would_change_is_left_as_it_was(exiftool, photo, monkeypatch):
    run = "captioner.results.xmp.ExifTool.run"
    changed = encoded(scene().rotate(180), "JPEG")

    def change(tool, *arguments):
        if arguments[0] != "-overwrite_original":
            return ""
        (Path(tool.folder) / "image.jpg").write_bytes(changed)
        return "1 image files updated"

    monkeypatch.setattr(run, change)
    assert "has changed its pixels" in refused(photo)
    answers = {"-q": "", "-overwrite_original": "Error: No luck - image.jpg\n    0 image files"}
    monkeypatch.setattr(run, lambda tool, first, *others: answers[first])
    assert refused(photo) == "exiftool cannot write it: No luck"


def test_a_file_that_changes_meanwhile_is_left_as_it_is(exiftool, photo, monkeypatch):
    def edit(path, copy):
        path.write_bytes(encoded(noise(64, 48), "JPEG"))

    monkeypatch.setattr("captioner.results.xmp._check_pixels", edit)
    with AltTexts() as texts, pytest.raises(NotWrittenError, match="by another program"):
        texts.add(item(photo), ["a cat"])
    assert read_image(photo).size == (64, 48)


def test_an_image_without_a_caption_to_show_is_left_as_it_is(exiftool, photo):
    before = photo.read_bytes()
    with AltTexts() as texts:
        texts.add(item(photo), [])
    assert photo.read_bytes() == before


def test_exiftool_ends_with_the_run(exiftool, photo):
    with AltTexts() as texts:
        texts.add(item(photo), ["a cat"])
        process = texts._exiftool._process
        assert process.poll() is None
    assert process.poll() is not None


def test_without_exiftool_the_error_names_its_packages(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(MissingPackageError, match="libimage-exiftool-perl"):
        AltTexts()
