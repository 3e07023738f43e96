"""Settings: strict about names and kinds, and errors that teach."""

import re
from pathlib import Path

import pytest

from captioner.commands.settings import load_config
from captioner.config import Config, ModelConfig
from captioner.errors import UsageError
from captioner.parsing import apply_overrides, parse, read_yaml, to_json

DATA = {"data": {"shapes": {"folder": "x"}}}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"decoder": {"hiden_size": 3}}, "unknown key 'decoder.hiden_size': did you mean 'decoder.hidden_size'?"),
        ({"decoder": {"cell": "lsmt"}}, "decoder.cell is 'lsmt': choose one of 'lstm', 'gru', 'rnn'"),
        ({"training": {"phases": [{"epochs": 0}]}}, "training.phases.0.epochs is 0: input should be greater than 0"),
        ({"training": {"phases": [{"lerning_rate": 1}]}}, "did you mean 'training.phases.0.learning_rate'?"),
        ({"training": {"batch_size": "many"}}, "training.batch_size is 'many'"),
        ({"seed": 3}, "unknown key 'seed'"),
        ({"data": None}, "data is None"),
    ],
)
def test_a_mistake_is_named_with_the_way_out(values, message):
    with pytest.raises(UsageError) as caught:
        parse(Config, DATA | values, source="x.yaml")
    assert message in str(caught.value)
    assert str(caught.value).startswith("x.yaml: ")


def test_all_mistakes_are_told_at_once():
    with pytest.raises(UsageError) as caught:
        parse(Config, {"decoder": {"cell": "lsmt", "layers": 0}}, source="x.yaml")
    assert len(str(caught.value).splitlines()) == 4  # headline, cell, layers, and data, which is missing


def test_the_last_setting_wins_and_values_are_read_as_yaml():
    pairs = [
        "training.batch_size=8",
        "training.batch_size=9",
        "data.min_count=1",
        "training.phases.0.learning_rate=1e-3",
    ]
    values = apply_overrides(DATA | {"training": {"phases": [{"epochs": 3}]}}, pairs)
    config = parse(Config, values, source="x.yaml")
    assert (config.training.batch_size, config.data.min_count) == (9, 1)
    assert config.training.phases[0].learning_rate == pytest.approx(0.001)
    assert config.training.phases[0].epochs == 3


@pytest.mark.parametrize(
    ("pair", "message"),
    [
        ("training", "write key=value"),
        ("=3", "write key=value"),
        ("output.deep.er=3", "leads nowhere"),
        ("training.phases.7.epochs=1", "leads nowhere"),
        ("data.min_count=[1", "is not a YAML value"),
    ],
)
def test_a_setting_that_leads_nowhere_is_named(pair, message):
    with pytest.raises(UsageError, match=message):
        apply_overrides({"output": "runs", "training": {"phases": [{}]}}, [pair])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a: [1", "is not YAML at line 1"),
        (b"- 1", "holds no settings"),
        (b"", "holds no settings"),
        (b"\xff\xfe\x00", "is not UTF-8 text"),
    ],
)
def test_a_broken_config_file_is_named_with_the_place(tmp_path, content, message):
    (tmp_path / "x.yaml").write_bytes(content)
    with pytest.raises(UsageError, match=message):
        read_yaml(tmp_path / "x.yaml")


def test_a_missing_config_file_is_named(tmp_path):
    with pytest.raises(UsageError, match=r"nothing\.yaml cannot be read: No such file"):
        read_yaml(tmp_path / "nothing.yaml")


CONFIGS = sorted((Path(__file__).parents[1] / "configs").glob("*.yaml"))


@pytest.mark.parametrize("file", [file for file in CONFIGS if file.stem != "search"], ids=lambda file: file.stem)
def test_every_config_that_comes_with_the_project_is_valid_and_begins_with_its_command(file):
    config = load_config(file)
    assert re.match(rf"# (captioner train|python scripts/\w+\.py) configs/{file.name}", file.read_text())
    assert parse(Config, to_json(config), source="again") == config


def test_a_run_that_starts_from_a_model_takes_its_settings_and_lays_its_own_over_them(tmp_path, tiny_model):
    file = tmp_path / "own.yaml"
    file.write_text(f"init: {tiny_model}\ndata: {{shapes: {{folder: x}}}}\ndecoder: {{dropout: 0.25}}\n")
    config = load_config(file, ["training.max_steps=3"])
    assert config.decoder.hidden_size == 16
    assert config.decoder.dropout == pytest.approx(0.25)
    assert config.encoder.trunk == "resnet18"


def test_a_stored_model_names_no_file_that_it_started_from_and_keeps_how_its_batch_norms_are_treated():
    for weights, batch_norm in (("/home/me/resnet18.pth", "eval"), ("none", "train")):
        config = parse(Config, DATA | {"encoder": {"weights": weights}}, source="x.yaml")
        assert config.model.encoder.weights == "none"
        assert config.model.encoder.batch_norm == batch_norm
        assert config.model.encoder.train_batch_norm == config.encoder.train_batch_norm


def test_the_defaults_make_a_model():
    assert ModelConfig().decoder.cell == "lstm"
