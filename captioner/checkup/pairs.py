"""Texts with their targets: counts over a split, and pairs that may not belong together."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from captioner.checkup.statistics import Split, SplitStatistics, has_wrong_encoding, shorten
from captioner.config.run import TokenizerConfig
from captioner.config.schema import TokenizerName
from captioner.data.parallel import Pair
from captioner.data.problems import Problems
from captioner.data.splits import shared_sources
from captioner.progress import track
from captioner.text.multilingual import build_tokenizer
from captioner.text.tokenizer import Tokenizer

MAX_RATIO = 4.0
"""How often the usual words of target per word of source, or its inverse, a pair may have."""

MIN_DIFFERENCE = 10
"""Smallest difference, in words, from the usual length of a target to report a pair."""


class Tokenizers(NamedTuple):
    """The tokenizers of both sides."""

    source: Tokenizer
    target: Tokenizer


def learn_tokenizers(pairs: Sequence[Pair], config: TokenizerConfig) -> Tokenizers:
    """Build the tokenizers of a config as training does; some are learnt from the texts.

    Raises:
        UsageError: the library of the tokenizer is not installed.
    """
    sides = (
        [pair.source for pair in pairs],
        [target for pair in pairs for target in pair.captions],
    )
    source, target = (learn_tokenizer(texts, config, default="word") for texts in sides)
    return Tokenizers(source, target)


def learn_tokenizer(
    texts: Sequence[str], config: TokenizerConfig, *, default: TokenizerName
) -> Tokenizer:
    """Build the tokenizer of a config as training does; some are learnt from texts.

    Args:
        texts: the training captions, or one side of the training pairs.
        config: its settings.
        default: the kind if the config names none.

    Raises:
        UsageError: the library of the tokenizer is not installed.
    """
    return build_tokenizer(
        config.kind or default,
        texts=texts,
        fold_case=config.fold_case,
        subwords=config.subwords,
    )


def compute_pair_statistics(
    split: Split, tokenizers: Tokenizers, *, max_length: int
) -> SplitStatistics:
    """Count texts and words, and record problems of single texts and of pairs."""
    pairs = split.pairs or ()
    source_words: Counter[str] = Counter()
    target_words: Counter[str] = Counter()
    source_lengths: list[int] = []
    target_lengths: list[list[int]] = []
    for pair in track(pairs, total=len(pairs), doing="counting words", unit="pairs"):
        source = tokenizers.source.tokenize(pair.source)
        targets = [tokenizers.target.tokenize(text) for text in pair.captions]
        source_words.update(source)
        source_lengths.append(len(source))
        _check_text(split.problems, "sources", pair, pair.source, len(source), max_length)
        target_lengths.append([len(words) for words in targets])
        for text, words in zip(pair.captions, targets, strict=True):
            target_words.update(words)
            _check_text(split.problems, "targets", pair, text, len(words), max_length)
    _record_odd_lengths(split.problems, pairs, source_lengths, target_lengths)
    _record_repeated_pairs(split.problems, pairs)
    return SplitStatistics(
        images=0,
        captions_per_image=Counter(len(pair.captions) for pair in pairs),
        words_per_caption=Counter(length for lengths in target_lengths for length in lengths),
        words=target_words,
        sizes=Counter(),
        modes=Counter(),
        pairs=len(pairs),
        words_per_source=Counter(source_lengths),
        source_words=source_words,
    )


def _check_text(
    problems: Problems, side: str, pair: Pair, text: str, num_words: int, max_length: int
) -> None:
    """Record a text of more than `max_length` words, without a word, or with wrong encoding."""
    case = f"{pair.place}: {shorten(text)!r}"
    if num_words > max_length:
        kind = f"{side} of more than {max_length} words, cut in training"
        problems.add_warning(kind, [f"{case} ({num_words} words)"])
    if not num_words:
        problems.add_warning(f"{side} without a word, kept", [case])
    if not text.isascii() and has_wrong_encoding(text):
        problems.add_warning(f"{side} with a wrong encoding, kept", [case])


def _record_odd_lengths(
    problems: Problems,
    pairs: Sequence[Pair],
    source_lengths: Sequence[int],
    target_lengths: Sequence[Sequence[int]],
) -> None:
    """Record pairs whose lengths differ far from the usual ratio: their lines may be shifted."""
    lengths = [
        (pair, source, target)
        for pair, source, targets in zip(pairs, source_lengths, target_lengths, strict=True)
        for target in targets
        if source and target
    ]
    if not lengths:
        return
    usual = statistics.median(target / source for _, source, target in lengths)
    for pair, source, target in lengths:
        expected = usual * source
        is_far = abs(math.log(target / expected)) > math.log(MAX_RATIO)
        if is_far and abs(target - expected) >= MIN_DIFFERENCE:
            case = f"{pair.place}: {source} and {target} words: {shorten(pair.source)!r}"
            problems.add_warning("pairs with very different lengths, kept", [case])


def _record_repeated_pairs(problems: Problems, pairs: Sequence[Pair]) -> None:
    """Record each pair that an earlier line has too."""
    first: dict[tuple[str, tuple[str, ...]], str] = {}
    for pair in pairs:
        place = first.setdefault((pair.source, pair.captions), pair.place)
        if place != pair.place:
            case = f"{place} and {pair.place}: {shorten(pair.source)!r}"
            problems.add_warning("pairs given more than once, kept", [case])


def record_shared_sources(
    problems: Problems, first: Sequence[Pair], second: Sequence[Pair]
) -> None:
    """Record each pair of `second` whose source text is in `first` too."""
    cases = (f"{pair.place}: {shorten(pair.source)!r}" for pair in shared_sources(first, second))
    problems.add_warning("sources in both splits, kept", cases)
