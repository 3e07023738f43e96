"""From what words hang on to how strongly parts of a photo glow. Knows no page."""

from __future__ import annotations

import base64

from captioner.captions import Caption, Heat

FAINT = 0.25
"""A caption none of whose words loses more log-probability than this does not glow to the full."""

Glow = tuple[()] | tuple[int, str]
"""Columns, and a signed byte for each part, row by row, in base64: 127 in full; nothing for a word without heat."""


def glows(caption: Caption) -> list[Glow]:
    """Give each word's glow, in proportion to the most there is.

    That is the most of all words, so that what they lose can be compared; but a word's own where attention looked,
    which sums to 1 for every word, and is small everywhere where it looks around.
    """
    most = [max((abs(part) for row in word.heat or () for part in row), default=0.0) for word in caption.words]
    if caption.explanation != "attention":
        most = [max([FAINT, *most])] * len(most)
    return [_glow(word.heat, own) for word, own in zip(caption.words, most, strict=True)]


def _glow(heat: Heat | None, most: float) -> Glow:
    if not heat:
        return ()
    cells = [round(127 * part / most) for row in heat for part in row]
    return len(heat[0]), base64.b64encode(bytes(cell & 0xFF for cell in cells)).decode()
