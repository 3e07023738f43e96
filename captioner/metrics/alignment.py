"""Which words of two captions stand for each other: the search behind METEOR. Knows places, not words.

An alignment pairs places of a candidate with places of a reference, each place at most once. The best has the most
pairs, of equal words first, and then the fewest chunks: runs of neighbours on both sides (Denkowski and Lavie 2011).
METEOR 1.5 itself rounds the weight of unequal words to nothing where it has a choice, and so leaves some unpaired.
"""

from __future__ import annotations

from collections.abc import Mapping
from heapq import nlargest

BEAM = 40
"""How many hypotheses the search keeps, as in METEOR 1.5: all of them unless a caption repeats itself a lot."""

Pair = tuple[int, int]  # places in the candidate and in the reference
_NOWHERE = (-2, -2)
_Hypothesis = tuple[int, int, int, tuple[Pair, ...]]  # equal words, pairs, neighbours, the pairs: the larger the better


def align(possible: Mapping[Pair, bool]) -> dict[int, int]:
    """Give the place in the reference for each aligned place of the candidate.

    `possible` holds the pairs to choose from, and whether the two words are equal.
    """
    options: dict[int, list[int]] = {}
    claims: dict[int, int] = {}
    for mine, its in possible:
        options.setdefault(mine, []).append(its)
        claims[its] = claims.get(its, 0) + 1
    certain = {mine: places[0] for mine, places in options.items() if len(places) == 1 and claims[places[0]] == 1}
    if len(certain) == len(options):
        return certain
    disputed = {mine: places for mine, places in options.items() if mine not in certain}
    return certain | dict(_search(disputed, certain, possible))


def count_chunks(alignment: Mapping[int, int]) -> int:
    """Count the runs of places that are neighbours, in the same order, in both captions."""
    return sum(alignment.get(mine - 1) != its - 1 for mine, its in alignment.items())


def _search(
    disputed: Mapping[int, list[int]], certain: Mapping[int, int], equal: Mapping[Pair, bool]
) -> tuple[Pair, ...]:
    """Pair the disputed places, from left to right, in the best of all ways that the beam holds."""
    hypotheses: dict[tuple[int, Pair], _Hypothesis] = {(0, _NOWHERE): (0, 0, 0, ())}
    for mine, places in disputed.items():
        # What may follow depends on the places taken and on the pair just made: of hypotheses alike in both, keep one.
        extended: dict[tuple[int, Pair], _Hypothesis] = {}
        for (taken, last), hypothesis in hypotheses.items():
            alone = (taken, _NOWHERE)  # this place stays without a partner
            if alone not in extended or hypothesis > extended[alone]:
                extended[alone] = hypothesis
            equals, size, neighbours, pairs = hypothesis
            for its in places:
                if taken >> its & 1:
                    continue
                pair = mine, its
                before = last == (mine - 1, its - 1) or certain.get(mine - 1) == its - 1
                after = certain.get(mine + 1) == its + 1
                longer = (equals + equal[pair], size + 1, neighbours + before + after, (*pairs, pair))
                key = (taken | 1 << its, pair)
                if key not in extended or longer > extended[key]:
                    extended[key] = longer
        if len(extended) > BEAM:
            extended = dict(nlargest(BEAM, extended.items(), key=lambda item: item[1]))
        hypotheses = extended
    return max(hypotheses.values())[-1]
