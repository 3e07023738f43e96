"""From a model folder to ONNX graphs: the encoder, and one step of the decoder.

    encoder.onnx   pixels (B, 3, S, S) uint8, or token ids (B, P) of texts --> state
    step.onnx      token_ids (N,), state --> log_probs (N, V), the parts of the state that change

B, P and N are dynamic. The state is that of `RecurrentDecoder`, as tensors (B, ...).

The graphs hold no weights. Their initialisers point to the bytes of `model.safetensors`, which has
each tensor in one piece, as ONNX's external data; where it stores float16, the graph casts it. So
the weights are on the disk once, and PyTorch and every ONNX runtime read the same file.
"""

from __future__ import annotations

import json
import struct
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, cast

import onnx
import torch
from onnx import NodeProto, TensorProto, helper
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from captioner.config.schema import DecodingConfig, ImageEncoderConfig
from captioner.decoding.search import function_words, unspaced_characters
from captioner.errors import CaptionerError
from captioner.models.build import LoadedModel, load_model
from captioner.models.encoder_decoder import EncoderDecoder
from captioner.models.folder import WEIGHTS
from captioner.models.text_encoder import TextEncoder
from captioner.runtime.graphs import ENCODER, FORMAT, GRAPHS, STEP
from captioner.runtime.settings import TORCH_ONLY, WITHOUT_EFFECT
from captioner.storage import sha256
from captioner.types import materialize

OPSET = 18
_DTYPES = {"F16": TensorProto.FLOAT16, "F32": TensorProto.FLOAT, "I64": TensorProto.INT64}
_MODEL = "model."  # what the names of parameters begin with in an exported graph


def _start_from_zeros(rnn: nn.Module, args: tuple[PackedSequence]) -> tuple[Any, ...]:
    """Give an RNN over packed texts its initial state.

    PyTorch's own zeros have the size of the first time step, which no graph of ONNX can have.
    """
    [packed], rnn = args, cast(nn.RNNBase, rnn)
    directions = 2 if rnn.bidirectional else 1
    texts = cast(Tensor, packed.unsorted_indices).shape[0]  # B
    size = (rnn.num_layers * directions, texts, rnn.hidden_size)
    hidden, cell = torch.zeros(size), torch.zeros(size)  # one tensor as both makes a wrong graph
    return packed, (hidden, cell) if isinstance(rnn, nn.LSTM) else hidden


@contextmanager
def _exportable(model: EncoderDecoder) -> Iterator[None]:
    """Let an encoder of texts run in a form that has a graph, which computes the same."""
    if not isinstance(model.encoder, TextEncoder):
        yield
        return
    hook = model.encoder.rnn.register_forward_pre_hook(_start_from_zeros)
    # After packed texts the exporter knows no sizes, which it needs for a cell, not for a layer.
    rnn = cast(Any, model.decoder.rnn)
    rnn._run_cell = rnn._run_sequence
    try:
        yield
    finally:
        hook.remove()
        del rnn._run_cell  # the method of the class is found again


class _Encoder(nn.Module):
    def __init__(self, model: EncoderDecoder) -> None:
        super().__init__()
        self.model = model

    def forward(self, source: Tensor) -> tuple[Tensor, ...]:
        with _exportable(self.model):
            state = tuple(materialize(part) for part in self.model.init_state(source))
        # Two parts that are one tensor, as zeros can be, would become one output: see the tests.
        return tuple(part.clone() for part in state)


class _Step(nn.Module):
    def __init__(self, model: EncoderDecoder) -> None:
        super().__init__()
        self.model = model

    def forward(self, token_ids: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        log_probs, new_state = self.model.step(token_ids, state)
        changed = new_state[: self.model.decoder.rnn.state_parts]  # a context never changes its own
        return log_probs, *(materialize(part) for part in changed)


class StoredTensor(NamedTuple):
    """Where a tensor is in a safetensors file."""

    dtype: str  # F16, F32, ...
    shape: tuple[int, ...]
    offset: int  # of its first byte in the file
    length: int  # in bytes


def stored_tensors(file: Path) -> dict[str, StoredTensor]:
    """Return where each tensor of a safetensors file is.

    The file begins with the length of its header (8 bytes, little-endian) and the header in JSON,
    whose offsets count from the end of the header: see the documentation of safetensors.
    """
    with file.open("rb") as stream:
        (size,) = struct.unpack("<Q", stream.read(8))
        header: dict[str, Any] = json.loads(stream.read(size))
    header.pop("__metadata__", None)
    first = 8 + size
    return {
        name: StoredTensor(
            entry["dtype"],
            tuple(entry["shape"]),
            first + entry["data_offsets"][0],
            entry["data_offsets"][1] - entry["data_offsets"][0],
        )
        for name, entry in header.items()
    }


def write_graphs(folder: Path) -> LoadedModel:
    """Add the graphs of its model, and graphs.json, to a model folder, and return the model.

    Raises:
        CaptionerError: the folder is not a model folder, or is damaged.
    """
    loaded = load_model(folder)
    model = loaded.model.eval()
    parts = _write_encoder(model, example_source(loaded, 2), folder)
    _write_step(model, parts, folder)
    (folder / GRAPHS).write_text(json.dumps(_graphs_json(loaded), indent=1) + "\n", "utf-8")
    return loaded


def _graphs_json(loaded: LoadedModel) -> dict[str, Any]:
    settings = DecodingConfig.model_json_schema()["properties"]
    return {
        "format": FORMAT,
        "weights": sha256(loaded.folder / WEIGHTS),
        "updated_parts": loaded.model.decoder.rnn.state_parts,
        "function_words": list(function_words(loaded.vocabulary)),
        "unspaced": list(unspaced_characters(loaded.vocabulary)),
        "decoding": {
            name: schema
            for name, schema in settings.items()
            if name not in (*TORCH_ONLY, *WITHOUT_EFFECT)
        },
    }


def example_source(loaded: LoadedModel, count: int, seed: int = 0) -> Tensor:
    """Return random images (count, 3, S, S) uint8, or token ids (count, P) of texts."""
    rng = torch.Generator().manual_seed(seed)
    encoder = loaded.config.encoder
    if isinstance(encoder, ImageEncoderConfig):
        # coarse patches: noise in single pixels would look the same to a CNN in all images
        coarse = torch.rand((count, 3, 8, 8), generator=rng)
        size = (encoder.image_size, encoder.image_size)
        images = nn.functional.interpolate(coarse, size, mode="bilinear")
        return (images * 255).to(torch.uint8)
    longest = 12
    words = torch.randint(3, len(loaded.source_vocabulary), (count, longest), generator=rng)
    lengths = torch.randint(1, longest + 1, (count, 1), generator=rng)
    lengths[0] = longest
    return words.where(torch.arange(longest) < lengths, 0)  # <pad> at the end


def _write_encoder(model: EncoderDecoder, source: Tensor, folder: Path) -> tuple[Tensor, ...]:
    """Write the encoder, and return the state of `source`."""
    graph = _Encoder(model).eval()
    with torch.no_grad():
        state: tuple[Tensor, ...] = graph(source)
    names = _names("state", len(state))
    inputs = {"pixels": {0: "B"}} if source.dim() == 4 else {"source": {0: "B", 1: "P"}}
    outputs: dict[str, dict[int, str]] = {name: {0: "B"} for name in names}
    if source.dim() == 2:
        outputs |= {name: {0: "B", 1: "P"} for name in names[model.decoder.rnn.state_parts :]}
    _export(graph, (source,), folder / ENCODER, inputs, outputs)
    return state


def _write_step(model: EncoderDecoder, state: Sequence[Tensor], folder: Path) -> None:
    updated = model.decoder.rnn.state_parts
    names = _names("state", len(state))
    inputs: dict[str, dict[int, str]] = {"token_ids": {0: "N"}} | {name: {0: "N"} for name in names}
    for name in names[updated:]:  # of attention, (N, P, ...); a context vector is (N, S)
        if model.decoder.context.depends_on_hidden:
            inputs[name] = {0: "N", 1: "P"}
    outputs = {name: {0: "N"} for name in ("log_probs", *_names("next", updated))}
    token_ids = torch.arange(len(state[0]))
    _export(_Step(model).eval(), (token_ids, *state), folder / STEP, inputs, outputs)


def _names(what: str, count: int) -> list[str]:
    return [f"{what}_{index}" for index in range(count)]


def _export(
    graph: nn.Module,
    arguments: tuple[Tensor, ...],
    file: Path,
    inputs: dict[str, dict[int, str]],
    outputs: dict[str, dict[int, str]],
) -> None:
    """Trace a module, and write its graph without weights; inputs and outputs by dynamic axes."""
    with tempfile.TemporaryDirectory() as scratch, warnings.catch_warnings(), torch.no_grad():
        # The tracer warns of sizes that are constants, such as that of the pixels; and of itself:
        # the newer exporter takes twenty times as long and knows no packed sequences.
        warnings.simplefilter("ignore")
        traced = Path(scratch, file.name)
        torch.onnx.export(
            graph,
            arguments,
            str(traced),
            dynamo=False,
            opset_version=OPSET,
            input_names=[*inputs],
            output_names=[*outputs],
            dynamic_axes=inputs | outputs,
            do_constant_folding=False,  # it would replace weights by copies of them
        )
        model = onnx.load(str(traced))
    stored = stored_tensors(file.with_name(WEIGHTS))
    initializers, casts = [], []
    for tensor in model.graph.initializer:
        if not tensor.name.startswith(_MODEL):  # a constant
            initializers.append(tensor)
            continue
        initializer, cast_node = _point_to(stored, tensor)
        initializers.append(initializer)
        casts += [cast_node] if cast_node else []
    nodes = [*casts, *model.graph.node]
    for node in nodes:
        node.ClearField("doc_string")  # the lines of Python that it comes from
    del model.graph.initializer[:], model.graph.node[:]
    model.graph.initializer.extend(initializers)
    model.graph.node.extend(nodes)
    onnx.save(model, str(file))


def _point_to(
    stored: dict[str, StoredTensor], tensor: TensorProto
) -> tuple[TensorProto, NodeProto | None]:
    """Return an initialiser whose data is in the file of weights, and its cast to float32 or None.

    Raises:
        CaptionerError: the file stores another type or shape than the model has.
    """
    entry = stored.get(tensor.name.removeprefix(_MODEL))
    if entry is None or entry.dtype not in _DTYPES or entry.shape != tuple(tensor.dims):
        raise CaptionerError(
            f"{tensor.name} {tuple(tensor.dims)} of the graph is not in {WEIGHTS} as it should be "
            f"({entry and (entry.dtype, entry.shape)}): save the model again"
        )
    is_half = entry.dtype == "F16"
    external = TensorProto(
        name=f"{tensor.name}.float16" if is_half else tensor.name,
        data_type=_DTYPES[entry.dtype],
        dims=tensor.dims,
        data_location=TensorProto.EXTERNAL,
    )
    where = {"location": WEIGHTS, "offset": entry.offset, "length": entry.length}
    for key, value in where.items():
        external.external_data.add(key=key, value=str(value))
    if not is_half:
        return external, None
    return external, helper.make_node("Cast", [external.name], [tensor.name], to=TensorProto.FLOAT)
