"""Whether there is enough to learn from: found after splitting, before the first step.

`captioner train` and `captioner check` use the same functions, `record_...`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from captioner.data.parallel import Pair
from captioner.data.plain_text import TextExample
from captioner.data.problems import Problems

if TYPE_CHECKING:
    from captioner.config.run import Config
    from captioner.data.datasets import Example
    from captioner.text.tokenizer import Tokenizer, Vocabulary

MANY = 0.25
"""Larger shares of unknown words are reported. Flickr8k has .03 with min_count=5."""

MANY_LONGER = 0.1
"""Larger shares of captions with more tokens than the model generates are reported."""


def record_few_examples(problems: Problems, number: int, noun: str) -> None:
    """Record that there is no example, or only one, to learn from: an "image" or a "text"."""
    kind = f"too few {noun}s to learn from"
    if number == 0:
        problems.add_error(kind, ["there is none"])
    elif number == 1:
        problems.add_warning(kind, [f"there is one {noun}, so a model can only learn to repeat it"])


class TokenCounts(NamedTuple):
    """How often each token occurs in texts, and how many texts have how many tokens."""

    tokens: Counter[str]
    lengths: Counter[int]  # number of tokens → number of texts


def count_tokens(texts: Iterable[str], tokenizer: Tokenizer) -> TokenCounts:
    """Tokenize texts once, and count; their tokens are not kept."""
    counts = TokenCounts(Counter(), Counter())
    for text in texts:
        tokens = tokenizer.tokenize(text)
        counts.tokens.update(tokens)
        counts.lengths[len(tokens)] += 1
    return counts


def record_poor_data(
    problems: Problems,
    counts: TokenCounts,
    *,
    noun: str,
    min_count: int,
    words: Container[str] = (),
) -> None:
    """Record what a model cannot learn from texts, as errors if it can learn nothing at all.

    Args:
        problems: of the training data.
        counts: of the texts to learn from.
        noun: what the texts are: "captions", "targets", or "sources".
        min_count: data.min_count: rarer tokens are <unk>, unless they are in `words`.
        words: those that the model knows from an earlier training.
    """
    num_texts, total = counts.lengths.total(), counts.tokens.total()
    if not num_texts:
        return  # `record_few_examples` says so
    rare = {word: n for word, n in counts.tokens.items() if n < min_count and word not in words}
    unknown = sum(rare.values())
    if not total:
        problems.add_error(f"{noun} without a word", [f"all {num_texts:,}"])
    elif unknown == total:
        word, count = counts.tokens.most_common(1)[0]
        kind = f"{noun} whose words are all rarer than data.min_count={min_count}: lower it"
        case = f"the most frequent is {word!r}, {count} time{'s' * (count > 1)}"
        problems.add_error(kind, [case])
    elif unknown > MANY * total:
        kind = f"many words of {noun} are <unk>: lower data.min_count={min_count}, or add {noun}"
        case = f"{100 * unknown / total:.0f} % of {total:,} words"
        problems.add_warning(kind, [case])


def record_short_decoding(
    problems: Problems, lengths: Counter[int], max_length: int, generated: int
) -> None:
    """Record that many captions have more tokens than the model will generate.

    Args:
        problems: of the training data.
        lengths: number of tokens → number of captions.
        max_length: data.max_length: no longer captions are learnt.
        generated: decoding.max_length.
    """
    learnt = sorted(min(length, max_length) for length in lengths.elements())
    longer = sum(length > generated for length in learnt)
    if longer > MANY_LONGER * len(learnt):
        kind = (
            f"captions have more tokens than decoding.max_length={generated}, which cuts what the "
            f"model generates: raise it, for example to {learnt[-1 - len(learnt) // 100]}"
        )
        problems.add_warning(kind, [f"{100 * longer / len(learnt):.0f} % of {len(learnt):,}"])


def record_unknown_dev(problems: Problems, captions: int, *, has_known_word: bool) -> None:
    """Record that no word of dev is known to the model; without captions, nothing is recorded."""
    if captions and not has_known_word:
        kind = "captions of dev without a word that the model knows, so every score stays 0"
        problems.add_warning(kind, [f"all {captions:,}"])


class Side(NamedTuple):
    """What a model generates, or what it reads."""

    counts: TokenCounts  # of the texts to learn from
    vocabulary: Vocabulary  # as the model has it


def refuse_poor_data(
    examples: Sequence[Example | Pair | TextExample],
    target: Side,
    source: Side,
    config: Config,
) -> None:
    """Log what a model cannot learn from its training data.

    Args:
        examples: of all sources of train, after dev was held out.
        target: the captions or targets.
        source: the texts that the model reads; not used for images.
        config: its `data.min_count`, `data.max_length` and `decoding.max_length`.

    Raises:
        UsageError: the model can learn nothing from it.
    """
    problems, data = Problems("data.train"), config.data
    paired = [each for each in examples if not isinstance(each, TextExample)]
    is_text = any(isinstance(each, Pair) for each in paired)
    record_few_examples(problems, len(paired), "text" if is_text else "image")
    sides = {"targets": target, "sources": source} if is_text else {"captions": target}
    for noun, (counts, vocabulary) in sides.items():
        record_poor_data(problems, counts, noun=noun, min_count=data.min_count, words=vocabulary)
        _record_cut(problems, counts.lengths, noun, data.max_length)
    if not is_text:
        generated = config.decoding.max_length
        record_short_decoding(problems, target.counts.lengths, data.max_length, generated)
    problems.raise_errors()


def _record_cut(problems: Problems, lengths: Counter[int], noun: str, max_length: int) -> None:
    """Record how many texts are cut to `max_length` tokens; `captioner check` lists each one."""
    if cut := sum(n for length, n in lengths.items() if length > max_length):
        kind = (
            f"{noun} of more than data.max_length={max_length} tokens, cut and learnt as if they "
            "ended there"
        )
        case = f"{cut:,} of {lengths.total():,}, the longest has {max(lengths):,}"
        problems.add_warning(kind, [case])


def warn_of_unknown_dev(examples: Iterable[Example | Pair], vocabulary: Vocabulary) -> None:
    """Log that the model knows no word of the captions or targets of dev, if it is so."""
    problems = Problems("data.dev")
    captions = [caption for each in examples for caption in each.captions]
    tokens = (token for caption in captions for token in vocabulary.tokenizer.tokenize(caption))
    has_known_word = any(token in vocabulary for token in tokens)  # usually the first one is known
    record_unknown_dev(problems, len(captions), has_known_word=has_known_word)
    problems.raise_errors()


def too_few_to_hold_out(name: str, noun: str) -> str:
    """Return why dev cannot be held out from a source with one example, and the way out."""
    return f"one {noun} in {name}: too few to hold out a part as dev; set data.dev, or add {noun}s"
