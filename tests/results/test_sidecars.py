"""Sidecars: where they are, what is in them, and what happens to those that exist."""

import os
import stat

import pytest

from captioner.data.lists import BrokenRow, ImageItem, ListedPath
from captioner.errors import CaptionerError, UsageError
from captioner.results.html import image_tag
from captioner.results.sidecars import NotWrittenError, Sidecars


@pytest.fixture
def photos(tmp_path, monkeypatch):
    """A working folder with a.jpg and sub/b.jpg in photos/."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos/sub").mkdir(parents=True)
    for name in ("photos/a.jpg", "photos/sub/b.jpg"):
        (tmp_path / name).touch()
    return tmp_path / "photos"


def items(*names):
    return [ImageItem(name, name) for name in names]


def write(sidecars, *names, captions=("a cat",)):
    sidecars.check(items(*names))
    for item in items(*names):
        sidecars.add(item, captions)


def test_a_sidecar_is_beside_its_image_and_ends_with_a_line_break(photos):
    write(Sidecars("txt", ["photos"]), "photos/a.jpg", "photos/sub/b.jpg")
    assert (photos / "a.txt").read_bytes() == b"a cat\n"
    assert (photos / "sub/b.txt").read_bytes() == b"a cat\n"
    write(Sidecars("caption", ["photos"]), "photos/a.jpg")
    assert (photos / "a.caption").exists()


def test_texts_are_before_and_after_each_of_the_captions(photos):
    sidecars = Sidecars("txt", before="sks dog, ", after=", photo")
    write(sidecars, "photos/a.jpg", captions=["a dög", "two dogs"])
    lines = "sks dog, a dög, photo\nsks dog, two dogs, photo\n"
    assert (photos / "a.txt").read_text(encoding="utf-8") == lines


def test_an_image_without_a_caption_to_show_has_no_sidecar(photos):
    write(Sidecars("txt", existing="overwrite"), "photos/a.jpg", captions=[])
    assert not (photos / "a.txt").exists()


@pytest.mark.parametrize(
    ("argument", "image", "place"),
    [
        ("photos", "photos/sub/b.jpg", "sub/b.txt"),
        ("photos/", "photos/a.jpg", "a.txt"),
        (".", "photos/a.jpg", "photos/a.txt"),
        ("photos/sub/b.jpg", "photos/sub/b.jpg", "b.txt"),
        ("photos/**/*.jpg", "photos/sub/b.jpg", "sub/b.txt"),
        ("*/sub/*.jpg", "photos/sub/b.jpg", "photos/sub/b.txt"),
        ("tars/{00..01}.tar", "00.tar/1.jpg", "00.tar/1.txt"),
        ("list.txt", "../other/c.jpg", "other/c.txt"),
        ("list.txt", "/data/c.jpg", "data/c.txt"),
    ],
)
def test_a_mirror_keeps_the_folders_below_the_one_that_is_named(photos, argument, image, place):
    sidecars = Sidecars("txt", [argument], folder=photos.parent / "mirror")
    assert sidecars.path(ImageItem(image, image)) == photos.parent / "mirror" / place


def test_the_innermost_folder_that_is_named_counts(photos):
    sidecars = Sidecars("txt", ["photos", "photos/sub"], folder=photos.parent / "mirror")
    assert sidecars.path(*items("photos/sub/b.jpg")) == photos.parent / "mirror/b.txt"


def test_folders_of_a_mirror_are_made(photos):
    write(Sidecars("txt", ["photos"], folder=photos.parent / "m"), "photos/sub/b.jpg")
    assert (photos.parent / "m/sub/b.txt").read_text() == "a cat\n"


def test_two_images_with_one_sidecar_are_refused_before_anything_is_written(photos):
    with pytest.raises(UsageError) as caught:
        Sidecars("txt").check(items("photos/a.jpg", "photos/a.png"))
    assert "photos/a.txt is the sidecar of photos/a.jpg and of photos/a.png" in str(caught.value)
    sidecars = Sidecars("txt")  # the images of a bulk run are checked part by part
    sidecars.check(items("photos/a.jpg"))
    with pytest.raises(UsageError, match="is the sidecar of"):
        sidecars.check(items("photos/a.png"))


@pytest.mark.parametrize("existing", ["overwrite", "append", "skip", "error"])
def test_a_sidecar_never_replaces_an_image_or_a_list(photos, existing):
    (photos / "a.txt").write_text("an image with a wrong name")
    with pytest.raises(UsageError, match="is to be read"):
        Sidecars("txt", existing=existing).check(items("photos/a.txt"))
    with pytest.raises(UsageError, match="is to be read"):
        Sidecars("txt", ["photos/a.txt"], existing=existing).check(items("photos/a.jpg"))


def test_a_folder_in_the_place_of_a_sidecar_is_named(photos):
    (photos / "a.txt").mkdir()
    with pytest.raises(UsageError, match=r"a\.txt is a folder"):
        Sidecars("txt").check(items("photos/a.jpg"))


def test_an_existing_sidecar_is_an_error_unless_told_otherwise(photos):
    write(Sidecars("txt"), "photos/a.jpg")
    with pytest.raises(UsageError) as caught:
        Sidecars("txt").check(items("photos/a.jpg", "photos/sub/b.jpg"))
    assert str(caught.value) == (
        "1 of 2 images have a sidecar already (photos/a.txt): "
        "choose existing skip, overwrite or append"
    )
    sidecars = Sidecars("txt")  # another program has been faster
    with pytest.raises(NotWrittenError, match="another program"):
        sidecars.add(*items("photos/a.jpg"), ["a dog"])
    assert (photos / "a.txt").read_text() == "a cat\n"


def test_an_image_with_a_sidecar_is_skipped_overwritten_or_appended_to(photos):
    (photos / "a.txt").write_bytes("père\r\nno break".encode())
    [a, b] = items("photos/a.jpg", "photos/sub/b.jpg")
    skip = Sidecars("txt", existing="skip")
    assert [skip.wants(a), skip.wants(b)] == [False, True]
    skip.add(a, ["a cat"])
    assert (photos / "a.txt").read_bytes() == "père\r\nno break".encode()
    for existing in ("overwrite", "append"):
        assert Sidecars("txt", existing=existing).wants(a)
    for name in ("photos/a.jpg", "photos/sub/b.jpg"):
        write(Sidecars("txt", existing="append"), name, captions=["a cat", "two"])
    assert (photos / "a.txt").read_bytes() == "père\r\nno break\na cat\ntwo\n".encode()
    assert (photos / "sub/b.txt").read_bytes() == b"a cat\ntwo\n"
    write(Sidecars("txt", existing="overwrite"), "photos/a.jpg")
    assert (photos / "a.txt").read_bytes() == b"a cat\n"


def test_lines_are_not_added_to_a_file_that_is_not_utf_8(photos):
    content = "a cat".encode("utf-16")
    (photos / "a.txt").write_bytes(content)
    with pytest.raises(NotWrittenError, match=r"photos/a\.txt: is not UTF-8"):
        write(Sidecars("txt", existing="append"), "photos/a.jpg")
    assert (photos / "a.txt").read_bytes() == content


def test_a_sidecar_has_the_permissions_of_any_new_file_and_a_link_stays_one(photos):
    (photos / "target.md").write_text("old\n")
    (photos / "a.txt").symlink_to("target.md")
    (photos / "sub/b.txt").symlink_to("nothing.md")
    umask = os.umask(0o027)
    try:
        write(Sidecars("txt", existing="append"), "photos/a.jpg", "photos/sub/b.jpg")
    finally:
        os.umask(umask)
    assert (photos / "a.txt").is_symlink()
    assert (photos / "target.md").read_text() == "old\na cat\n"
    assert (photos / "sub/nothing.md").read_text() == "a cat\n"
    assert stat.S_IMODE((photos / "sub/nothing.md").stat().st_mode) == 0o640
    assert not list(photos.rglob("*captioner-tmp"))


def test_two_links_to_one_sidecar_are_refused(photos):
    (photos / "a.txt").symlink_to("c.txt")
    with pytest.raises(UsageError, match=r"is the sidecar of photos/a.jpg and of photos/c.jpg"):
        Sidecars("txt").check(items("photos/a.jpg", "photos/c.jpg"))


def failing(error):
    def fail(*arguments):
        raise error

    return fail


@pytest.mark.parametrize(
    "error", [PermissionError(13, "Permission denied"), OSError(36, "Too long")]
)
def test_a_sidecar_that_cannot_be_written_does_not_concern_the_others(photos, monkeypatch, error):
    monkeypatch.setattr("captioner.storage.publish", failing(error))
    with pytest.raises(NotWrittenError) as caught:
        write(Sidecars("txt"), "photos/a.jpg")
    assert str(caught.value) == f"photos/a.txt: cannot be written: {error.strerror.lower()}"


def test_a_full_disk_ends_the_run_and_names_the_way_to_continue(photos, monkeypatch):
    monkeypatch.setattr(
        "captioner.storage.publish", failing(OSError(28, "No space left on device"))
    )
    with pytest.raises(CaptionerError) as caught:
        write(Sidecars("txt"), "photos/a.jpg")
    assert not isinstance(caught.value, NotWrittenError)
    assert "no space left on device: free some space" in str(caught.value)
    assert "existing skip to continue" in str(caught.value)


def test_images_that_are_no_files_need_a_mirror(photos):
    member = ImageItem("00.tar/1.jpg", BrokenRow("00.tar/1.jpg", "stands for a member of a tar"))
    with pytest.raises(UsageError, match=r"00\.tar/1\.jpg is no file on this machine"):
        Sidecars("txt").check([member])
    mirror = Sidecars("txt", ["00.tar"], folder=photos.parent / "m")
    mirror.check([member])
    mirror.add(member, ["a cat"])
    assert (photos.parent / "m/00.tar/1.txt").exists()


def test_the_sidecar_of_a_listed_image_is_beside_the_image(photos):
    listed = ImageItem("sub/b.jpg", ListedPath("photos", "sub/b.jpg"))
    assert Sidecars("txt").path(listed) == photos.relative_to(photos.parent) / "sub/b.txt"


@pytest.mark.parametrize(
    ("path", "caption", "tag"),
    [
        ("a/b.jpg", "a cat", '<img src="a/b.jpg" alt="a cat">'),
        ("/a/b.jpg", "", '<img src="/a/b.jpg" alt="">'),
        ("//host/b.jpg", "x", '<img src="/host/b.jpg" alt="x">'),
        ("c:d.jpg", "x", '<img src="c%3Ad.jpg" alt="x">'),
        ("é 1%?#.jpg", "x", '<img src="%C3%A9%201%25%3F%23.jpg" alt="x">'),
        ('"><b>.jpg', "x", '<img src="%22%3E%3Cb%3E.jpg" alt="x">'),
        ("a\nb\udcff.jpg", "x", '<img src="a%0Ab%FF.jpg" alt="x">'),
        ("a.jpg", "\"&'<é>", '<img src="a.jpg" alt="&quot;&amp;&#x27;&lt;é&gt;">'),
        ("a.jpg", None, '<img src="a.jpg">'),
    ],
)
def test_an_html_element_holds_any_path_and_any_caption(path, caption, tag):
    assert image_tag(path, caption) == tag
