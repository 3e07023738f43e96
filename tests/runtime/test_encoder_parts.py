"""The encoder computes a few images at a time, and its states are those of the whole batch."""

from types import SimpleNamespace

import numpy as np
import pytest

from benchmarks.equal_captions import differences
from captioner.data.datasets import load_examples
from captioner.models.folder import BUNDLED
from captioner.runtime.graphs import IMAGES_PER_THREAD, Graphs


class RecordedSession:
    """A session that keeps the size of what it ran on; its states are the rows themselves."""

    def __init__(self, name):
        self.name, self.sizes = name, []

    def get_inputs(self):
        return [SimpleNamespace(name=self.name)]

    def run(self, _, inputs):
        source = inputs[self.name]
        self.sizes.append(len(source))
        return [source, -source]


@pytest.fixture
def graphs(onnx_model):
    return Graphs(onnx_model)


def pixels(count):
    return np.random.default_rng(count).integers(0, 256, (count, 3, 32, 32), dtype=np.uint8)


@pytest.mark.parametrize("threads", [1, 3])
def test_a_thread_encodes_two_images_at_a_time(threads, graphs, monkeypatch):
    session, images = RecordedSession("pixels"), pixels(7).astype(np.int64)
    monkeypatch.setattr(graphs, "_of_this_process", lambda: SimpleNamespace(encoder=session))
    graphs.threads = threads
    state, negative = graphs.init_state(images)
    assert IMAGES_PER_THREAD == 2
    assert session.sizes == {1: [2, 2, 2, 1], 3: [6, 1]}[threads]
    assert (state == images).all()
    assert (negative == -images).all()


def test_texts_are_encoded_together(graphs, monkeypatch):
    session, texts = RecordedSession("source"), np.arange(70).reshape(7, 10)
    monkeypatch.setattr(graphs, "_of_this_process", lambda: SimpleNamespace(encoder=session))
    graphs.threads = 1
    graphs.init_state(texts)
    assert session.sizes == [7]


@pytest.mark.parametrize("model", ["onnx_model", "attentive_onnx_model"])
def test_the_states_of_a_batch_are_those_of_its_images(model, request):
    graphs = Graphs(request.getfixturevalue(model))
    size = 128 if model == "attentive_onnx_model" else 32
    images = np.random.default_rng(0).integers(0, 256, (5, 3, size, size), dtype=np.uint8)
    together = graphs.init_state(images)
    one_by_one = [graphs.init_state(images[row : row + 1]) for row in range(5)]
    for part, rows in zip(together, zip(*one_by_one, strict=True), strict=True):
        np.testing.assert_allclose(part, np.concatenate(rows), atol=1e-5)


@pytest.mark.data
def test_both_backends_caption_100_photographs_equally_but_for_ties(research_data):
    flickr8k = research_data / "flickr8k"
    dev = load_examples(flickr8k / "captions_dev.json", flickr8k / "images")
    found = differences(BUNDLED, [example.path for example in dev[:100]])
    assert [each for each in found if not each.is_tie] == []
