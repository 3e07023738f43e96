"""Files of text, one for each image, as trainers of diffusion models read them (kohya's scripts).

`photo.jpg` has the sidecar `photo.txt`, beside it or at the same place below another folder.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Literal, cast

from captioner.console import one_line
from captioner.data.lists import ImageItem
from captioner.errors import CaptionerError, ImageError, UsageError, first_few, parameter
from captioner.storage import atomic_binary_file

Suffix = Literal["txt", "caption"]
"""Of sidecars: what kohya's training scripts are told to read, or read unless told."""

Existing = Literal["error", "skip", "overwrite", "append"]
"""What happens if an image has a text already.

error: nothing is captioned. skip: the image is not captioned. overwrite: the new text replaces it.
append: the new text is added as a line.
"""

CHOICES = f"{parameter('existing')} skip, overwrite or append"
OF_THE_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EIO)  # errors that concern every file


class NotWrittenError(ImageError):
    """A text of one image that cannot be written: the file and the reason."""


class Sidecars:
    """Writes the sidecar of each image."""

    def __init__(
        self,
        suffix: Suffix,
        paths: Sequence[str] = (),
        *,
        folder: Path | None = None,
        before: str = "",
        after: str = "",
        existing: Existing = "error",
    ) -> None:
        """Describe the sidecars. Nothing is read or written yet.

        Args:
            suffix: of the files.
            paths: what names the images: files, folders, globs, lists and tars.
            folder: for sidecars that are not beside the images: below it, each is where its image
                is below the folder, or the fixed folders of the glob, in `paths`.
            before: text before each caption, such as a trigger word.
            after: text after each caption.
            existing: what happens to a sidecar that exists.
        """
        self.suffix, self.folder, self.existing = suffix, folder, existing
        self.before, self.after = before, after
        self._files = {path for path in paths if not os.path.isdir(path)}
        self._roots = sorted({_root(path) for path in paths}, key=len, reverse=True)
        self._images: dict[str, str] = {}  # of each sidecar
        self._last_folder = ("", "")  # and where it leads to

    def path(self, item: ImageItem) -> Path:
        """Return the sidecar of an image."""
        place = local_file(item) if self.folder is None else self.folder / self._place(item.name)
        return place.with_suffix(f".{self.suffix}")

    def _place(self, image: str) -> str:
        """Return where an image is below the folder of `paths` that it is in."""
        if image in self._files:
            return os.path.basename(image)
        path = os.path.normpath(image)
        root = next((root for root in self._roots if path.startswith(root)), "")
        # Of a path in a list, all folders: an absolute one must not lead out of the mirror.
        steps = [step for step in path[len(root) :].split(os.sep) if step not in ("", "..")]
        return os.path.join(*steps)

    def check(self, items: Sequence[ImageItem], *, may_exist: bool = False) -> None:
        """Raise an error, before these images are captioned, if a sidecar would replace something.

        Args:
            items: the images, or some of them: those of earlier calls are remembered.
            may_exist: whether these sidecars may exist whatever `existing` is.

        Raises:
            UsageError: two images have the same sidecar; one is an image, an argument or a folder;
                one is to be beside an image that is no file; or one exists already and `existing`
                is "error".
        """
        inputs = {os.path.abspath(path) for path in (*map(file_name, items), *self._files)}
        exist = []
        for item in items:
            path = self.path(item)
            if problem := self._problem(path, item, inputs):
                raise UsageError(f"{one_line(path)} {problem}")
            if self.existing == "error" and not may_exist and path.exists():
                exist.append(one_line(path))
        if exist:
            raise UsageError(
                f"{len(exist):,} of {len(items):,} images have a sidecar already "
                f"({first_few(exist)}): choose {CHOICES}"
            )

    def _problem(self, path: Path, item: ImageItem, inputs: Collection[str]) -> str | None:
        """Return why a path cannot be the sidecar of an image."""
        image, other_folder = one_line(item.name), f"another {parameter('sidecar_dir')}"
        other = self._images.setdefault(self._real_path(path), item.name)
        if other != item.name:
            return (
                f"is the sidecar of {one_line(other)} and of {image}: caption them in two runs, "
                f"the second with {other_folder}"
            )
        if os.path.abspath(path) in inputs:
            return (
                f"is to be read, and is the sidecar of {image}: name images and folders only, or "
                f"choose {other_folder}"
            )
        if path.is_dir():
            return f"is a folder, and the sidecar of {image}: choose {other_folder}"
        return None

    def _real_path(self, path: Path) -> str:
        """Return where a path leads to; folders are followed once, as images are many."""
        if path.is_symlink():
            return os.path.realpath(path)
        folder = str(path.parent)
        if folder != self._last_folder[0]:
            self._last_folder = (folder, os.path.realpath(folder))
        return os.path.join(self._last_folder[1], path.name)

    def wants(self, item: ImageItem) -> bool:
        """Return whether an image is to be captioned."""
        return self.existing != "skip" or not self.path(item).exists()

    def add(self, item: ImageItem, captions: Sequence[str]) -> None:
        """Write the captions of an image, one a line, unless there are none or it is to be skipped.

        Raises:
            NotWrittenError: this sidecar cannot be written.
            CaptionerError: none can be written: the disk is full.
        """
        if not captions or not self.wants(item):
            return
        path = self.path(item)
        lines = "".join(f"{self.before}{caption}{self.after}\n" for caption in captions)
        try:
            if self.existing == "error" and path.exists():
                raise NotWrittenError(
                    str(path), f"was written by another program: choose {CHOICES}"
                )
            if self.folder is not None:
                path.parent.mkdir(parents=True, exist_ok=True)
            earlier = _earlier_lines(path) if self.existing == "append" else b""
            with atomic_binary_file(path) as file:
                file.write(earlier + lines.encode())
        except (OSError, CaptionerError) as error:
            raise write_error(path, error) from None


def file_name(item: ImageItem) -> str:
    """Return the path of the file of an image, or the name of one that is no file here."""
    image = item.image
    return os.fspath(image) if isinstance(image, str | os.PathLike) else item.name


def local_file(item: ImageItem) -> Path:
    """Return the file of an image.

    Raises:
        UsageError: it is a part of a tar or of a table, or in a store.
    """
    if not isinstance(item.image, str | os.PathLike):
        raise UsageError(
            f"{one_line(item.name)} is no file on this machine, so that nothing can be written "
            f"beside it or into it: name a {parameter('sidecar_dir')}, and leave out "
            f"{parameter('xmp')}"
        )
    return Path(item.image)


def write_error(path: Path, error: OSError | CaptionerError) -> CaptionerError:
    """Return the error of a text that cannot be written, from what its writing has raised."""
    if isinstance(error, NotWrittenError):
        return error
    if isinstance(error, ImageError):
        return NotWrittenError(str(path), error.reason)
    cause = error if isinstance(error, OSError) else error.__cause__
    if not isinstance(cause, OSError):
        return cast(CaptionerError, error)
    reason = (cause.strerror or str(cause)).lower()
    if cause.errno in OF_THE_DISK:
        return CaptionerError(
            f"{path} cannot be written: {reason}: free some space, and run the same command with "
            f"{parameter('existing')} skip to continue"
        )
    return NotWrittenError(str(path), f"cannot be written: {reason}")


def _earlier_lines(path: Path) -> bytes:
    """Return the content of a file that lines are to be added to.

    Raises:
        NotWrittenError: it is no UTF-8 text.
    """
    if not path.exists():
        return b""
    content = path.read_bytes()
    try:
        content.decode()
    except UnicodeDecodeError:
        raise NotWrittenError(
            str(path), f"is not UTF-8: convert it, or choose {parameter('existing')} overwrite"
        ) from None
    return content if not content or content.endswith(b"\n") else content + b"\n"


def _root(path: str) -> str:
    """Return the folder that images of a folder, glob, list or tar are in, ending with a slash."""
    if not os.path.isdir(path):
        fixed = next((place for place, letter in enumerate(path) if letter in "*?[{"), len(path))
        path = os.path.dirname(path if os.path.exists(path) else path[:fixed])
    path = os.path.normpath(path)
    return "" if path == "." else os.path.join(path, "")
