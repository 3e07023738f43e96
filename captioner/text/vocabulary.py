"""Words ↔ ids: which words a model knows, and the number of each. Knows nothing of how a caption is split."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from captioner.errors import UsageError

PAD, BOS, EOS, UNK = range(4)
SUPPRESSED = (PAD, BOS, UNK)  # never in a caption that a model finds
SPECIALS = ("<pad>", "<bos>", "<eos>", "<unk>")
FORMAT = 1


class Vocabulary:
    """The words a model can read and say; a word's place is its id, and the first four are `SPECIALS`."""

    def __init__(self, words: Sequence[str]) -> None:
        """Take all words in the order of their ids, specials first; raises ValueError where that does not hold."""
        if tuple(words[: len(SPECIALS)]) != SPECIALS:
            raise ValueError(f"the first words are not {', '.join(SPECIALS)}")
        if twice := [word for word, count in Counter(words).items() if count > 1]:
            raise ValueError(f"{len(twice)} words appear twice, the first is {twice[0]!r}")
        self.words = tuple(words)
        # Without the specials: a caption that holds the text "<eos>" must not end there.
        self._ids = {word: index for index, word in enumerate(self.words) if index >= len(SPECIALS)}

    @classmethod
    def from_captions(cls, captions: Iterable[Sequence[str]], min_count: int = 5) -> Vocabulary:
        """Keep the words that appear at least `min_count` times in tokenised captions, the most frequent first."""
        return cls(SPECIALS).extended(captions, min_count)

    def extended(self, captions: Iterable[Sequence[str]], min_count: int = 5) -> Vocabulary:
        """Add the frequent words of more captions. Old words keep their ids, so that trained weights stay valid."""
        counts = Counter(word for caption in captions for word in caption)
        known = set(self.words)
        new = [word for word, count in counts.items() if count >= min_count and word not in known]
        return Vocabulary([*self.words, *sorted(new, key=lambda word: (-counts[word], word))])

    def encode(self, words: Sequence[str], max_length: int | None = None) -> list[int]:
        """Give the ids of words between <bos> and <eos>; unknown words become <unk>.

        `max_length` counts words without <bos> and <eos>; a longer caption is cut, and still ends with <eos>.
        """
        return [BOS, *(self._ids.get(word, UNK) for word in words[:max_length]), EOS]

    def id_of(self, word: str) -> int:
        """Give the id of a word that is in the vocabulary; raises KeyError for any other."""
        return self._ids[word]

    def decode(self, ids: Iterable[int]) -> list[str]:
        """Give the words of ids up to the first <eos>, leaving out the specials."""
        words = []
        for index in ids:
            if index == EOS:
                break
            if index >= len(SPECIALS):
                words.append(self.words[index])
        return words

    def __len__(self) -> int:
        return len(self.words)

    def __contains__(self, word: object) -> bool:
        """Tell whether a caption's word has an id of its own; the specials are no words of a caption."""
        return word in self._ids

    def __eq__(self, other: object) -> bool:
        return self.words == other.words if isinstance(other, Vocabulary) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.words)

    def __repr__(self) -> str:
        return f"Vocabulary({len(self)} words, {self.digest[:8]})"

    @property
    def digest(self) -> str:
        """SHA-256 of the words in order, hexadecimal: weights name by it the vocabulary they were trained with."""
        return hashlib.sha256("\n".join(self.words).encode("utf-8", "surrogatepass")).hexdigest()

    def save(self, path: str | Path) -> None:
        """Write the words as JSON, one a line, so that two vocabularies can be compared with diff."""
        text = json.dumps({"format": FORMAT, "words": self.words}, indent=0)
        Path(path).write_text(text + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: str | Path) -> Vocabulary:
        """Read what `save` wrote; raises UsageError, which names the file and the reason, for anything else."""
        try:
            content = json.loads(Path(path).read_text(encoding="utf-8-sig"))
            return cls(_checked(content))
        except OSError as error:
            raise UsageError(
                f"{path}: cannot read the vocabulary: {error.strerror or error}"
            ) from error
        except ValueError as error:  # not UTF-8, not JSON, or not a vocabulary
            raise UsageError(
                f"{path}: not a vocabulary of captioner: {error}; restore the file from its model"
            ) from error


def _checked(content: object) -> list[str]:
    """Give the words of a vocabulary file's content; raises ValueError with the reason."""
    if not isinstance(content, dict) or "words" not in content:
        raise ValueError('expected {"format": 1, "words": [...]}')
    if content.get("format") != FORMAT:
        raise ValueError(
            f"format {content.get('format')!r}, but this version of captioner reads format {FORMAT}"
        )
    words = content["words"]
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        raise ValueError('"words" is not a list of strings')
    return words
