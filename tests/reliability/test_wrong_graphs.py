"""Graphs that do not compute what the model computes are never published."""

import numpy as np
import onnx
import pytest

from captioner import CaptionerError
from captioner.export import folder as exporting
from captioner.export.folder import export_model
from captioner.export.onnx import write_graphs

pytestmark = pytest.mark.row(30)


def damage(monkeypatch, change):
    """Change the graph of a step after it was written, as a wrong exporter would."""

    def write_wrong_graphs(folder):
        loaded = write_graphs(folder)
        model = onnx.load(str(folder / "step.onnx"), load_external_data=False)
        change(model.graph)
        onnx.save(model, str(folder / "step.onnx"))
        return loaded

    monkeypatch.setattr(exporting, "write_graphs", write_wrong_graphs)


def hidden_state_as_cell_state(graph):
    """The trap of one tensor that is given as both: the graph reads it twice."""
    hidden, cell = (value.name for value in graph.input[1:3])
    for node in graph.node:
        node.input[:] = [hidden if name == cell else name for name in node.input]


def constant_rows(graph):
    """A batch size that became a constant: all captions read the state of the first."""
    name = graph.input[1].name
    first = onnx.numpy_helper.from_array(np.array([0]), "first")
    graph.initializer.append(first)
    only = onnx.helper.make_node("Gather", [name, "first"], ["only"], axis=0)
    for node in graph.node:
        node.input[:] = ["only" if each == name else each for each in node.input]
    graph.node.insert(0, only)


def rows_of_sixteen(graph):
    """A graph that is right for the 16 rows of the largest batch, but not for their 48 beams."""
    name, make = graph.input[1].name, onnx.helper.make_node
    constants = {"zero": np.array(0), "one": np.array(1), "most": np.array(16)}
    for key, value in constants.items():
        graph.initializer.append(onnx.numpy_helper.from_array(value, key))
    nodes = [
        make("Size", ["token_ids"], ["rows"]),
        make("Range", ["zero", "rows", "one"], ["numbers"]),
        make("Mod", ["numbers", "most"], ["read"]),
        make("Gather", [name, "read"], ["first_rows"], axis=0),
    ]
    for node in graph.node:
        node.input[:] = ["first_rows" if each == name else each for each in node.input]
    for node in reversed(nodes):
        graph.node.insert(0, node)


def adds(number):
    """Log-probabilities that are too high by a number."""

    def change(graph):
        [last] = [node for node in graph.node if "log_probs" in node.output]
        last.output[:] = ["right" if name == "log_probs" else name for name in last.output]
        graph.initializer.append(onnx.numpy_helper.from_array(np.float32(number), "number"))
        graph.node.append(onnx.helper.make_node("Add", ["right", "number"], ["log_probs"]))

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (hidden_state_as_cell_state, "a log-probability by"),
        (constant_rows, "differ from PyTorch"),
        (rows_of_sixteen, "instead of .* at batch size 16"),
        (adds(2e-4), "a log-probability by 0.0002 at batch size 1, and 0.0001 is allowed"),
        (adds(np.nan), "a log-probability by nan"),
    ],
)
def test_graphs_that_differ_are_not_published(
    attentive_model, tmp_path, monkeypatch, change, message
):
    damage(monkeypatch, change)
    with pytest.raises(CaptionerError, match=message) as error:
        export_model(attentive_model, tmp_path / "exported")
    assert "nothing was written" in str(error.value)
    assert error.value.exit_code == 1
    assert [*tmp_path.iterdir()] == []


def test_an_earlier_export_stays_as_it_is(tiny_model, tmp_path, monkeypatch):
    export_model(tiny_model, tmp_path / "exported")
    before = {file.name: file.read_bytes() for file in (tmp_path / "exported").iterdir()}
    damage(monkeypatch, hidden_state_as_cell_state)
    with pytest.raises(CaptionerError):
        export_model(tiny_model, tmp_path / "exported")
    assert {f.name: f.read_bytes() for f in (tmp_path / "exported").iterdir()} == before
