"""Captions and translations as JSON values: what `--json` prints and the service answers."""

from __future__ import annotations

from typing import Any

from captioner.captions import Caption, Translation


def caption_values(caption: Caption, *, several: bool = False) -> dict[str, Any]:
    """Return a caption as JSON values; with `several`, all of the image's are in "captions"."""
    words = [
        {"word": word.text, "log_prob": word.log_prob}
        | _without_none(confidence=word.confidence, heat=word.heat)
        for word in caption.words
    ]
    captions = [caption_values(each) for each in (caption, *caption.others)] if several else None
    return {
        "caption": None if caption.abstained else caption.text,
        "log_prob": caption.log_prob,
        **_without_none(
            confidence=caption.confidence, sure=caption.sure, explanation=caption.explanation
        ),
        "words": [] if caption.abstained else words,
        **_without_none(captions=captions),
    }


def score_values(text: str, caption: Caption) -> dict[str, Any]:
    """Return the score of a given caption as JSON values; `text` is the caption as given."""
    return {
        "caption": text,
        "log_prob": caption.log_prob,
        "mean_log_prob": mean_log_prob(caption),
        "unknown_words": num_unknown(caption),
    }


def mean_log_prob(caption: Caption) -> float:
    """Return the log-probability per word of a caption; <eos> counts as one."""
    return caption.log_prob / (len(caption.words) + 1)


def num_unknown(caption: Caption) -> int:
    """Return how many words of a scored caption are outside of the vocabulary."""
    return sum(word.text == "<unk>" for word in caption.words)


def translation_values(
    translation: Translation, *, align: bool = False, several: bool = False
) -> dict[str, Any]:
    """Return a translation as JSON values; with `several`, the further ones are in "others"."""
    values = _text_values(translation, align=align)
    if align:
        values["source_tokens"] = list(translation.source)
    if several:
        values["others"] = [_text_values(other, align=align) for other in translation.others]
    return values


def _text_values(translation: Translation, *, align: bool) -> dict[str, Any]:
    words: list[dict[str, Any]] = [
        {"word": word.text, "log_prob": word.log_prob} for word in translation.words
    ]
    if align:
        for word, weights in zip(words, translation.alignment or (), strict=True):
            word["attention"] = list(weights)
    return {"text": translation.text, "log_prob": translation.log_prob, "words": words}


def _without_none(**values: object) -> dict[str, object]:
    return {name: value for name, value in values.items() if value is not None}
