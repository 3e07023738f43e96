"""Whether there is enough to learn from: found after splitting, before the first step.

`captioner train` and `captioner check` use the same function, `record_poor_data`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from captioner.data.parallel import Pair
from captioner.data.plain_text import TextExample
from captioner.data.problems import Problems

if TYPE_CHECKING:
    from captioner.config.run import DataConfig
    from captioner.data.datasets import Example
    from captioner.text.tokenizer import Vocabulary

MANY = 0.25
"""Larger shares of unknown words are reported. Flickr8k has .03 with min_count=5."""


def record_few_examples(problems: Problems, number: int, noun: str) -> None:
    """Record that there is no example, or only one, to learn from: an "image" or a "text"."""
    kind = f"too few {noun}s to learn from"
    if number == 0:
        problems.add_error(kind, ["there is none"])
    elif number == 1:
        problems.add_warning(kind, [f"there is one {noun}, so a model can only learn to repeat it"])


def record_poor_data(
    problems: Problems,
    counts: Counter[str],
    lengths: Counter[int],
    *,
    noun: str,
    min_count: int,
    max_length: int | None,
    words: Collection[str] = (),
) -> None:
    """Record what a model cannot learn from texts, as errors if it can learn nothing at all.

    Args:
        problems: of the training data.
        counts: how often each token occurs in the texts to learn from.
        lengths: number of tokens → number of texts.
        noun: what the texts are: "captions", "targets", or "sources".
        min_count: data.min_count: rarer tokens are <unk>, unless they are in `words`.
        max_length: texts are cut to this many tokens; None: somebody else reports those.
        words: those that the model knows from an earlier training.
    """
    num_texts, total = lengths.total(), counts.total()
    if not num_texts:
        return  # `record_few_examples` says so
    rare = {word: n for word, n in counts.items() if n < min_count and word not in words}
    unknown = sum(rare.values())
    if not total:
        problems.add_error(f"{noun} without a word", [f"all {num_texts:,}"])
    elif unknown == total:
        word, count = counts.most_common(1)[0]
        kind = f"{noun} whose words are all rarer than data.min_count={min_count}: lower it"
        case = f"the most frequent is {word!r}, {count} time{'s' * (count > 1)}"
        problems.add_error(kind, [case])
    elif unknown > MANY * total:
        kind = f"many words of {noun} are <unk>: lower data.min_count={min_count}, or add {noun}"
        case = f"{100 * unknown / total:.0f} % of {total:,} words"
        problems.add_warning(kind, [case])
    if max_length and (cut := sum(n for length, n in lengths.items() if length > max_length)):
        kind = (
            f"{noun} of more than data.max_length={max_length} tokens, cut and learnt as if they "
            "ended there"
        )
        case = f"{cut:,} of {num_texts:,}, the longest has {max(lengths):,}"
        problems.add_warning(kind, [case])


def refuse_poor_data(
    examples: Sequence[Example | Pair | TextExample],
    vocabulary: Vocabulary,
    source_vocabulary: Vocabulary,
    data: DataConfig,
) -> None:
    """Log what a model cannot learn from its training data.

    Args:
        examples: of all sources of train, after dev was held out.
        vocabulary: of the captions or targets, as the model has it.
        source_vocabulary: of the texts that the model reads; not used for images.
        data: its `min_count` and `max_length`.

    Raises:
        UsageError: the model can learn nothing from it.
    """
    problems = Problems("data.train")
    paired = [each for each in examples if not isinstance(each, TextExample)]
    pairs = [each for each in paired if isinstance(each, Pair)]
    record_few_examples(problems, len(paired), "text" if pairs else "image")
    captions = [caption for each in examples for caption in each.captions]
    sides = {"targets" if pairs else "captions": (vocabulary, captions)}
    if pairs:
        sides["sources"] = (source_vocabulary, [pair.source for pair in pairs])
    for noun, (known, texts) in sides.items():
        tokenized = [known.tokenizer.tokenize(text) for text in texts]
        counts = Counter(token for tokens in tokenized for token in tokens)
        record_poor_data(
            problems,
            counts,
            Counter(map(len, tokenized)),
            noun=noun,
            min_count=data.min_count,
            max_length=data.max_length,
            words={token for token in counts if token in known},
        )
    problems.raise_errors()


def too_few_to_hold_out(name: str, noun: str) -> str:
    """Return why dev cannot be held out from a source with one example, and the way out."""
    return f"one {noun} in {name}: too few to hold out a part as dev; set data.dev, or add {noun}s"
