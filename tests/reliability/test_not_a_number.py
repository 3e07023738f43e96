"""A loss or gradient that is not finite: no step is taken, and the images are listed."""

import json
import math

import pytest
from safetensors.torch import load_file
from trainings import digest, small

from captioner.errors import CaptionerError
from captioner.training.checkpoint import checkpoints
from captioner.training.loop import accumulate_gradients
from captioner.training.losses import LossSum
from captioner.training.objectives import ObjectiveOutput
from captioner.training.train import train

pytestmark = pytest.mark.row(7)


@pytest.mark.parametrize("poison", ["loss", "gradient"])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_no_step_is_taken_the_images_are_listed_and_every_checkpoint_is_kept(
    tiny, tmp_path, monkeypatch, poison, value
):
    import captioner.training.loop as loop

    seen = []

    def poisoned(objective, micro_batches, **more):
        output = accumulate_gradients(objective, micro_batches, **more)
        seen.append(micro_batches)
        if len(seen) < 3:
            return output
        if poison == "loss":
            return ObjectiveOutput(LossSum(output.loss.total * value, output.loss.count))
        next(weight for weight in objective.parameters() if weight.grad is not None).grad.fill_(
            value
        )
        return output

    monkeypatch.setattr(loop, "accumulate_gradients", poisoned)
    with pytest.raises(CaptionerError, match="no step was taken; its images are") as error:
        train(small(tiny, training={"checkpoint_every": 1, "keep_checkpoints": 2}), device="cpu")
    assert "and resume from checkpoint-2" in str(error.value)
    assert error.value.exit_code == 1
    kept = checkpoints(tmp_path / "run")
    assert [path.name for path in kept] == ["checkpoint-1", "checkpoint-2"]
    assert digest(kept[0]) != digest(kept[1])
    assert all(
        tensor.isfinite().all() for tensor in load_file(kept[1] / "model.safetensors").values()
    )

    noted = json.loads((tmp_path / "run" / "not-finite.json").read_text())
    files = {image["file"] for image in noted["images"]}
    assert len(files) == sum(len(batch.example_index) for batch in seen[2])
    assert str(noted["images"][0]["image_id"]) in str(error.value)
