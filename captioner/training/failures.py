"""What stops a run through no fault of the code, told in one line with how to go on."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from captioner.config.schema import TrainingConfig
from captioner.data.datasets import Example
from captioner.distributed import Ranks, is_lost
from captioner.errors import CaptionerError, ImageError, first_few
from captioner.storage import free_space, new_file
from captioner.training.checkpoint import resume_hint
from captioner.training.loop import NotFiniteError, is_out_of_memory


@contextmanager
def explained(output: Path, settings: TrainingConfig) -> Iterator[None]:
    """Turn what an image, the memory, the disk or another rank did into a CaptionerError."""
    try:
        yield
    except ImageError as error:
        raise CaptionerError(
            f"{error}: mend it or take it out of the annotations, or set data.on_bad_image=skip; {resume_hint(output)}"
        ) from error
    except (MemoryError, RuntimeError) as error:
        if is_out_of_memory(error):
            raise CaptionerError(
                f"out of memory with training.batch_size={settings.batch_size} and training.accumulate="
                f"{settings.accumulate}: no step was taken; set training.accumulate to auto, or to more parts, which "
                f"gives the same batch, or lower training.batch_size or encoder.image_size; {resume_hint(output)}"
            ) from error
        if is_lost(error):
            raise CaptionerError(
                f"another rank has ended, so this one does too: {resume_hint(output)}"
            ) from error
        raise
    except OSError as error:
        place = Path(error.filename) if isinstance(error.filename, str) else output
        raise CaptionerError(
            f"{place}: {error.strerror or error} ({free_space(output)} MiB free in {output}); "
            f"what was saved before is untouched: {resume_hint(output)}"
        ) from error


@contextmanager
def images_named(output: Path, examples: Sequence[Example], ranks: Ranks) -> Iterator[None]:
    """Write down the images of a batch whose loss or gradient is not a finite number, in not-finite.json."""
    try:
        yield
    except NotFiniteError as error:
        mine = [examples[image] for part in error.parts for image in part.example_index.tolist()]
        batch = [example for share in ranks.gather(mine) for example in share]
        if not ranks.is_first:
            raise SystemExit(error.exit_code) from error  # the first one speaks for all
        images = [{"image_id": example.image_id, "file": str(example.path)} for example in batch]
        with new_file(output / "not-finite.json") as file:
            json.dump(
                {"loss": str(error.loss), "gradient_norm": str(error.norm), "images": images},
                file,
                indent=1,
            )
        first = first_few([example.image_id for example in batch])
        raise CaptionerError(
            f"{error}; its images are {first} (all {len(batch)} in "
            f"{output / 'not-finite.json'}): lower learning_rate or gradient_clip, or set training.precision=fp32, "
            f"and {resume_hint(output)}"
        ) from error
