"""A loss or gradient that is infinite or not a number: no step is taken, and the batch is written down."""

import json
import math

import pytest
from safetensors.torch import load_file
from trainings import digest, small

from captioner.errors import CaptionerError
from captioner.training.checkpoint import checkpoints
from captioner.training.loop import gradients
from captioner.training.losses import LossSum
from captioner.training.train import train

pytestmark = pytest.mark.row(7)


@pytest.mark.parametrize("poison", ["loss", "gradient"])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_no_step_is_taken_the_images_are_named_and_every_checkpoint_stays(
    tiny, tmp_path, monkeypatch, poison, value
):
    import captioner.training.loop as loop

    seen = []

    def poisoned(objective, parts, **more):
        loss = gradients(objective, parts, **more)
        seen.append(parts)
        if len(seen) < 3:
            return loss
        if poison == "loss":
            return LossSum(loss.total * value, loss.count)
        next(weight for weight in objective.parameters() if weight.grad is not None).grad.fill_(
            value
        )
        return loss

    monkeypatch.setattr(loop, "gradients", poisoned)
    with pytest.raises(CaptionerError, match="no step was taken; its images are") as error:
        train(small(tiny, training={"checkpoint_every": 1, "keep_checkpoints": 2}), device="cpu")
    assert "go on from checkpoint-2 with --resume auto" in str(error.value)
    assert error.value.exit_code == 1
    kept = checkpoints(tmp_path / "run")
    assert [path.name for path in kept] == ["checkpoint-1", "checkpoint-2"]
    assert digest(kept[0]) != digest(kept[1])
    assert all(
        tensor.isfinite().all() for tensor in load_file(kept[1] / "model.safetensors").values()
    )

    noted = json.loads((tmp_path / "run" / "not-finite.json").read_text())
    files = {image["file"] for image in noted["images"]}
    assert len(files) == sum(len(part.example_index) for part in seen[2])
    assert str(noted["images"][0]["image_id"]) in str(error.value)
