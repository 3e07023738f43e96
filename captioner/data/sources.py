"""Sources of images without limit: folders, globs, files, lists, and tars of WebDataset.

A source is read in parts of a fixed number of images, always in the same order. Memory is bounded
by a part and by the names of one folder, whatever the length is.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from copy import copy
from itertools import chain, islice
from typing import Any

from captioner.data.filesystems import (
    RemoteFile,
    exists,
    is_folder,
    is_remote,
    join,
    list_folder,
)
from captioner.data.images import SUFFIXES, reason_of_url
from captioner.data.lists import SUFFIXES as LISTS
from captioner.data.lists import ImageItem, read_list
from captioner.data.shards import TarError, expand_ranges, list_members
from captioner.errors import UsageError, parameter

TAR = ".tar"


def _suffix(path: str) -> str:
    return os.path.splitext(path)[1].lower()


class Source:
    """The images of paths, in order. `problems` has a line for each that cannot be read.

    It is filled while the images are listed; the images before a problem are kept.
    """

    def __init__(self, paths: Sequence[str], *, column: str | None, exclude: str | None) -> None:
        self.paths, self.column = list(paths), column
        self._exclude = os.path.realpath(exclude) if exclude else None
        self._problems: dict[str, None] = {}  # a set in order: a source may be listed twice
        self._begun: Iterator[ImageItem] | None = None  # of `check`, for the next `items`
        self._keep: Callable[[Sequence[ImageItem]], list[ImageItem]] = list

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what `check` has begun, which cannot be pickled."""
        return self.__dict__ | {"_begun": None}

    @property
    def problems(self) -> list[str]:
        """The paths that could not be read so far, and why."""
        return list(self._problems)

    def filtered(self, keep: Callable[[Sequence[ImageItem]], list[ImageItem]]) -> Source:
        """Return this source with only the images of each part that `keep` returns of them."""
        other = copy(self)
        other._keep = keep
        return other

    def add_problems(self, problems: Iterable[str]) -> None:
        """Add those that another process has met."""
        self._problems.update(dict.fromkeys(problems))

    def items(self) -> Iterator[ImageItem]:
        """Return an iterator over all images. Each call begins anew."""
        begun, self._begun = self._begun, None
        return begun or self._all_items()

    def check(self) -> None:
        """Check that there is an image.

        Raises:
            UsageError: there is none; the message has all problems.
        """
        items = self._all_items()
        if (first := next(items, None)) is None:
            raise UsageError("; ".join(self.problems) or "these sources have no images")
        self._begun = chain([first], items)  # so that a large folder is not listed again

    def _all_items(self) -> Iterator[ImageItem]:
        for path in self.paths:
            for each in expand_ranges(path):
                yield from self._items(each)

    def parts(
        self, size: int, wanted: Callable[[int], bool] = lambda part: True
    ) -> Iterator[tuple[int, list[ImageItem]]]:
        """Yield the number and the images of each part that is wanted, in order.

        Part p holds the images p * size to (p + 1) * size - 1; the last one may be shorter.
        """
        items = self.items()
        number = 0
        while True:
            if wanted(number):
                part = list(islice(items, size))
                if part:
                    yield number, self._keep(part)
                if len(part) < size:
                    return
            elif next(islice(items, size - 1, size), None) is None:
                return
            number += 1

    def _items(self, path: str) -> Iterator[ImageItem]:
        if is_folder(path):
            yield from self._folder(path)
        elif exists(path):
            yield from self._file(path)
        elif not is_remote(path) and (reason := reason_of_url(path)):
            self._report(path, reason)
        elif not is_remote(path) and glob.has_magic(path):
            yield from self._glob(path)
        else:
            self._report(path, "no such file or folder")

    def _file(self, path: str) -> Iterator[ImageItem]:
        suffix = _suffix(path)
        if suffix == TAR:
            yield from self._tar(path)
        elif suffix in LISTS:
            yield from read_list(path, self.column)
        else:
            yield ImageItem(path, RemoteFile(path) if is_remote(path) else path)

    def _tar(self, path: str) -> Iterator[ImageItem]:
        num_images = 0
        try:
            for member in list_members(path):
                if _is_image(os.path.basename(member.member)):
                    num_images += 1
                    yield ImageItem(member.name, member)
        except TarError as error:
            self._report(path, f"{error} ({num_images:,} images before are captioned)")
        else:
            if not num_images:
                self._report(path, "no images (*.jpg, *.png, ...) in this tar")

    def _folder(self, path: str) -> Iterator[ImageItem]:
        num_problems, is_empty = len(self._problems), True
        for item in self._walk(path):
            is_empty = False
            yield item
        if is_empty and len(self._problems) == num_problems:
            self._report(path, "no images (*.jpg, *.png, ...) in this folder or below it")

    def _walk(self, folder: str) -> Iterator[ImageItem]:
        """Yield the images of a folder and those below it, sorted by name in each folder."""
        try:
            entries = list_folder(folder)
        except OSError as error:
            self._report(folder, (error.strerror or "cannot be listed").lower())
            return
        entries.reverse()
        while entries:  # emptied on the way: the names of a large folder are not kept
            name, is_a_folder = entries.pop()
            path = join(folder, name)
            if is_a_folder and not name.startswith(".") and not self._is_excluded(path):
                yield from self._walk(path)
            elif not is_a_folder and _is_image(name):
                yield ImageItem(path, RemoteFile(path) if is_remote(path) else path)

    def _is_excluded(self, folder: str) -> bool:
        return self._exclude is not None and os.path.realpath(folder) == self._exclude

    def _glob(self, pattern: str) -> Iterator[ImageItem]:
        """Yield the images and tars that a glob matches; lists, if it ends in their ending."""
        kept = (*SUFFIXES, TAR, _suffix(pattern))
        matches = sorted(glob.iglob(pattern, recursive=True))
        files = [match for match in matches if _suffix(match) in kept and os.path.isfile(match)]
        for file in files:
            yield from self._file(file)
        if not files:
            self._report(pattern, "no image matches")

    def _report(self, path: str, reason: str) -> None:
        self._problems.setdefault(f"{path or repr(path)}: {reason}")


def _is_image(name: str) -> bool:
    return _suffix(name) in SUFFIXES and not name.startswith(".")


def open_source(
    paths: Sequence[str], *, column: str | None = None, exclude: str | None = None
) -> Source:
    """Return the images of folders, globs, image files, lists and tars.

    Args:
        paths: local paths, URIs of a store such as s3://bucket/folder, and brace ranges such as
            {00000..00999}.tar.
        column: of the images in lists.
        exclude: a folder that is left out where it is in another: that of the output.

    Raises:
        UsageError: there is no image at all, or a list cannot be read or has no such column.
    """
    source = Source(paths, column=column, exclude=exclude)
    lists = [path for path in paths if _suffix(path) in LISTS and not is_folder(path)]
    if column is not None and not lists:
        raise UsageError(f"{parameter('column')} has no effect without a list: leave it out")
    for path in lists:
        if exists(path):
            next(read_list(path, column), None)  # its first row, before a model is loaded
    source.check()
    return source
