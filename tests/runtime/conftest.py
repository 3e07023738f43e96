"""Model folders with graphs: of the tiny models, and of one with confidences."""

import shutil

import pytest

from captioner import Captioner
from captioner.config.schema import ConfidenceConfig
from captioner.storage import write_checksums


@pytest.fixture(scope="session")
def with_graphs(tmp_path_factory):
    """Return a function that copies a model folder and adds the graphs of its model."""
    pytest.importorskip("onnx")
    from captioner.export.onnx import write_graphs

    def copy(folder):
        exported = tmp_path_factory.mktemp("exported") / "model"
        shutil.copytree(folder, exported)
        write_graphs(exported)
        write_checksums(exported)
        return exported

    return copy


@pytest.fixture(scope="session")
def onnx_model(tiny_model, with_graphs, tmp_path_factory):
    """A calibrated model without attention, with its graphs."""
    captioner = Captioner.from_pretrained(tiny_model, device="cpu")
    confidence = ConfidenceConfig(temperature=2.0, error=0.1, images=9, threshold=0.4)
    config = captioner.config.model_copy(update={"confidence": confidence})
    folder = tmp_path_factory.mktemp("calibrated") / "model"
    Captioner(captioner.models, captioner.vocabulary, config, device="cpu").save_pretrained(folder)
    return with_graphs(folder)


@pytest.fixture(scope="session")
def attentive_onnx_model(attentive_model, with_graphs):
    """A model with attention to a grid of 2 x 2, with its graphs."""
    return with_graphs(attentive_model)
