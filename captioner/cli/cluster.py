"""The options of `captioner caption` for a cluster, and its run over Ray Data."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from captioner.config.schema import DecodingConfig, InferenceConfig, ModelConfig
from captioner.console import console
from captioner.errors import UsageError

if TYPE_CHECKING:
    from captioner.bulk.ray_data import Pool

OPTION = "--ray"
_ADDRESS = re.compile(r"auto|local|ray://\S+|[\w.-]+:\d+|\[[0-9a-fA-F:]+\]:\d+")

RayOption = Annotated[
    str | None,
    typer.Option(
        OPTION,
        metavar="[ADDRESS]",
        help="Caption with actors of Ray: on this machine, or in the cluster at ADDRESS (auto, "
        "HOST:PORT).",
        show_default=False,
    ),
]
ActorsOption = Annotated[
    str | None,
    typer.Option(
        metavar="MIN[-MAX]",
        help="Number of actors of --ray; between the two, Ray starts and stops them.",
        show_default="as many as fit",
    ),
]
CpusOption = Annotated[
    int | None,
    typer.Option(
        "--cpus-per-actor",
        min=1,
        help="CPUs of an actor of --ray: it computes in as many threads.",
        show_default="1",
    ),
]
GpusOption = Annotated[
    float | None,
    typer.Option(
        "--gpus-per-actor",
        min=0,
        help="GPUs of an actor of --ray; 0.5: two actors share one. Without it, actors compute on "
        "the CPU.",
        show_default="0",
    ),
]


class RayOptions(NamedTuple):
    """The options above, as given."""

    address: str | None
    actors: str | None
    cpus: int | None
    gpus: float | None

    def check(self, inference: InferenceConfig, others: Mapping[str, object]) -> Pool | None:
        """Return the pool that the options describe; None: Ray is not asked for.

        Args:
            inference: how the model is run.
            others: options that have no effect with --ray, with their values.

        Raises:
            UsageError: an option is wrong, or has no effect.
            MissingPackageError: Ray is not installed.
        """
        if self.address is None:
            given: dict[str, object] = {
                "--actors": self.actors,
                "--cpus-per-actor": self.cpus,
                "--gpus-per-actor": self.gpus,
            }
            for option, value in given.items():
                if value is not None:
                    raise UsageError(f"{option} has no effect without {OPTION}: leave it out")
            return None
        if not _ADDRESS.fullmatch(self.address):
            raise UsageError(
                f"{OPTION}={self.address[:40]} is no address of a cluster: use auto or HOST:PORT, "
                "or none for this machine"
            )
        if self.address.startswith("ray://"):
            raise UsageError(
                f"{OPTION} {self.address[:40]} is of the Ray Client, which Ray Data does not "
                "support: run the command on a node of the cluster with --ray auto, or with ray "
                "job submit"
            )
        for option, value in others.items():
            if value:
                raise UsageError(f"{option} has no effect with {OPTION}: leave it out")
        if inference.device.startswith("cuda") and not self.gpus:
            raise UsageError("--device cuda needs GPUs for the actors: add --gpus-per-actor 1")
        least, most = _parse_actors(self.actors) if self.actors is not None else (None, None)
        from captioner.bulk.ray_data import Pool, find_ray

        find_ray()
        return Pool(self.address, least, most, self.cpus or 1, self.gpus or 0.0)


def _parse_actors(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d{1,6})(?:-(\d{1,6}))?", text.strip())
    least, most = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
    if not 1 <= least <= most:
        raise UsageError(f"--actors {text[:40]}: give a number, or the fewest and the most as 1-8")
    return least, most


def with_address(arguments: Sequence[str]) -> list[str]:
    """Return the arguments of a command with an address after --ray, where there is none.

    What follows it is its address only if it looks like one: `--ray photos/` is for this machine.
    """
    if OPTION not in arguments:
        return list(arguments)
    end = arguments.index("--") if "--" in arguments else len(arguments)
    completed: list[str] = []
    for index, argument in enumerate(arguments):
        following = arguments[index + 1 : index + 2]
        has_address = index + 1 < end and _ADDRESS.fullmatch(following[0])
        is_bare = argument == OPTION and index < end and not has_address
        completed.append(f"{OPTION}=local" if is_bare else argument)
    return completed


def read_decoding(models: Sequence[str] | None, changes: Mapping[str, object]) -> DecodingConfig:
    """Return the decoding settings of a run whose models this process does not load.

    Raises:
        UsageError: a setting is not valid.
        CaptionerError: there is no such model.
    """
    from captioner.inference.settings import parse_decoding
    from captioner.models.folder import read_config, resolve

    folders = [resolve(model) for model in models or ["bundled"]]
    config = ModelConfig.parse(read_config(folders[0]), source=str(folders[0]))
    if len(folders) > 1:  # an ensemble is not calibrated
        config = config.model_copy(update={"confidence": None})
    return parse_decoding(config, changes)


def report_lost(lost: Sequence[int]) -> None:
    """Report the parts whose actors died."""
    from captioner.bulk.ray_data import ATTEMPTS
    from captioner.errors import first_few

    parts = "part" if len(lost) == 1 else "parts"
    console.print(
        f"captioner: {len(lost):,} {parts} ({first_few(lost)}) not written: the process died "
        f"{ATTEMPTS} times in each, which a lack of memory may cause: run the same command again, "
        "or without --ray to see the error"
    )
