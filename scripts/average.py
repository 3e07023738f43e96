"""Average the weights of several models, such as the last checkpoints of a run.

python scripts/average.py --help
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from captioner.config.schema import ModelConfig
from captioner.console import program
from captioner.errors import UsageError
from captioner.models.folder import read_model, resolve, write_model
from captioner.storage import atomic_folder

if TYPE_CHECKING:
    from torch import Tensor

TRAINING_ONLY = {"dropout", "image_dropout"}  # no effect on a trained model

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


@app.command(
    epilog="Example: python scripts/average.py runs/x/checkpoint-100 runs/x/checkpoint-200 "
    "--output runs/x/average"
)
def average(
    models: Annotated[
        list[Path], typer.Argument(metavar="FOLDER", help="Model folders.", show_default=False)
    ],
    output: Annotated[
        Path, typer.Option(metavar="FOLDER", help="Model folder to write.", show_default=False)
    ],
) -> None:
    """Write a model whose weights are the means of the weights of the given models.

    Average checkpoints of one run (Vaswani et al. 2017, "Attention is all you need", section 6.1)
    or models fine-tuned from the same model (Wortsman et al. 2022, "Model soups"), even with
    different objectives (Rame et al. 2023, "Rewarded soups"). The mean of models that were trained
    independently is useless. Statistics of batch norms are averaged like weights.
    """
    if output.exists():
        raise UsageError(f"{output} exists already: choose another --output")
    folders = [resolve(model) for model in models]
    first, *others = (read_model(folder) for folder in folders)
    config = first.config
    for folder, other in zip(folders[1:], others, strict=True):
        difference = difference_of(config, other.config)
        for own, words in (
            (first.vocabulary, other.vocabulary),
            (first.source_vocabulary, other.source_vocabulary),
        ):
            if words != own:
                difference = f"their vocabularies differ ({len(words)} and {len(own)} words)"
        if difference:
            raise UsageError(
                f"{folder} and {folders[0]} cannot be averaged: {difference}; "
                "give models of one run"
            )
    # The confidence of the average is unknown until it is calibrated.
    decoding = config.decoding.model_copy(update={"min_confidence": 0.0})
    with atomic_folder(output) as new:
        write_model(
            new,
            config=config.model_copy(update={"decoding": decoding, "confidence": None}),
            vocabulary=first.vocabulary,
            source_vocabulary=first.source_vocabulary,
            state=mean_of([each.state for each in (first, *others)]),
        )
    typer.echo(output)


def difference_of(config: ModelConfig, other: ModelConfig) -> str:
    """Describe the first setting of encoder or decoder that changes captions and differs."""
    first, second = config.to_json(), other.to_json()
    for section in ("encoder", "decoder"):
        for name, value in second[section].items():
            expected = first[section][name]
            if value != expected and name not in TRAINING_ONLY:
                return f"{section}.{name} is {value} in the first and {expected} in the second"
    return ""


def mean_of(states: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Return the mean of each weight; of integers (step counts of batch norms), the last value."""
    import torch

    mean = dict(states[-1])
    for name, last in mean.items():
        if last.is_floating_point():
            stacked = torch.stack([state[name] for state in states]).double()
            mean[name] = stacked.mean(dim=0).to(last.dtype)
    return mean


if __name__ == "__main__":
    with program("average"):
        app(prog_name="python scripts/average.py")
