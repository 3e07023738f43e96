"""Images are found under the names that other machines give them, and never outside the folder."""

import json
import logging
import unicodedata

import pytest

from captioner.data.datasets import load_examples, load_with_problems
from captioner.data.lookup import ImageFolder
from captioner.data.problems import Problems
from captioner.errors import UsageError

NFC, NFD = (unicodedata.normalize(form, "café.jpg") for form in ("NFC", "NFD"))


@pytest.fixture
def folder(tmp_path):
    """Make `data/images` with these files, and one file beside it."""
    (tmp_path / "data" / "images").mkdir(parents=True)
    (tmp_path / "data" / "secret.jpg").touch()

    def make(*names):
        root = tmp_path / "data" / "images"
        for name in names:
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).touch()
        return ImageFolder(root, tmp_path / "data" / "annotations")

    return make


@pytest.mark.parametrize(
    ("name", "file"),
    [
        (NFC, NFD),
        (NFD, NFC),
        ("1.JPG", "1.jpg"),
        ("1.jpg", "1.JPG"),
        ("IMG_1.jpg", "img_1.JPG"),
        ("a\\1.jpg", "a/1.jpg"),
        ("A\\Б\\1.JPG", "a/б/1.jpg"),
        ("images\\1.jpg", "1.jpg"),
        ("images/1.jpg", "1.jpg"),
        ("../images/1.jpg", "1.jpg"),
        ("..\\images\\a\\1.jpg", "a/1.jpg"),
        ("./a/../1.jpg", "1.jpg"),
        ("../../photos/1.jpg", "1.jpg"),
        ("/data/upload/1.jpg", "1.jpg"),
        ("/data/upload/7/my%20dog.jpg", "my dog.jpg"),
        ("/home/x/train/1.jpg", "train/1.jpg"),
        ("C:\\Users\\x\\images\\1.jpg", "1.jpg"),
        ("https://example.org/val2017/1.jpg", "1.jpg"),
        ("https://example.org/1.jpg?size=3", "1.jpg"),
        (" 1.jpg", "1.jpg"),
        (f"/Users/x/{NFD}", NFC),
    ],
)
def test_a_file_is_found_under_another_spelling_of_its_name(folder, name, file):
    lookup = folder(file).find_all([name])
    assert lookup == ({name: file}, {name: file}, {})


def test_an_absolute_path_of_this_machine_inside_the_folder_is_that_file(folder):
    images = folder("a/1.jpg", "1.jpg")
    name = str(images.root / "a" / "1.jpg")
    assert images.find_all([name]).found == {name: "a/1.jpg"}


def test_the_longest_end_of_a_foreign_path_that_exists_is_taken(folder):
    images = folder("train/1.jpg", "1.jpg")
    assert images.find_all(["/x/train/1.jpg"]).found == {"/x/train/1.jpg": "train/1.jpg"}


@pytest.mark.parametrize(
    "name",
    [
        "../secret.jpg",
        "..\\secret.jpg",
        "a/../../secret.jpg",
        "/etc/passwd",
        "C:\\secret.jpg",
        "..",
        "/",
        "%2e%2e/secret.jpg",
    ],
)
def test_no_spelling_leads_out_of_the_folder(folder, name, tmp_path):
    lookup = folder("a/1.jpg").find_all([name, str(tmp_path / "data" / "secret.jpg")])
    assert lookup.found == {}
    assert len(lookup.missing) == 2


def test_an_exact_name_is_preferred_and_its_file_given_to_no_other(folder):
    lookup = folder("a.jpg", "b.jpg", "B.JPG").find_all(["a.jpg", "A.JPG", "b.jpg", "B.JPG"])
    assert lookup.found == {name: name for name in ("a.jpg", "b.jpg", "B.JPG")}
    assert lookup.missing == {"A.JPG": "'a.jpg' is another image"}


def test_two_names_that_may_mean_one_file_are_both_missing(folder):
    lookup = folder("1.jpg").find_all(["/a/1.jpg", "/b/1.jpg", "1.JPG"])
    assert lookup.found == {}
    assert lookup.missing == {
        "/a/1.jpg": "'1.jpg' is that of '/b/1.jpg' too",
        "/b/1.jpg": "'1.jpg' is that of '/a/1.jpg' too",
        "1.JPG": "'1.jpg' is that of '/a/1.jpg' too",
    }


def test_a_name_that_fits_two_files_but_neither_exactly_is_missing(folder):
    assert list(folder("a.jpg", "A.JPG").find_all(["A.jpg"]).missing) == ["A.jpg"]


def test_a_relative_name_is_not_looked_for_in_other_folders(folder):
    assert list(folder("b/1.jpg", "1.jpg").find_all(["a/1.jpg"]).missing) == ["a/1.jpg"]


def test_a_name_on_another_drive_is_looked_for_by_its_ends(folder, monkeypatch):
    def relpath(path, start):  # as `ntpath.relpath` does
        raise ValueError("path is on mount 'D:', start on mount 'C:'")

    monkeypatch.setattr("captioner.data.lookup.os.path.relpath", relpath)
    assert folder("a/1.jpg").find_all(["D:\\x\\a\\1.jpg"]).missing == {}


def test_a_file_with_another_ending_is_named_as_a_hint(folder):
    images = folder("1.png", "sub/7.webp")
    assert images.find_all(["1.jpg", "1", "sub/7.jpg", "2.jpg"]).missing == {
        "1.jpg": "there is '1.png'",
        "1": "there is '1.png'",
        "sub/7.jpg": "there is '7.webp'",
        "2.jpg": "",
    }


def write(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("image,caption\n" + "".join(f"{name},a dog\n" for name in rows))
    return path


def test_spellings_are_told_once_in_a_summary_and_ids_stay_as_they_are(tmp_path, caplog):
    names = [f"photos\\{number}.JPG" for number in range(30)]
    (tmp_path / "photos").mkdir()
    for number in range(30):
        (tmp_path / "photos" / f"{number}.jpg").touch()
    path = write(tmp_path / "captions.csv", names)
    with caplog.at_level(logging.WARNING, "captioner"):
        examples = load_examples(path)
    assert [example.image_id for example in examples] == names
    assert all(example.path.is_file() for example in examples)
    [message] = caplog.messages
    assert "image names written otherwise than their files, found (30): " in message
    assert message.endswith("and 10 more")


def test_images_are_found_from_annotations_in_a_folder_beside_theirs(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "1.jpg").touch()
    for name in ("1.jpg", "../images/1.jpg"):
        path = write(tmp_path / "annotations" / "captions.csv", [name])
        assert load_examples(path)[0].path.samefile(tmp_path / "images" / "1.jpg")
        assert load_examples(path, tmp_path / "images")[0].path == tmp_path / "images" / "1.jpg"


@pytest.mark.parametrize(
    "images",
    [
        "Flicker8k_Dataset",
        "Flickr8k_Dataset/Flicker8k_Dataset",
        "../Flicker8k_Dataset",
        "images",
        "Images",
        "flickr30k-images",
        "flickr30k_images",
        ".",
        "..",
    ],
)
def test_karpathys_file_finds_the_folders_of_the_original_archives(tmp_path, images):
    path = tmp_path / "karpathy" / "dataset_flickr8k.json"
    path.parent.mkdir()
    row = {"imgid": 0, "filename": "1.jpg", "split": "train", "sentences": [{"raw": "a dog"}]}
    path.write_text(json.dumps({"images": [row]}))
    (path.parent / images).mkdir(parents=True, exist_ok=True)
    (path.parent / images / "1.jpg").touch()
    assert load_examples(path, split="train")[0].path.is_file()


def test_the_folder_is_found_by_images_that_exist_though_the_first_are_missing(tmp_path):
    (tmp_path / "images").mkdir()
    names = [f"{number:04}.jpg" for number in range(500)]
    for name in names[250:]:
        (tmp_path / "images" / name).touch()
    with pytest.raises(UsageError, match=r"images missing in .*/images \(250\)"):
        load_examples(write(tmp_path / "captions.csv", names))


@pytest.mark.parametrize("skip", [False, True])
def test_missing_images_are_no_error_to_a_caller_that_skips_them(tmp_path, skip):
    (tmp_path / "1.jpg").touch()
    path = write(tmp_path / "captions.csv", ["1.jpg", "2.jpg"])
    problems = Problems(path)
    loaded = load_with_problems(
        path, None, None, restval=False, skip_missing=skip, problems=problems
    )
    assert [example.path.name for example in loaded.examples] == ["1.jpg", "2.jpg"]
    assert loaded.missing == {tmp_path / "2.jpg"}
    [problem] = problems
    assert (list(problem.cases), problem.is_error) == (["'2.jpg'"], not skip)


def test_one_stray_picture_beside_the_annotations_does_not_hide_their_folder(tmp_path):
    (tmp_path / "images").mkdir()
    names = ["1.jpg", "2.jpg", "3.jpg"]
    for name in ("1.jpg", *(f"images/{name}" for name in names)):
        (tmp_path / name).touch()
    path = write(tmp_path / "captions.csv", names)
    assert {example.path.parent for example in load_examples(path)} == {tmp_path / "images"}
    (tmp_path / "images" / "2.jpg").rename(tmp_path / "images" / "2.JPG")
    assert {example.path.parent for example in load_examples(path)} == {tmp_path / "images"}


def test_of_two_folders_with_all_images_the_first_is_taken_or_that_of_the_exact_names(tmp_path):
    (tmp_path / "images").mkdir()
    for name in ("1.jpg", "images/1.jpg"):
        (tmp_path / name).touch()
    path = write(tmp_path / "captions.csv", ["1.jpg"])
    assert load_examples(path)[0].path == tmp_path / "1.jpg"
    (tmp_path / "1.jpg").rename(tmp_path / "1.JPG")
    assert load_examples(path)[0].path == tmp_path / "images" / "1.jpg"


def test_a_missing_image_never_has_a_path_outside_of_the_folder_or_of_another_image(tmp_path):
    (tmp_path / "images").mkdir()
    for name in ("secret.jpg", "images/1.jpg", "images/2.jpg"):
        (tmp_path / name).touch()
    names = ["1.jpg", "../secret.jpg", str(tmp_path / "secret.jpg"), "/", "..", "a\\..\\x.jpg"]
    names += ["/a/2.jpg", "/b/2.jpg"]  # either may mean 2.jpg, so neither does
    path = write(tmp_path / "captions.csv", names)
    problems = Problems(path)
    loaded = load_with_problems(
        path, None, None, restval=False, skip_missing=True, problems=problems
    )
    assert problems.errors == []
    assert [example.image_id for example in loaded.examples] == names
    paths = [example.path for example in loaded.examples]
    assert len(set(paths)) == len(names)
    assert {path.parent for path in paths} == {tmp_path / "images"}
    assert [path.exists() for path in paths] == [True] + [False] * (len(names) - 1)
    assert loaded.missing == set(paths[1:])


def test_a_folder_with_a_missing_image_is_named_though_others_are_found(tmp_path):
    (tmp_path / "images" / "train").mkdir(parents=True)
    for name in ("1.jpg", "train/2.jpg"):
        (tmp_path / "images" / name).touch()
    path = write(tmp_path / "captions.csv", ["1.jpg", "2.jpg", "3.jpg"])
    with pytest.raises(UsageError) as caught:
        load_examples(path)
    assert str(caught.value).endswith(f"(2): '2.jpg' (it is in {tmp_path}/images/train), '3.jpg'")


@pytest.mark.parametrize("given", [None, "empty"])
def test_another_folder_that_has_the_images_is_named_once(tmp_path, given):
    for folder in ("empty", "photos of July"):
        (tmp_path / folder).mkdir()
    for name in ("1.jpg", "2.jpg"):
        (tmp_path / "photos of July" / name).touch()
    path = write(tmp_path / "captions.csv", ["1.jpg", "2.jpg"])
    with pytest.raises(UsageError) as caught:
        load_examples(path, given and tmp_path / given)
    assert str(caught.value).endswith(
        f"(2): '1.jpg' (it is in {tmp_path}/photos of July: name this folder in `images`), '2.jpg'"
    )
