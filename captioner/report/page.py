"""Captions with their photographs → one HTML file, to be looked at in a browser, mailed or kept.

What comes from outside (captions, file names, titles) stands in JSON blocks only, and the script shows it as text. The
page's Content-Security-Policy forbids the browser every request, and every script but the page's own.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import math
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path

from PIL import ImageOps

from captioner.captions import Caption, Heat, Word
from captioner.data.images import map_ahead, read_image
from captioner.errors import ImageError
from captioner.storage import new_file

FAINT = 0.25
"""A caption none of whose words loses more log-probability than this does not glow to the full."""

Glow = tuple[()] | tuple[int, str]
"""Columns, and a signed byte for each part, row by row, in base64: 127 in full; nothing for a word without heat."""


def glows(caption: Caption) -> list[Glow]:
    """Give each word's glow, in proportion to the most there is.

    That is the most of all words, so that what they lose can be compared; but a word's own where attention looked,
    which sums to 1 for every word, and is small everywhere where it looks around.
    """
    most = [
        max((abs(part) for row in word.heat or () for part in row), default=0.0)
        for word in caption.words
    ]
    if caption.explanation != "attention":
        most = [max([FAINT, *most])] * len(most)
    return [_glow(word.heat, own) for word, own in zip(caption.words, most, strict=True)]


def _glow(heat: Heat | None, most: float) -> Glow:
    if not heat:
        return ()
    cells = [round(127 * part / most) for row in heat for part in row]
    return len(heat[0]), base64.b64encode(bytes(cell & 0xFF for cell in cells)).decode()


@dataclass(frozen=True)
class Entry:
    """One image with its captions. Of the path, only what `name` repeats of it is found in the page."""

    name: str
    path: Path  # where the image is, for the thumbnail
    caption: Caption
    references: Sequence[str] = ()
    scores: Mapping[str, float] = field(
        default_factory=dict
    )  # of this image, as metrics give them: shown times 100
    cropped: bool = False  # show its middle alone, as a model with the transform `crop` sees it


@dataclass(frozen=True)
class Figure:
    """A score of the whole set, as shown (times 100), with the ends of its 95 % interval where they are known."""

    name: str
    value: float
    low: float | None = None
    high: float | None = None


LONGEST, QUALITY = 320, 40
"""A thumbnail's longer side in pixels, and its WebP quality."""

THREADS = 4
"""Thumbnails are made by so many threads: Pillow lets go of the interpreter's lock."""


def write_report(
    path: Path,
    entries: Iterable[Entry],
    *,
    title: str,
    about: Mapping[str, str],
    figures: Sequence[Figure] = (),
    facts: Mapping[str, str] | None = None,
) -> None:
    """Write the page, whole or not at all. Entries are taken as they come, and written as they are taken.

    `about` says what was done (model, data, decoding, signature), `facts` what else was counted; both are text. The
    page opens with the first of the scores, the best images first; without scores, with the confidence. An image that
    cannot be read costs its thumbnail only: a grey box says why.

    Raises:
        CaptionerError: the file cannot be written; nothing is left behind, and what was there before is kept.
    """
    shown = [
        [figure.name, *map(_number, (figure.value, figure.low, figure.high))] for figure in figures
    ]
    report = {"title": title, "about": dict(about), "figures": shown, "facts": dict(facts or {})}
    head, tail = _frame()
    with new_file(path) as file:
        file.write(head.replace("{{ report }}", _json(report)))
        for number, line in enumerate(map_ahead(_line, entries, threads=THREADS)):
            file.write(f",\n{line}" if number else line)
        file.write(tail)


def style(package: str, name: str) -> str:
    """Give the style sheet of a page: what all pages share, light and dark, and its own."""
    sheets = files(__package__) / "base.css", files(package) / name
    return "\n".join(sheet.read_text(encoding="utf-8") for sheet in sheets)


def _frame() -> tuple[str, str]:
    """Give the page before its entries and after them."""
    part = files(__package__)
    script = "\n".join(
        (part / name).read_text(encoding="utf-8") for name in ("card.js", "charts.js", "page.js")
    )
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    page = (part / "page.html").read_text(encoding="utf-8")
    page = page.replace("{{ style }}", style(__package__, "page.css"))
    page = page.replace("{{ script }}", script).replace("{{ digest }}", digest)
    head, tail = page.split("{{ entries }}")
    return head, tail


def _line(entry: Entry) -> str:
    measures = {name: _number(100 * score, 2) for name, score in entry.scores.items()}
    caption = entry.caption
    if caption.confidence is not None:
        measures["confidence"] = _number(100 * caption.confidence, 2)
    measures["log-probability"] = _number(caption.log_prob)
    return _json(
        {
            "name": entry.name,
            "lot": zlib.crc32(
                entry.name.encode(errors="surrogatepass")
            ),  # its place in the random order of any report
            **_thumbnail(entry.path, cropped=entry.cropped),
            "explanation": caption.explanation,
            "words": [
                [word.text, _number(_shade(word)), *glow]
                for word, glow in zip(caption.words, glows(caption), strict=True)
            ],
            "measures": measures,
            "others": [
                [other.text, _number(other.log_prob)]
                for other in caption.others
                if not other.abstained
            ],
            "references": list(entry.references),
        }
    )


def _shade(word: Word) -> float:
    """Its confidence; of a model that was never calibrated, its probability."""
    return math.exp(word.log_prob) if word.confidence is None else word.confidence


def _thumbnail(path: Path, *, cropped: bool) -> dict[str, str | int]:
    """Give the photo in small, in its own shape; or why it cannot be read."""
    try:
        picture = read_image(path, at_least=LONGEST)
    except ImageError as error:
        return {"problem": error.reason}
    if cropped:
        picture = ImageOps.fit(
            picture, (min(picture.size),) * 2, bleed=1 / 16
        )  # 7/8 of the short side
    picture.thumbnail((LONGEST, LONGEST))
    file = io.BytesIO()
    picture.save(file, "WEBP", quality=QUALITY, method=2)
    return {
        "photo": base64.b64encode(file.getvalue()).decode(),
        "width": picture.width,
        "height": picture.height,
    }


def _number(value: float | None, digits: int = 3) -> float | None:
    return (
        round(value, digits) if value is not None and math.isfinite(value) else None
    )  # JSON knows no NaN


def _json(value: object) -> str:
    """Give ASCII that no HTML parser takes for the end of a script, or for a comment."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
