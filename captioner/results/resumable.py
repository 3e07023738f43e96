"""Results on their way: each caption is on disk as soon as it is known, so that a run that was killed goes on.

`captions.json` grows as `captions.json.part`: in its first line what its captions hang on, then one result a line.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from captioner.captions import ImageId
from captioner.console import console
from captioner.errors import CaptionerError, UsageError
from captioner.results.files import write_results
from captioner.storage import new_file


class ResumableResults:
    """The captions there are so far."""

    def __init__(self, captions: dict[ImageId, str], part: Path | None) -> None:
        self.captions = captions
        self._part = part

    def add(self, image: ImageId, caption: str) -> None:
        """Keep a caption.

        Raises:
            CaptionerError: it cannot be written; those before it are.
        """
        if self._part:
            try:
                with self._part.open(
                    "a", encoding="utf-8"
                ) as file:  # closed, so that nothing waits in memory
                    file.write(_line(image, caption))
            except OSError as error:
                reason = f"{self._part} cannot be written: {error.strerror}"
                raise CaptionerError(
                    f"{reason}; free some space, and the same command goes on"
                ) from error
        self.captions[image] = caption


@contextmanager
def resumable_results(
    path: Path | None,
    images: Collection[ImageId],
    *,
    made_by: Mapping[str, object],
    go_on: bool = True,
) -> Iterator[ResumableResults]:
    """Give the results that an interrupted run left, to add to; written as `path` when the block ends well.

    Args:
        path: the results file; none: nothing is kept.
        images: what is to be captioned, in the order of the results; captions of others are dropped.
        made_by: what captions hang on, as plain values.
        go_on: take up what an interrupted run left; else begin anew.

    Raises:
        UsageError: an interrupted run left captions that were made otherwise.
        CaptionerError: something cannot be written.
    """
    if path is None:
        yield ResumableResults({}, None)
        return
    part = path.with_name(path.name + ".part")
    there = _read(part, made_by)
    captions = {image: there[image] for image in images if go_on and image in there}
    with new_file(part) as file:  # anew, for the end of a killed run's may be half a line
        file.writelines(
            [json.dumps(made_by) + "\n", *(_line(*result) for result in captions.items())]
        )
    try:
        yield ResumableResults(captions, part)
    except BaseException:
        kept = f"captioner: {len(captions):,} captions are kept in {part}, where the same command goes on"
        console.print(kept, markup=False)
        raise
    write_results(path, {image: captions[image] for image in images if image in captions})
    part.unlink()


def _line(image: ImageId, caption: str) -> str:
    return json.dumps({"image_id": image, "caption": caption}) + "\n"


def _read(part: Path, made_by: Mapping[str, object]) -> dict[ImageId, str]:
    """Give the captions of the whole lines."""
    try:
        first, *lines = part.read_text(encoding="utf-8").split("\n")[:-1]
        about, results = json.loads(first), [json.loads(line) for line in lines]
        captions = {result["image_id"]: result["caption"] for result in results}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise UsageError(
            f"{part}: cannot be read as what an interrupted run left ({error}); move it away"
        ) from error
    if about != made_by:
        raise UsageError(
            f"{part} holds {len(captions):,} captions that an interrupted run made with another model or other "
            "settings: run it again with those, or delete that file"
        )
    return captions
