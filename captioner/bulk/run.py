"""Caption the images of a source: in batches within parts, and parts of a shard into a folder."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from threading import Event, Thread
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from captioner.bulk.parts import PartFolder, Shard
from captioner.captions import Caption
from captioner.config.schema import DecodingConfig
from captioner.data.filesystems import is_remote
from captioner.data.lists import ImageItem
from captioner.data.sources import Source
from captioner.errors import CaptionerError, ImageError
from captioner.progress import Progress
from captioner.results.rows import Row

if TYPE_CHECKING:
    from captioner.inference.captioner import Captioner

AHEAD = 2  # batches whose images are read while one is captioned

COUNT_AFTER = 2.0  # seconds: short runs need no total, and the first captions no competitor

Outcome = Caption | ImageError
OnOutcome = Callable[[ImageItem, Outcome], None]
"""Is told of each image when it is captioned, in order: to print it, or to write a file of it."""


class CaptionedBatch(NamedTuple):
    """Images of one part with their captions or errors, in order."""

    part: int
    outcomes: list[tuple[ImageItem, Outcome]]
    ends_part: bool


class _Batch(NamedTuple):
    """Images of one part, which are being read."""

    part: int
    items: Sequence[ImageItem]
    pixels: list[Future[np.ndarray | ImageError]]
    ends_part: bool


def caption_parts(
    captioner: Captioner,
    parts: Iterable[tuple[int, Sequence[ImageItem]]],
    *,
    decoding: DecodingConfig,
    batch_size: int,
) -> Iterator[CaptionedBatch]:
    """Yield the captions of parts in batches, in order.

    A batch never has images of two parts: the last bits of a log-probability depend on the batch,
    and so the rows of a part are the same whichever process computes it. Images are read in threads
    two batches ahead, also those of the next part.
    """

    def read(item: ImageItem) -> np.ndarray | ImageError:
        try:
            return captioner.prepare(item.image)
        except ImageError as error:
            return error

    pool = ThreadPoolExecutor(thread_name_prefix="read-image")
    try:
        ahead: deque[_Batch] = deque()
        for number, items in parts:
            for start in range(0, len(items), batch_size):
                batch = items[start : start + batch_size]
                pixels = [pool.submit(read, item) for item in batch]
                ahead.append(_Batch(number, batch, pixels, start + batch_size >= len(items)))
                if len(ahead) > AHEAD:
                    yield _captioned(captioner, ahead.popleft(), decoding)
        while ahead:
            yield _captioned(captioner, ahead.popleft(), decoding)
    finally:
        pool.shutdown(cancel_futures=True)


def _captioned(captioner: Captioner, batch: _Batch, decoding: DecodingConfig) -> CaptionedBatch:
    pixels = [future.result() for future in batch.pixels]
    readable = [each for each in pixels if not isinstance(each, ImageError)]
    captions = iter(
        captioner.caption_pixels(np.stack(readable), decoding=decoding) if readable else []
    )
    outcomes: list[Outcome] = [
        each if isinstance(each, ImageError) else next(captions) for each in pixels
    ]
    return CaptionedBatch(
        batch.part, list(zip(batch.items, outcomes, strict=True)), batch.ends_part
    )


def run_shard(
    source: Source,
    folder: PartFolder,
    captioner: Captioner,
    *,
    shard: Shard,
    part_size: int,
    decoding: DecodingConfig,
    batch_size: int,
    progress: Progress,
    on_outcome: OnOutcome = lambda item, outcome: None,
) -> None:
    """Caption the parts of a shard that are not done, and write each when it is complete.

    Raises:
        LockedError: another process has this shard.
        UsageError: a part is of other images than the source has now.
        CaptionerError: a part cannot be written.
    """

    def missing() -> Iterator[tuple[int, list[ImageItem]]]:
        number = -1
        for number, items in source.parts(part_size, shard.takes):
            if not items:  # all of them are left out
                continue
            if folder.is_done(number, items):
                progress.skip(len(items))
            else:
                yield number, items
        folder.check_end(number, shard)

    several = decoding.captions > 1
    with folder.claim(shard):
        rows: list[Row] = []
        for batch in caption_parts(captioner, missing(), decoding=decoding, batch_size=batch_size):
            for item, outcome in batch.outcomes:
                rows.append(Row.of(item.name, outcome, several=several))
                on_outcome(item, outcome)
                progress.advance(failed=isinstance(outcome, ImageError))
            if batch.ends_part:
                folder.write(batch.part, rows)
                rows.clear()


@contextmanager
def counted_in_background(
    source: Source, part_size: int, shard: Shard, progress: Progress
) -> Iterator[None]:
    """Count the images of a shard in a thread during the block, as the total of `progress`.

    Sources in a store are not counted: their tars would be read twice.
    """
    ended = Event()

    def count() -> None:
        total = 0
        if ended.wait(COUNT_AFTER):
            return
        with suppress(CaptionerError, OSError):  # the run itself meets and reports it
            for _, items in source.parts(part_size, shard.takes):
                total += len(items)
                if ended.is_set():
                    return
            progress.total = total

    thread = Thread(target=count, name="count-images", daemon=True)
    if not any(map(is_remote, source.paths)):
        thread.start()
    try:
        yield
    finally:
        ended.set()
