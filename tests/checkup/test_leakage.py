"""Near-duplicates: copies of a picture are found, other pictures are not, however many are compared."""

import io
import json
from itertools import pairwise

import numpy as np
import pytest
from data_sets import encoded, picture
from PIL import Image, ImageEnhance

from captioner.checkup import leakage as looks
from captioner.checkup.leakage import COLUMNS, ROWS, inspect_images
from captioner.data.datasets import load_examples


def thumbnails(*pictures):
    small = (it.convert("RGB").resize((COLUMNS, ROWS), Image.Resampling.BOX) for it in pictures)
    return looks.stack([it.tobytes() for it in small])


def recoded(image, quality):
    return Image.open(io.BytesIO(encoded(image, quality=quality)))


COPIES = {
    "encoded anew": lambda image: recoded(image, 40),
    "half the size": lambda image: image.resize((image.width // 2, image.height // 2)),
    "twice the size": lambda image: recoded(image.resize((image.width * 2, image.height * 2)), 60),
    "brighter": lambda image: ImageEnhance.Brightness(image).enhance(1.2),
    "cropped a little": lambda image: image.crop((2, 2, image.width - 2, image.height - 2)),
}


def test_a_hash_says_where_each_row_becomes_lighter():
    row = np.array([0, 9, 9, 5, 6, 0, 0, 1, 2])
    thumbnail = np.repeat(np.tile(row, (ROWS, 1))[None, :, :, None], 3, axis=3).astype(np.uint8)
    [found] = looks.difference_hashes(thumbnail).tolist()
    expected = "".join(str(int(right > left)) for left, right in pairwise(row))
    assert found == int(expected * ROWS, 2)


@pytest.mark.parametrize("change", COPIES.values(), ids=COPIES.keys())
def test_a_copy_is_found_among_other_pictures_and_nothing_else_is(change):
    known = thumbnails(*map(picture, range(200)))
    asked = thumbnails(picture(1000), change(picture(7)), picture(1001))
    assert [(twin.known, twin.asked) for twin in looks.twins(known, asked)] == [(7, 1)]


def test_the_same_pattern_in_other_colours_is_another_picture():
    red, green = (Image.merge("RGB", bands) for bands in (_bands("red"), _bands("green")))
    one, other = thumbnails(red), thumbnails(green)
    assert looks.difference_hashes(one).tolist() == looks.difference_hashes(other).tolist()
    assert list(looks.twins(one, other)) == []


def _bands(name):
    pattern = picture(0).convert("L")
    black = Image.new("L", pattern.size)
    return (pattern, black, black) if name == "red" else (black, pattern, black)


def test_even_surfaces_look_like_nothing():
    blank = thumbnails(Image.new("RGB", (50, 50), "white"), Image.new("RGB", (50, 50), "grey"))
    assert list(looks.twins(blank, blank)) == []


def test_blocks_do_not_change_what_is_found(monkeypatch):
    known, asked = thumbnails(*map(picture, range(40))), thumbnails(*map(picture, range(20, 60)))
    whole = list(looks.twins(known, asked))
    monkeypatch.setattr(looks, "BLOCK", 100)
    assert list(looks.twins(known, asked)) == whole
    assert [(twin.known, twin.asked) for twin in whole] == [(20 + n, n) for n in range(20)]


def test_nothing_is_like_nothing():
    assert list(looks.twins(thumbnails(), thumbnails(picture(1)))) == []
    assert list(looks.twins(thumbnails(picture(1)), thumbnails())) == []


@pytest.mark.data
def test_copies_of_photographs_are_found_and_no_other_photograph(research_data):
    """Prints how many copies of 200 dev photographs of Flickr8k are found among all train photographs."""
    train, dev = (
        load_examples(research_data / f"flickr8k/captions_{split}.json")
        for split in ("train", "dev")
    )
    known = looks.stack(
        [found.thumbnail for found in inspect_images(example.path for example in train)]
    )
    photographs = [Image.open(example.path).convert("RGB") for example in train[:200]]
    others = looks.stack(
        [found.thumbnail for found in inspect_images(example.path for example in dev)]
    )
    shares = {
        name: sum(
            twin.known == twin.asked
            for twin in looks.twins(known, thumbnails(*map(change, photographs)))
        )
        / 200
        for name, change in COPIES.items()
    }
    chance = list(looks.twins(known, others))
    print(json.dumps(shares), f"{len(chance)} of {len(dev)} dev photographs look like one of train")
    assert min(shares.values()) > 0.95
    assert len(chance) <= 2
