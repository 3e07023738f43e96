"""A bulk run over a pool of actors, with Ray Data.

One task lists the images and emits the parts that are not done, one at a time and only as far ahead
as the actors need. An actor captions a part and writes its file. Only names and counts pass through
Ray, and the parts that exist stay the only record of what is done: a part whose actor dies is
captioned again by the next one, and a run that is killed continues.
"""

from __future__ import annotations

import json
import logging
import os
import pickle
import platform
import signal
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from captioner.bulk.parts import ALL, RUN, PartFolder
from captioner.bulk.run import caption_parts
from captioner.config.schema import DecodingConfig, InferenceConfig
from captioner.data.filesystems import exists, is_remote, join, read_bytes
from captioner.data.lists import ImageItem
from captioner.data.sources import Source
from captioner.errors import CaptionerError, ImageError, MissingPackageError, UsageError
from captioner.models.folder import weights_digest
from captioner.results.rows import Row

if TYPE_CHECKING:
    from captioner.inference.captioner import Captioner

LOCAL = "local"
"""The address of a cluster that is started on this machine, and ends with the run."""

ATTEMPTS = 3
"""How often a part is begun whose actor dies."""

MAX_LOST = 10
"""Parts that may be lost, each after `ATTEMPTS`, before the run ends."""

MAX_ERRORS = 20  # broken images of a part that are named; its rows have all of them

OBJECT_STORE = 256 * 2**20  # bytes of a local cluster: only names of images are in it

_END = -1  # the number of the row that follows the last part


class Pool(NamedTuple):
    """The actors that caption, and the cluster that they are in."""

    address: str = LOCAL  # or "auto", "host:port", "ray://host:port"
    min_actors: int | None = None  # None: as many as the cluster has room for
    max_actors: int | None = None
    cpus: int = 1  # of an actor: it computes in as many threads
    gpus: float = 0.0  # of an actor


class Job(NamedTuple):
    """What every process of a run is told."""

    source: Source
    folder: PartFolder
    done: frozenset[int]  # the parts that there were at the beginning
    run: bytes  # run.json, as the driver sees it
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


class RunSummary(NamedTuple):
    """What a run left out, besides broken images."""

    problems: list[str]  # paths of the source that cannot be read completely
    lost: list[int]  # parts whose actors died


def find_ray() -> None:
    """Raise an error if Ray Data is not installed. Imports nothing.

    Raises:
        MissingPackageError: names the package.
    """
    for package in ("ray", "pandas", "pyarrow"):
        if find_spec(package) is None:
            raise MissingPackageError(
                f"--ray needs the package {package}, which is not installed: "
                "pip install 'captioner[ray]', or pip install 'ray[data]>=2.40'"
            )


def _import_ray() -> Any:
    """Return the module ray, with `ray.data`. It reports its usage to nobody."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # Ray reads it when it starts
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    import ray
    import ray.data

    return ray


def make_job(
    source: Source,
    folder: PartFolder,
    *,
    models: Sequence[str],
    inference: InferenceConfig,
    decoding: DecodingConfig,
    part_size: int,
    pool: Pool,
) -> Job:
    """Return what the processes of a run are told.

    Raises:
        CaptionerError: a model is not there.
    """
    if not pool.gpus and inference.device == "auto":
        inference = inference.model_copy(update={"device": "cpu"})
    return Job(
        source,
        folder,
        frozenset(folder.numbers()),
        read_bytes(join(folder.folder, RUN)),
        [path for path in source.paths if not is_remote(path) and exists(path)],
        os.getcwd(),
        list(models),
        [weights_digest(each) for each in models or [None]],
        inference,
        decoding,
        part_size,
        pool.cpus,
    )


def run_on_ray(job: Job, pool: Pool, on_part: Callable[[PartSummary], None]) -> RunSummary:
    """Caption the parts that are not done.

    Args:
        job: of `make_job`.
        pool: the actors.
        on_part: is told of each part when it is written, in any order.

    Raises:
        MissingPackageError: Ray is not installed.
        UsageError: the source has changed.
        CaptionerError: there is no such cluster, a node lacks the model or a folder, a part cannot
            be written, or too many actors died.
    """
    find_ray()
    ray = _import_ray()
    problems: list[str] = []
    num_parts: int | None = None
    with job.folder.claim(ALL), _cluster(ray, pool):
        try:
            for summary in _summaries(ray, job, _with_size(ray, pool)):
                if summary.fatal is not None:
                    raise _error(summary)
                if summary.part == _END:
                    num_parts = summary.num_parts
                    problems = summary.problems
                on_part(summary)
        except ray.exceptions.RayError as error:
            raise CaptionerError(
                f"Ray stopped the run: {_first_line(error)}: run the same command again to "
                "continue, with fewer actors if their memory is short"
            ) from error
    if num_parts is None:
        raise CaptionerError(
            "Ray lost the process that lists the images: run the same command again to continue"
        )
    return RunSummary(problems, sorted(set(range(num_parts)) - job.folder.numbers()))


def _error(summary: PartSummary) -> Exception:
    message = str(summary.fatal)
    if summary.exit_code is None:
        return RuntimeError(f"in a process of Ray:\n{message}")
    usage = summary.exit_code == UsageError.exit_code
    return UsageError(message) if usage else CaptionerError(message)


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), repr(error))


@contextmanager
def _cluster(ray: Any, pool: Pool) -> Iterator[None]:
    """Connect to a cluster, or start one, for the block. Ray prints nothing on stdout."""
    own = {"include_dashboard": False, "object_store_memory": OBJECT_STORE}
    on_term = signal.getsignal(signal.SIGTERM)
    with open(os.devnull, "w") as null, redirect_stdout(null):
        try:
            ray.init(
                address=pool.address,
                log_to_driver=False,
                logging_level=logging.CRITICAL,
                **(own if pool.address == LOCAL else {}),
            )
        except (ConnectionError, RuntimeError, ValueError, OSError) as error:
            raise CaptionerError(
                f"there is no cluster of Ray at {pool.address} that can be used "
                f"({_first_line(error)}): start one with ray start --head, or leave the address out"
            ) from error
        try:
            if on_term is not None:  # Ray has replaced it by one that ends with exit code 15
                signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
            logging.getLogger("ray").setLevel(logging.CRITICAL)
            logging.getLogger("ray.data").setLevel(logging.CRITICAL)
            yield
        finally:
            ray.shutdown()
            if on_term is not None:
                signal.signal(signal.SIGTERM, on_term)


def _with_size(ray: Any, pool: Pool) -> Pool:
    """Return a pool whose numbers of actors are known.

    Raises:
        UsageError: this machine has no room for the fewest.
    """
    resources = ray.cluster_resources()
    room = int(resources.get("CPU", 0) // pool.cpus)
    if pool.gpus:
        room = min(room, int(resources.get("GPU", 0) / pool.gpus))
    least = pool.min_actors or 1
    if pool.address == LOCAL and room < least:
        raise UsageError(
            f"{least} actors with {pool.cpus} CPUs and {pool.gpus:g} GPUs each do not fit this "
            f"machine, where Ray finds {resources.get('CPU', 0):g} CPUs and "
            f"{resources.get('GPU', 0):g} GPUs: use fewer"
        )
    most = pool.max_actors or max(room, least)
    return pool._replace(min_actors=pool.min_actors or most, max_actors=most)


def _summaries(ray: Any, job: Job, pool: Pool) -> Iterator[PartSummary]:
    """Yield the summary of each part, and that of the listing."""
    from ray.data import ActorPoolStrategy, DataContext
    from ray.data.context import AutoscalingConfig

    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.target_max_block_size = 1  # bytes: each row is a block, so each part is a task
    context.max_errored_blocks = MAX_LOST
    # An actor has one task at a time, or its death would count for the next one too; so a pool
    # grows when each actor has one.
    context.autoscaling_config = AutoscalingConfig(actor_pool_util_upscaling_threshold=1.0)
    compute = ActorPoolStrategy(
        min_size=pool.min_actors, max_size=pool.max_actors, max_tasks_in_flight_per_actor=1
    )
    # Listing takes no CPU from the actors, and runs in a process of its own.
    parts = ray.data.read_datasource(
        _source_of_parts(job), override_num_blocks=1, ray_remote_args={"num_cpus": 0}
    )
    captioned = parts.map_batches(
        PartCaptioner,
        fn_constructor_args=(job,),
        batch_size=1,
        batch_format="pyarrow",
        compute=compute,
        num_cpus=pool.cpus,
        num_gpus=pool.gpus,
        max_restarts=-1,  # bounded by the attempts: an actor loads its model in its first task
        max_task_retries=ATTEMPTS - 1,
    )
    for batch in captioned.iter_batches(batch_size=None, batch_format="pyarrow"):
        for text in batch["summary"].to_pylist():
            yield PartSummary(**json.loads(text))


def _source_of_parts(job: Job) -> Any:
    """Return a data source of Ray with one task, which lists the images."""
    from ray.data import Datasource, ReadTask
    from ray.data.block import BlockMetadata

    class Parts(Datasource):  # type: ignore[misc]  # of a package that may be missing
        def estimate_inmemory_data_size(self) -> None:
            return None

        def get_read_tasks(self, *_: object, **__: object) -> list[ReadTask]:
            unknown = BlockMetadata(
                num_rows=None, size_bytes=None, input_files=None, exec_stats=None
            )
            return [ReadTask(lambda: map(_table, list_parts(job)), unknown)]

    return Parts()


def _table(row: Mapping[str, object]) -> Any:
    import pyarrow as pa

    return pa.table({name: [value] for name, value in row.items()})


def list_parts(job: Job) -> Iterator[dict[str, object]]:
    """Yield a row for each part that is not done, and one at the end.

    It has the number of the part, its pickled images, and a summary. What was there at the
    beginning decides: Ray may run this again, and needs the same rows.
    """
    number, skipped = -1, 0
    end = PartSummary(_END)
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
        if summary.part != _END:
            try:
                self._caption(summary, pickle.loads(row["items"]))
            except CaptionerError as error:
                summary.fatal, summary.exit_code = _on_this_node(error), error.exit_code
            except Exception:
                summary.fatal = traceback.format_exc()
        return _table({"summary": json.dumps(vars(summary))})

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
    for model, expected in zip(job.models or [None], job.weights, strict=True):
        if weights_digest(model) != expected:
            raise CaptionerError(
                f"the model {model} has other weights than where the run was started: copy it to "
                "all nodes, or name one of the hub"
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
    return f"on {platform.node()}: {cast(str, error.marked_message)}"
