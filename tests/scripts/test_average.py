"""The average of models has their mean weights; models of different configs are refused."""

import sys
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

sys.path.append(str(Path(__file__).parents[2] / "scripts"))

import average

from captioner.config.schema import ConfidenceConfig
from captioner.errors import CaptionerError, UsageError
from captioner.models.folder import read_model, write_model
from captioner.storage import atomic_folder
from captioner.text.tokenizer import Vocabulary


@pytest.fixture
def variant(tiny_model, tmp_path):
    """Write a variant of the tiny model, `variant(name, change=..., decoder={...})`: its folder."""

    def make(name, *, change=lambda tensor: tensor, vocabulary=None, confidence=None, **sections):
        config, words, _, state = read_model(tiny_model)
        changes = {
            section: getattr(config, section).model_copy(update=new)
            for section, new in sections.items()
        }
        config = config.model_copy(update=changes | {"confidence": confidence})
        state = {
            key: change(tensor) if tensor.is_floating_point() else tensor + 1
            for key, tensor in state.items()
        }
        with atomic_folder(tmp_path / name) as folder:
            write_model(folder, config=config, vocabulary=vocabulary or words, state=state)
        return tmp_path / name

    return make


def run(*arguments):
    return CliRunner().invoke(
        average.app, [str(argument) for argument in arguments], catch_exceptions=False
    )


def test_every_weight_is_the_mean_and_step_counts_are_those_of_the_last_model(
    tiny_model, variant, tmp_path
):
    others = (
        variant("double", change=lambda tensor: 2 * tensor),
        variant("more", change=lambda tensor: tensor + 3),
    )
    assert (
        run(tiny_model, *others, "--output", tmp_path / "mean").stdout == f"{tmp_path / 'mean'}\n"
    )
    config, vocabulary, _, mean = read_model(tmp_path / "mean")
    first_config, first_vocabulary, _, state = read_model(tiny_model)
    assert (config, vocabulary) == (first_config, first_vocabulary)
    for name, tensor in state.items():
        expected = (4 * tensor + 3) / 3 if tensor.is_floating_point() else tensor + 1
        torch.testing.assert_close(mean[name], expected)


def test_the_average_does_not_keep_the_calibration_of_a_model(variant, tmp_path):
    found = ConfidenceConfig(temperature=2.0, error=0.1, images=10)
    sure = variant("sure", confidence=found, decoding={"min_confidence": 0.5, "beam": 7})
    run(sure, sure, "--output", tmp_path / "mean")
    config = read_model(tmp_path / "mean").config
    assert config.confidence is None
    assert (config.decoding.min_confidence, config.decoding.beam) == (0.0, 7)


def test_models_trained_with_different_dropout_can_be_averaged(tiny_model, variant, tmp_path):
    run(
        tiny_model,
        variant("dropped", decoder={"dropout": 0.1, "image_dropout": 0.3}),
        "--output",
        tmp_path / "mean",
    )
    config = read_model(tmp_path / "mean").config
    assert config.decoder == read_model(tiny_model).config.decoder


def test_models_of_another_config_or_vocabulary_are_refused_by_name(tiny_model, variant, tmp_path):
    with pytest.raises(
        UsageError, match=r"wide and .*decoder\.hidden_size is 32 in the first and 16 in the second"
    ):
        run(tiny_model, variant("wide", decoder={"hidden_size": 32}), "--output", tmp_path / "mean")
    foreign = variant("foreign", vocabulary=Vocabulary.from_captions([["zeppelin"]], min_count=1))
    with pytest.raises(
        UsageError, match=r"foreign and .* their vocabularies differ \(5 and \d+ words\)"
    ):
        run(tiny_model, foreign, "--output", tmp_path / "mean")
    assert not (tmp_path / "mean").exists()


def test_an_existing_folder_is_not_replaced_and_a_folder_without_a_model_is_named(
    tiny_model, tmp_path
):
    with pytest.raises(UsageError, match="exists already: choose another --output"):
        run(tiny_model, tiny_model, "--output", tmp_path)
    with pytest.raises(CaptionerError, match="is not a model folder"):
        run(tiny_model, tmp_path / "nothing", "--output", tmp_path / "mean")


def test_the_help_has_an_example():
    assert "Example: python scripts/average.py runs/x/checkpoint-100" in " ".join(
        run("--help").stdout.split()
    )
