"""Small data sets of text, to run the whole pipeline without a download: sums, dialogues, reports.

* addition: "57+5" -> "62", the toy task of sequence-to-sequence textbooks, by character.
* dialogue: what a person says, with a question at the end -> the answer, which depends on it.
* summary: a report of two to four sentences -> one sentence with its main facts.

No source occurs twice, so none of dev is in train.
"""

from __future__ import annotations

import heapq
import json
import random
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Literal

from captioner.data.templates import dialogue, report
from captioner.errors import CaptionerError, UsageError
from captioner.storage import atomic_file

Task = Literal["addition", "dialogue", "summary"]
Row = tuple[str, str]  # source, target

STAMP = "generated.json"  # the arguments that the folder was made with, and whether it is complete
VERSION = 1  # of the contents; raise it when the same arguments give other files
SPLITS = ("train", "dev")
MAX_REPEATS = 1000  # in a row, before a task counts as exhausted

LARGEST = 999  # of the numbers to add


def generated_files(task: Task, folder: Path) -> tuple[Path, Path]:
    """Return the files of train and of dev, which hold both sides: TSV for sums, else JSONL."""
    suffix = "tsv" if task == "addition" else "jsonl"
    train, dev = (folder / f"{split}.{suffix}" for split in SPLITS)
    return train, dev


def generate(task: Task, folder: Path, *, train: int, dev: int, seed: int = 0) -> None:
    """Write the data set into `folder`, unless it is already there.

    The same arguments always give the same files. A set that is incomplete, or was made with other
    arguments, is written again.

    Args:
        task: what to generate.
        folder: where to write; see `generated_files`.
        train: number of train examples, at least 1.
        dev: number of dev examples, at least 1.
        seed: seed of all random choices.

    Raises:
        UsageError: the task has fewer examples, or `folder` holds other files.
        CaptionerError: the files cannot be written.
    """
    if train < 1 or dev < 1:
        raise UsageError(f"train={train} or dev={dev} is out of range: use at least 1")
    stamp = {"version": VERSION, "task": task, "train": train, "dev": dev, "seed": seed}
    files = generated_files(task, folder)
    if _is_complete(folder, stamp, files):
        return
    rows = _rows(task, train + dev, random.Random(f"{seed} {task}"))
    _prepare(folder, files)
    _write(folder / STAMP, [json.dumps({**stamp, "finished": False})])  # marks it as made here
    for file, part in zip(files, (rows[:train], rows[train:]), strict=True):
        if file.suffix == ".tsv":
            _write(file, ["\t".join(row) for row in part])
        else:
            _write(file, [json.dumps({"source": row[0], "target": row[1]}) for row in part])
    _write(folder / STAMP, [json.dumps({**stamp, "finished": True})])


def _is_complete(folder: Path, stamp: Mapping[str, object], files: tuple[Path, Path]) -> bool:
    try:
        made = json.loads((folder / STAMP).read_text("utf-8"))
    except (OSError, ValueError):
        return False
    return bool(made == {**stamp, "finished": True}) and all(file.is_file() for file in files)


def _prepare(folder: Path, files: tuple[Path, Path]) -> None:
    """Create the folder, or check that what it holds was made here.

    Raises:
        UsageError: the folder is a file, or holds files of the same names that are not ours.
    """
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder}: is a file: choose a folder for the generated data")
    others = [file.name for file in files if file.exists()]
    if others and not (folder / STAMP).exists():
        raise UsageError(
            f"{folder}: holds {others[0]!r}, which was not generated here: "
            "choose a new or an empty folder"
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CaptionerError(
            f"{folder} cannot be made: {error.strerror or error}; choose another folder"
        ) from error


def _write(file: Path, lines: list[str]) -> None:
    with atomic_file(file) as opened:
        opened.write("\n".join(lines) + "\n")


def _rows(task: Task, number: int, rng: random.Random) -> list[Row]:
    """Return rows with different sources.

    Raises:
        UsageError: the task does not have so many.
    """
    if task == "addition":
        rows = _sums(number, rng)
    else:
        write = dialogue if task == "dialogue" else report
        rows = list(islice(_different(write, rng), number))
    if len(rows) < number:
        raise UsageError(
            f"{task} has about {len(rows):,} examples, and train + dev is {number:,}: lower them"
        )
    return rows


def _different(write: Callable[[random.Random], Row], rng: random.Random) -> Iterator[Row]:
    """Yield rows with different sources until only known ones come."""
    known: set[str] = set()
    repeats = 0
    while repeats < MAX_REPEATS:
        source, target = write(rng)
        repeats = repeats + 1 if source in known else 0
        if not repeats:
            known.add(source)
            yield source, target


def _sums(number: int, rng: random.Random) -> list[Row]:
    """Return different sums, where numbers of one, two and three digits are equally likely.

    This is weighted sampling without replacement (Efraimidis and Spirakis 2006): the smallest of
    the exponential variables whose rates are the weights.
    """
    weights = [1 / (10, 90, 900)[len(str(n)) - 1] for n in range(LARGEST + 1)]
    keyed = (
        (rng.expovariate(weights[a] * weights[b]), a, b)
        for a in range(LARGEST + 1)
        for b in range(LARGEST + 1)
    )
    rows = [(f"{a}+{b}", str(a + b)) for _, a, b in heapq.nsmallest(number, keyed)]
    rng.shuffle(rows)  # the likeliest came first
    return rows
