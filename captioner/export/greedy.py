"""One graph from a source to the token ids of greedy captions: the encoder, and a loop of steps.

    greedy.onnx   pixels (B, 3, S, S) uint8 or source (B, P), max_length () --> token_ids (B, T)

It is for programs that want no search of their own. It never generates <pad>, <bos> or <unk>, and
no word twice where the model folder has `no_repeat_words`; no other setting has an effect. Captions
that end early are filled with <eos>, and T is the length of the longest, at most `max_length`.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import GraphProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper
from onnx.compose import add_prefix

from captioner.decoding.search import function_words, unspaced_characters
from captioner.models.build import LoadedModel
from captioner.runtime.graphs import ENCODER, STEP
from captioner.text.tokenizer import BOS, EOS, SUPPRESSED

GREEDY = "greedy.onnx"


def write_greedy(folder: Path, loaded: LoadedModel) -> None:
    """Add greedy.onnx to a folder that has the graphs of the encoder and of the step."""
    # prefixes, because both have nodes of the same names
    models = [
        add_prefix(onnx.load(str(folder / file), load_external_data=False), prefix)
        for file, prefix in ((ENCODER, "encoder."), (STEP, "step."))
    ]
    encoder, step = (model.graph for model in models)
    stored = {tensor.name for tensor in step.initializer}
    # outside the loop, so that weights are cast to float32 once
    casts = [node for node in step.node if node.op_type == "Cast" and node.input[0] in stored]
    body, updated = _body(step, [node for node in step.node if node not in casts])
    state = [output.name for output in encoder.output]
    nodes = [
        *encoder.node,
        *casts,
        # what a step reads of the context is the same in every step: not carried by the loop
        *(
            helper.make_node("Identity", [name], [part.name])
            for name, part in list(zip(state, step.input[1:], strict=True))[updated:]
        ),
        *_first_carried(state[0], vocab_size=len(loaded.vocabulary)),
        helper.make_node(
            "Loop",
            ["max_length", "", "first_tokens", *state[:updated], "first_blocked", "first_ended"],
            ["_tokens", *(f"_state_{part}" for part in range(updated)), "_b", "_e", "by_step"],
            body=body,
        ),
        helper.make_node("Transpose", ["by_step"], ["token_ids"], perm=[1, 0]),  # (T, B) → (B, T)
    ]
    source = encoder.input[0]
    nodes.insert(0, helper.make_node("Identity", [source.name.split(".")[1]], [source.name]))
    inputs = [
        ValueInfoProto(name=source.name.split(".")[1], type=source.type),
        helper.make_tensor_value_info("max_length", TensorProto.INT64, []),
    ]
    outputs = [helper.make_tensor_value_info("token_ids", TensorProto.INT64, ["B", "T"])]
    constants = [numpy_helper.from_array(value, name) for name, value in _constants(loaded).items()]
    initializers = [*encoder.initializer, *step.initializer, *constants]
    graph = helper.make_graph(nodes, "greedy", inputs, outputs, initializers)
    model = helper.make_model(
        graph, opset_imports=models[0].opset_import, ir_version=models[0].ir_version
    )
    onnx.save(model, str(folder / GREEDY))


def _constants(loaded: LoadedModel) -> dict[str, np.ndarray]:
    size, vocabulary = len(loaded.vocabulary), loaded.vocabulary
    suppressed = np.zeros((1, size), np.float32)
    suppressed[:, list(SUPPRESSED)] = -np.inf
    after_use = np.zeros(size, np.float32)  # what is added to a token that has been used
    if loaded.config.decoding.no_repeat_words:
        after_use[:] = -np.inf
        exempt = [EOS, *function_words(vocabulary), *unspaced_characters(vocabulary)]
        after_use[exempt] = 0.0
    return {
        "suppressed": suppressed,
        "after_use": after_use,
        "bos": np.array([BOS]),
        "eos": np.array([EOS]),
        "vocab_size": np.array([size]),
        "axis_0": np.array([0]),
        "axis_1": np.array([1]),
    }


def _first_carried(state: str, *, vocab_size: int) -> list[NodeProto]:
    """Return the nodes that make what the loop starts with, for as many captions as sources."""
    node = helper.make_node
    return [
        node("Shape", [state], ["batch"], start=0, end=1),  # (1,) B
        node("Expand", ["bos", "batch"], ["first_tokens"]),  # (B,)
        node("Concat", ["batch", "vocab_size"], ["batch_by_vocabulary"], axis=0),
        node("Expand", ["suppressed", "batch_by_vocabulary"], ["first_blocked"]),  # (B, V)
        node("Equal", ["first_tokens", "eos"], ["first_ended"]),  # (B,) False
    ]


def _body(step: GraphProto, step_nodes: list[NodeProto]) -> tuple[GraphProto, int]:
    """Return the body of the loop, and how many parts of the state it carries."""
    log_probs, *updated = (output.name for output in step.output)
    tokens, *state = (value.name for value in step.input)
    node = helper.make_node
    nodes = [
        *step_nodes,
        node("Add", [log_probs, "blocked"], ["allowed"]),  # (B, V), -inf where blocked
        node("ArgMax", ["allowed"], ["best"], axis=1, keepdims=0),  # (B,)
        node("Where", ["ended", "eos", "best"], ["next"]),  # (B,) ended captions stay ended
        node("Equal", ["next", "eos"], ["next_ended"]),
        node("Cast", ["next_ended"], ["ended_as_number"], to=TensorProto.INT32),
        node("ReduceMin", ["ended_as_number", "axis_0"], ["all_as_number"], keepdims=0),
        node("Cast", ["all_as_number"], ["all_ended"], to=TensorProto.BOOL),
        node("Not", ["all_ended"], ["goes_on"]),
        # the chosen tokens get their entry of `after_use`
        node("Unsqueeze", ["next", "axis_1"], ["index"]),  # (B, 1)
        node("Gather", ["after_use", "index"], ["update"]),  # (B, 1)
        node("ScatterElements", ["blocked", "index", "update"], ["next_blocked"], axis=1),
        node("Identity", ["next"], ["next_tokens"]),
    ]
    value = helper.make_tensor_value_info
    carried = [
        value(tokens, TensorProto.INT64, None),
        *(value(name, TensorProto.FLOAT, None) for name in state[: len(updated)]),
        value("blocked", TensorProto.FLOAT, None),
        value("ended", TensorProto.BOOL, None),
    ]
    inputs = [value("step", TensorProto.INT64, []), value("_", TensorProto.BOOL, []), *carried]
    names = ["goes_on", "next_tokens", *updated, "next_blocked", "next_ended", "next"]
    types = [TensorProto.BOOL, *(each.type.tensor_type.elem_type for each in carried)]
    outputs = [
        value(name, kind, [] if name == "goes_on" else None)
        for name, kind in zip(names, [*types, TensorProto.INT64], strict=True)
    ]
    return helper.make_graph(nodes, "step", inputs, outputs), len(updated)
