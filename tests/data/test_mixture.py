"""An epoch of several sources: images as often as they are repeated, and a share of text."""

from collections import Counter
from pathlib import Path

import pytest

from captioner.data.batching import CaptionDataset
from captioner.data.datasets import Example
from captioner.data.plain_text import TextExample
from captioner.data.splits import ExampleSet, Mixture, TextSet


def images(name, count, captions=5, **options):
    """Return a source whose captions name their image and number."""
    examples = [
        Example(number, Path(f"{name}{number}.jpg"), tuple(f"{name} {i}" for i in range(captions)))
        for number in range(count)
    ]
    return ExampleSet(name, examples, **options)


def text(name, count, share):
    return TextSet(name, [TextExample(f"line {i}", f"{name} {i}") for i in range(count)], share)


def epoch_of(mixture, epoch=0):
    """The examples of an epoch, by row."""
    return [mixture.examples[mixture.example_index(epoch, row)] for row in range(mixture.num_rows)]


def test_the_rows_of_a_single_source_are_its_images_in_order():
    mixture = Mixture([images("a", 7)], [], seed=0)
    assert [mixture.example_index(3, row) for row in range(mixture.num_rows)] == list(range(7))


def test_each_source_is_visited_as_often_as_it_is_repeated():
    mixture = Mixture([images("a", 3, repeat=2), images("b", 4), images("c", 2, repeat=3)], [], 0)
    visits = Counter(example.path.name for example in epoch_of(mixture))
    assert visits == {
        **{f"a{i}.jpg": 2 for i in range(3)},
        **{f"b{i}.jpg": 1 for i in range(4)},
        **{f"c{i}.jpg": 3 for i in range(2)},
    }


def test_each_visit_draws_as_many_captions_as_its_source_says_and_draws_them_anew():
    sources = [
        images("a", 30, repeat=2, captions_per_image=1),
        images("b", 2, captions_per_image=3),
    ]
    mixture = Mixture(sources, [text("t", 9, 0.5)], seed=0)
    ids = [[[number] for number, _ in enumerate(each.captions)] for each in mixture.examples]
    data = CaptionDataset(
        lambda index, rng: None, ids, mixture.captions_per_image, 0, mixture.example_index
    )
    drawn = {}
    for row in range(mixture.num_rows):
        _, captions, index = data[0, row]
        drawn.setdefault(index, []).append(captions)
    assert all(len(captions) == 1 for index in range(30) for captions in drawn[index])
    assert [len(captions) for index in (30, 31) for captions in drawn[index]] == [3, 3]
    # Two independent draws of 1 of 5 differ for about 24 of 30 images.
    assert sum(first != second for first, second in (drawn[index] for index in range(30))) > 15


@pytest.mark.parametrize("shares", [[0.5], [0.2], [0.3, 0.6]])
def test_text_has_its_share_of_the_captions_of_an_epoch(shares):
    sources = [images("a", 40, repeat=2, captions_per_image=3), images("b", 50, captions=2)]
    texts = [text(f"t{number}", 1000, share) for number, share in enumerate(shares)]
    mixture = Mixture(sources, texts, seed=0)
    assert mixture.image_captions == 40 * 2 * 3 + 50 * 2
    counts = Counter(
        each.caption.split()[0] for each in epoch_of(mixture) if isinstance(each, TextExample)
    )
    total = mixture.image_captions + counts.total()
    for number, share in enumerate(shares):
        assert counts[f"t{number}"] / total == pytest.approx(share, abs=1 / total)


def test_every_caption_of_text_is_used_equally_often():
    """10 images with 5 captions and a share of a half: 50 captions of 17, or of 120, an epoch."""
    for size in (17, 120):
        mixture = Mixture([images("a", 10)], [text("t", size, 0.5)], seed=0)
        used = Counter(
            each.caption
            for epoch in range(size)
            for each in epoch_of(mixture, epoch)
            if isinstance(each, TextExample)
        )
        assert set(used.values()) == {50}
        assert len(used) == size


def test_an_epoch_goes_on_where_the_one_before_ended():
    mixture = Mixture([images("a", 10)], [text("t", 120, 0.5)], seed=0)
    first, second = (epoch_of(mixture, epoch)[10:] for epoch in (0, 1))
    assert not set(first) & set(second)
    assert epoch_of(mixture, 0) == epoch_of(Mixture(mixture.sources, mixture.text, 0), 0)
    assert first != epoch_of(Mixture(mixture.sources, mixture.text, seed=1), 0)[10:]
    assert first != list(mixture.text[0].examples[:50])  # shuffled


def test_without_text_the_images_keep_their_indices():
    mixture = Mixture([images("a", 3, repeat=2), images("b", 4)], [text("t", 5, 0.5)], seed=0)
    plain = mixture.without_text()
    assert plain.num_rows == 10
    assert epoch_of(plain) == epoch_of(mixture)[:10]
    assert plain.examples == mixture.examples[:7]
