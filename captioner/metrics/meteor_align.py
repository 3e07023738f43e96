"""METEOR's alignment: which words and phrases of a candidate match those of a reference.

Denkowski and Lavie 2014, section 2: each word is covered by at most one match. Of all alignments,
METEOR takes the one that covers the most words, then the one with the fewest chunks. The program
counts covered words with the weights of the matchers and rounds each match down to whole words, so
a stem, a synonym or a paraphrase of one word counts 0: it is taken if nothing else could match its
words, or if it adds no chunk. This follows what the program prints, and is needed to equal it.

Of equally good alignments, the program's choice depends on the order of its search. The rule here,
the most matches and then the earliest, gives the program's counts for 98.5 % of pairs of captions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class Match(NamedTuple):
    """A phrase of the reference that matches one of the candidate; most have one word."""

    start: int  # in the reference
    length: int
    candidate_start: int
    candidate_length: int
    weight: float  # of its matcher

    @property
    def end(self) -> int:
        """The position after the phrase in the reference."""
        return self.start + self.length

    @property
    def candidate_end(self) -> int:
        """The position after the phrase in the candidate."""
        return self.candidate_start + self.candidate_length

    @property
    def covered(self) -> int:
        """The words that the search counts for this match: see the module."""
        return int(self.weight * self.length) + int(self.weight * self.candidate_length)

    @property
    def mask(self) -> int:
        """The positions in the candidate, as bits."""
        return (1 << self.candidate_end) - (1 << self.candidate_start)


BEAM = 40
"""Hypotheses that the search keeps at each position, as in METEOR 1.5. Few captions need more."""

_Chosen = tuple["_Chosen", Match] | None
"""The matches of a hypothesis, from the last to the first; hypotheses share the earlier ones."""

_Hypothesis = tuple[int, int, int, int, _Chosen]
"""A partial alignment: its covered words, minus its chunks, the number of its matches, minus the
sum of their starts in the reference; and the matches. The greater of the four numbers is better."""

_State = tuple[int, int]
"""What decides how a hypothesis can go on: the used positions of the candidate that later matches
could use, as bits, and the end of a match that ends here, in the candidate (-1: none does)."""


def align(matches: Sequence[Match]) -> tuple[Match, ...]:
    """Return the best alignment, in the order of the reference.

    Args:
        matches: all matches of the two captions. Of several for the same two phrases, the first is
            used.
    """
    fixed = _without_alternative(matches)
    distinct = {match[:4]: match for match in reversed(matches)}
    ordered = sorted(distinct.values(), key=_order)
    if len(fixed) == len(ordered):
        return tuple(ordered)
    return _search(ordered, {match.start for match in fixed})


def count_chunks(alignment: Sequence[Match]) -> int:
    """Count the chunks: runs of matches that are adjacent in both captions."""
    ends = [(match.end, match.candidate_end) for match in alignment]
    starts = [(match.start, match.candidate_start) for match in alignment[1:]]
    joined = sum(end == start for end, start in zip(ends, starts, strict=False))
    return len(alignment) - joined


def _order(match: Match) -> tuple[int, int, int, int]:
    return match.start, match.candidate_start, match.length, match.candidate_length


def _without_alternative(matches: Sequence[Match]) -> list[Match]:
    """Return the matches whose words no other match covers: they are in every best alignment."""
    uses: dict[int, int] = {}  # reference positions j >= 0, candidate positions i as -1 - i
    for match in matches:
        for place in _places(match):
            uses[place] = uses.get(place, 0) + 1
    return [match for match in matches if all(uses[place] == 1 for place in _places(match))]


def _places(match: Match) -> list[int]:
    candidate = range(match.candidate_start, match.candidate_end)
    return [*range(match.start, match.end), *(-1 - i for i in candidate)]


def _search(matches: Sequence[Match], fixed: set[int]) -> tuple[Match, ...]:
    """Align by beam search over the positions of the reference, from left to right.

    Args:
        matches: the matches, ordered by their start.
        fixed: the starts of the matches that must be taken.
    """
    length = max(match.end for match in matches)
    starting: list[list[tuple[Match, int, int]]] = [[] for _ in range(length)]
    for match in matches:
        starting[match.start].append((match, match.mask, match.covered))
    # The candidate positions that matches from j on can use: hypotheses that differ in others only
    # have the same continuations.
    usable = [0] * (length + 1)
    for j in reversed(range(length)):
        usable[j] = usable[j + 1]
        for _, mask, _ in starting[j]:
            usable[j] |= mask
    beams: list[dict[_State, _Hypothesis]] = [{} for _ in range(length + 1)]
    beams[0][0, -1] = (0, 0, 0, 0, None)
    for j in range(length):
        for (used, last), hypothesis in _best(beams[j]):
            covered, negative_chunks, size, earliness, chosen = hypothesis
            for match, mask, gain in starting[j]:
                if used & mask:
                    continue
                longer = (
                    covered + gain,
                    negative_chunks - (match.candidate_start != last),
                    size + 1,
                    earliness - j,
                    (chosen, match),
                )
                state = ((used | mask) & usable[match.end], match.candidate_end)
                _keep_better(beams[match.end], state, longer)
            if j not in fixed:  # no match of this hypothesis starts here
                state = (used & usable[j + 1], -1)
                _keep_better(beams[j + 1], state, hypothesis)
        beams[j].clear()
    *_, chosen = max(beams[length].values(), key=lambda hypothesis: hypothesis[:4])
    alignment = []
    while chosen:
        chosen, match = chosen
        alignment.append(match)
    return tuple(reversed(alignment))


def _best(beam: dict[_State, _Hypothesis]) -> list[tuple[_State, _Hypothesis]]:
    """Return the best hypotheses; of equal ones, those that were found first."""
    if len(beam) <= BEAM:
        return list(beam.items())
    return sorted(beam.items(), key=lambda entry: entry[1][:4], reverse=True)[:BEAM]


def _keep_better(beam: dict[_State, _Hypothesis], state: _State, hypothesis: _Hypothesis) -> None:
    known = beam.get(state)
    if known is None or hypothesis[:4] > known[:4]:
        beam[state] = hypothesis
