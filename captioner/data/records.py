"""One image of an annotation file, and the check that a JSON object has the fields it should."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from captioner.data.problems import Problems

TEXT = (str, type(None))
ID = (int, str)


class Entry(NamedTuple):
    """An image as its annotation file names it, with all its captions, empty ones too."""

    image_id: int | str
    file: str
    captions: Sequence[str | None]


def fits(record: Any, place: str, types: dict[str, tuple[type, ...]], problems: Problems) -> bool:
    """Note fields that are missing or of another type; exactly, since Python takes True for a number."""
    if not isinstance(record, dict):
        problems.add("not a JSON object", [f"{place} is {record!r:.50}"])
        return False
    wrong = [field for field in types if field not in record or type(record[field]) not in types[field]]
    for field in wrong:
        found = f"is {record[field]!r:.50}" if field in record else "is missing"
        problems.add(f"wrong `{field}`", [f"{place}.{field} {found}"])
    return not wrong
