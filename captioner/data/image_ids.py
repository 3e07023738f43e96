"""The ids of image files, from the file that annotates or only lists them.

Captions of files and folders are named by their paths; annotations name images by ids.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from captioner.captions import ImageId
from captioner.data.formats import find_file, read_annotations
from captioner.data.problems import BrokenJSONError, Problems, parse_json, read_text
from captioner.errors import UsageError, summarize


class ImageIds:
    """Finds the id of an image by its path, in any folder."""

    def __init__(self, files: Mapping[ImageId, str]) -> None:
        """Take the file name of each id, which can be a path relative to a folder of images."""
        self.files = files
        # by the parts of a name, and of each end of it; None: several images have it
        self._by_name: dict[tuple[str, ...], ImageId | None] = {}
        self._by_end: dict[tuple[str, ...], ImageId | None] = {}
        for image, file in files.items():
            name, *ends = _ends(file)
            self._by_name[name] = None if name in self._by_name else image
            for end in ends:
                self._by_end[end] = None if end in self._by_end else image

    def find(self, path: str | Path) -> ImageId | None:
        """Return the id of the image whose annotated file name is the end of `path`.

        The longest such name counts. `path` may also be the end of one name, and of no other.
        """
        ends = _ends(str(path))
        for end in ends:
            if end in self._by_name:
                return self._by_name[end]
        return self._by_end.get(ends[0])


def _ends(path: str) -> list[tuple[str, ...]]:
    """Return the parts of a path, then those of each shorter end of it: a/b gives (a, b), (b)."""
    # macOS writes accents as characters of their own, Windows writes backslashes
    name = unicodedata.normalize("NFC", path).replace("\\", "/")
    parts = tuple(part for part in name.split("/") if part not in ("", ".")) or (name,)
    return [parts[start:] for start in range(len(parts))]


def load_image_ids(annotations: Path, split: str | None = None) -> ImageIds:
    """Read the ids and the file names of the images in a file of any format, also without captions.

    COCO's image_info_test2017.json, for example, only lists images.

    Raises:
        UsageError: the file cannot be read or lists no image.
    """
    path = find_file(annotations)
    ignored = Problems(path)  # captions do not matter here
    files = _listed(path, ignored) if path.suffix.lower() == ".json" else {}
    if not files:
        entries = read_annotations(path, split, False, ignored).entries
        files = {entry.image_id: entry.file for entry in entries}
    if not files:
        raise UsageError(f"{annotations}: lists no images")
    return ImageIds(files)


def _listed(path: Path, problems: Problems) -> dict[ImageId, str]:
    """Return the images of a COCO file, or none if it has another format."""
    try:
        content: Any = parse_json(read_text(path, problems))
    except BrokenJSONError as error:
        raise UsageError(f"{path}: broken JSON in {error}") from error
    images = content.get("images") if isinstance(content, dict) else None
    if not isinstance(images, list):
        return {}
    return {
        image["id"]: image["file_name"]
        for image in images
        if isinstance(image, dict)
        and type(image.get("id")) in (int, str)
        and isinstance(image.get("file_name"), str)
    }


def name_by_ids(captions: Mapping[ImageId, str], ids: ImageIds) -> dict[ImageId, str]:
    """Return the captions by the ids of their images; paths that have none are kept.

    Raises:
        UsageError: several captions belong to one image.
    """
    named: dict[ImageId, str] = {}
    repeated: list[str] = []
    for image, caption in captions.items():
        known = image in ids.files or not isinstance(image, str)
        found = image if known else ids.find(str(image))
        key = image if found is None else found
        if key in named:
            repeated.append(f"{image!r} is image {key!r}")
        named[key] = caption
    if repeated:
        raise UsageError(
            f"{summarize(repeated, 'caption')} of an image that has one already: "
            "leave one caption for each image"
        )
    return named
