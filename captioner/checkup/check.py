"""Check the splits of a data set: errors, statistics and leakage between splits."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import NamedTuple

from captioner.checkup.leakage import ImageInfo, read_image_infos, record_shared_images
from captioner.checkup.pairs import (
    Tokenizers,
    compute_pair_statistics,
    learn_tokenizer,
    learn_tokenizers,
    record_shared_sources,
)
from captioner.checkup.statistics import (
    Coverage,
    Split,
    SplitStatistics,
    captions_of,
    compute_statistics,
    shorten,
    vocabulary_coverage,
)
from captioner.config.run import TokenizerConfig
from captioner.data.datasets import Example, StoredImage
from captioner.data.learnable import (
    TokenCounts,
    record_few_examples,
    record_poor_data,
    record_short_decoding,
    record_unknown_dev,
)
from captioner.data.plain_text import TextExample
from captioner.data.problems import Problems
from captioner.data.splits import divide_text, reference_words
from captioner.errors import ImageError
from captioner.progress import track


class Known(NamedTuple):
    """The words that a model knows from an earlier training, and how it divides text into them."""

    words: Collection[str] = ()
    source_words: Collection[str] = ()
    tokenizers: Tokenizers | None = None  # none: learnt from the texts


NOTHING = Known()


@dataclass(frozen=True)
class CheckResult:
    """The result of a check."""

    problems: list[Problems]  # one for each annotation file, and one for each pair of splits
    splits: dict[str, SplitStatistics]
    learnt: list[str]  # the splits that supply the vocabulary
    vocabulary: list[Coverage]  # of captions, or of targets
    source_vocabulary: list[Coverage]  # empty without pairs

    @property
    def num_problems(self) -> int:
        """Return the number of cases of all kinds of problems."""
        return sum(len(problem.cases) for problems in self.problems for problem in problems)


def check_splits(
    splits: Sequence[Split],
    *,
    max_length: int,
    tokenizer: TokenizerConfig,
    min_count: int,
    generated: int | None = None,
    known: Known = NOTHING,
) -> CheckResult:
    """Read every image completely, compute statistics, and compare the splits with each other.

    Args:
        splits: the splits, with different names; either all have pairs, or none has. Those of the
            first one's group, or else it alone, supply the vocabulary.
        max_length: largest number of words in a caption that training does not truncate.
        tokenizer: how captions or pairs are divided into words, as in training: of pairs, it is
            learnt from both sides.
        min_count: rarer words are not learnt.
        generated: largest number of words in a caption that the model generates, if it is set.
        known: the words of the model that training starts from.

    Raises:
        UsageError: the library of the tokenizer is not installed.
    """
    infos = _read_images(splits)
    between_splits = []
    for first, second in combinations(splits, 2):
        if not (first.group and first.group == second.group):
            between_splits.append(Problems(f"{first.name} and {second.name}"))
            record_shared_images(between_splits[-1], first.examples, second.examples, infos)
            record_leaked_text(between_splits[-1], first.text, second.examples)
            record_shared_sources(between_splits[-1], first.pairs or (), second.pairs or ())
    group = splits[0].group
    first_group = [each for each in splits if group and each.group == group] or [splits[0]]
    learnt = [split.name for split in first_group]
    if splits[0].pairs is None:
        own = known.tokenizers.target if known.tokenizers else None
        own = own or learn_tokenizer(captions_of(first_group), tokenizer, default="caption")
        statistics = {
            split.name: compute_statistics(split, infos, own.tokenize, max_length=max_length)
            for split in splits
        }
    else:
        pairs = [pair for split in first_group for pair in split.pairs or ()]
        tokenizers = known.tokenizers or learn_tokenizers(pairs, tokenizer)
        statistics = {
            split.name: compute_pair_statistics(split, tokenizers, max_length=max_length)
            for split in splits
        }
    poor = Problems("data.train") if group else first_group[0].problems
    _record_poor_data(poor, [statistics[name] for name in learnt], min_count, known)
    _record_few_examples(poor, splits, first_group)
    words = {name: split.words for name, split in statistics.items()}
    if generated and splits[0].pairs is None:
        lengths = sum((statistics[name].words_per_caption for name in learnt), Counter())
        record_short_decoding(poor, lengths, max_length, generated)
    counts = sum((words[name] for name in learnt), Counter())
    frequent = {word for word, count in counts.items() if count >= min_count}
    dev = [statistics[split.name] for split in splits if split.group == "dev"]
    poor_dev = _find_poor_dev(dev, frequent.union(known.words))
    source_words = {name: split.source_words for name, split in statistics.items()}
    of_files = {id(split.problems): split.problems for split in splits} | {id(poor): poor}
    return CheckResult(
        [*of_files.values(), poor_dev, *between_splits],  # each once
        statistics,
        learnt,
        vocabulary_coverage(words, learnt),
        vocabulary_coverage(source_words, learnt) if splits[0].pairs is not None else [],
    )


def _record_few_examples(
    problems: Problems, splits: Sequence[Split], learnt: Sequence[Split]
) -> None:
    """Record that train has too few examples, unless errors in its files may be the reason."""
    is_text = learnt[0].pairs is not None
    number = sum(len(split.pairs or split.examples) for split in learnt)
    is_captions = not number and any(split.text for split in learnt)  # a file of captions alone
    could_hold_out = not learnt[0].group or len(splits) > len(learnt)
    if could_hold_out and not is_captions and not any(split.problems.errors for split in learnt):
        record_few_examples(problems, number, "text" if is_text else "image")


def _find_poor_dev(dev: Sequence[SplitStatistics], words: Collection[str]) -> Problems:
    """Return that dev has no word that the model will know; if it knows none, train says so."""
    problems = Problems("data.dev")
    if words:
        has_known_word = any(word in words for split in dev for word in split.words)
        record_unknown_dev(
            problems, sum(split.captions for split in dev), has_known_word=has_known_word
        )
    return problems


def _record_poor_data(
    problems: Problems, learnt: Sequence[SplitStatistics], min_count: int, known: Known
) -> None:
    """Record what cannot be learnt from the captions, or from both sides of pairs."""
    is_text = any(split.pairs is not None for split in learnt)
    sides = {
        "targets" if is_text else "captions": (
            [split.words for split in learnt],
            [split.words_per_caption for split in learnt],
            known.words,
        )
    }
    if is_text:
        sides["sources"] = (
            [split.source_words for split in learnt],
            [split.words_per_source for split in learnt],
            known.source_words,
        )
    for noun, (counts, lengths, words) in sides.items():
        record_poor_data(
            problems,
            TokenCounts(sum(counts, Counter()), sum(lengths, Counter())),
            noun=noun,
            min_count=min_count,
            words=words,
        )


def record_leaked_text(
    problems: Problems, text: Sequence[TextExample], references: Sequence[Example]
) -> None:
    """Record each caption without an image whose words equal those of a reference."""
    if not text:
        return
    _, leaked = divide_text(text, reference_words(references))
    cases = (f"{each.place}: {shorten(each.caption)!r}" for each in leaked)
    problems.add_warning("captions of text that are references, left out", cases)


def _read_images(splits: Sequence[Split]) -> dict[Path | StoredImage, ImageInfo]:
    """Read each image once, and record those that cannot be read."""
    pairs = ((example.path, split) for split in splits for example in split.examples)
    split_of = {path: split for path, split in pairs if path not in split.missing}
    results = track(
        read_image_infos(split_of), total=len(split_of), doing="reading images", unit="images"
    )
    infos = {}
    for (path, split), result in zip(split_of.items(), results, strict=True):
        if isinstance(result, ImageError):
            kind = re.split(r"[:(,]", result.reason)[0].strip()  # details follow after : ( or ,
            skips = split.skips_bad_images
            record = split.problems.add_warning if skips else split.problems.add_error
            record(f"images that cannot be read: {kind}", [result])
        else:
            infos[path] = result
    return infos
