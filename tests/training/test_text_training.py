"""Training on texts: every objective and context, runs that resume, and what a run writes."""

import json
import random
from functools import partial
from typing import get_args

import pytest
import torch
from safetensors.torch import load_file

from captioner.config.run import Config
from captioner.config.schema import (
    ContextName,
    DecoderConfig,
    DecodingConfig,
    ModelConfig,
    ObjectiveName,
    TextEncoderConfig,
)
from captioner.config.training import PhaseConfig, SelfCriticalConfig, TrainingConfig
from captioner.data.batching import collate
from captioner.data.parallel import Pair
from captioner.decoding.search import length_limits
from captioner.errors import UsageError
from captioner.inference.translator import Translator
from captioner.models.build import build_model
from captioner.models.folder import load_config
from captioner.text.multilingual import WordTokenizer
from captioner.text.tokenizer import Vocabulary
from captioner.training.checkpoint import checkpoints
from captioner.training.optim import make_optimizer
from captioner.training.recorder import read_log
from captioner.training.train import train
from captioner.training.trainer import build_objective

DIGITS = ["one", "two", "three", "four", "five", "six", "seven"]
ZIFFERN = ["eins", "zwei", "drei", "vier", "fünf", "sechs", "sieben"]


def texts(count, seed=0):
    """Texts of one to five digits in English with their translations."""
    rng = random.Random(seed)
    chosen = [rng.choices(range(7), k=rng.randint(1, 5)) for _ in range(count)]
    return [
        (" ".join(DIGITS[i] for i in each), " ".join(ZIFFERN[i] for i in each)) for each in chosen
    ]


def write(folder, name, pairs):
    """Write the pairs to two files that are aligned by line."""
    for side, suffix in enumerate(("en", "de")):
        lines = "".join(f"{pair[side]}\n" for pair in pairs)
        (folder / f"{name}.{suffix}").write_text(lines, encoding="utf-8")


@pytest.fixture
def digits(tmp_path):
    """The settings of a small training run from digits in English to digits in German."""
    write(tmp_path, "train", texts(60))
    write(tmp_path, "dev", texts(12, seed=1))

    def make(**sections):
        values = {
            "data": {
                "train": {"source": tmp_path / "train.en", "target": tmp_path / "train.de"},
                "dev": {"source": tmp_path / "dev.en", "target": tmp_path / "dev.de"},
                "min_count": 1,
            },
            "encoder": {"kind": "text", "embed_size": 16, "hidden_size": 16, "dropout": 0.1},
            "decoder": {"embed_size": 16, "hidden_size": 32, "dropout": 0.1},
            "training": {"batch_size": 20, "phases": [{"epochs": 2, "learning_rate": 1e-2}]},
            "output": tmp_path / "run",
        }
        for name, settings in sections.items():
            merges = isinstance(settings, dict)
            values[name] = values.get(name, {}) | settings if merges else settings
        return Config.parse(values, source="digits")

    return make


def test_a_run_chooses_the_best_model_by_bleu_and_writes_samples(digits, tmp_path):
    best = train(digits(training={"validate_every": 1, "keep_checkpoints": 6}), device="cpu")
    bleu = [line["Bleu_4"] for line in read_log(tmp_path / "run") if "Bleu_4" in line]
    assert len(bleu) == 6
    first_of_the_best = bleu.index(max(bleu)) + 1
    saved = load_file(best / "model.safetensors")
    other = load_file(tmp_path / "run" / f"checkpoint-{first_of_the_best}" / "model.safetensors")
    assert all(torch.equal(saved[name], other[name]) for name in saved)
    blocks = (tmp_path / "run" / "samples.txt").read_text(encoding="utf-8").split("\n\n")
    for block, (source, target) in zip(blocks, texts(12, seed=1), strict=True):
        lines = block.strip().splitlines()
        assert lines[0].split(maxsplit=1) == ["source", source]
        assert lines[1].startswith("output")
        assert lines[2].split(maxsplit=1) == ["reference", target]
    assert not (tmp_path / "run" / "samples.png").exists()


def test_a_resumed_run_equals_an_unbroken_one(digits, tmp_path):
    train(digits(output=str(tmp_path / "whole")), device="cpu")
    for max_steps in (2, 4, None):  # inside the first epoch of 3 steps, and inside the second
        settings = digits().training.to_json() | {"max_steps": max_steps}
        part = digits(output=str(tmp_path / "half"), training=settings)
        train(part, device="cpu", resume="auto")
    whole, half = (checkpoints(tmp_path / name)[-1] for name in ("whole", "half"))
    one, other = (load_file(folder / "model.safetensors") for folder in (whole, half))
    assert whole.name == half.name == "checkpoint-6"
    assert all(torch.equal(one[name], other[name]) for name in one)


def trained_without_dropout(digits, output, **training):
    """The config of a run whose result depends neither on the ranks nor on the micro-batches."""
    config = digits(output=str(output), decoder={"dropout": 0}, encoder={"dropout": 0})
    settings = {"max_steps": 4, "batch_size": 8, **training}
    return config.model_copy(update={"training": config.training.model_copy(update=settings)})


def assert_equal_weights(one, other):
    one, other = (load_file(checkpoints(run)[-1] / "model.safetensors") for run in (one, other))
    for name in one:
        torch.testing.assert_close(one[name], other[name], rtol=1e-4, atol=1e-5)


def test_micro_batches_give_the_weights_of_whole_batches(digits, tmp_path):
    # texts of other lengths are in a micro-batch, so its padding and its number of words differ
    train(trained_without_dropout(digits, tmp_path / "whole"), device="cpu")
    train(trained_without_dropout(digits, tmp_path / "parts", accumulate=2), device="cpu")
    assert_equal_weights(tmp_path / "whole", tmp_path / "parts")


@pytest.mark.slow
def test_two_ranks_give_the_weights_of_one(digits, tmp_path, train_on_two_ranks):
    train(trained_without_dropout(digits, tmp_path / "one"), device="cpu")
    train_on_two_ranks(trained_without_dropout(digits, tmp_path / "two", accumulate=2))
    assert_equal_weights(tmp_path / "one", tmp_path / "two")


def test_a_trained_model_translates_texts_that_it_has_not_seen(digits, tmp_path):
    write(tmp_path, "train", texts(400))
    config = digits(
        decoder={"context": "attention", "attention_size": 16},
        training={
            "phases": [{"epochs": 15, "learning_rate": 2e-2}],
            "attention_penalty": 0,
            "validate_every": 1000,  # at the end only
        },
    )
    translator = Translator.from_pretrained(train(config, device="cpu"), device="cpu")
    pairs = texts(12, seed=1)
    found = translator.translate([source for source, _ in pairs])
    correct = sum(one.text == target for one, (_, target) in zip(found, pairs, strict=True))
    assert correct >= 10


def test_source_and_target_have_vocabularies_of_their_own_or_share_one(digits, tmp_path):
    best = train(digits(), device="cpu")
    words = json.loads((best / "vocab.json").read_text(encoding="utf-8"))["words"]
    source_words = json.loads((best / "source_vocab.json").read_text(encoding="utf-8"))["words"]
    assert (set(words[4:]), set(source_words[4:])) == (set(ZIFFERN), set(DIGITS))
    shared = digits(data={"share_vocabulary": True}, output=tmp_path / "shared")
    best = train(shared, device="cpu")
    words = json.loads((best / "vocab.json").read_text(encoding="utf-8"))["words"]
    assert set(words[4:]) == {*ZIFFERN, *DIGITS}
    assert not (best / "source_vocab.json").exists()
    assert Translator.from_pretrained(best).source_vocabulary.words == tuple(words)


def test_training_goes_on_from_a_model_with_new_words_in_both_vocabularies(digits, tmp_path):
    first = train(digits(), device="cpu")
    (tmp_path / "more.en").write_text("eight\nnine eight\n" * 5, encoding="utf-8")
    (tmp_path / "more.de").write_text("acht\nneun acht\n" * 5, encoding="utf-8")
    more = {"source": str(tmp_path / "more.en"), "target": str(tmp_path / "more.de")}
    config = tmp_path / "more.yaml"
    config.write_text(json.dumps({"data": {"train": more, "min_count": 1}, "init": str(first)}))
    settings = load_config(
        config, ["training.max_steps=1", "training.phases=[{learning_rate: 1e-9}]"]
    )
    settings = settings.model_copy(update={"output": tmp_path / "more"})
    assert settings.encoder == digits().encoder.model_copy(
        update={"dropout": settings.encoder.dropout}
    )
    best = train(settings, device="cpu")
    old, new = (load_file(folder / "model.safetensors") for folder in (first, best))
    for name in ("encoder.embedding.weight", "decoder.embedding.weight"):
        rows = len(old[name])
        assert len(new[name]) == rows + 2
        torch.testing.assert_close(new[name][:rows], old[name], rtol=0, atol=1e-6)


def test_a_kind_of_encoder_that_does_not_fit_the_data_is_named(digits):
    with pytest.raises(UsageError, match=r"set encoder\.kind=text"):
        Config.parse({"data": digits().data.to_json()}, source="captions.yaml")


@pytest.fixture(scope="module")
def batch():
    """Twelve texts with their targets, and their vocabularies."""
    tokenizer = WordTokenizer()
    pairs = texts(12)
    vocabularies = [
        Vocabulary.from_captions([text.split() for text in side], 1, tokenizer)
        for side in zip(*pairs, strict=True)
    ]
    source_words, target_words = vocabularies
    samples = [
        (
            torch.tensor(source_words.encode_source(source.split())),
            [target_words.encode(target.split())],
            index,
        )
        for index, (source, target) in enumerate(pairs)
    ]
    examples = [
        Pair(f"line {number}", source, (target,)) for number, (source, target) in enumerate(pairs)
    ]
    return collate(samples), examples, source_words, target_words


@pytest.mark.parametrize("objective", get_args(ObjectiveName))
@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn"])
@pytest.mark.parametrize("context", get_args(ContextName))
def test_every_combination_of_context_cell_and_objective_learns_from_texts(
    context, cell, objective, batch
):
    batch, examples, source_words, words = batch
    torch.manual_seed(0)
    config = ModelConfig(
        encoder=TextEncoderConfig(cell=cell, embed_size=8, hidden_size=8, dropout=0.0),
        decoder=DecoderConfig(
            cell=cell, context=context, embed_size=8, hidden_size=16, attention_size=8, dropout=0.0
        ),
    )
    model = build_model(config, vocab_size=len(words), source_vocab_size=len(source_words))
    phase = PhaseConfig(
        objective=objective, self_critical=SelfCriticalConfig(reward={"Bleu_4": 1.0})
    )
    limits = partial(length_limits, config=DecodingConfig(max_length=3, length_ratio=1.0))
    made = build_objective(phase, TrainingConfig(), model, words, examples, limits=limits).train()
    optimizer = make_optimizer(model, phase, weight_decay=0.0)
    for group in optimizer.param_groups:
        group["lr"] = 1e-2
    before = {name: weight.clone() for name, weight in model.named_parameters()}
    losses = []
    for step in range(4):
        optimizer.zero_grad()
        loss = made(batch, step / 4).loss
        assert int(loss.count) == int(made.count(batch))
        (loss.total / loss.count).backward()
        optimizer.step()
        losses.append(loss.mean)
    assert torch.isfinite(torch.tensor(losses)).all()
    assert all(not torch.equal(before[name], weight) for name, weight in model.named_parameters())
    if objective != "self_critical":
        assert losses[-1] < losses[0]
