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
import re
import signal
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from typing import Any, NamedTuple
from warnings import catch_warnings, simplefilter

from captioner.bulk.actors import (
    END,
    Job,
    PartCaptioner,
    PartSummary,
    list_parts,
    table,
)
from captioner.bulk.parts import ALL, RUN, PartFolder
from captioner.config.schema import DecodingConfig, InferenceConfig
from captioner.console import console, only_our_messages
from captioner.data.filesystems import exists, is_remote, join, read_bytes
from captioner.data.sources import Source
from captioner.errors import CaptionerError, MissingPackageError, UsageError
from captioner.models.folder import weights_digests

LOCAL = "local"
"""The address of a cluster that is started on this machine, and ends with the run."""

ATTEMPTS = 3
"""How often a part is begun whose actor dies."""

MAX_LOST = 10
"""Parts that may be lost, each after `ATTEMPTS`, before the run ends."""

OBJECT_STORE = 256 * 2**20  # bytes of a local cluster: only names of images are in it

CONNECT_WITHIN = 10.0  # seconds: for an address with a port

_PORT = re.compile(r"(.+):(\d+)")  # host and port


class Pool(NamedTuple):
    """The actors that caption, and the cluster that they are in."""

    address: str = LOCAL  # or "auto", or "host:port"
    min_actors: int | None = None  # None: as many as the cluster has room for
    max_actors: int | None = None
    cpus: int = 1  # of an actor: it computes in as many threads
    gpus: float = 0.0  # of an actor


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
                "pip install 'captioner[ray]', or pip install 'ray[data]>=2.50,<2.64'"
            )


def _import_ray() -> Any:
    """Return the module ray, with `ray.data`. It reports its usage to nobody."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # Ray reads it when it starts
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
        weights_digests(models),
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
        UsageError: the source has changed, or there is no such cluster.
        CaptionerError: a node lacks the model or a folder, a part cannot
            be written, or too many actors died.
    """
    find_ray()
    ray = _import_ray()
    problems: list[str] = []
    num_parts: int | None = None
    with job.folder.claim(ALL):
        with only_our_messages(), _cluster(ray, pool), _as_our_errors(ray):
            for summary in _summaries(ray, job, _with_size(ray, pool)):
                if summary.fatal is not None:
                    raise _error(summary)
                if summary.part == END:
                    num_parts = summary.num_parts
                    problems = summary.problems
                on_part(summary)
        job.folder.remove_unfinished(ALL)
    if num_parts is None:
        raise CaptionerError(
            "Ray lost the process that lists the images: run the same command again to continue"
        )
    return RunSummary(problems, sorted(set(range(num_parts)) - job.folder.numbers()))


@contextmanager
def _as_our_errors(ray: Any) -> Iterator[None]:
    try:
        yield
    except ray.exceptions.RayError as error:
        raise CaptionerError(
            f"Ray stopped the run: {_first_line(error)}: run the same command again to continue, "
            "with fewer actors if their memory is short"
        ) from error


def _error(summary: PartSummary) -> Exception:
    message = str(summary.fatal)
    if summary.exit_code is None:
        return RuntimeError(f"in a process of Ray:\n{message}")
    usage = summary.exit_code == UsageError.exit_code
    return UsageError(message) if usage else CaptionerError(message)


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), repr(error))


def _check_reachable(address: str) -> None:
    """Raise an OSError if nothing listens at an address, which Ray itself tries for minutes."""
    if address == "auto":  # which may be a cluster that has ended without telling
        with suppress(ImportError):  # of what is not public
            from ray._private.services import canonicalize_bootstrap_address

            address = canonicalize_bootstrap_address(address) or address
    if port := _PORT.fullmatch(address):
        socket.create_connection((port[1].strip("[]"), int(port[2])), CONNECT_WITHIN).close()


@contextmanager
def _cluster(ray: Any, pool: Pool) -> Iterator[None]:
    """Connect to a cluster, or start one, for the block."""
    own = {"include_dashboard": False, "object_store_memory": OBJECT_STORE}
    on_term = signal.getsignal(signal.SIGTERM)
    try:
        _check_reachable(pool.address)
        ray.init(
            address=pool.address,
            log_to_driver=False,
            logging_level=logging.CRITICAL,
            **(own if pool.address == LOCAL else {}),
        )
    except (RuntimeError, ValueError, OverflowError, OSError) as error:
        raise UsageError(
            f"there is no cluster of Ray at {pool.address} that can be used "
            f"({_first_line(error)}): start one with ray start --head, set RAY_AUTH_MODE=token if "
            "it wants a token, or leave the address out"
        ) from error
    try:
        if on_term is not None:  # Ray has replaced it by one that ends with exit code 15
            signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
        for name in ("ray", "ray.data"):
            logging.getLogger(name).setLevel(logging.CRITICAL)
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
    if room < least:  # of a cluster that may grow
        console.print(
            f"captioner: the cluster has room for {room} actors now, and the run begins "
            "as soon as there is room for one",
            markup=False,
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
    parts = ray.data.read_datasource(_source_of_parts(job), override_num_blocks=1, num_cpus=0)
    with catch_warnings():
        simplefilter("ignore")  # Ray 2.60 to 2.63 say that the last two arguments have no future
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
    from ray.data import DataContext, Datasource, ReadTask
    from ray.data.block import BlockMetadata

    class Parts(Datasource):  # type: ignore[misc,unused-ignore]
        def estimate_inmemory_data_size(self) -> int | None:
            return None  # not known

        def get_read_tasks(
            self,
            parallelism: int,
            per_task_row_limit: int | None = None,
            data_context: DataContext | None = None,
        ) -> list[ReadTask]:
            unknown = BlockMetadata(
                num_rows=None, size_bytes=None, input_files=None, exec_stats=None
            )
            return [ReadTask(lambda: map(table, list_parts(job)), unknown)]

    return Parts()  # type: ignore[unused-ignore,no-untyped-call]
