"""The captioner in one file computes the same as the library, and trains from a command line."""

import ast
import json
import random
import runpy
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from benchmarks.synthetic import build_baseline, end_after_ten_words
from captioner.config.schema import DecoderConfig, DecodingConfig, ImageEncoderConfig, ModelConfig
from captioner.data.batching import collate
from captioner.data.datasets import load_examples
from captioner.data.transforms import build_transform
from captioner.decoding.search import build_search
from captioner.models.build import build_model
from captioner.text.tokenizer import BOS, EOS, PAD, SPECIALS, UNK, Vocabulary, tokenize
from captioner.training.objectives import TeacherForcing
from examples import minimal

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "examples" / "minimal.py"
VOCABULARY = Vocabulary([*SPECIALS, *(f"word{number}" for number in range(26))])


@pytest.fixture(scope="module")
def images():
    """Return images (B, 3, 64, 64) as bytes."""
    return torch.randint(256, (8, 3, 64, 64), generator=torch.Generator().manual_seed(1)).byte()


@pytest.fixture(scope="module")
def model(images):
    """Return a model of the library whose captions differ in length."""
    torch.manual_seed(0)
    config = ModelConfig(
        encoder=ImageEncoderConfig(
            trunk="resnet18", weights="none", image_size=64, batch_norm="eval"
        ),
        decoder=DecoderConfig(embed_size=12, hidden_size=16, dropout=0.0),
    )
    model = build_model(config, vocab_size=len(VOCABULARY)).eval()
    with torch.no_grad():
        model.decoder.output.weight.mul_(4)  # less uniform than random weights
        end_after_ten_words(model.decoder, model.encode(images).summary)
    return model


@pytest.fixture(scope="module")
def ours(model):
    """Return the captioner of the example with the weights of `model`."""
    return build_baseline(model).eval()


@pytest.fixture(scope="module")
def features(model, images, ours):
    """Return the features (B, C) that the example computes."""
    with torch.no_grad():
        return ours.encode((images - model.encoder.mean) / model.encoder.std)


def random_captions(lengths):
    rng = random.Random(0)
    return [[BOS, *(rng.randrange(UNK, len(VOCABULARY)) for _ in range(n)), EOS] for n in lengths]


def padded(captions):
    tensors = [torch.tensor(caption) for caption in captions]
    return torch.nn.utils.rnn.pad_sequence(tensors, batch_first=True, padding_value=PAD)


def test_constants_are_those_of_the_library():
    assert (minimal.PAD, minimal.BOS, minimal.EOS, minimal.UNK) == (PAD, BOS, EOS, UNK)
    assert minimal.SPECIALS == SPECIALS


def test_features_are_those_of_the_library(model, images, features):
    with torch.no_grad():
        torch.testing.assert_close(features, model.encode(images).summary, rtol=1e-4, atol=1e-4)


def test_the_loss_and_its_gradients_are_those_of_the_library(model, images, ours, features):
    groups = [random_captions(lengths) for lengths in ([3, 9], [1, 5], [12, 2])]
    batch = collate([(images[index], group, index) for index, group in enumerate(groups)])
    expected = TeacherForcing(model)(batch).loss
    loss = ours.loss(
        features[:3].repeat_interleave(2, dim=0), padded(one for group in groups for one in group)
    )
    assert loss.item() == pytest.approx(expected.mean, rel=1e-5)
    gradients = torch.autograd.grad(loss, [ours.embedding.weight, ours.lstm.weight_hh])
    decoder = model.decoder
    expected_gradients = torch.autograd.grad(
        expected.total / expected.count,
        [decoder.embedding.weight, decoder.rnn.layers[0].weight_hh_l0],
    )
    for gradient, other in zip(gradients, expected_gradients, strict=True):
        torch.testing.assert_close(gradient, other, rtol=1e-3, atol=1e-6)


def test_padding_does_not_change_the_loss(ours, features):
    token_ids = padded(random_captions([4, 6]))
    longer = torch.nn.functional.pad(token_ids, (0, 5), value=PAD)
    loss = ours.loss(features[:2], token_ids)
    torch.testing.assert_close(ours.loss(features[:2], longer), loss)


@pytest.mark.parametrize("max_length", [4, 20])
def test_greedy_captions_are_those_of_the_library(model, images, ours, features, max_length):
    expected = library_captions(model, images, beam=1, max_length=max_length)
    greedy = [minimal.greedy_search(ours, row, max_length) for row in features.split(1)]
    assert greedy == expected
    assert [minimal.beam_search(ours, row, max_length, 1) for row in features.split(1)] == greedy
    assert len(set(map(len, expected))) > (1 if max_length == 20 else 0)


@pytest.mark.parametrize(("beam", "max_length"), [(2, 20), (3, 4), (3, 20), (5, 8)])
def test_beam_captions_are_those_of_the_library(model, images, ours, features, beam, max_length):
    expected = library_captions(model, images, beam=beam, max_length=max_length)
    assert [
        minimal.beam_search(ours, row, max_length, beam) for row in features.split(1)
    ] == expected
    assert expected != library_captions(model, images, beam=1, max_length=max_length)


def library_captions(model, images, *, beam, max_length):
    config = DecodingConfig(beam=beam, max_length=max_length, length_norm="average")
    search = build_search(model.step, config, VOCABULARY)
    with torch.inference_mode():
        return [best.token_ids for best, *_ in search(model.init_state(images), ())]


def test_an_image_file_becomes_the_same_pixels_as_in_the_library(model, tmp_path):
    noise = Image.frombytes("RGB", (72, 90), random.Random(0).randbytes(72 * 90 * 3))
    noise.save(tmp_path / "noise.png")
    pixels = torch.from_numpy(build_transform("squash", 64)(noise, random.Random(0)))
    expected = (pixels - model.encoder.mean) / model.encoder.std
    torch.testing.assert_close(minimal.load_image(tmp_path / "noise.png", 64), expected)


def test_captions_are_read_and_split_as_in_the_library(shapes):
    annotations = shapes / "captions_train.json"
    captions = minimal.read_coco(annotations, shapes / "train")
    expected = {
        example.path: [tokenize(caption) for caption in example.captions]
        for example in load_examples(annotations, shapes / "train")
    }
    assert captions == expected


def test_rare_words_are_unknown_and_a_batch_is_padded(shapes):
    vocabulary = minimal.build_vocabulary([["a", "dog"], ["a", "cat"], ["dog"]])
    assert vocabulary == {"<pad>": 0, "<bos>": 1, "<eos>": 2, "<unk>": 3, "a": 4, "dog": 5}
    path = next((shapes / "train").iterdir())
    images, token_ids = minimal.collate([(path, ["a", "cat"]), (path, ["dog"])], vocabulary, 32)
    assert images.shape == (2, 3, 32, 32)
    assert token_ids.tolist() == [[BOS, 4, UNK, EOS], [BOS, 5, EOS, PAD]]


@pytest.fixture
def run_script(shapes, tmp_path, monkeypatch):
    """Return a function that runs the script on the first images, and returns their file names."""

    def run(count, *options):
        content = json.loads((shapes / "captions_train.json").read_text())
        images = content["images"][:count]
        ids = {image["id"] for image in images}
        notes = [one for one in content["annotations"] if one["image_id"] in ids]
        (tmp_path / "few.json").write_text(
            json.dumps(content | {"images": images, "annotations": notes})
        )
        arguments = [str(tmp_path / "few.json"), str(shapes / "train"), *options]
        monkeypatch.setattr(sys, "argv", ["minimal.py", *arguments])
        minimal.main()
        return [image["file_name"] for image in images]

    return run


def test_the_script_trains_and_captions_images_that_it_was_not_trained_on(run_script, capsys):
    torch.manual_seed(0)
    held_out = run_script(11, "--epochs", "3")[-5:]
    lines = capsys.readouterr().out.splitlines()
    losses = [float(line.split("loss ")[1]) for line in lines[:3]]
    assert losses[2] < losses[0]
    assert [line.partition(": ")[0] for line in lines[3:]] == [
        f"{file} {search}" for file in held_out for search in ("greedy_search", "beam_search")
    ]


def test_a_pretrained_cnn_is_frozen(run_script, monkeypatch):
    cnn, asked = minimal.models.resnet18(weights=None), []
    monkeypatch.setattr(minimal.models, "resnet18", lambda weights: asked.append(weights) or cnn)
    before = cnn.conv1.weight.clone()
    run_script(6, "--epochs", "1", "--pretrained")
    assert asked == ["DEFAULT"]
    assert torch.equal(cnn.conv1.weight, before)


def test_the_script_has_an_example_in_its_help(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), "--help"])
    with pytest.raises(SystemExit, match=r"^0$"):
        runpy.run_path(str(SCRIPT), run_name="__main__")
    shown = capsys.readouterr().out
    assert "python examples/minimal.py data/shapes/captions_train.json data/shapes/train" in shown


def test_the_file_is_under_200_lines_and_needs_only_torch_torchvision_and_pillow():
    text = SCRIPT.read_text()
    assert len(text.splitlines()) < 200
    imported = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            imported |= {alias.name.partition(".")[0] for alias in node.names}
        if isinstance(node, ast.ImportFrom):
            imported.add(node.module.partition(".")[0])
    assert imported - set(sys.stdlib_module_names) == {"torch", "torchvision", "PIL"}
