"""BLEU-4 of groups of images whose references have about the same length."""

from itertools import pairwise

import pytest

from captioner.metrics.bleu import Bleu
from experiments.ablation.by_length import bleu_by_length


def references_of(*lengths):
    """Return references of one image with these numbers of words."""
    return [["word"] * length for length in lengths]


def test_images_are_grouped_by_the_mean_length_of_their_references_the_shortest_first():
    references = [
        references_of(9, 11),
        references_of(4),
        references_of(6, 6),
        references_of(12),
    ]  # 10, 4, 6 and 12 words
    groups = bleu_by_length(references, [["word"]] * 4, bins=2)
    assert [(group.shortest, group.longest, group.images) for group in groups] == [
        (4, 6, 2),
        (10, 12, 2),
    ]


def test_a_group_has_the_bleu_of_its_images_alone(random_captions):
    references, candidates = random_captions(40, shortest=4)
    groups = bleu_by_length(references, candidates, bins=4)
    for group in groups:
        means = [sum(map(len, captions)) / len(captions) for captions in references]
        members = [
            image for image, mean in enumerate(means) if group.shortest <= mean <= group.longest
        ]
        alone = Bleu([references[image] for image in members]).score(
            [candidates[image] for image in members]
        )
        assert (group.images, group.bleu_4) == (len(members), pytest.approx(alone[3]))
    assert sum(group.images for group in groups) == 40


def test_groups_are_about_equally_large_and_do_not_overlap(random_captions):
    references, candidates = random_captions(200, shortest=1)
    groups = bleu_by_length(references, candidates)
    assert [group.images for group in groups] == pytest.approx([40] * 5, abs=10)
    assert all(before.longest < after.shortest for before, after in pairwise(groups))


def test_images_of_one_length_stay_together_even_if_that_makes_fewer_groups():
    references = [references_of(5)] * 6 + [references_of(9)]
    groups = bleu_by_length(references, [["word"] * 5] * 7, bins=4)
    assert [(group.shortest, group.longest, group.images) for group in groups] == [
        (5, 5, 6),
        (9, 9, 1),
    ]
