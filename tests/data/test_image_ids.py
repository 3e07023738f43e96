"""The ids of images by their paths."""

import json
import time
import unicodedata

import pytest

from captioner.data.image_ids import ImageIds, load_image_ids, name_by_ids
from captioner.errors import UsageError

FILES = {1: "1.jpg", 2: "a/2.jpg", 3: "b/2.jpg", 4: "b/c/2.jpg", "é": "é.jpg"}


@pytest.mark.parametrize(
    ("path", "image"),
    [
        ("1.jpg", 1),
        ("/data/val/1.jpg", 1),
        ("./val/../1.jpg", 1),
        (r"C:\val\1.jpg", 1),
        ("x/a/2.jpg", 2),
        ("x/b/c/2.jpg", 4),
        ("c/2.jpg", 4),  # the end of one name only
        ("2.jpg", None),  # the end of three
        ("x/2.jpg", None),
        ("11.jpg", None),
        (unicodedata.normalize("NFD", "x/é.jpg"), "é"),
    ],
)
def test_the_annotated_name_is_the_end_of_the_path(path, image):
    assert ImageIds(FILES).find(path) == image


def test_a_name_of_two_images_is_the_name_of_none():
    ids = ImageIds({1: "a/1.jpg", 2: "a/1.jpg", 3: "1.jpg"})
    assert [ids.find(path) for path in ("x/a/1.jpg", "b/1.jpg")] == [None, 3]


def test_many_images_whose_names_end_alike_are_found_in_linear_time():
    names = {number: f"{number}/image.jpg" for number in range(20_000)}
    start = time.process_time()
    ids = ImageIds(names)
    assert all(ids.find(f"data/{name}") == image for image, name in names.items())
    assert time.process_time() - start < 10  # 0.2 s; comparing each with all takes minutes


def test_captions_by_path_are_named_by_ids_and_other_keys_are_kept():
    captions = {"x/1.jpg": "a", 3: "b", "é": "c", "9.jpg": "d", 77: "e"}
    assert name_by_ids(captions, ImageIds(FILES)) == {
        1: "a",
        3: "b",
        "é": "c",
        "9.jpg": "d",
        77: "e",
    }


def test_two_captions_of_one_image_are_named():
    with pytest.raises(UsageError, match=r"1 caption \('y/1.jpg' is image 1\) of an image that"):
        name_by_ids({"x/1.jpg": "a", "y/1.jpg": "b"}, ImageIds(FILES))


def test_a_file_that_only_lists_images_has_ids(tmp_path):
    info = {"images": [{"id": 7, "file_name": "7.jpg"}, {"id": 8, "file_name": "8.jpg"}]}
    (tmp_path / "image_info.json").write_text(json.dumps(info))
    assert load_image_ids(tmp_path / "image_info.json").files == {7: "7.jpg", 8: "8.jpg"}


def test_annotations_of_other_formats_have_ids_too(tmp_path):
    (tmp_path / "captions.jsonl").write_text('{"image": "1.jpg", "caption": "a dog"}\n')
    assert load_image_ids(tmp_path).files == {"1.jpg": "1.jpg"}


@pytest.mark.parametrize("content", ['{"images": []}', "[]", "{", '{"images": 7}'])
def test_a_file_without_images_is_refused(tmp_path, content):
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(UsageError, match=r"a\.json"):
        load_image_ids(tmp_path / "a.json")
