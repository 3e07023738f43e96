"""METEOR's alignment: the most covered words, then the fewest chunks (Denkowski and Lavie 2014)."""

import itertools
import random
import tracemalloc

import pytest

from captioner.metrics.meteor_align import Match, align, count_chunks


def one(reference, candidate, weight=1.0):
    return Match(reference, 1, candidate, 1, weight)


def all_alignments(matches):
    """Yield each set of matches in which no word occurs twice, in the order of the reference."""
    for size in range(len(matches) + 1):
        for chosen in itertools.combinations(sorted(matches), size):
            spans = [
                *([range(match.start, match.end) for match in chosen],),
                *([range(match.candidate_start, match.candidate_end) for match in chosen],),
            ]
            places = [[place for span in side for place in span] for side in spans]
            if all(len(set(side)) == len(side) for side in places):
                yield chosen


def quality(alignment):
    return sum(match.covered for match in alignment), -count_chunks(alignment)


def test_the_alignment_is_the_best_of_all():
    rng = random.Random(0)
    for _ in range(400):
        matches = {
            Match(
                rng.randrange(4), rng.choice([1, 1, 2]), rng.randrange(4), rng.choice([1, 1, 2]), w
            )
            for w in rng.choices([1.0, 1.0, 0.8, 0.6], k=rng.randint(1, 7))
        }
        distinct = list({match[:4]: match for match in sorted(matches)}.values())
        best = max(map(quality, all_alignments(distinct)))
        found = align(distinct)
        assert found in set(all_alignments(distinct))
        covered = {match[:4] for match in distinct}
        assert {match[:4] for match in found} <= covered
        if len(found) == len(distinct):
            continue  # nothing to choose: every match is taken
        lone = sum(
            all(not _overlap(match, other) for other in distinct if other != match)
            for match in distinct
        )
        # A match without an alternative is taken at any cost, so only the rest is optimal.
        assert quality(found)[0] >= best[0]
        assert lone or quality(found) == best


def _overlap(a, b):
    return (a.start < b.end and b.start < a.end) or (
        a.candidate_start < b.candidate_end and b.candidate_start < a.candidate_end
    )


def test_a_chunk_is_a_run_that_is_adjacent_in_both_captions():
    assert count_chunks([one(0, 0), one(1, 1)]) == 1
    assert count_chunks([one(0, 1), one(1, 0)]) == 2
    assert count_chunks([one(0, 0), one(2, 1)]) == 2
    assert count_chunks([Match(0, 2, 0, 1, 0.6), one(2, 1)]) == 1
    assert count_chunks([]) == 0


def test_a_match_without_an_alternative_is_taken():
    assert align([one(0, 0), one(1, 3, 0.8)]) == (one(0, 0), one(1, 3, 0.8))


def test_a_synonym_with_an_alternative_is_taken_only_where_it_adds_no_chunk():
    # Java prints no match for "kid kid" against "child", and one for "a kid kid" against "a child"
    assert align([one(0, 0, 0.8), one(0, 1, 0.8)]) == ()
    assert align([one(0, 0), one(1, 1, 0.8), one(1, 2, 0.8)]) == (one(0, 0), one(1, 1, 0.8))


def test_two_ways_to_match_the_same_words_are_alternatives():
    # "is" and "are" share a synset and are paraphrases: Java does not match them alone
    assert align([one(0, 0, 0.8), one(0, 0, 0.6)]) == ()
    assert align([one(0, 0), one(1, 1, 0.8), one(1, 1, 0.6)]) == (one(0, 0), one(1, 1, 0.8))


def test_long_paraphrases_beat_one_equal_word():
    assert align([Match(0, 4, 0, 4, 0.6), one(1, 1)]) == (Match(0, 4, 0, 4, 0.6),)


@pytest.mark.parametrize(("candidate", "reference"), [(30, 10), (10, 30)])
def test_a_caption_that_repeats_one_word_is_aligned(candidate, reference):
    alignment = align([one(j, i) for j in range(reference) for i in range(candidate)])
    assert (len(alignment), count_chunks(alignment)) == (10, 1)


def test_a_long_caption_that_repeats_one_word_takes_little_memory():
    matches = [one(j, i) for j in range(60) for i in range(60)]
    tracemalloc.start()
    try:
        assert len(align(matches)) == 60
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 5 << 20
