"""Near-duplicates: copies of an image are found, and no other images."""

import io
import json
from itertools import pairwise

import numpy as np
import pytest
from data_sets import encoded, picture
from PIL import Image, ImageEnhance

from captioner.checkup import leakage
from captioner.checkup.leakage import COLUMNS, ROWS, read_image_infos
from captioner.data.datasets import load_examples


def thumbnails(*pictures):
    small = (it.convert("RGB").resize((COLUMNS, ROWS), Image.Resampling.BOX) for it in pictures)
    return leakage.stack([it.tobytes() for it in small])


def recoded(image, quality):
    return Image.open(io.BytesIO(encoded(image, quality=quality)))


COPIES = {
    "encoded anew": lambda image: recoded(image, 40),
    "half the size": lambda image: image.resize((image.width // 2, image.height // 2)),
    "twice the size": lambda image: recoded(image.resize((image.width * 2, image.height * 2)), 60),
    "brighter": lambda image: ImageEnhance.Brightness(image).enhance(1.2),
    "cropped a little": lambda image: image.crop((2, 2, image.width - 2, image.height - 2)),
}


def test_a_hash_marks_where_each_row_becomes_brighter():
    row = np.array([0, 9, 9, 5, 6, 0, 0, 1, 2])
    thumbnail = np.repeat(np.tile(row, (ROWS, 1))[None, :, :, None], 3, axis=3).astype(np.uint8)
    [found] = leakage.difference_hashes(thumbnail).tolist()
    expected = "".join(str(int(right > left)) for left, right in pairwise(row))
    assert found == int(expected * ROWS, 2)


@pytest.mark.parametrize("change", COPIES.values(), ids=COPIES.keys())
def test_a_copy_is_found_among_other_pictures_and_nothing_else_is(change):
    references = thumbnails(*map(picture, range(200)))
    queries = thumbnails(picture(1000), change(picture(7)), picture(1001))
    pairs = leakage.find_near_duplicates(references, queries)
    assert [(pair.reference, pair.query) for pair in pairs] == [(7, 1)]


def test_the_same_pattern_in_other_colours_is_another_picture():
    red, green = (Image.merge("RGB", bands) for bands in (_bands("red"), _bands("green")))
    one, other = thumbnails(red), thumbnails(green)
    assert leakage.difference_hashes(one).tolist() == leakage.difference_hashes(other).tolist()
    assert list(leakage.find_near_duplicates(one, other)) == []


def _bands(name):
    pattern = picture(0).convert("L")
    black = Image.new("L", pattern.size)
    return (pattern, black, black) if name == "red" else (black, pattern, black)


def test_plain_surfaces_are_no_near_duplicates():
    blank = thumbnails(Image.new("RGB", (50, 50), "white"), Image.new("RGB", (50, 50), "grey"))
    assert list(leakage.find_near_duplicates(blank, blank)) == []


def test_the_block_size_does_not_change_the_result(monkeypatch):
    references = thumbnails(*map(picture, range(40)))
    queries = thumbnails(*map(picture, range(20, 60)))
    whole = list(leakage.find_near_duplicates(references, queries))
    monkeypatch.setattr(leakage, "BLOCK_SIZE", 100)
    assert list(leakage.find_near_duplicates(references, queries)) == whole
    assert [(pair.reference, pair.query) for pair in whole] == [(20 + n, n) for n in range(20)]


def test_an_empty_split_has_no_near_duplicates():
    assert list(leakage.find_near_duplicates(thumbnails(), thumbnails(picture(1)))) == []
    assert list(leakage.find_near_duplicates(thumbnails(picture(1)), thumbnails())) == []


@pytest.mark.data
def test_copies_of_photographs_are_found_and_no_other_photograph(research_data):
    """Print how many copies of 200 photographs of Flickr8k are found among all of train."""
    train, dev = (
        load_examples(research_data / f"flickr8k/captions_{split}.json")
        for split in ("train", "dev")
    )
    references = leakage.stack(
        [info.thumbnail for info in read_image_infos(example.path for example in train)]
    )
    photographs = [Image.open(example.path).convert("RGB") for example in train[:200]]
    others = leakage.stack(
        [info.thumbnail for info in read_image_infos(example.path for example in dev)]
    )
    shares = {
        name: sum(
            pair.reference == pair.query
            for pair in leakage.find_near_duplicates(
                references, thumbnails(*map(change, photographs))
            )
        )
        / 200
        for name, change in COPIES.items()
    }
    false_pairs = list(leakage.find_near_duplicates(references, others))
    print(
        json.dumps(shares),
        f"{len(false_pairs)} of {len(dev)} dev photographs are called near-duplicates",
    )
    assert min(shares.values()) > 0.95
    assert len(false_pairs) <= 2
