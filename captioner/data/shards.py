"""Shards of data: tar files as WebDataset and img2dataset write them.

A tar holds images with what belongs to them beside: `000001.jpg`, `000001.txt`, `000001.json`. Only
its headers are read to list its members; an image is read where it is, without unpacking.
"""

from __future__ import annotations

import io
import re
import tarfile
from collections.abc import Iterator
from contextlib import nullcontext
from itertools import product
from typing import BinaryIO, NamedTuple

from captioner.data.filesystems import exists, open_file, read_range
from captioner.data.pixels import UnreadableError

BLOCK = 512  # bytes: the unit of a tar

_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")


class TarError(Exception):
    """A tar that cannot be read, or not to its end. The message is the reason."""


class TarMember(NamedTuple):
    """A file in a tar. It holds no bytes until it is read."""

    tar: str  # a path or the URI of a store
    member: str  # its name in the tar
    offset: int  # of its first byte in the tar
    size: int  # in bytes

    @property
    def name(self) -> str:
        """What messages and results call it: "00000.tar/000001.jpg"."""
        return f"{self.tar}/{self.member}"

    def __str__(self) -> str:
        return self.name

    def read(self) -> bytes:
        """Return its bytes.

        Raises:
            OSError: the tar cannot be read.
            UnreadableError: the tar has become shorter.
        """
        data = read_range(self.tar, self.offset, self.size)
        if len(data) < self.size:
            raise UnreadableError("truncated: the tar ends too early")
        return data


def list_members(tar: str, file: BinaryIO | None = None) -> Iterator[TarMember]:
    """Yield the regular files in a tar, in order. Its headers alone are read.

    Args:
        tar: a path or the URI of a store.
        file: the tar, opened: the caller may read and seek in it between two members.

    Raises:
        TarError: the tar cannot be read, is compressed, or is damaged: after the members before.
    """
    try:
        with nullcontext(file) if file else open_file(tar) as file:
            size = file.seek(0, io.SEEK_END)
            file.seek(0)
            with tarfile.open(fileobj=file, mode="r:") as archive:
                yield from _members(archive, tar, size)
                # `tarfile` takes a header that it cannot read for the end of the tar.
                file.seek(archive.offset)
                rest = file.read(BLOCK)
    except tarfile.ReadError as error:
        raise TarError(_reason(tar, error)) from error
    except OSError as error:
        raise TarError((error.strerror or str(error)).lower()) from error
    if any(rest):
        raise TarError(
            "truncated: it ends in the middle of a header"
            if len(rest) < BLOCK
            else f"damaged at byte {archive.offset:,}: what follows cannot be read"
        )


def _members(archive: tarfile.TarFile, tar: str, size: int) -> Iterator[TarMember]:
    while (info := archive.next()) is not None:
        archive.members.clear()  # type: ignore[attr-defined]  # it would grow with the tar
        if not info.isreg() or info.issparse():
            continue
        if info.offset_data + info.size > size:
            raise TarError(f"truncated in the middle of {info.name}")
        yield TarMember(tar, info.name, info.offset_data, info.size)


def _reason(tar: str, error: tarfile.ReadError) -> str:
    try:
        start = read_range(tar, 0, 4)
    except OSError:
        start = b""
    if start.startswith((b"\x1f\x8b", b"BZh", b"\xfd7zX", b"\x28\xb5\x2f\xfd")):
        return "is compressed, so that no image can be read alone: decompress it"
    if str(error) == "unexpected end of data":
        return "truncated: it ends too early"
    return "is no tar file" if start else "is empty, and no tar file"


def expand_ranges(path: str) -> Iterator[str]:
    """Yield the paths of a brace range: "{08..11}.tar" is 08.tar, 09.tar, 10.tar and 11.tar.

    A path that exists, or has no braces, is itself.
    """
    if "{" not in path or exists(path):
        yield path
        return
    parts = _RANGE.split(path)  # text, first, last, text, first, last, text
    texts, firsts, lasts = parts[::3], parts[1::3], parts[2::3]
    ranges = [_numbers(first, last) for first, last in zip(firsts, lasts, strict=True)]
    for numbers in product(*ranges):
        yield texts[0] + "".join(
            number + text for number, text in zip(numbers, texts[1:], strict=True)
        )


def _numbers(first: str, last: str) -> list[str]:
    """Return the numbers of a range, with the leading zeros that its ends have, as bash does."""
    has_zeros = any(len(end) > 1 and end[0] == "0" for end in (first, last))
    width = max(len(first), len(last)) if has_zeros else 0
    start, stop = int(first), int(last)
    step = 1 if start <= stop else -1
    return [f"{number:0{width}}" for number in range(start, stop + step, step)]
