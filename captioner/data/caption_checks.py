"""What may be wrong with a caption that is there, and is text. Reads no file."""

from __future__ import annotations

import re
from collections.abc import Sequence

from captioner.data.datasets import Example
from captioner.data.problems import Problems

LOST = re.compile("[\ufffd\ud800-\udc7f\udd00-\udfff]")  # what stands for a letter that was lost; half of one

EXCERPT = 60  # characters of a caption that are quoted


def note_caption(problems: Problems, example: Example, caption: str, words: Sequence[str], *, max_length: int) -> None:
    """Note a caption of more than `max_length` words or none, and one whose letters were spoilt by a wrong encoding."""
    named = f"{example.image_id!r}: {caption if len(caption) <= EXCERPT else caption[:EXCERPT] + '...'!r}"
    if len(words) > max_length:
        kind = f"captions of more than {max_length} words, cut in training"
        problems.tolerate(kind, [f"{named} ({len(words)} words)"])
    if not words:
        problems.tolerate("captions without a word, kept as they are", [named])
    if not caption.isascii() and is_spoilt(caption):
        problems.tolerate("captions whose letters a wrong encoding has spoilt, kept as they are", [named])


def is_spoilt(caption: str) -> bool:
    """Tell whether letters were lost, or UTF-8 was once read as Latin-1 or Windows-1252: "cafÃ©" was "café"."""
    if LOST.search(caption):
        return True
    for wrong in ("latin-1", "cp1252"):
        try:
            caption.encode(wrong).decode("utf-8")
        except UnicodeError:
            continue
        return True
    return False
