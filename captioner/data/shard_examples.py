"""Load the examples of shards: tars of images with their captions, as img2dataset writes them."""

from __future__ import annotations

import glob
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

from captioner.data.datasets import TAR, Example
from captioner.data.filesystems import exists, is_folder, is_remote, join, list_folder
from captioner.data.problems import Problems, repeated
from captioner.data.shards import expand_ranges
from captioner.data.streaming import map_ahead
from captioner.data.tar_index import TarIndex, members, open_index
from captioner.errors import UsageError
from captioner.progress import track

THREADS = 4  # that wait for the disk or the store; indexes are parsed one at a time

Add = Callable[[str, Iterable[object]], None]


def find_tars(patterns: Sequence[str]) -> list[str]:
    """Return the tars of paths, brace ranges, folders and globs, in order, also missing ones.

    Raises:
        UsageError: a folder or a glob has none.
    """
    tars = []
    for pattern in patterns:
        for path in expand_ranges(pattern):
            tars += _find(path)
    return tars


def _find(path: str) -> list[str]:
    if path.endswith(TAR):
        is_glob = glob.has_magic(path) and not is_remote(path) and not exists(path)
        found = sorted(glob.glob(path, recursive=True)) if is_glob else [path]
    elif is_folder(path):
        entries = list_folder(path)
        found = [join(path, each.name) for each in entries if each.name.endswith(TAR)]
    else:
        raise UsageError(
            f"{path}: no tar and no folder of tars: name tars as in data/{{00000..00099}}.tar"
        )
    if not found:
        raise UsageError(f"{path}: has no tar: name tars as in data/{{00000..00099}}.tar")
    return found


def load_shards(
    patterns: Sequence[str], problems: Problems, *, skip_damaged: bool = False
) -> list[Example]:
    """Return the images of tars with their captions; "00000/000012" is the id of an image.

    The captions of `KEY.jpg` are `captions` in `KEY.json`, else `caption` there, else the lines of
    `KEY.txt`. Only the indexes of the tars are read, if they have been built before.

    Args:
        patterns: see `find_tars`.
        problems: gets the tars that are missing or damaged, and what is wrong in them.
        skip_damaged: take what is intact; it is an error otherwise.

    Raises:
        UsageError: there is no image with a caption, or a folder or a glob has no tar.
    """
    tars = find_tars(patterns)
    problems.add_error("tars given more than once", repeated(tars))
    tars = [*dict.fromkeys(tars)]
    add_damage = problems.add_warning if skip_damaged else _add_error(problems)
    examples: list[Example] = []
    missing = []
    indexes = map_ahead(_open, tars, threads=THREADS)
    tracked = track(indexes, total=len(tars), doing="reading the indexes", unit="tars")
    for tar, label, index in zip(tars, _labels(tars), tracked, strict=True):
        if isinstance(index, FileNotFoundError):
            missing.append(tar)
        elif isinstance(index, OSError):
            problems.add_error("tars that cannot be read", [f"{tar}: {index.strerror or index}"])
        else:
            _record(index, tar, label, problems, add_damage)
            examples += _examples(tar, label, index)
    problems.add_error(f"tars that are missing, of {len(tars):,}", missing)
    if not examples and not problems.errors:
        raise UsageError(f"{', '.join(patterns)}: holds no image with a caption")
    return examples


def _add_error(problems: Problems) -> Add:
    return lambda kind, cases: problems.add_error(
        f"{kind} (to use what is intact: data.on_bad_image=skip)", cases
    )


def _open(tar: str) -> TarIndex | OSError:
    try:
        return open_index(tar)
    except OSError as error:
        return error


def _examples(tar: str, label: str, index: TarIndex) -> Iterable[Example]:
    for key, member, captions in zip(index.keys, members(tar, index), index.captions, strict=True):
        yield Example(f"{label}/{key}", member, tuple(captions))


def _record(index: TarIndex, tar: str, label: str, problems: Problems, add_damage: Add) -> None:
    """Record what is wrong in a tar."""
    if index.damage:
        add_damage(
            "tars that cannot be read to their end",
            [f"{tar}: {index.damage}; images before: {len(index):,}"],
        )
    elif not index.keys:
        problems.add_warning("tars without a captioned image", [tar])
    for add, kind, cases in (
        (add_damage, "broken texts", index.broken_texts),
        (add_damage, "several images of a key", index.several_images),
        (problems.add_warning, "empty captions, left out", index.empty_captions),
        (problems.add_warning, "images without a caption, left out", index.no_captions),
        (problems.add_warning, "captions without an image, left out", index.no_images),
    ):
        add(kind, (f"{label}/{case}" for case in cases))


def _labels(tars: Sequence[str]) -> list[str]:
    """Return what the image ids of each tar begin with: its name, or its path below a folder.

    The path is used if tars in several folders have the same name: it begins where paths differ.
    """
    paths = [tar.removesuffix(TAR).split("/") for tar in tars]
    counts = Counter(path[-1] for path in paths)
    if max(counts.values(), default=1) == 1:
        return [path[-1] for path in paths]
    pairs = enumerate(zip(*paths, strict=False))
    shortest = min(map(len, paths))
    first = next((place for place, parts in pairs if len(set(parts)) > 1), shortest - 1)
    return ["/".join(path[first:]) for path in paths]
