"""Failures that end a run but are no bugs: errors of one line, with a hint how to resume."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from captioner.config.schema import TrainingConfig
from captioner.console import console
from captioner.data.datasets import Example
from captioner.distributed import Ranks, is_lost_connection
from captioner.errors import CaptionerError, ImageError, first_few
from captioner.storage import atomic_file, free_space
from captioner.training.checkpoint import resume_hint
from captioner.training.loop import NotFiniteError, is_out_of_memory


@contextmanager
def explain_failures(output: Path, settings: TrainingConfig) -> Iterator[None]:
    """Turn errors of images, memory, the disk or another rank into a CaptionerError.

    On a Ctrl-C that stops the run at once, print how to resume it.
    """
    try:
        yield
    except KeyboardInterrupt:
        console.print(resume_hint(output))
        raise
    except ImageError as error:
        raise CaptionerError(
            f"{error}: fix it or remove it from the annotations, or set data.on_bad_image=skip; "
            f"{resume_hint(output)}"
        ) from error
    except (MemoryError, RuntimeError) as error:
        if is_out_of_memory(error):
            raise CaptionerError(
                f"out of memory with training.batch_size={settings.batch_size} and "
                f"training.accumulate={settings.accumulate}, so no step was taken: set "
                "training.accumulate to auto or to a larger number, which keeps the batch, or "
                f"lower training.batch_size or encoder.image_size; {resume_hint(output)}"
            ) from error
        if is_lost_connection(error):
            raise CaptionerError(
                f"another rank has ended, so this one ends too: {resume_hint(output)}"
            ) from error
        raise
    except OSError as error:
        path = Path(error.filename) if isinstance(error.filename, str) else output
        raise CaptionerError(
            f"{path}: {error.strerror or error} ({free_space(output)} MiB free in {output}); "
            f"what was saved before is untouched: {resume_hint(output)}"
        ) from error


@contextmanager
def list_images_if_not_finite(
    output: Path, examples: Sequence[Example], ranks: Ranks
) -> Iterator[None]:
    """List the images of a batch whose loss or gradient is not finite in not-finite.json.

    Raises:
        CaptionerError: on the first rank, in place of the NotFiniteError; it names a few images.
        SystemExit: on the other ranks.
    """
    try:
        yield
    except NotFiniteError as error:
        indices = [i for batch in error.micro_batches for i in batch.example_index.tolist()]
        shards = ranks.gather([examples[index] for index in indices])
        if not ranks.is_first:
            raise SystemExit(error.exit_code) from error
        batch = [example for shard in shards for example in shard]
        images = [{"image_id": example.image_id, "file": str(example.path)} for example in batch]
        file = output / "not-finite.json"
        content = {
            "loss": str(error.loss),
            "gradient_norm": str(error.gradient_norm),
            "images": images,
        }
        with atomic_file(file) as stream:
            json.dump(content, stream, indent=1)
        first = first_few([example.image_id for example in batch])
        raise CaptionerError(
            f"{error}; its images are {first} (all {len(batch)} in {file}): lower learning_rate or "
            f"gradient_clip, or set training.precision=fp32, and {resume_hint(output)}"
        ) from error
