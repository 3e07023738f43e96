"""Average the weights of several models, such as a run's last checkpoints: python scripts/average.py --help."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from command import new_app, run_app

from captioner.config.loading import to_json
from captioner.config.schema import ModelConfig
from captioner.errors import UsageError
from captioner.models.folder import read_model, resolve, write_model
from captioner.storage import new_folder

if TYPE_CHECKING:
    from torch import Tensor

OF_TRAINING = {"dropout", "image_dropout"}  # settings that change nothing once a model is trained

app = new_app()


@app.command(
    epilog="Example: python scripts/average.py runs/x/checkpoint-100 runs/x/checkpoint-200 --output runs/x/average"
)
def average(
    models: Annotated[
        list[Path], typer.Argument(metavar="FOLDER", help="Model folders.", show_default=False)
    ],
    output: Annotated[
        Path, typer.Option(metavar="FOLDER", help="Model folder to write.", show_default=False)
    ],
) -> None:
    """Write the model whose every weight is the mean of that weight in the models given.

    They should be checkpoints of one run (Vaswani et al. 2017, "Attention is all you need", section 6.1), or models
    that were trained on from one and the same (Wortsman et al. 2022, "Model soups"), be it with other objectives (Rame
    et al. 2023, "Rewarded soups"): models that were trained apart have no meaningful mean. Statistics of batch norms
    are averaged like weights.
    """
    if output.exists():
        raise UsageError(f"{output} is there already: choose another --output")
    folders = [resolve(model) for model in models]
    (config, vocabulary, first), *others = (read_model(folder) for folder in folders)
    for folder, (its, words, _) in zip(folders[1:], others, strict=True):
        difference = difference_of(config, its)
        if words != vocabulary:
            difference = (
                f"they do not share a vocabulary ({len(words)} and {len(vocabulary)} words)"
            )
        if difference:
            raise UsageError(
                f"{folder} and {folders[0]} cannot be averaged: {difference}; take models of one run"
            )
    decoding = config.decoding.model_copy(
        update={"min_confidence": 0.0}
    )  # until it is calibrated anew
    with new_folder(output) as place:
        write_model(
            place,
            config=config.model_copy(update={"decoding": decoding, "confidence": None}),
            vocabulary=vocabulary,
            state=mean_of([first, *(state for _, _, state in others)]),
        )
    typer.echo(output)


def difference_of(config: ModelConfig, other: ModelConfig) -> str:
    """Name a setting of the encoder or decoder that two models do not share, of those that what they say hangs on."""
    mine, its = to_json(config), to_json(other)
    for section in ("encoder", "decoder"):
        for name, value in its[section].items():
            if value != mine[section][name] and name not in OF_TRAINING:
                return f"{section}.{name} is {value} in the first and {mine[section][name]} in the second"
    return ""


def mean_of(states: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Average the weights, and take the batch norms' counts of steps, which are whole numbers, from the last model."""
    import torch

    mean = dict(states[-1])
    for name, last in mean.items():
        if last.is_floating_point():
            mean[name] = (
                torch.stack([state[name] for state in states]).double().mean(dim=0).to(last.dtype)
            )
    return mean


if __name__ == "__main__":
    run_app(app)
