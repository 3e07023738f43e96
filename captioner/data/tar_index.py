"""The index of a tar: where each image is, and its captions, so that any image is read at once.

A run draws its images in a new order in each epoch, and continues in the middle of one. A tar can
only be read from its start; its index is built once, and kept in a file beside it.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from captioner.data.datasets import nonempty
from captioner.data.filesystems import FileState, file_state, is_remote, open_file, read_bytes
from captioner.data.images import SUFFIXES
from captioner.data.shards import TarError, TarMember, list_members
from captioner.errors import CaptionerError
from captioner.storage import atomic_binary_file

SUFFIX = ".index"
CACHE = "CAPTIONER_CACHE"
"""Environment variable: the folder for indexes that cannot be written beside their tars."""

FORMAT = "captioner tar index 1"  # another number: what is in a tar is found in another way
MAX_TEXT = 2**24  # bytes of a .txt or .json file

logger = logging.getLogger("captioner")


@dataclass
class TarIndex:
    """The samples of a tar that have an image and a caption; the columns have equal lengths."""

    keys: list[str] = field(default_factory=list)
    images: list[str] = field(default_factory=list)  # the member of each
    offsets: list[int] = field(default_factory=list)  # of its first byte in the tar
    sizes: list[int] = field(default_factory=list)  # in bytes
    captions: list[list[str]] = field(default_factory=list)  # of each, at least one

    # What is wrong, by keys.
    several_images: list[str] = field(default_factory=list)  # the first is taken
    no_captions: list[str] = field(default_factory=list)  # left out
    no_images: list[str] = field(default_factory=list)  # left out
    empty_captions: list[str] = field(default_factory=list)  # left out
    broken_texts: list[str] = field(default_factory=list)  # members, with the reason
    damage: str | None = None  # why the tar cannot be read to its end

    def __len__(self) -> int:
        return len(self.keys)


class Name(NamedTuple):
    """The name of a member, as WebDataset divides it: up to the first dot of its last part."""

    key: str
    suffix: str  # ".jpg", in lower case

    @classmethod
    def parse(cls, member: str) -> Name | None:
        """Return the parts of a name; None: it is hidden, or has no suffix."""
        folder, slash, base = member.removeprefix("./").rpartition("/")
        stem, dot, suffix = base.partition(".")
        return cls(f"{folder}{slash}{stem}", f".{suffix.lower()}") if stem and dot else None


def open_index(tar: str) -> TarIndex:
    """Return the index of a tar: that beside it, or that in the cache; else it is built and stored.

    An index of another version of the tar, or a broken one, is built again, and a line says so.

    Raises:
        OSError: there is no such tar, or it cannot be read at all.
    """
    state = file_state(tar)
    beside, cached = f"{tar}{SUFFIX}", _cached(tar)
    for path in (beside, str(cached)):
        if index := _read(path, state):
            return index
    index = build_index(tar)
    content = _encode(index, state)
    if is_remote(tar) or not _write(Path(beside), content):
        try:
            cached.parent.mkdir(parents=True, exist_ok=True)
            is_stored = _write(cached, content)
        except OSError:
            is_stored = False
        if not is_stored:
            logger.warning(
                "the index of %s cannot be stored beside it, nor in %s, so the next run builds it "
                "again: set %s to a folder that can be written",
                *(tar, cached.parent, CACHE),
            )
    return index


def _cached(tar: str) -> Path:
    """Return where the index of a tar is stored that cannot be stored beside it."""
    folder = os.environ.get(CACHE) or os.path.join(
        os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "captioner"
    )
    place = tar if is_remote(tar) else os.path.abspath(tar)
    digest = hashlib.sha256(os.fsencode(place)).hexdigest()[:16]
    return Path(folder, "index", f"{digest}-{os.path.basename(tar)}{SUFFIX}")


def _encode(index: TarIndex, state: FileState) -> bytes:
    """Return the content of an index file: a line about it, and the columns as a line of JSON.

    The parser of JSON makes the lists and strings of the columns faster than Python code makes them
    of any binary format.
    """
    body = json.dumps(vars(index), separators=(",", ":")).encode()
    header = {"format": FORMAT, **state._asdict(), "sha256": hashlib.sha256(body).hexdigest()}
    return json.dumps(header).encode() + b"\n" + body


def _read(path: str, state: FileState) -> TarIndex | None:
    """Return the index in a file, if it is of this state of the tar."""
    try:
        content = read_bytes(path)
    except OSError:
        return None
    try:
        line, _, body = content.partition(b"\n")
        header = json.loads(line)
        if hashlib.sha256(body).hexdigest() != header["sha256"]:
            raise ValueError("another checksum")
        if header["format"] != FORMAT:
            reason = "is of another version"
        elif (header["size"], header["modified"]) != state:
            reason = "is of an earlier version of the tar"
        else:
            return TarIndex(**json.loads(body))
    except (ValueError, TypeError, KeyError):
        reason = "is broken"
    logger.warning("%s %s: it is built again", path, reason)
    return None


def _write(path: Path, content: bytes) -> bool:
    """Write an index file, and return whether that was possible."""
    try:
        with atomic_binary_file(path) as file:
            file.write(content)
    except CaptionerError:
        return False
    return True


class _Sample:
    """The members of a key so far."""

    __slots__ = ("image", "json_captions", "text_captions")

    def __init__(self) -> None:
        self.image: TarMember | None = None
        self.json_captions: list[str | None] | None = None
        self.text_captions: list[str | None] | None = None


def build_index(tar: str) -> TarIndex:
    """Read a tar once, without its images, and return its index; see `TarIndex.damage`.

    Raises:
        OSError: it cannot be opened.
    """
    index = TarIndex()
    samples: dict[str, _Sample] = {}  # the members of a key need not follow each other
    with open_file(tar) as file:
        try:
            for member in list_members(tar, file):
                name = Name.parse(member.member)
                if name is not None:
                    _add(samples.setdefault(name.key, _Sample()), name, member, file, index)
        except TarError as error:
            if isinstance(error.__cause__, OSError):
                raise error.__cause__ from error  # of the disk or the network: it may pass
            index.damage = f"{error}; it has {file.seek(0, os.SEEK_END):,} bytes"
    for key, sample in samples.items():
        _finish(key, sample, index)
    return index


def _add(sample: _Sample, name: Name, member: TarMember, file: BinaryIO, index: TarIndex) -> None:
    if name.suffix in SUFFIXES:
        if sample.image is None:
            sample.image = member
        else:
            index.several_images.append(name.key)
    elif name.suffix in (".json", ".txt"):
        try:
            text = _text(member, file)
            if name.suffix == ".txt":
                sample.text_captions = [*text.splitlines()] or [""]
            else:
                sample.json_captions = _captions_in(json.loads(text))
        except (ValueError, RecursionError) as error:
            index.broken_texts.append(f"{member.member} ({' '.join(str(error).split())[:80]})")


def _text(member: TarMember, file: BinaryIO) -> str:
    if member.size > MAX_TEXT:
        raise ValueError(f"{member.size:,} bytes")
    file.seek(member.offset)
    try:
        return file.read(member.size).decode("utf-8-sig")
    except UnicodeDecodeError:
        raise ValueError("not in UTF-8") from None


def _captions_in(content: Any) -> list[str | None] | None:
    """Return the captions in a JSON file: `captions`, or img2dataset's `caption`; None: neither."""
    if not isinstance(content, dict):
        raise ValueError("not a JSON object")
    name = "captions" if "captions" in content else "caption"
    if name not in content:
        return None
    value = content[name]
    captions = value if isinstance(value, list) else [value]
    if not all(isinstance(caption, str | None) for caption in captions):
        raise ValueError(f"{name} is no text")
    return captions


def _finish(key: str, sample: _Sample, index: TarIndex) -> None:
    """Add a sample to the index if it has an image and a caption."""
    captions = sample.text_captions if sample.json_captions is None else sample.json_captions
    if sample.image is None:
        if captions is not None:
            index.no_images.append(key)
        return
    kept = list(nonempty(captions or ()))
    if len(kept) < len(captions or ()):
        index.empty_captions.append(key)
    if not kept:
        index.no_captions.append(key)
        return
    index.keys.append(key)
    index.images.append(sample.image.member)
    index.offsets.append(sample.image.offset)
    index.sizes.append(sample.image.size)
    index.captions.append(kept)


def members(tar: str, index: TarIndex) -> Iterator[TarMember]:
    """Yield the images of an index."""
    for image, offset, size in zip(index.images, index.offsets, index.sizes, strict=True):
        yield TarMember(tar, image, offset, size)
