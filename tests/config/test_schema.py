"""Settings: strict about names and kinds, and errors that teach."""

import re
from pathlib import Path

import pytest

from captioner.config.loading import _sections_in, apply_overrides
from captioner.config.run import Config
from captioner.config.schema import ConfidenceConfig, ModelConfig
from captioner.models.folder import load_config

DATA = {"data": {"shapes": {"folder": "x"}}}


def test_the_last_setting_wins_and_values_are_read_as_yaml():
    pairs = [
        "training.batch_size=8",
        "training.batch_size=9",
        "data.min_count=1",
        "training.phases.0.learning_rate=1e-3",
    ]
    values = apply_overrides(DATA | {"training": {"phases": [{"epochs": 3}]}}, pairs)
    config = Config.parse(values, source="x.yaml")
    assert (config.training.batch_size, config.data.min_count) == (9, 1)
    assert config.training.phases[0].learning_rate == pytest.approx(0.001)
    assert config.training.phases[0].epochs == 3


CONFIGS = sorted((Path(__file__).parents[2] / "configs").glob("*.yaml"))


@pytest.mark.parametrize(
    "file", [file for file in CONFIGS if file.stem != "search"], ids=lambda file: file.stem
)
def test_every_config_that_comes_with_the_project_is_valid_and_begins_with_its_command(file):
    config = load_config(file)
    assert re.match(
        rf"# (captioner train|python -m experiments[\w.]+) configs/{file.name}", file.read_text()
    )
    stored = config.model_copy(update={"data": config.data.model_copy(update={"hint": ""})})
    assert Config.parse(config.to_json(), source="again") == stored


def test_a_run_that_starts_from_a_model_takes_its_settings_and_lays_its_own_over_them(
    tmp_path, tiny_model
):
    file = tmp_path / "own.yaml"
    file.write_text(
        f"init: {tiny_model}\ndata: {{shapes: {{folder: x}}}}\ndecoder: {{dropout: 0.25}}\n"
    )
    config = load_config(file, ["training.max_steps=3"])
    assert config.decoder.hidden_size == 16
    assert config.decoder.dropout == pytest.approx(0.25)
    assert config.encoder.trunk == "small_cnn"


def test_the_architecture_of_init_replaces_that_of_the_file_but_not_that_of_an_override(
    tmp_path, tiny_model
):
    # A file for new models then serves to fine-tune any model folder too.
    file = tmp_path / "own.yaml"
    file.write_text(
        "data: {shapes: {folder: x}}\nencoder: {trunk: resnet50, image_size: 96}\n"
        "decoder: {hidden_size: 64, image_dropout: 0.5}\n"
    )
    config = load_config(file, [f"init={tiny_model}"])
    assert (config.encoder.trunk, config.decoder.hidden_size) == ("small_cnn", 16)
    assert (config.encoder.image_size, config.decoder.image_dropout) == (96, 0.5)
    assert load_config(file, [f"init={tiny_model}", "decoder.cell=gru"]).decoder.cell == "gru"


def test_a_stored_model_names_no_initial_weights_and_keeps_its_batch_norm_mode():
    for weights, batch_norm in (("/home/me/resnet18.pth", "eval"), ("none", "train")):
        config = Config.parse(DATA | {"encoder": {"weights": weights}}, source="x.yaml")
        assert config.model.encoder.weights == "none"
        assert config.model.encoder.batch_norm == batch_norm
        assert config.model.encoder.train_batch_norm == config.encoder.train_batch_norm


def test_the_defaults_make_a_model():
    assert ModelConfig().decoder.cell == "lstm"


@pytest.mark.parametrize(
    ("name", "source"),
    [("flickr8k", "python scripts/download_flickr8k.py"), ("coco", "download_coco.py")],
)
def test_a_config_whose_data_is_missing_says_how_to_get_it(
    run, tmp_path, monkeypatch, name, source
):
    monkeypatch.chdir(tmp_path)
    for command in ("train", "check"):
        code, _, err = run(command, CONFIGS[0].parent / f"{name}.yaml")
        assert code == 2
        assert "data.train.annotations: data/" in err
        assert "does not exist" in err
        assert source in err
    assert not list(tmp_path.iterdir())


def sections(section):
    """A section and those within it."""
    yield section
    for field in section.model_fields.values():
        for inner in _sections_in(field.annotation):
            yield from sections(inner)


def test_every_setting_has_a_help_text():
    for section in sections(Config):
        for name, field in section.model_fields.items():
            is_section = any(_sections_in(field.annotation)) and not field.description
            assert is_section or field.description, f"{section.__name__}.{name}"


def test_a_calibration_without_a_threshold_can_be_read_and_has_none():
    before = {"temperature": 2.0, "error": 0.1, "images": 100}
    assert ConfidenceConfig.parse(before, source="config.json").threshold is None


def test_how_to_get_the_data_is_not_stored_with_the_settings_of_a_run():
    config = Config.parse({"data": {**DATA["data"], "hint": "Download it."}}, source="x.yaml")
    assert config.data.hint == "Download it."
    assert config.to_json() == Config.parse(DATA, source="x.yaml").to_json()
