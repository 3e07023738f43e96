"""ROUGE-L of a set of captions (Lin 2004, section 3), to the last digit as COCO's own evaluation computes it.

Words in, fractions out. An image's score weighs how much of the candidate, and of the references, stands in their
longest common subsequence: the same words in the same order, others in between.
"""

from __future__ import annotations

from collections.abc import Sequence

ROUGE_VERSION = "coco-1"
BETA = 1.2
"""How many times recall counts as much as precision."""


class RougeL:
    """Scores candidates against one set of references, whose words are looked up once."""

    def __init__(self, references: Sequence[Sequence[Sequence[str]]]) -> None:
        """Take the tokenised references of each image: images x references x words. Each image has at least one."""
        self._images = [[_Reference(words) for words in captions] for captions in references]

    def score(self, candidates: Sequence[Sequence[str]]) -> tuple[float, list[float]]:
        """Give the mean ROUGE-L (0 to 1) and that of each image, for one tokenised caption per image, in order."""
        scores = [
            _f_measure(words or [""], references)  # COCO splits "" into one empty word
            for words, references in zip(candidates, self._images, strict=True)
        ]
        return sum(scores) / max(1, len(scores)), scores


class _Reference:
    """A caption that is compared with others: for each word, a bit at each of its places."""

    def __init__(self, words: Sequence[str]) -> None:
        words = words or [""]
        self.length = len(words)
        self._places: dict[str, int] = {}
        for place, word in enumerate(words):
            self._places[word] = self._places.get(word, 0) | 1 << place

    def common_words(self, candidate: Sequence[str]) -> int:
        """Give the length of the longest common subsequence, all places of a word at once (Hyyrö 2004, figure 1)."""
        everywhere = (1 << self.length) - 1
        open_places = everywhere
        for word in candidate:
            matched = open_places & self._places.get(word, 0)
            open_places = (open_places + matched | open_places - matched) & everywhere
        return self.length - open_places.bit_count()


def _f_measure(candidate: Sequence[str], references: Sequence[_Reference]) -> float:
    """Weigh the best precision against the best recall, which may come from different references."""
    common = [reference.common_words(candidate) for reference in references]
    if not any(common):
        return 0.0
    precision = max(common) / len(candidate)
    recall = max(
        words / reference.length for words, reference in zip(common, references, strict=True)
    )
    return (1 + BETA**2) * precision * recall / (recall + BETA**2 * precision)
