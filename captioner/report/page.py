"""Writes captions with their images to one HTML file, which you can open in a browser or mail.

Text from outside (captions, file names, titles) is in JSON blocks only, and the script shows it as
text. The Content-Security-Policy of the page blocks every request and every other script.
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

from captioner.captions import Caption, HeatMap, Word
from captioner.data.images import HasRead, read_image
from captioner.data.streaming import map_ahead
from captioner.errors import ImageError
from captioner.storage import atomic_file

THUMBNAIL_SIDE, QUALITY = 320, 40
"""The longer side of a thumbnail in pixels, and its WebP quality."""

THREADS = 4
"""The threads that make thumbnails; Pillow releases the global interpreter lock."""

MIN_SCALE = 0.25
"""The least change of a log-probability that an occlusion map draws at full strength."""

EncodedMap = tuple[()] | tuple[int, str]
"""The columns of a heat map, and its cells row by row, as signed bytes in base64; () for no map."""


@dataclass(frozen=True)
class ReportEntry:
    """An image with its captions. The page shows `name`, and no other part of the path."""

    name: str
    path: Path | HasRead
    caption: Caption
    references: Sequence[str] = ()
    scores: Mapping[str, float] = field(default_factory=dict)  # of this image, as fractions
    cropped: bool = False  # show the center square only, as the transform `crop` does


Figure = tuple[str, float, float | None, float | None]
"""The name and the value of a score of the whole set, and the bounds of its 95 % interval."""


def write_report(
    path: Path,
    entries: Iterable[ReportEntry],
    *,
    title: str,
    about: Mapping[str, str],
    figures: Sequence[Figure] = (),
    facts: Mapping[str, str] | None = None,
) -> None:
    """Write the page. The entries are written one by one, as the iterable yields them.

    If an image cannot be read, a box with the reason takes the place of its thumbnail.

    Args:
        path: the HTML file.
        entries: the images. The page opens sorted by the first of their scores, the best first;
            without scores, by confidence.
        title: the heading.
        about: how the captions were made, for example the model and the decoding settings.
        figures: the scores of the whole set, times 100.
        facts: further figures of the whole set.

    Raises:
        CaptionerError: the file cannot be written; an existing file is kept.
    """
    scores = [[name, *map(rounded, numbers)] for name, *numbers in figures]
    report = {"title": title, "about": dict(about), "figures": scores, "facts": dict(facts or {})}
    scripts = ("card.js", "charts.js", "page.js")
    lines = map_ahead(_entry_json, entries, threads=THREADS)
    write_page(path, report, lines, name="page", scripts=scripts)


def write_page(
    path: Path,
    report: Mapping[str, object],
    lines: Iterable[str],
    *,
    name: str,
    scripts: Sequence[str],
) -> None:
    """Write a page whose script shows `report` and entries.

    Args:
        path: the HTML file.
        report: JSON values.
        lines: the entries, each as JSON.
        name: of the HTML and the CSS file of this package.
        scripts: the JavaScript files of this package, beside that of all pages.

    Raises:
        CaptionerError: the file cannot be written; an existing file is kept.
    """
    head, _, tail = _template(name, scripts).partition("{{ entries }}")
    with atomic_file(path) as file:
        file.write(head.replace("{{ report }}", to_json(report)))
        for number, line in enumerate(lines):
            file.write(f",\n{line}" if number else line)
        file.write(tail)


def read_stylesheet(package: str, name: str) -> str:
    """Return the style sheet that all pages share, followed by that of one page."""
    paths = files(__package__) / "base.css", files(package) / name
    return "\n".join(path.read_text(encoding="utf-8") for path in paths)


def _template(name: str, scripts: Sequence[str]) -> str:
    """Return a page, with marks where the report and the entries belong."""
    folder = files(__package__)
    script = "\n".join(
        (folder / file).read_text(encoding="utf-8") for file in ("elements.js", *scripts)
    )
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    page = (folder / f"{name}.html").read_text(encoding="utf-8")
    return (
        page.replace("{{ style }}", read_stylesheet(__package__, f"{name}.css"))
        .replace("{{ script }}", script)
        .replace("{{ digest }}", digest)
    )


def _entry_json(entry: ReportEntry) -> str:
    """Return the JSON object of an entry, on one line."""
    caption = entry.caption
    pieces = text_pieces(caption)
    measures = {name: rounded(100 * score, 2) for name, score in entry.scores.items()}
    if caption.confidence is not None:
        measures["confidence"] = rounded(100 * caption.confidence, 2)
    measures["log-probability"] = rounded(caption.log_prob)
    # The checksum of the name orders the images at random, but in the same order in every report.
    return to_json(
        {
            "name": entry.name,
            "lot": zlib.crc32(entry.name.encode(errors="surrogatepass")),
            **_thumbnail(entry.path, cropped=entry.cropped),
            "explanation": caption.explanation,
            "sure": caption.sure,
            "words": [
                [piece.strip() or piece, rounded(_word_confidence(word)), *encoded]
                for piece, word, encoded in zip(
                    pieces, caption.words, _encode_maps(caption), strict=True
                )
            ],
            "joined": [i for i, piece in enumerate(pieces) if i and not piece.startswith(" ")],
            "measures": measures,
            "others": [
                [other.text, rounded(other.log_prob), other.sure]
                for other in caption.others
                if not other.abstained
            ],
            "references": list(entry.references),
        }
    )


def text_pieces(caption: Caption) -> list[str]:
    """Return the part of the caption's text that each word is, with the space before it.

    The text has the case and the spaces of its language, the words are tokens: "▁d" "og". If the
    text is another one, the words are returned, each with a space before it.
    """
    pieces, start, text = [], 0, caption.text
    for word in caption.words:
        token = word.text.replace("▁", " ").strip() or " " * (word.text == " ")
        space = " " * (token != " " and text.startswith(" ", start))
        piece = text[start : start + len(space) + len(token)]
        if piece.lower() != space + token.lower():
            return [f" {other.text}" for other in caption.words]
        pieces.append(piece)
        start += len(piece)
    return pieces


def _word_confidence(word: Word) -> float:
    """Return the confidence of a word, or its probability if the model is not calibrated."""
    return math.exp(word.log_prob) if word.confidence is None else word.confidence


def _thumbnail(path: Path | HasRead, *, cropped: bool) -> dict[str, str | int]:
    """Return the thumbnail with its size, or the reason why the image cannot be read."""
    try:
        image = read_image(path, min_side=THUMBNAIL_SIDE)
    except ImageError as error:
        return {"problem": error.reason}
    if cropped:
        shorter = min(image.size)
        image = ImageOps.fit(image, (shorter, shorter), bleed=1 / 16)  # 7/8 of the shorter side
    image.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE))
    file = io.BytesIO()
    image.save(file, "WEBP", quality=QUALITY, method=2)
    return {
        "photo": base64.b64encode(file.getvalue()).decode(),
        "width": image.width,
        "height": image.height,
    }


def _encode_maps(caption: Caption) -> list[EncodedMap]:
    """Return the heat map of each word, scaled so that the largest cell is 127.

    Occlusion maps have one scale for all words, so that you can compare the words. Attention maps
    have a scale for each word, because the weights of each word sum to 1.
    """
    scales = [
        max((abs(cell) for row in word.heat or () for cell in row), default=0.0)
        for word in caption.words
    ]
    if caption.explanation != "attention":
        scales = [max([MIN_SCALE, *scales])] * len(scales)
    return [_encode(word.heat, scale) for word, scale in zip(caption.words, scales, strict=True)]


def _encode(heat: HeatMap | None, scale: float) -> EncodedMap:
    if not heat:
        return ()
    cells = [round(127 * cell / scale) for row in heat for cell in row]
    return len(heat[0]), base64.b64encode(bytes(cell & 0xFF for cell in cells)).decode()


def rounded(value: float | None, digits: int = 3) -> float | None:
    """Return the rounded value, or None if it is not finite: JSON has no NaN and no infinity."""
    return round(value, digits) if value is not None and math.isfinite(value) else None


def to_json(value: object) -> str:
    """Return ASCII JSON without "<", which could end the script element or begin a comment."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
