"""ROUGE-L (Lin 2004, section 3), numerically equal to COCO's evaluation tool.

The score of an image is an F-measure of precision and recall. Both are computed from the longest
common subsequence (LCS) of the candidate and a reference: words in the same order, with gaps.
"""

from __future__ import annotations

from collections.abc import Sequence

ROUGE_VERSION = "coco-1"
BETA = 1.2
"""Weight of recall relative to precision."""


class RougeL:
    """ROUGE-L against one set of references, whose words are indexed once."""

    def __init__(self, references: Sequence[Sequence[Sequence[str]]]) -> None:
        """Index tokenized references: images x references x words, at least one for each image."""
        self._images = [[_Reference(words) for words in captions] for captions in references]

    def score(self, candidates: Sequence[Sequence[str]]) -> tuple[float, list[float]]:
        """Return the mean ROUGE-L (0 to 1), and that of each image.

        `candidates` has one tokenized caption for each image, in the order of the references.
        """
        scores = [
            _f_measure(words or [""], references)  # COCO's tool splits "" into one empty word
            for words, references in zip(candidates, self._images, strict=True)
        ]
        return sum(scores) / max(1, len(scores)), scores


class _Reference:
    """A reference as bit masks: bit i of a word's mask is set if the word is at position i."""

    def __init__(self, words: Sequence[str]) -> None:
        words = words or [""]
        self.length = len(words)
        self._masks: dict[str, int] = {}
        for position, word in enumerate(words):
            self._masks[word] = self._masks.get(word, 0) | 1 << position

    def lcs_length(self, candidate: Sequence[str]) -> int:
        """Return the length of the LCS, by bit-parallel dynamic programming (Hyyrö 2004, fig. 1).

        Bit i of the row is 0 if the LCS with the first i + 1 words of the reference is longer, by
        one word, than the LCS with the first i words.
        """
        all_ones = (1 << self.length) - 1
        row = all_ones
        for word in candidate:
            matched = row & self._masks.get(word, 0)
            row = (row + matched | row - matched) & all_ones
        return self.length - row.bit_count()


def _f_measure(candidate: Sequence[str], references: Sequence[_Reference]) -> float:
    """Return F_lcs (Lin 2004, equation 4) of the best precision and the best recall.

    As in COCO's tool, the two may come from different references.
    """
    lcs_lengths = [reference.lcs_length(candidate) for reference in references]
    if not any(lcs_lengths):
        return 0.0
    precision = max(lcs_lengths) / len(candidate)
    recall = max(
        length / reference.length for length, reference in zip(lcs_lengths, references, strict=True)
    )
    return (1 + BETA**2) * precision * recall / (recall + BETA**2 * precision)
