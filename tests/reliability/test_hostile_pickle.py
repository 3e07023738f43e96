"""Pickles that would run code when loaded: they are refused, with a hint what to do instead."""

import pickle

import pytest
import torch
from trainings import small

from captioner import Captioner
from captioner.errors import CaptionerError
from captioner.storage import write_checksums
from captioner.training.checkpoint import checkpoints
from captioner.training.train import train

pytestmark = pytest.mark.row(22)


class Hostile:
    def __init__(self, canary):
        self.canary = canary

    def __reduce__(self):
        return open, (str(self.canary), "w")


@pytest.fixture(params=["as torch saves", "plain pickle"])
def hostile(request, tmp_path):
    """Write a file that creates another one, the canary, when it is loaded with pickle."""

    def write(path):
        content = {"progress": {}, "layer.weight": Hostile(tmp_path / "canary")}
        torch.save(content, path) if request.param == "as torch saves" else path.write_bytes(
            pickle.dumps(content, protocol=2)
        )
        return path

    yield write
    assert not (tmp_path / "canary").exists()


def test_loading_with_pickle_creates_the_canary(tmp_path):
    pickle.loads(pickle.dumps(Hostile(tmp_path / "canary")))
    assert (tmp_path / "canary").exists()


def test_a_checkpoint_with_a_hostile_pickle_is_refused(tiny, tmp_path, hostile):
    config = small(tiny, training={"max_steps": 1})
    train(config, device="cpu")
    checkpoint = checkpoints(config.output)[-1]
    hostile(checkpoint / "training.pt")
    write_checksums(checkpoint)  # with the right checksums
    with pytest.raises(
        CaptionerError, match=r"nothing in it was executed: start a new run .* with init="
    ):
        train(small(tiny), device="cpu", resume="auto")


def test_trunk_weights_with_a_hostile_pickle_are_refused(tiny, tmp_path, hostile):
    config = small(tiny)
    encoder = config.encoder.model_copy(update={"weights": str(hostile(tmp_path / "trunk.pth"))})
    with pytest.raises(
        CaptionerError, match=r"nothing in it was executed: .*convert it with torch\.save"
    ):
        train(config.model_copy(update={"encoder": encoder}), device="cpu")


def test_a_hostile_pickle_as_model_is_refused(tmp_path, hostile):
    with pytest.raises(CaptionerError, match="it is a file, and pickles are never executed"):
        Captioner.from_pretrained(hostile(tmp_path / "model.pth"))
