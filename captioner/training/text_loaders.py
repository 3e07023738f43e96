"""The data loaders of source texts with their targets."""

from __future__ import annotations

from typing import cast

from captioner.config.run import Config
from captioner.config.training import PhaseConfig
from captioner.data.batching import BatchSampler, Loader, TextSource
from captioner.data.parallel import Pair
from captioner.data.splits import Mixture, Splits
from captioner.distributed import Ranks
from captioner.text.tokenizer import UNK, Vocabulary
from captioner.training.loaders import LoaderFactory, Split


class TextLoaders(LoaderFactory):
    """The loaders of texts, whose token ids are in memory.

    A batch holds texts of similar length.
    """

    def __init__(
        self,
        config: Config,
        vocabulary: Vocabulary,
        source_vocabulary: Vocabulary,
        splits: Splits,
        *,
        ranks: Ranks,
    ) -> None:
        super().__init__(config, vocabulary, splits, ranks=ranks)
        self._sources = {
            split.name: self._encode_sources(split.mixture, source_vocabulary)
            for split in (self.train, self.dev)
        }

    def _encode_sources(self, mixture: Mixture, vocabulary: Vocabulary) -> list[list[int]]:
        max_length, tokenize = self.config.data.max_length, vocabulary.tokenizer.tokenize
        texts = [cast(Pair, example).source for example in mixture.paired]
        # a tokenizer may find no token in a text, such as "..." in a caption: it is unknown
        return [vocabulary.encode_source(tokenize(text), max_length) or [UNK] for text in texts]

    def row_lengths(self) -> list[int]:
        """Return the length of the source of each row; texts and targets are about as long."""
        sources, mixture = self._sources[self.train.name], self.train.mixture
        rows = range(mixture.num_rows)
        return [len(sources[mixture.example_index(0, row)]) for row in rows]

    def _phase_loader(self, phase: PhaseConfig, split: Split, batches: BatchSampler) -> Loader:
        data = self._dataset(TextSource(self._sources[split.name]), split)
        return Loader(data, batches, workers=0, pin_memory=self.ranks.device.type == "cuda")
