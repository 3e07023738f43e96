"""Results that survive an interrupted run: each caption is appended to a file on disk at once.

While a run writes `captions.json`, its captions are in `captions.json.part`. The first line of that
file is the provenance of the captions; each other line is a result.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from captioner.captions import ImageId
from captioner.console import console
from captioner.errors import CaptionerError, UsageError
from captioner.results.files import format_result, write_results
from captioner.storage import atomic_file


class ResumableResults:
    """The captions that are available so far, those of an interrupted run included."""

    def __init__(self, captions: dict[ImageId, str | Sequence[str]], part: Path) -> None:
        self.captions = captions
        self._part = part

    def add(self, image: ImageId, captions: str | Sequence[str]) -> None:
        """Add the caption of an image, or its captions, the best first, to these and to the file.

        Raises:
            CaptionerError: the file cannot be written; the captions before this one are kept.
        """
        try:
            # Opened and closed for each caption, so that none is lost in a buffer.
            with self._part.open("a", encoding="utf-8") as file:
                file.write(format_result(image, captions) + "\n")
        except OSError as error:
            raise CaptionerError(
                f"{self._part} cannot be written: {error.strerror}: "
                "free some space and run the same command again to continue"
            ) from error
        self.captions[image] = captions


@contextmanager
def resumable_results(
    path: Path,
    images: Collection[ImageId],
    *,
    provenance: Mapping[str, object],
    resume: bool = True,
) -> Iterator[ResumableResults]:
    """Yield results to add captions to; write them to `path` when the block ends without an error.

    Args:
        path: the results file.
        images: the images to caption, in the order of the results. Captions of other images that an
            interrupted run left are dropped.
        provenance: everything that the captions depend on, as values for JSON.
        resume: start from the captions that an interrupted run left; otherwise they are dropped.

    Raises:
        UsageError: an interrupted run left captions with another provenance.
        CaptionerError: a file cannot be written.
    """
    part = path.with_name(path.name + ".part")
    existing = _read_part(part, provenance)
    captions = {image: existing[image] for image in images if resume and image in existing}
    # The file is written anew, because a killed run may have left half a line at its end.
    lines = [json.dumps(provenance), *(format_result(*result) for result in captions.items())]
    with atomic_file(part) as file:
        file.writelines(f"{line}\n" for line in lines)
    try:
        yield ResumableResults(captions, part)
    except BaseException:
        console.print(
            f"captioner: {len(captions):,} captions are kept in {part}: "
            "run the same command again to continue",
            markup=False,
        )
        raise
    write_results(path, {image: captions[image] for image in images if image in captions})
    part.unlink()


def _read_part(part: Path, provenance: Mapping[str, object]) -> dict[ImageId, str | Sequence[str]]:
    """Return the captions of all complete lines, or none if the file does not exist."""
    try:
        first, *lines = part.read_text(encoding="utf-8").split("\n")[:-1]
        existing, results = json.loads(first), [json.loads(line) for line in lines]
        captions = {
            result["image_id"]: result.get("captions", result["caption"]) for result in results
        }
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise UsageError(
            f"{part} is not a file of an interrupted run ({error}): move it away"
        ) from error
    if existing != provenance:
        raise UsageError(
            f"{part} holds {len(captions):,} captions that an interrupted run generated with "
            "another model or other settings: run it again with those, or delete that file"
        )
    return captions
