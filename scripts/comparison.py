"""What `compare.py` compares: runs that differ in context, cell, objective and seed, in one budget of epochs."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import yaml

from captioner.config.schema import Config, PhaseConfig
from captioner.errors import UsageError

SELF_CRITICAL_SHARE = (
    0.25  # of the budget: the rest is teacher forcing, since the model must draw captions worth it
)
SELF_CRITICAL_RATE = (
    0.05  # of the learning rate: the gradient of a reward is noisier than that of the next word
)
FACTORS = ("context", "cell", "objective")


class Row(NamedTuple):
    """What a row of the table tells apart."""

    context: str
    cell: str
    objective: str


class Run(NamedTuple):
    """One training."""

    row: Row
    seed: int

    @property
    def name(self) -> str:
        """Of its folder."""
        return "-".join([*self.row, str(self.seed)])

    def settings(self, phase: PhaseConfig) -> list[str]:
        """Give what it sets in a config whose only phase is `phase`, as key=value."""
        context, cell, objective = self.row
        phases = [
            {
                "objective": part.objective,
                "epochs": part.epochs,
                "learning_rate": part.learning_rate,
            }
            | part.model_dump(mode="json", exclude_defaults=True)
            for part in phases_of(objective, phase)
        ]
        text = yaml.safe_dump(
            phases, default_flow_style=True, sort_keys=False, width=float("inf")
        ).strip()
        chosen = [f"decoder.context={context}", f"decoder.cell={cell}", f"training.phases={text}"]
        return [*chosen, f"training.seed={self.seed}"]


class Job(NamedTuple):
    """A run with all its settings."""

    run: Run
    config: Config


def phases_of(objective: str, phase: PhaseConfig) -> list[PhaseConfig]:
    """Teach by `objective` for as many epochs as `phase` has; self-critical training only at their end.

    Raises:
        UsageError: there are too few epochs for that.
    """
    whole = phase.model_copy(update={"objective": objective})
    if objective != "self_critical":
        return [whole]
    last = self_critical_epochs(phase)
    if phase.epochs <= last:
        raise UsageError(
            "self_critical needs an epoch of teacher forcing before it: set training.phases.0.epochs=2"
        )
    rate = float(f"{SELF_CRITICAL_RATE * phase.learning_rate:.3g}")
    return [
        phase.model_copy(update={"objective": "teacher_forcing", "epochs": phase.epochs - last}),
        whole.model_copy(update={"epochs": last, "learning_rate": rate}),
    ]


def self_critical_epochs(phase: PhaseConfig) -> int:
    """Say how many epochs of the budget are self-critical."""
    return max(1, round(SELF_CRITICAL_SHARE * phase.epochs))


def in_order(
    contexts: Sequence[str], cells: Sequence[str], objectives: Sequence[str], seeds: Sequence[int]
) -> list[Run]:
    """Every combination, such that what is there when time runs out is worth a look: one seed of everything first."""
    every = itertools.product(seeds, objectives, cells, contexts)
    return [Run(Row(context, cell, objective), seed) for seed, objective, cell, context in every]
