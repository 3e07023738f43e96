"""What the encoder reads: images or text, and the data that each kind needs."""

from pathlib import Path

import pytest

from captioner.config.loading import apply_overrides
from captioner.config.run import Config, source_names
from captioner.config.schema import ImageEncoderConfig, ModelConfig, TextEncoderConfig
from captioner.errors import UsageError
from captioner.models.folder import load_config

PAIRS = {"train": {"source": "data/train.en", "target": "data/train.de"}}
IMAGES = {"train": {"annotations": "captions.jsonl"}}


def parse(**values):
    return Config.parse(values, source="x.yaml")


def test_an_encoder_without_a_kind_reads_images_as_it_always_did():
    config = ModelConfig.parse({"encoder": {"trunk": "resnet18"}}, source="config.json")
    assert isinstance(config.encoder, ImageEncoderConfig)
    assert config.encoder.trunk == "resnet18"
    assert isinstance(ModelConfig.parse({}, source="config.json").encoder, ImageEncoderConfig)


def test_the_kind_decides_which_settings_an_encoder_has():
    config = parse(data=PAIRS, encoder={"kind": "text", "cell": "lstm", "reverse": True})
    assert isinstance(config.encoder, TextEncoderConfig)
    assert (config.encoder.cell, config.encoder.reverse) == ("lstm", True)
    image = parse(data=IMAGES, encoder={"kind": "image", "trunk": "resnet34"})
    assert isinstance(image.encoder, ImageEncoderConfig)


@pytest.mark.parametrize(("data", "kind"), [(PAIRS, "text"), (IMAGES, "image")])
def test_a_stored_config_keeps_the_kind_of_its_encoder(data, kind):
    config = parse(data=data, encoder={"kind": kind})
    assert Config.parse(config.to_json(), source="again") == config
    model = ModelConfig.parse(config.model.to_json(), source="config.json")
    assert model.encoder.kind == kind


def test_the_kind_can_be_set_on_the_command_line():
    values = apply_overrides({"data": PAIRS}, ["encoder.kind=text", "encoder.hidden_size=32"])
    assert Config.parse(values, source="x").encoder == TextEncoderConfig(hidden_size=32)


@pytest.mark.parametrize(
    ("encoder", "message"),
    [
        ({"kind": "txt"}, "encoder.kind is 'txt': choose one of 'image', 'text'"),
        ({"kind": "text", "trunk": "resnet18"}, "encoder.trunk is not for encoder.kind="),
        ({"kind": "text", "cel": "gru"}, "'encoder.cel': did you mean 'encoder.cell'?"),
        ({"kind": "image", "reverse": True}, "encoder.reverse is not for encoder.kind="),
        ({"cell": "gru"}, "encoder.cell is not for encoder.kind="),
        ({"kind": "text", "cell": "gruu"}, "encoder.cell is 'gruu': choose one of 'lstm', 'gru'"),
        ({"kind": "text", "layers": 0}, "encoder.layers is 0"),
        ({"kind": "text", "dropout": 1}, "encoder.dropout is 1"),
    ],
)
def test_a_wrong_encoder_is_refused_by_the_key_that_the_user_wrote(encoder, message):
    with pytest.raises(UsageError) as caught:
        parse(data=PAIRS, encoder=encoder)
    assert message in str(caught.value)


def test_an_encoder_of_text_refuses_images_and_says_how_to_name_texts():
    for data in (IMAGES, {"shapes": {"folder": "x"}}):
        with pytest.raises(UsageError, match=r"name data\.train\.source and data\.train\.target"):
            parse(data=data, encoder={"kind": "text"})


def test_data_is_text_where_sources_are_texts_or_text_is_generated():
    generated = {"generated": {"task": "summary", "folder": "x"}}
    assert parse(data=generated, encoder={"kind": "text"}).data.is_text
    assert parse(data=PAIRS, encoder={"kind": "text"}).data.is_text
    assert not parse(data=IMAGES).data.is_text


def test_texts_may_be_repeated_and_have_the_name_of_their_source_file():
    train = [PAIRS["train"] | {"repeat": 2}, {"source": "more.tsv", "captions_per_image": "all"}]
    config = parse(data={"train": train}, encoder={"kind": "text"})
    assert [source.repeat for source in config.data.train] == [2, 1]
    assert config.data.train[0].path == Path("data/train.en")
    assert source_names(config.data.train) == ["train", "more"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"training": {"phases": [{"finetune_from": "stem"}]}}, "finetune_from is for images"),
        ({"training": {"phases": [{"augmentation": "mild_crop"}]}}, "augmentation is for images"),
        ({"training": {"cached_crops": 1}}, "cached_crops is for images"),
        ({"decoding": {"min_confidence": 0.5}}, "min_confidence is for images"),
        ({"decoding": {"replace_unknown": True}}, "needs a text encoder and decoder.context"),
    ],
)
def test_what_has_no_effect_on_text_is_refused(changes, message):
    with pytest.raises(UsageError) as caught:
        parse(data=PAIRS, encoder={"kind": "text"}, **changes)
    assert message in str(caught.value)


def test_data_of_two_kinds_is_refused_and_the_way_out_is_named():
    generated = {"task": "addition", "folder": "sums"}
    with pytest.raises(UsageError, match=r"train and generated are given.*data\.generated=null"):
        parse(data={**PAIRS, "generated": generated}, encoder={"kind": "text"})


def test_case_is_folded_for_words_only():
    with pytest.raises(UsageError, match="fold_case is for words, not for kind=character"):
        parse(data={**PAIRS, "tokenizer": {"kind": "character", "fold_case": True}})


def test_init_of_a_model_that_reads_another_kind_is_named(tmp_path):
    config = tmp_path / "text.yaml"
    config.write_text("data: {}\nencoder: {kind: text}\ninit: bundled\n", encoding="utf-8")
    with pytest.raises(UsageError, match=r"init=bundled reads images, but encoder\.kind is text"):
        load_config(config)
