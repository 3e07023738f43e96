"""Subwords by byte pair encoding: Sennrich et al. 2016, "NMT of rare words with subword units"."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING, Any, ClassVar

from captioner.errors import UsageError
from captioner.text.multilingual import normalize

if TYPE_CHECKING:
    from captioner.config.schema import TokenizerName


class SubwordTokenizer:
    """Byte pair encoding (Sennrich et al. 2016) by the library `tokenizers`.

    As in SentencePiece, "▁" in a token is a space, and a text starts with one.
    """

    kind: ClassVar[TokenizerName] = "subword"

    def __init__(self, model_json: str) -> None:
        """Read a model that `train_subwords` returned.

        Raises:
            UsageError: the library is not installed, or the model cannot be read.
        """
        library = _library()
        self.model_json = model_json
        try:
            self._model = library.Tokenizer.from_str(model_json)
        except Exception as error:  # the library raises nothing more specific
            raise UsageError(
                f"the subword model cannot be read: {error}; copy it again from its model folder"
            ) from error

    def tokenize(self, text: str) -> list[str]:
        """Return the subwords of a text: "a dog" -> ▁a, ▁d, og."""
        text = "".join(f"▁{word}" for word in normalize(text).replace("▁", " ").split())
        encoding = self._model.encode(text)
        # Slices, not tokens: a character that the model does not know stays what it is.
        return [text[start:stop] for start, stop in encoding.offsets]

    def detokenize(self, words: Iterable[str], copied: Collection[int] = ()) -> str:
        """Return subwords as text; all keep their spelling."""
        return "".join(words).replace("▁", " ").strip()

    def to_json(self) -> dict[str, Any]:
        """Return the model."""
        return {"kind": self.kind, "model": self.model_json}


def train_subwords(texts: Iterable[str], size: int) -> SubwordTokenizer:
    """Learn `size` subwords from texts.

    Raises:
        UsageError: the library `tokenizers` is not installed.
    """
    library = _library()
    model = library.Tokenizer(library.models.BPE(unk_token="<unk>"))
    split = library.pre_tokenizers
    model.pre_tokenizer = split.Sequence(
        [split.Metaspace(prepend_scheme="never"), split.Punctuation()]
    )
    trainer = library.trainers.BpeTrainer(
        vocab_size=size, special_tokens=["<unk>"], show_progress=False
    )
    model.train_from_iterator((" " + " ".join(normalize(text).split()) for text in texts), trainer)
    return SubwordTokenizer(model.to_str())


def _library() -> Any:
    try:
        import tokenizers
    except ImportError as error:
        raise UsageError(
            "subwords need the library tokenizers, which is not installed: "
            "run pip install tokenizers, or use another tokenizer"
        ) from error
    return tokenizers
