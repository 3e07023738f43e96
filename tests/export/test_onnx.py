"""The graphs compute what the model computes, for every architecture, and hold no weights."""

import json

import numpy as np
import onnx
import pytest
import torch

from captioner.config.schema import (
    DecoderConfig,
    DecodingConfig,
    ImageEncoderConfig,
    ModelConfig,
    TextEncoderConfig,
)
from captioner.export.greedy import write_greedy
from captioner.export.onnx import example_source, stored_tensors, write_graphs
from captioner.export.verify import TOLERANCE, compare_backends
from captioner.models.build import build_model
from captioner.models.folder import WEIGHTS, write_model
from captioner.runtime.graphs import GRAPHS, Graphs, import_onnxruntime
from captioner.storage import sha256, write_checksums
from captioner.text.tokenizer import BOS, EOS, SPECIALS, SUPPRESSED, Vocabulary
from captioner.types import materialize

VOCABULARY = Vocabulary([*SPECIALS, *(f"word{number}" for number in range(30)), "a", "the"])
pytestmark = pytest.mark.usefixtures("few_sources")

IMAGES = ImageEncoderConfig(trunk="small_cnn", weights="none", image_size=64)
CONTEXTS = ("none", "first_token", "every_step", "attention", "merge")
CELLS = ("lstm", "gru", "rnn")


@pytest.fixture
def save(tmp_path):
    """Save a model with random weights, and its graphs; return the folder and the model."""

    def make(encoder=IMAGES, *, half=False, decoding=None, apart=False, **decoder):
        sizes = {"embed_size": 8, "hidden_size": 16, "attention_size": 8}
        config = ModelConfig(
            encoder=encoder,
            decoder=DecoderConfig(**sizes | decoder),
            decoding=decoding or DecodingConfig(),
        )
        torch.manual_seed(0)
        size = len(VOCABULARY)
        model = build_model(config, vocab_size=size, source_vocab_size=size)
        for parameter in model.decoder.parameters():
            parameter.data *= 3  # so that the words of random models differ between sources
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):  # equal tensors would be one initialiser
                for tensor in (module.weight, module.bias, module.running_mean, module.running_var):
                    tensor.data.uniform_(0.5, 1.5)
        if apart:
            tell_images_apart(model)
        write_model(
            tmp_path, config=config, vocabulary=VOCABULARY, state=model.state_dict(), half=half
        )
        write_checksums(tmp_path)
        loaded = write_graphs(tmp_path)
        write_checksums(tmp_path)
        return tmp_path, loaded

    return make


@torch.no_grad()
def tell_images_apart(model):
    """Scale the projection of a random encoder's features, which are nearly the same."""
    noise = torch.randint(0, 256, (8, 3, 8, 8), dtype=torch.uint8)
    summary = model.eval().encode(noise.repeat_interleave(8, 2).repeat_interleave(8, 3)).summary
    projection = model.decoder.initial
    projection.weight /= summary.std(dim=0).mean()
    projection.bias.copy_(-projection.weight @ summary.mean(dim=0))


def texts(cell="gru", **settings):
    sizes = {"embed_size": 8, "hidden_size": 8, "bidirectional": True}
    return TextEncoderConfig(cell=cell, **sizes | settings)


@pytest.mark.parametrize("context", CONTEXTS)
@pytest.mark.parametrize("cell", CELLS)
def test_graphs_of_images_equal_the_model(save, context, cell):
    folder, loaded = save(context=context, cell=cell)
    assert compare_backends(folder, loaded).difference <= TOLERANCE


@pytest.mark.parametrize("context", ["first_token", "attention"])
@pytest.mark.parametrize("cell", CELLS)
def test_graphs_of_several_layers_equal_the_model(save, context, cell):
    folder, loaded = save(context=context, cell=cell, layers=3)
    assert compare_backends(folder, loaded).difference <= TOLERANCE


@pytest.mark.parametrize("context", CONTEXTS)
@pytest.mark.parametrize("cell", CELLS)
def test_graphs_of_texts_equal_the_model(save, context, cell):
    folder, loaded = save(texts(cell), context=context, cell=cell)
    assert compare_backends(folder, loaded).difference <= TOLERANCE


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("layers", [1, 2])
def test_a_text_encoder_that_reads_backwards_can_hand_over_its_state(save, cell, layers):
    encoder = texts(cell, hidden_size=16, bidirectional=False, reverse=True, layers=layers)
    folder, loaded = save(encoder, bridge="copy", cell=cell, layers=layers)
    assert compare_backends(folder, loaded).difference <= TOLERANCE


def test_texts_of_any_length_can_be_encoded(save):
    folder, loaded = save(texts(), context="attention")
    graphs = Graphs(folder)
    for length in (1, 5, 40):
        source = torch.arange(4, 4 + 2 * length).remainder(30).add(4).view(2, length)
        source[1, length // 2 + 1 :] = 0  # <pad>
        with torch.inference_mode():
            expected = loaded.model.init_state(source)
        for part, other in zip(expected, graphs.init_state(source.numpy()), strict=True):
            np.testing.assert_allclose(materialize(part).numpy(), other, atol=1e-5)
        first = torch.tensor([BOS, BOS])
        with torch.inference_mode():
            log_probs, _ = loaded.model.step(first, expected)
        others, _ = graphs.step(first.numpy(), graphs.init_state(source.numpy()))
        np.testing.assert_allclose(log_probs.numpy(), others, atol=1e-4)


@pytest.mark.parametrize("settings", [{"tie_embedding": True}, {"tie_embedding": False}])
def test_weights_in_half_precision_are_cast_in_the_graph(save, settings):
    folder, loaded = save(half=True, context="attention", **settings)
    # the model that is compared has been read from the same file
    assert compare_backends(folder, loaded).difference <= TOLERANCE


def test_graphs_hold_no_weights_but_say_where_the_file_has_them(save):
    folder, loaded = save(context="attention")
    weights = (folder / WEIGHTS).read_bytes()
    state = loaded.model.state_dict()
    found = set()
    for name in ("encoder.onnx", "step.onnx"):
        model = onnx.load(str(folder / name), load_external_data=False)
        for tensor in model.graph.initializer:
            if not tensor.external_data:
                assert np.prod(tensor.dims) <= 8  # a constant, such as the mean of pixels
                continue
            where = {each.key: each.value for each in tensor.external_data}
            first, length = int(where["offset"]), int(where["length"])
            values = np.frombuffer(weights[first : first + length], np.float32)
            own = tensor.name.removeprefix("model.")
            np.testing.assert_array_equal(values.reshape(tensor.dims), state[own].numpy())
            assert where["location"] == WEIGHTS
            found.add(own)
    not_used = {name for name in state if name.endswith("num_batches_tracked")}
    assert found == set(state) - not_used


def test_the_tensors_of_a_file_are_found_where_safetensors_finds_them(save):
    from safetensors.numpy import load_file

    folder, _ = save()
    content = (folder / WEIGHTS).read_bytes()
    dtypes = {"F32": np.float32, "I64": np.int64}
    for name, array in load_file(folder / WEIGHTS).items():
        entry = stored_tensors(folder / WEIGHTS)[name]
        values = np.frombuffer(
            content[entry.offset : entry.offset + entry.length], dtypes[entry.dtype]
        )
        np.testing.assert_array_equal(values.reshape(entry.shape), array)


def test_the_description_has_the_settings_with_their_ranges_and_the_hash_of_the_weights(save):
    folder, _ = save()
    description = json.loads((folder / GRAPHS).read_text())
    assert description["weights"] == sha256(folder / WEIGHTS)
    assert description["updated_parts"] == 2  # the hidden and the cell state of an LSTM
    assert description["decoding"]["beam"]["minimum"] == 1
    assert "temperature" not in description["decoding"]  # sampling needs torch
    words = {VOCABULARY.words[token] for token in description["function_words"]}
    assert words == {"a", "the"}


@pytest.mark.parametrize("no_repeat_words", [False, True])
@pytest.mark.parametrize("encoder", [IMAGES, texts()], ids=["image", "text"])
@pytest.mark.parametrize("context", ["none", "attention"])
def test_one_graph_returns_the_tokens_of_greedy_search(save, encoder, context, no_repeat_words):
    decoding = DecodingConfig(no_repeat_words=no_repeat_words)
    folder, loaded = save(encoder, context=context, decoding=decoding, apart=encoder is IMAGES)
    write_greedy(folder, loaded)
    session = import_onnxruntime().InferenceSession(str(folder / "greedy.onnx"))
    source = example_source(loaded, 5, seed=7)
    name = "pixels" if encoder is IMAGES else "source"
    inputs = {name: source.numpy(), "max_length": np.array(9)}
    [found] = session.run(None, inputs)
    expected = [
        greedy_by_hand(loaded.model, source[row : row + 1], 9, no_repeat_words)
        for row in range(len(source))
    ]
    longest = max(map(len, expected))
    assert found.tolist() == [row + [EOS] * (longest - len(row)) for row in expected]
    assert len({tuple(row) for row in expected}) > 1


@torch.inference_mode()
def greedy_by_hand(model, source, max_length, no_repeat_words):
    """The likeliest token at each step, <eos> included if it comes."""
    state, token, chosen = model.init_state(source), torch.tensor([BOS]), []
    exempt = {VOCABULARY.id_of("a"), VOCABULARY.id_of("the"), EOS}
    while len(chosen) < max_length and EOS not in chosen:
        log_probs, state = model.step(token, state)
        log_probs[:, list(SUPPRESSED)] = -torch.inf
        if no_repeat_words:
            log_probs[:, [token for token in chosen if token not in exempt]] = -torch.inf
        token = log_probs.argmax(dim=1)
        chosen.append(token.item())
    return chosen
