"""scores.json, beside results files: the scores of each, by its name, with everything needed to compare them."""

from __future__ import annotations

import json
from pathlib import Path

from captioner.errors import UsageError
from captioner.metrics.scorer import Scores
from captioner.storage import new_file

SCORES = "scores.json"


def check_scores_file(results: Path) -> None:
    """Make sure, before any captioning is done, that the scores of a results file can be noted beside it.

    Raises:
        UsageError: the scores.json there is broken, or the results file wants its name.
    """
    if results.name == SCORES:
        raise UsageError(f"{results}: the scores of results go to {SCORES}; name the results otherwise")
    _read(results.parent / SCORES)


def write_scores(results: Path, scores: Scores) -> None:
    """Note the scores of a results file in the scores.json beside it, where those of other files are kept.

    Raises:
        UsageError: the scores.json that is there is broken.
        CaptionerError: it cannot be written.
    """
    path = results.parent / SCORES
    entries = {**_read(path), results.name: scores.as_dict()}
    with new_file(path) as file:
        file.write(json.dumps(entries, indent=2) + "\n")


def _read(path: Path) -> dict[str, object]:
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise UsageError(f"{path}: cannot be read ({error}); move it away, and a new one is begun") from error
    if not isinstance(entries, dict) or not all(isinstance(scores, dict) for scores in entries.values()):
        raise UsageError(f"{path}: does not map results files to their scores; move it away, and a new one is begun")
    return entries
