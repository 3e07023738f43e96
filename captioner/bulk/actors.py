"""What the processes of a run over Ray do: one lists the images, and actors caption parts.

Nothing here imports Ray before it is needed: see `captioner.bulk.ray_data`.
"""

from __future__ import annotations

import json
import os
import pickle
import platform
import traceback
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from captioner.bulk.parts import ALL, RUN, PartFolder
from captioner.bulk.run import caption_parts
from captioner.config.schema import DecodingConfig, InferenceConfig
from captioner.data.filesystems import exists, join, read_bytes
from captioner.data.lists import ImageItem
from captioner.data.sources import Source
from captioner.errors import CaptionerError, ImageError
from captioner.models.folder import weights_digests
from captioner.results.rows import Row

if TYPE_CHECKING:
    from captioner.inference.captioner import Captioner

END = -1
"""The number of the row that follows the last part."""

MAX_ERRORS = 20  # broken images of a part that are named; its rows have all of them


class Job(NamedTuple):
    """What every process of a run is told."""

    source: Source
    folder: PartFolder
    done: frozenset[int]  # the parts that there were at the beginning
    run: bytes  # .run.json, as the driver sees it
    local_paths: Sequence[str]  # sources that the driver finds on its disk
    working_folder: str
    models: Sequence[str]
    weights: Sequence[str]  # the digest of each model
    inference: InferenceConfig
    decoding: DecodingConfig
    part_size: int
    cpus: int


@dataclass
class PartSummary:
    """What became of a part, or of the listing of the source."""

    part: int
    captioned: int = 0
    skipped: int = 0  # images of the parts before, which an earlier run has captioned
    failed: int = 0
    abstained: int = 0
    errors: list[tuple[str, str]] = field(default_factory=list)  # names and reasons, the first few
    replaced: str | None = None  # the actor, if it has replaced one that died
    num_parts: int = 0  # of the source: of the listing only, as are
    problems: list[str] = field(default_factory=list)  # paths that cannot be read
    fatal: str | None = None  # an error that ends the run
    exit_code: int | None = None  # of it; None: it is a bug, and `fatal` its traceback


def table(row: Mapping[str, object]) -> Any:
    """Return a table of one row, as Ray Data passes it."""
    import pyarrow as pa

    return pa.table({name: [value] for name, value in row.items()})


def list_parts(job: Job) -> Iterator[dict[str, object]]:
    """Yield a row for each part that is not done, and one at the end.

    It has the number of the part, its pickled images, and a summary. What was there at the
    beginning decides: Ray may run this again, and needs the same rows.
    """
    number, skipped = -1, 0
    end = PartSummary(END)
    try:
        _enter_node(job)
        for number, items in job.source.parts(job.part_size):
            if number in job.done and job.folder.is_done(number, items):
                skipped += len(items)
                continue
            yield _row(PartSummary(number, skipped=skipped), items)
            skipped = 0
        job.folder.check_end(number, ALL)
    except CaptionerError as error:
        end.fatal, end.exit_code = _on_this_node(error), error.exit_code
    except Exception:
        end.fatal = traceback.format_exc()
    end.num_parts, end.skipped, end.problems = number + 1, skipped, job.source.problems
    yield _row(end, [])


def _row(summary: PartSummary, items: Sequence[ImageItem]) -> dict[str, object]:
    return {
        "summary": json.dumps(vars(summary)),
        "items": pickle.dumps(items),
    }


class PartCaptioner:
    """The actor: captions a part and writes its file.

    The model is loaded with the first part, so that all that goes wrong is that of a task: an error
    is a row, which ends the run, and a process that dies is one of the attempts of a part.
    """

    def __init__(self, job: Job) -> None:
        os.environ["OMP_NUM_THREADS"] = str(job.cpus)  # torch and onnxruntime follow it
        self._job = job
        self._captioner: Captioner | None = None
        self._is_new = True

    def __call__(self, batch: Any) -> Any:
        """Return the summary of a part (a table of one row)."""
        [row] = batch.to_pylist()
        summary = PartSummary(**json.loads(row["summary"]))
        if summary.part != END:
            try:
                self._caption(summary, pickle.loads(row["items"]))
            except CaptionerError as error:
                summary.fatal, summary.exit_code = _on_this_node(error), error.exit_code
            except Exception:
                summary.fatal = traceback.format_exc()
        return table({"summary": json.dumps(vars(summary))})

    def _caption(self, summary: PartSummary, items: Sequence[ImageItem]) -> None:
        job = self._job
        if self._captioner is None:
            self._captioner = _load(job)
        several = job.decoding.captions > 1
        rows: list[Row] = []
        for batch in caption_parts(
            self._captioner,
            [(summary.part, items)],
            decoding=job.decoding,
            batch_size=job.inference.batch_size,
        ):
            for item, outcome in batch.outcomes:
                rows.append(Row.of(item.name, outcome, several=several))
                if isinstance(outcome, ImageError):
                    summary.failed += 1
                    summary.errors.append((item.name, outcome.reason))
                else:
                    summary.abstained += outcome.abstained
        del summary.errors[MAX_ERRORS:]
        job.folder.write(summary.part, rows)
        summary.captioned = len(rows) - summary.failed
        if self._is_new and _is_replacement():
            summary.replaced = f"process {os.getpid()} on {platform.node()}"
        self._is_new = False


def _is_replacement() -> bool:
    """Return whether this actor has replaced one that died."""
    import ray

    return bool(ray.get_runtime_context().was_current_actor_reconstructed)


def _load(job: Job) -> Captioner:
    """Load the models on this node.

    Raises:
        CaptionerError: one is not there, or is another than the driver's; or a folder is missing.
    """
    _enter_node(job)
    from captioner.inference.captioner import Captioner

    captioner = Captioner.from_pretrained(
        *job.models,
        device=job.inference.device,
        precision=job.inference.precision,
        backend=job.inference.backend,
    )
    if weights_digests(job.models) != job.weights:
        names = ", ".join(job.models) or "that comes with captioner"
        raise CaptionerError(
            f"the model {names} has other weights than where the run was started: copy it to all "
            "nodes, or name one of the hub"
        )
    return captioner


def _enter_node(job: Job) -> None:
    """Check that a node has the folders of the run, and resolve paths as the driver does.

    Raises:
        CaptionerError: it has not.
    """
    if os.path.isdir(job.working_folder):
        os.chdir(job.working_folder)
    for path in job.local_paths:
        if not exists(path):
            raise CaptionerError(f"{path} is not there: share it with all nodes, or use a store")
    path = join(job.folder.folder, RUN)
    if not exists(path) or read_bytes(path) != job.run:
        raise CaptionerError(
            f"{job.folder.folder} is not the folder that it is where the run was started: share it "
            "with all nodes, or use a store such as s3://"
        )


def _on_this_node(error: CaptionerError) -> str:
    return f"on {platform.node()}: {error.marked_message}"
