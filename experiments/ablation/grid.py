"""The runs of the ablation: every combination of context, cell, objective and seed."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import yaml

from captioner.config.run import Config
from captioner.config.training import PhaseConfig
from captioner.errors import UsageError

# Share of the epochs. The others are teacher forcing: self-critical training needs a model whose
# own captions are worth a reward.
SELF_CRITICAL_SHARE = 0.25
# Share of the learning rate: gradients of a reward are noisier than those of the cross-entropy.
SELF_CRITICAL_RATE = 0.05
FACTORS = ("context", "cell", "objective")


class Row(NamedTuple):
    """A row of the table: one choice for each factor."""

    context: str
    cell: str
    objective: str


class Run(NamedTuple):
    """One training."""

    row: Row
    seed: int

    @property
    def name(self) -> str:
        """The name of its folder."""
        return "-".join([*self.row, str(self.seed)])

    def settings(self, phase: PhaseConfig) -> list[str]:
        """Return its settings as key=value, for a config whose only phase is `phase`."""
        context, cell, objective = self.row
        phases = [
            {
                "objective": part.objective,
                "epochs": part.epochs,
                "learning_rate": part.learning_rate,
            }
            | part.model_dump(mode="json", exclude_defaults=True)
            for part in split_phase(objective, phase)
        ]
        text = yaml.safe_dump(
            phases, default_flow_style=True, sort_keys=False, width=float("inf")
        ).strip()
        return [
            f"decoder.context={context}",
            f"decoder.cell={cell}",
            f"training.phases={text}",
            f"training.seed={self.seed}",
        ]


class Job(NamedTuple):
    """A run with all its settings."""

    run: Run
    config: Config


def split_phase(objective: str, phase: PhaseConfig) -> list[PhaseConfig]:
    """Return the phases of an objective, with the same number of epochs in total as `phase`.

    Self-critical training comes last, after teacher forcing.

    Raises:
        UsageError: there are too few epochs for both.
    """
    single = phase.model_copy(update={"objective": objective})
    if objective != "self_critical":
        return [single]
    last = self_critical_epochs(phase)
    if phase.epochs <= last:
        raise UsageError(
            "self_critical needs at least one epoch of teacher forcing before it: "
            "set training.phases.0.epochs=2"
        )
    rate = float(f"{SELF_CRITICAL_RATE * phase.learning_rate:.3g}")
    return [
        phase.model_copy(update={"objective": "teacher_forcing", "epochs": phase.epochs - last}),
        single.model_copy(update={"epochs": last, "learning_rate": rate}),
    ]


def self_critical_epochs(phase: PhaseConfig) -> int:
    """Return how many epochs of the budget are self-critical."""
    return max(1, round(SELF_CRITICAL_SHARE * phase.epochs))


def all_runs(
    contexts: Sequence[str], cells: Sequence[str], objectives: Sequence[str], seeds: Sequence[int]
) -> list[Run]:
    """Return every combination, the first seed first: partial results are then comparable."""
    combinations = itertools.product(seeds, objectives, cells, contexts)
    return [
        Run(Row(context, cell, objective), seed) for seed, objective, cell, context in combinations
    ]
