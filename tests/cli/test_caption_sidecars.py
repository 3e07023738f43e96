"""`captioner caption` with --sidecar, --xmp and --alt-html."""

import os
import shutil
from html.parser import HTMLParser

import pytest
from pictures import encoded, noise, scene

from captioner.data.images import read_image
from captioner.results import sidecars


@pytest.fixture
def photos(tmp_path, monkeypatch):
    """photos/a.png and photos/sub/b.png, in the working folder."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos/sub").mkdir(parents=True)
    (tmp_path / "photos/a.png").write_bytes(encoded(scene()))
    (tmp_path / "photos/sub/b.png").write_bytes(encoded(noise(64, 48)))
    return tmp_path / "photos"


@pytest.fixture
def caption(run, onnx_model):
    def call(*arguments):
        return run("caption", *arguments, "--model", onnx_model)

    return call


def printed(out):
    return dict(line.split("\t")[:2] for line in out.splitlines())


def texts(folder):
    return {
        str(path.relative_to(folder)): path.read_text(encoding="utf-8")
        for path in sorted(folder.rglob("*.txt"))
    }


def test_sidecars_have_the_printed_captions_with_the_trigger_word(caption, photos):
    code, out, err = caption("photos", "--sidecar", "txt", "--prefix-text", "sks dog, ")
    assert (code, err) == (0, "")
    captions = printed(out)
    assert texts(photos) == {
        "a.txt": f"sks dog, {captions['photos/a.png']}\n",
        "sub/b.txt": f"sks dog, {captions['photos/sub/b.png']}\n",
    }


def test_a_second_run_is_refused_or_skips_or_appends(caption, photos):
    (photos / "a.txt").write_text("by hand\n")
    code, out, err = caption("photos", "--sidecar", "txt")
    assert (code, out) == (2, "")
    assert err == (
        "captioner: 1 of 2 images have a sidecar already (photos/a.txt): "
        "choose --existing skip, overwrite or append\n"
    )
    assert list(texts(photos)) == ["a.txt"]
    code, out, err = caption("photos", "--sidecar", "txt", "--existing", "skip")
    assert (code, list(printed(out))) == (0, ["photos/sub/b.png"])
    assert err == "captioner: 1 image has a text already: left out\n"
    assert texts(photos)["a.txt"] == "by hand\n"
    for _ in range(2):
        assert caption("photos", "--sidecar", "txt", "--existing", "append")[0] == 0
    assert [text.count("\n") for text in texts(photos).values()] == [3, 3]
    assert texts(photos)["a.txt"].startswith("by hand\n")


def test_nothing_is_left_to_do_if_all_have_a_text(caption, photos):
    assert caption("photos", "--sidecar", "txt", "--existing", "skip")[0] == 0
    code, out, err = caption("photos", "--sidecar", "txt", "--existing", "skip")
    assert (code, out) == (0, "")
    assert err == "captioner: 2 images have a text already: left out\n"


def test_a_mirror_has_the_subfolders(caption, photos):
    assert caption("photos", "--sidecar", "txt", "--sidecar-dir", "texts")[0] == 0
    assert list(texts(photos.parent / "texts")) == ["a.txt", "sub/b.txt"]
    assert texts(photos) == {}


def test_two_images_with_one_sidecar_are_refused_before_anything_is_captioned(caption, photos):
    shutil.copy(photos / "a.png", photos / "a.jpg")
    code, out, err = caption("photos", "--sidecar", "txt", "--existing", "overwrite")
    assert (code, out) == (2, "")
    assert "photos/a.txt is the sidecar of photos/a.jpg and of photos/a.png" in err
    assert texts(photos) == {}


def test_a_folder_that_cannot_be_written_is_named_once_and_the_rest_is_done(
    caption, photos, monkeypatch
):
    (photos / "sub/c.png").write_bytes(encoded(scene()))
    original = sidecars.atomic_binary_file

    def closed(path):
        if "sub" in path.parts:
            raise PermissionError(13, "Permission denied")
        return original(path)

    monkeypatch.setattr(sidecars, "atomic_binary_file", closed)
    code, out, err = caption("photos", "--sidecar", "txt")
    assert (code, len(printed(out))) == (3, 3)
    assert err == (
        "captioner: photos/sub/b.txt: cannot be written: permission denied\n"
        "captioner: 2 texts could not be written\n"
    )
    assert list(texts(photos)) == ["a.txt"]


@pytest.fixture
def interrupt(monkeypatch):
    """A function that calls another one; Ctrl-C comes with the second sidecar."""

    def call(function, *arguments):
        original = sidecars.Sidecars.add
        done = []

        def interrupted(self, item, captions):
            if done:
                raise KeyboardInterrupt
            done.append(item.name)
            original(self, item, captions)

        with monkeypatch.context() as patch:
            patch.setattr(sidecars.Sidecars, "add", interrupted)
            return function(*arguments)

    return call


def test_an_interrupted_run_goes_on_with_skip(caption, photos, interrupt):
    assert interrupt(caption, "photos", "--sidecar", "txt")[0] == 130
    assert list(texts(photos)) == ["a.txt"]
    assert caption("photos", "--sidecar", "txt", "--existing", "skip")[0] == 0
    assert list(texts(photos)) == ["a.txt", "sub/b.txt"]


def test_an_interrupted_run_with_results_goes_on_with_the_same_command(caption, photos, interrupt):
    command = ("photos", "--sidecar", "txt", "--output", "all.jsonl")
    assert interrupt(caption, *command)[0] == 130
    code, out, _ = caption(*command)
    assert (code, list(printed(out))) == (0, ["photos/sub/b.png"])
    assert list(texts(photos)) == ["a.txt", "sub/b.txt"]
    assert len((photos.parent / "all.jsonl").read_text().splitlines()) == 2


def test_images_of_a_list_have_sidecars_too(caption, photos):
    (photos / "list.csv").write_text("image\na.png\nsub/b.png\nmissing.png\n")
    code, out, err = caption("photos/list.csv", "--sidecar", "txt")
    assert (code, len(printed(out))) == (3, 2)
    assert "missing.png: no such file" in err
    assert list(texts(photos)) == ["a.txt", "sub/b.txt"]
    code, out, err = caption("photos/list.csv", "--sidecar", "txt", "--existing", "skip")
    assert (code, out) == (3, "")
    assert "2 images have a text already: left out" in err
    assert caption("photos/list.csv", "--sidecar", "txt")[0] == 2


def test_rows_and_sidecars_are_written_in_one_run(caption, photos):
    assert caption("photos", "--output", "rows/", "--sidecar", "txt")[0] == 0
    assert list(texts(photos)) == ["a.txt", "sub/b.txt"]
    assert len((photos.parent / "rows/part-00000000.jsonl").read_text().splitlines()) == 2


@pytest.mark.skipif(not shutil.which("exiftool"), reason="exiftool is not installed")
def test_alternative_texts_are_in_the_files_and_a_read_only_one_is_named(caption, photos):
    before = read_image(photos / "a.png").tobytes()
    (photos / "sub/b.png").chmod(0o444)
    (photos / "link.png").symlink_to("a.png")
    code, out, err = caption("photos", "--xmp")
    assert code == 3
    assert err == (
        "captioner: photos/link.png: is a link, which --xmp does not replace\n"
        "captioner: photos/sub/b.png: is read-only\n"
        "captioner: 2 texts could not be written\n"
    )
    assert printed(out)["photos/a.png"].encode() in (photos / "a.png").read_bytes()
    assert read_image(photos / "a.png").tobytes() == before
    code, out, err = caption("photos/a.png", "--xmp")
    assert (code, out) == (2, "")
    assert "1 of 1 images have an alternative text already (photos/a.png)" in err
    # An image that one of two texts lacks is captioned, and the other text stays.
    code, out, _ = caption("photos/a.png", "--xmp", "--sidecar", "txt", "--existing", "skip")
    assert (code, list(texts(photos))) == (0, ["a.txt"])


def test_without_exiftool_nothing_is_captioned(caption, photos, monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    code, out, err = caption("photos", "--xmp")
    assert (code, out) == (1, "")
    assert err.startswith("captioner: --xmp needs exiftool, which is not installed: install ")
    assert err.count("\n") == 1


class Images(HTMLParser):
    """The attributes of the `<img>` elements of a page."""

    def __init__(self, page):
        super().__init__()
        self.found = []
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        assert tag == "img"
        self.found.append(dict(attributes))


def test_html_elements_are_printed_in_place_of_paths_and_captions(caption, photos):
    (photos / "a.png").rename(photos / 'a "1\n%.png')
    captions = printed(caption("photos")[1])
    code, out, err = caption("photos", "--alt-html")
    assert (code, err, len(out.splitlines())) == (0, "", 2)
    assert Images(out).found == [
        {"src": "photos/a%20%221%0A%25.png", "alt": captions['photos/a "1 %.png']},
        {"src": "photos/sub/b.png", "alt": captions["photos/sub/b.png"]},
    ]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--prefix-text", "a"), "--prefix-text has no effect without --sidecar"),
        (("--suffix-text", ""), "--suffix-text has no effect without --sidecar"),
        (("--sidecar-dir", "d"), "--sidecar-dir has no effect without --sidecar"),
        (("--existing", "skip"), "--existing has no effect without --sidecar or --xmp"),
        (("--sidecar", "txt", "--prefix-text", "a\nb"), "--prefix-text has a line break"),
        (("--alt-html", "--json"), "--alt-html and --json both say what is printed"),
        (
            ("--sidecar", "txt", "--existing", "skip", "--output", "a.json"),
            "--output would lack the images that --existing skip leaves out",
        ),
        (("--alt-html", "--output", "rows/"), "--alt-html has no effect with a folder"),
    ],
)
def test_options_that_do_not_fit_are_refused_before_anything_is_read(
    caption, photos, options, message
):
    code, out, err = caption("photos", *options)
    assert (code, out) == (2, "")
    assert err.startswith(f"captioner: {message}")
    assert os.listdir(photos.parent) == ["photos"]


def test_shards_and_continued_runs_have_their_own_sidecars(caption, photos):
    command = ("photos", "--output", "rows/", "--part-size", "1", "--sidecar", "txt")
    assert caption(*command, "--shard", "2/2")[0] == 0
    assert list(texts(photos)) == ["sub/b.txt"]
    assert caption(*command, "--shard", "1/2")[0] == 0
    assert list(texts(photos)) == ["a.txt", "sub/b.txt"]
    code, _, err = caption(*command)  # nothing is left to do
    assert (code, "2 of 2 images were captioned by an earlier run" in err) == (0, True)


def test_a_bulk_run_refuses_sidecars_that_it_has_not_written(caption, photos):
    (photos / "sub/b.txt").write_text("by hand\n")
    code, out, err = caption("photos", "--output", "rows/", "--part-size", "1", "--sidecar", "txt")
    assert (code, out) == (2, "")
    assert "1 of 1 images have a sidecar already (photos/sub/b.txt)" in err
    assert list(texts(photos)) == ["sub/b.txt"]
    shutil.copy(photos / "a.png", photos / "a.jpg")  # in another part, of another shard
    code, _, err = caption(
        "photos", "--output", "rows/", "--part-size", "1", "--sidecar", "txt", "--shard", "1/3"
    )
    assert (code, "is the sidecar of photos/a.jpg and of photos/a.png" in err) == (2, True)
