"""COCO results files: [{"image_id": 42, "caption": "a dog runs"}, ...], read with care and written whole or not at all.

A name that ends in .jsonl means JSON lines: one such object a line.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

from captioner.captions import ImageId
from captioner.errors import UsageError, listed
from captioner.metrics.scorer import Scores
from captioner.storage import check_new_file, new_file


def read_results(path: str | Path) -> dict[ImageId, str]:
    """Give the caption of each image. Raises UsageError that names the file, the places and the reasons."""
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UsageError(f"{path}: cannot read the results: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise UsageError(
            f"{path}: not UTF-8 text (byte {error.start}); save it as UTF-8"
        ) from error
    results: dict[ImageId, str] = {}
    problems = []
    for place, entry in _lines(path, text) if path.suffix == ".jsonl" else _entries(path, text):
        try:
            image, caption = _checked(entry)
        except ValueError as error:
            problems.append(f"{place}: {error}")
            continue
        if image in results:
            problems.append(f"{place}: image {image!r} has a caption already")
        results[image] = caption
    if problems:
        raise UsageError(
            f"{path}: {listed(problems, 'wrong result')}; "
            'give one {"image_id": number or text, "caption": text} for each image'
        )
    return results


def check_destination(path: Path) -> None:
    """Refuse a file that could not be written, or that holds something else, before any captioning is done.

    Raises UsageError where its ending is neither .json nor .jsonl, its folder is not there, or it is no results file.
    """
    if path.suffix not in (".json", ".jsonl"):
        raise UsageError(
            f"{path}: its ending says the format; name it .json (COCO results) or .jsonl (JSON lines)"
        )
    check_new_file(path)
    if path.exists() and path.stat().st_size:
        try:
            read_results(path)
        except UsageError as error:
            raise UsageError(
                f"{path} would be replaced, but holds no results: choose another name"
            ) from error


def write_results(path: str | Path, results: Mapping[ImageId, str]) -> None:
    """Write the captions in COCO's form, whole or not at all. Raises CaptionerError where that cannot be done."""
    path = Path(path)
    lines = [
        json.dumps({"image_id": image, "caption": caption}) for image, caption in results.items()
    ]
    text = (
        "".join(f"{line}\n" for line in lines)
        if path.suffix == ".jsonl"
        else "[" + ",\n".join(lines) + "]\n"
    )
    with new_file(path) as file:
        file.write(text)


def _entries(path: Path, text: str) -> Iterator[tuple[str, object]]:
    entries = _parsed(path, text, first_line=1)
    if not isinstance(entries, list):
        raise UsageError(
            f"{path}: not a list of results; end its name in .jsonl if it holds one result a line"
        )
    for number, entry in enumerate(entries, start=1):
        yield f"result {number}", entry


def _lines(path: Path, text: str) -> Iterator[tuple[str, object]]:
    for number, line in enumerate(
        text.split("\n"), start=1
    ):  # not splitlines: JSON may hold other line separators
        if line.strip():
            yield f"line {number}", _parsed(path, line, first_line=number)


def _parsed(path: Path, text: str, first_line: int) -> object:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        line = first_line + error.lineno - 1
        raise UsageError(
            f"{path}, line {line}: not JSON: {error.msg}; write the file again"
        ) from error
    except RecursionError as error:
        raise UsageError(
            f"{path}, line {first_line}: not JSON: nested too deep; write the file again"
        ) from error
    except ValueError as error:  # a number of thousands of digits
        raise UsageError(
            f"{path}, line {first_line}: not JSON: {error}; write the file again"
        ) from error


def _checked(entry: object) -> tuple[ImageId, str]:
    """Give an entry's image and caption; raises ValueError with the reason."""
    if not isinstance(entry, dict):
        raise ValueError("not an object")
    if missing := [key for key in ("image_id", "caption") if key not in entry]:
        raise ValueError(f"no {' and no '.join(missing)}")
    image, caption = entry["image_id"], entry["caption"]
    if isinstance(image, bool) or not isinstance(image, int | str):
        raise ValueError(f"image_id is {image!r}")
    if not isinstance(caption, str):
        raise ValueError(f"the caption of image {image!r} is {caption!r}")
    return image, caption


SCORES = "scores.json"


def check_scores_file(results: Path) -> None:
    """Make sure, before any captioning is done, that the scores of a results file can be noted beside it.

    Raises:
        UsageError: the scores.json there is broken, or the results file wants its name.
    """
    if results.name == SCORES:
        raise UsageError(
            f"{results}: the scores of results go to {SCORES}; name the results otherwise"
        )
    _read_scores(results.parent / SCORES)


def write_scores(results: Path, scores: Scores) -> None:
    """Note the scores of a results file in the scores.json beside it, where those of other files are kept.

    Raises:
        UsageError: the scores.json that is there is broken.
        CaptionerError: it cannot be written.
    """
    path = results.parent / SCORES
    entries = {**_read_scores(path), results.name: scores.as_dict()}
    with new_file(path) as file:
        file.write(json.dumps(entries, indent=2) + "\n")


def _read_scores(path: Path) -> dict[str, object]:
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise UsageError(
            f"{path}: cannot be read ({error}); move it away, and a new one is begun"
        ) from error
    if not isinstance(entries, dict) or not all(
        isinstance(scores, dict) for scores in entries.values()
    ):
        raise UsageError(
            f"{path}: does not map results files to their scores; move it away, and a new one is begun"
        )
    return entries
