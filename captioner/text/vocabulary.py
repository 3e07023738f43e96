"""The vocabulary: the words of a model and their ids."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from captioner.errors import UsageError

PAD, BOS, EOS, UNK = range(4)
SUPPRESSED = (PAD, BOS, UNK)  # decoding never generates these
SPECIALS = ("<pad>", "<bos>", "<eos>", "<unk>")
FORMAT = 1  # of the vocabulary file


class Vocabulary:
    """The words of a model: a word's index is its id, and the first four are `SPECIALS`."""

    def __init__(self, words: Sequence[str]) -> None:
        """Store all words in the order of their ids.

        Raises:
            ValueError: the first words are not `SPECIALS`, or a word appears twice.
        """
        if tuple(words[: len(SPECIALS)]) != SPECIALS:
            raise ValueError(f"the first words are not {', '.join(SPECIALS)}")
        if repeated := [word for word, count in Counter(words).items() if count > 1]:
            raise ValueError(f"{len(repeated)} words appear twice, the first is {repeated[0]!r}")
        self.words = tuple(words)
        # Specials are left out: the text "<eos>" in a caption is an unknown word, not its end.
        self._ids = {word: index for index, word in enumerate(self.words) if index >= len(SPECIALS)}

    @classmethod
    def from_captions(cls, captions: Iterable[Sequence[str]], min_count: int = 5) -> Vocabulary:
        """Return the words that occur at least `min_count` times, the most frequent first.

        Args:
            captions: tokenized captions.
            min_count: rarer words become <unk>.
        """
        return cls(SPECIALS).extended(captions, min_count)

    def extended(self, captions: Iterable[Sequence[str]], min_count: int = 5) -> Vocabulary:
        """Return a vocabulary with the frequent words of more captions appended.

        Existing words keep their ids, so that trained weights stay valid.
        """
        counts = Counter(word for caption in captions for word in caption)
        known = set(self.words)
        new = [word for word, count in counts.items() if count >= min_count and word not in known]
        return Vocabulary([*self.words, *sorted(new, key=lambda word: (-counts[word], word))])

    def encode(self, words: Sequence[str], max_length: int | None = None) -> list[int]:
        """Return <bos>, the ids of the words, and <eos>; unknown words become <unk>.

        At most `max_length` words are kept, <bos> and <eos> not counted.
        """
        return [BOS, *(self._ids.get(word, UNK) for word in words[:max_length]), EOS]

    def id_of(self, word: str) -> int:
        """Return the id of a word. Specials have none here.

        Raises:
            KeyError: the word is not in the vocabulary.
        """
        return self._ids[word]

    def decode(self, ids: Iterable[int]) -> list[str]:
        """Return the words of ids before the first <eos>, without specials."""
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
        """Return whether a word has an id; specials do not count as words."""
        return word in self._ids

    def __eq__(self, other: object) -> bool:
        return self.words == other.words if isinstance(other, Vocabulary) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.words)

    def __repr__(self) -> str:
        return f"Vocabulary({len(self)} words, {self.digest[:8]})"

    @property
    def digest(self) -> str:
        """The SHA-256 of all words in order, in hexadecimal.

        A model's config stores it, so that a vocabulary that does not fit the weights is detected.
        """
        return hashlib.sha256("\n".join(self.words).encode("utf-8", "surrogatepass")).hexdigest()

    def save(self, path: str | Path) -> None:
        """Write the words as JSON, one on each line, so that `diff` can compare two files."""
        text = json.dumps({"format": FORMAT, "words": self.words}, indent=0)
        Path(path).write_text(text + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: str | Path) -> Vocabulary:
        """Read a file that `save` wrote.

        Raises:
            UsageError: the file cannot be read or is not a vocabulary.
        """
        try:
            content = json.loads(Path(path).read_text(encoding="utf-8-sig"))
            return cls(_words(content))
        except OSError as error:
            raise UsageError(
                f"{path}: cannot read the vocabulary: {error.strerror or error}"
            ) from error
        except ValueError as error:  # not UTF-8, not JSON, or not a vocabulary
            raise UsageError(
                f"{path}: not a vocabulary file: {error}; copy it again from its model folder"
            ) from error


def _words(content: object) -> list[str]:
    """Return the words in the content of a vocabulary file, or raise a ValueError."""
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
