"""COCO results files, and scores.json, which holds the scores of the results files in its folder.

A results file is a JSON list of {"image_id": 42, "caption": "a dog runs"}. If its name ends in
.jsonl, it has one such object per line. With several captions of an image, "caption" is the best,
and "captions" has all of them, the best first. A file is written completely or not at all.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from captioner.captions import ImageId
from captioner.console import stdin_bytes
from captioner.errors import UsageError, summarize
from captioner.storage import atomic_file, check_writable, is_special

if TYPE_CHECKING:
    from captioner.metrics.scorer import Scores
    from captioner.metrics.translation import TranslationEvaluation

SCORES = "scores.json"
STDIN = "-"
FORM = 'write one {"image_id": number or text, "caption": text} for each image'
SEVERAL = 'put all captions of an image into "captions", and the best into "caption"'
KEYS = {"image_id", "caption", "captions"}  # of the results that captioner writes


def read_results(path: str | Path) -> dict[ImageId, str]:
    """Return the caption of each image, the best of several.

    The content tells a JSON list from JSON lines, whatever the name is. The path may be that of a
    pipe; `-` is stdin.

    Raises:
        UsageError: the file cannot be read, or has errors; the message lists the first of them.
    """
    path = Path(path)
    return _parse_results(path, _read(path))


def check_destination(path: Path) -> None:
    """Raise an error if results cannot be written to `path`, before any image is captioned.

    Raises:
        UsageError: the file cannot be written, its name does not end in .json or .jsonl, or it
            exists and is not a results file, or cannot be read to see that. A file whose entries
            have other keys than captioner writes could hold annotations.
    """
    if path.suffix.lower() not in (".json", ".jsonl"):
        raise UsageError(
            f"{path}: the format of results is not clear from this name: "
            "end it in .json (COCO results) or .jsonl (JSON lines)"
        )
    check_writable(path)
    if path.is_file() and path.stat().st_size:
        data = _read(path)
        try:
            _parse_results(path, data, keys=KEYS)
        except UsageError as error:
            raise UsageError(f"{path} is not a results file: choose another name") from error


def write_results(path: str | Path, results: Mapping[ImageId, str | Sequence[str]]) -> None:
    """Write the caption of each image, or its captions, the best first, to a results file.

    Raises:
        CaptionerError: the file cannot be written; an existing file is kept.
    """
    path = Path(path)
    lines = [format_result(image, caption) for image, caption in results.items()]
    is_lines = path.suffix.lower() == ".jsonl"
    text = "\n".join([*lines, ""]) if is_lines else "[" + ",\n".join(lines) + "]\n"
    with atomic_file(path) as file:
        file.write(text)


def format_result(image: ImageId, captions: str | Sequence[str]) -> str:
    """Return one result, with one caption or several, as a JSON object on one line."""
    if isinstance(captions, str):
        return json.dumps({"image_id": image, "caption": captions})
    several = {"captions": list(captions)} if len(captions) > 1 else {}
    return json.dumps({"image_id": image, "caption": captions[0], **several})


def check_scores_file(results: Path) -> None:
    """Raise an error if `write_scores` cannot work, before any image is captioned.

    Raises:
        UsageError: the scores.json beside the results is broken, or the results have its name.
    """
    if not _has_scores_file(results):
        return
    if results.name == SCORES:
        raise UsageError(f"{results}: {SCORES} is the file of the scores: choose another name")
    _read_scores(results.parent / SCORES)


def write_scores(results: Path, scores: Scores | TranslationEvaluation) -> None:
    """Write the scores of a results file into the scores.json beside it; keep the other entries.

    Results that were read from a pipe have no such file.

    Raises:
        UsageError: the existing scores.json is broken.
        CaptionerError: the file cannot be written.
    """
    if not _has_scores_file(results):
        return
    path = results.parent / SCORES
    entries = {**_read_scores(path), results.name: scores.as_dict()}
    with atomic_file(path) as file:
        file.write(json.dumps(entries, indent=2) + "\n")


def read_scores(path: Path) -> dict[str, dict[str, Any]]:
    """Return the scores of each results file in a scores.json, or those that `--json` printed.

    Raises:
        UsageError: the file is broken, or holds no scores.
    """
    entries = {}
    with suppress(ValueError):  # `_read_scores` says what is wrong
        entries = json.loads(path.read_text(encoding="utf-8"))
    if isinstance(entries, dict) and "intervals" in entries:
        return {path.stem: entries}
    found: dict[str, dict[str, Any]] = _read_scores(path)
    if not found or not all("intervals" in scores for scores in found.values()):
        raise UsageError(f"{path}: holds no scores: captioner evaluate writes them")
    return found


def _has_scores_file(results: Path) -> bool:
    return str(results) != STDIN and not is_special(results)


def _read(path: Path) -> bytes:
    try:
        return stdin_bytes().read() if str(path) == STDIN else path.read_bytes()
    except OSError as error:
        raise UsageError(f"{path}: cannot read the results: {error.strerror or error}") from error


def _parse_results(
    path: Path, data: bytes, keys: Collection[str] | None = None
) -> dict[ImageId, str]:
    """Return the caption of each image, as `read_results`; `keys`: the entries have no others."""
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: not UTF-8 (byte {error.start}): save it as UTF-8") from error
    iterate = _json_lines if _has_json_lines(path, text) else _json_list
    results: dict[ImageId, str] = {}
    problems = []
    explanation = ""
    for position, entry in iterate(path, text):
        try:
            image, caption = _validated(entry, keys)
        except ValueError as error:
            problems.append(f"{position}: {error}")
            explanation = explanation or _explanation(entry)
            continue
        if image in results:
            problems.append(f"{position}: image {image!r} has a caption already")
            explanation = explanation or SEVERAL
        results[image] = caption
    if problems:
        raise UsageError(f"{path}: {summarize(problems, 'invalid result')}: {explanation or FORM}")
    return results


def _has_json_lines(path: Path, text: str) -> bool:
    """Return whether each line is a JSON value of its own; the name decides if that is unclear."""
    lines = [line for line in text.split("\n") if line.strip()]
    if text.lstrip().startswith("["):
        return False
    if not lines:
        return path.suffix.lower() == ".jsonl"
    if len(lines) == 1:
        return path.suffix.lower() != ".json"
    try:
        json.loads(lines[0])
    except (ValueError, RecursionError):
        return path.suffix.lower() == ".jsonl"
    return True


def _explanation(value: object) -> str:
    """Return what a value that is no result seems to be, and what to do; "" if it is not known."""
    if not isinstance(value, dict):
        return ""
    if "annotations" in value or "images" in value:
        return "this is a file of annotations: pass it as the annotations"
    if {"image", "caption"} <= value.keys():
        return 'name the key "image_id", not "image"'
    if "captions" in value and "caption" not in value:
        return SEVERAL
    if value and all(_is_caption(each) for each in value.values()):
        return f"it maps images to captions: {FORM}"
    return ""


def _is_caption(value: object) -> bool:
    """Return whether a value is a caption, or a list of captions."""
    texts = value if isinstance(value, list) else [value]
    return all(isinstance(text, str) for text in texts)


def _json_list(path: Path, text: str) -> Iterator[tuple[str, object]]:
    """Yield the position and the value of each entry of a JSON list."""
    if not text.strip():
        raise UsageError(f"{path}: is empty: {FORM}")
    entries = _parse(path, text, first_line=1)
    if isinstance(entries, dict) and {"image_id", "caption"} <= entries.keys():
        raise UsageError(
            f"{path}: not a list of results: put the result into a list, or end the name in .jsonl"
        )
    if not isinstance(entries, list):
        raise UsageError(f"{path}: not a list of results: {_explanation(entries) or FORM}")
    for number, entry in enumerate(entries, start=1):
        yield f"result {number}", entry


def _json_lines(path: Path, text: str) -> Iterator[tuple[str, object]]:
    """Yield the position and the value of each line that is not empty."""
    # Not splitlines(): strings in JSON may contain other line separators, such as U+2028.
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield f"line {number}", _parse(path, line, first_line=number)


def _parse(path: Path, text: str, first_line: int) -> object:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        line, reason = first_line + error.lineno - 1, error.msg
    except RecursionError:
        line, reason = first_line, "nested too deeply"
    except ValueError as error:  # an integer of thousands of digits
        line, reason = first_line, str(error)
    raise UsageError(f"{path}, line {line}: not JSON: {reason}: write the file again")


def _validated(entry: object, keys: Collection[str] | None) -> tuple[ImageId, str]:
    """Return the image and the caption of an entry, which has no key that is not in `keys`.

    Raises:
        ValueError: with the reason why it is not a result.
    """
    if not isinstance(entry, dict):
        raise ValueError("not an object")
    if missing := [key for key in ("image_id", "caption") if key not in entry]:
        raise ValueError(f"no {' and no '.join(missing)}")
    if keys is not None and (others := entry.keys() - keys):
        raise ValueError(f"another key, {min(others)}")
    image, caption = entry["image_id"], entry["caption"]
    if isinstance(image, bool) or not isinstance(image, int | str):
        raise ValueError(f"image_id is {image!r}")
    if not isinstance(caption, str):
        raise ValueError(f"the caption of image {image!r} is {caption!r}")
    return image, caption


def _read_scores(path: Path) -> dict[str, Any]:
    """Return the entries of a scores.json, or none if the file does not exist."""
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise UsageError(
            f"{path}: cannot be read: {error.strerror or error}: choose another folder"
        ) from error
    except ValueError as error:
        raise UsageError(f"{path}: cannot be read ({error}): move it away") from error
    if not isinstance(entries, dict) or not all(isinstance(s, dict) for s in entries.values()):
        raise UsageError(f"{path}: does not map results files to their scores: move it away")
    return entries
