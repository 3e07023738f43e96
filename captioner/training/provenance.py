"""What a checkpoint depends on besides its weights: the data and the settings of its run.

A checkpoint stores it. A run that is resumed with other data or settings says what has changed, and
continues at the corresponding place of the epoch.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TypedDict

from captioner.config.run import Config
from captioner.data.datasets import Example
from captioner.data.parallel import Pair
from captioner.data.plain_text import TextExample
from captioner.data.splits import SourceExample
from captioner.errors import first_few
from captioner.training.checkpoint import Progress

Settings = dict[str, Any]
"""The settings of a run by their names, such as "training.phases.0.epochs"."""

# Settings that change neither the steps of a run nor what they learn from.
_FREE = (
    *("output", "data.hint", "data.on_bad_image", "data.bad_images", "data.shapes.folder"),
    *("data.generated.folder", "training.workers", "training.worker_timeout"),
    *("training.cache_features", "training.keep_checkpoints", "training.checkpoint_every"),
    *("training.validate_every", "training.max_steps", "training.early_stopping"),
)
# Paths of the data: the hash of what they hold is compared instead.
_PATHS = (
    *("annotations", "dataset", "subset", "image", "images", "text", "source", "target"),
    *("shards", "split", "name"),
)
# Settings that only a new run uses: a checkpoint has its own vocabulary and weights.
_OF_NEW_RUNS = (
    *("data.min_count", "data.tokenizer.", "data.share_vocabulary", "init"),
    *("training.glove", "encoder.weights"),
)
# Settings that change the score of a validation.
_OF_SCORES = ("training.select_by", "training.validation_beam", "decoding.")
# Settings of decoding that the beam search of a validation replaces, or that it has no use for.
_NOT_OF_SCORES = (
    *("decoding.method", "decoding.captions", "decoding.beam", "decoding.replace_unknown"),
    *("decoding.temperature", "decoding.top_k", "decoding.top_p", "decoding.seed"),
    "decoding.min_confidence",
)
_PLACES = re.compile(r"(\.\d+)+$")  # at the end of the name of an entry of a list of values
_IN_A_LIST = re.compile(r"\.\d+\.")  # in the name of a setting of a phase or of a source


class Provenance(TypedDict):
    """The data and the settings of a run, as plain values for a checkpoint."""

    settings: Settings
    train: str  # hash of what the run learns from
    dev: str  # hash of what it is validated on
    rows: list[int]  # of an epoch, in each phase
    batches: list[int]  # of an epoch, in each phase


def provenance(
    config: Config,
    train: Iterable[SourceExample | TextExample],
    dev: Iterable[SourceExample],
    *,
    rows: Sequence[int],
    batches: Sequence[int],
) -> Provenance:
    """Return the provenance of a run; `rows` and `batches` are those of an epoch of each phase."""
    return {
        "settings": dict(_settings(config.to_json())),
        "train": _digest(train),
        "dev": _digest(dev),
        "rows": [*rows],
        "batches": [*batches],
    }


def _settings(value: object, name: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the name and the value of each setting that can change the run."""
    items: Iterable[tuple[object, object]] = ()
    if isinstance(value, Mapping):
        items = value.items()
    elif isinstance(value, list):
        items = enumerate(value)
    elif not _is_free(name):
        yield name, value
    for key, item in items:
        yield from _settings(item, f"{name}.{key}" if name else str(key))


def _is_free(name: str) -> bool:
    setting = _PLACES.sub("", name).rpartition(".")[2]
    is_path = name.startswith(("data.train", "data.dev")) and setting in _PATHS
    return is_path or name in _FREE


def _digest(examples: Iterable[SourceExample | TextExample]) -> str:
    """Return a hash of the ids or source texts of examples and of their captions, in order."""
    digest = hashlib.sha256()
    for example in examples:
        match example:
            case Example():
                source: object = example.image_id
            case Pair():
                source = example.source
            case _:
                source = None
        digest.update(f"{(source, tuple(example.captions))!r}\n".encode())
    return digest.hexdigest()


def adapt_progress(progress: Progress, saved: Mapping[str, Any], current: Provenance) -> list[str]:
    """Move the progress of a checkpoint to the data and settings of the run that resumes it.

    Args:
        progress: of the checkpoint; it is changed.
        saved: the provenance in the checkpoint; empty if an older version wrote it.
        current: the provenance of this run.

    Returns:
        What to tell the user about each difference.
    """
    if not saved:
        is_done = progress.batch >= current["batches"][progress.phase]
        return [
            "the checkpoint is of an older version: its data and settings cannot be compared"
            + (", and its epoch counts as done" if is_done else "")
        ]
    changed, without_effect, of_scores = _differences(saved["settings"], current["settings"])
    messages = []
    if changed:
        messages.append(f"changed since the checkpoint: {first_few(changed)}")
    if without_effect:
        messages.append(
            f"without effect on a resumed run: {first_few(without_effect)}: the checkpoint keeps "
            "its vocabulary and weights; start a new run for others"
        )
    if saved["train"] != current["train"]:
        messages.append("what to learn from differs from that of the checkpoint")
    if any(saved[key] != current[key] for key in ("rows", "batches")):
        progress.micro_batches = 1  # accumulate=auto finds anew how many fit
    messages += _move(progress, saved, current)
    if saved["dev"] != current["dev"] or of_scores:
        what = "dev" if saved["dev"] != current["dev"] else first_few(of_scores)
        progress.best_score, progress.validations_since_best = -1.0, 0
        messages.append(f"{what} has changed, so scores are not compared with earlier ones")
    return messages


def _differences(saved: Settings, current: Settings) -> tuple[list[str], list[str], list[str]]:
    """Return the settings that differ: those with effect, those without, and those of scores."""
    changed: list[str] = []
    without_effect: list[str] = []
    of_scores: list[str] = []
    for name in dict.fromkeys([*saved, *current]):
        old, new = saved.get(name), current.get(name)
        is_newer = name not in saved and not _IN_A_LIST.search(name)  # than the checkpoint
        if old == new or is_newer:
            continue
        kind = without_effect if name.startswith(_OF_NEW_RUNS) else changed
        kind.append(f"{name} {_show(old)} -> {_show(new)}")
        if name.startswith(_OF_SCORES) and name not in _NOT_OF_SCORES:
            of_scores.append(name)
    return changed, without_effect, of_scores


def _show(value: object) -> str:
    return "none" if value is None else str(value)


def _move(progress: Progress, saved: Mapping[str, Any], current: Provenance) -> list[str]:
    """Set the batch that corresponds to the place in an epoch of other length or order."""
    phase, batch = progress.phase, progress.batch
    old, new = (each["batches"][phase] for each in (saved, current))
    has_same_order = _order(saved, phase) == _order(current, phase)
    if has_same_order and old == new:
        return []
    progress.batch = batch * new // old  # no later than the place it had
    if batch in (0, old):
        return []  # between two epochs
    place = f"the epoch continues after batch {progress.batch} of {new}"
    if not has_same_order:
        return [f"{place}, so some of its examples are used twice, and others are left out"]
    rows = current["rows"][phase]
    repeated = rows * batch // old - rows * progress.batch // new
    return [f"{place}, so {repeated} of its examples are used twice" if repeated else place]


def _order(saved: Mapping[str, Any], phase: int) -> tuple[object, ...]:
    """Return all that the order of the examples of an epoch depends on."""
    settings = saved["settings"]
    # the batch size sets among how many texts `EpochBatchSampler` sorts by length
    is_sorted = settings.get("encoder.kind") == "text"
    pool = settings.get("training.batch_size") if is_sorted else None
    return saved["rows"][phase], settings.get("training.seed"), pool
