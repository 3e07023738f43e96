"""Decoding settings without pydantic: accepted and refused as `DecodingConfig` does."""

import pytest

from captioner.config.schema import DecodingConfig
from captioner.errors import UsageError
from captioner.runtime.settings import TORCH_ONLY, WITHOUT_EFFECT, read_settings, torch_only

PROPERTIES = DecodingConfig.model_json_schema()["properties"]
SCHEMA = {
    name: rules
    for name, rules in PROPERTIES.items()
    if name not in TORCH_ONLY and name not in WITHOUT_EFFECT
}
STORED = DecodingConfig(beam=4, no_repeat_words=True).to_json()


def read(stored=STORED, **changes):
    return read_settings(changes, stored, SCHEMA)


def error_of(function):
    with pytest.raises(UsageError) as error:
        function()
    return str(error.value)


def test_changes_replace_what_the_folder_stores():
    settings = read(beam=5, forbid="dog", no_repeat_ngram=3)
    assert (settings.beam, settings.forbid, settings.no_repeat_ngram) == (5, ("dog",), 3)
    assert (settings.no_repeat_words, settings.max_length) == (True, 20)
    assert read(no_repeat_ngram=None).no_repeat_ngram is None


def test_every_setting_that_is_left_out_has_the_value_that_decoding_config_gives_it():
    settings, config = read(stored={}), DecodingConfig()
    for name in [*SCHEMA, *TORCH_ONLY]:
        value = getattr(settings, name)
        assert (tuple(value) if isinstance(value, list) else value) == getattr(config, name)


@pytest.mark.parametrize(
    "changes",
    [
        {"beam": 0},
        {"beam": 2**63},
        {"beam": int("9" * 400)},
        {"beam": 2.5},
        {"max_length": "many"},
        {"length_norm": "wo"},
        {"length_alpha": 2.5},
        {"length_alpha": float("nan")},
        {"min_confidence": -0.1},
        {"no_repeat_ngram": 0},
        {"prefix": 3},
        {"beem": 3},
        {"xyzzy": 1},
        {"min_length": 9, "max_length": 5},
        {"beam": 0, "length_norm": "wo"},
        {3: 4},
    ],
    ids=str,
)
def test_mistakes_are_the_errors_of_decoding_config(changes):
    expected = error_of(lambda: DecodingConfig.parse({**STORED, **changes}, source="decoding"))
    found = error_of(lambda: read_settings(changes, STORED, SCHEMA))
    for generic, words in (  # pydantic adds the reason to some
        (": input should be a valid integer", ": input should be a valid"),
        (": input should be a valid integer", ": unable"),
    ):
        if generic in found and words in expected:
            assert found.partition(generic)[0] == expected.partition(": input should be a valid")[0]
            return
    assert found == expected


@pytest.mark.parametrize(
    "changes", [{"no_double_words": "maybe"}, {"forbid": 3}, {"forbid": [3]}, {"prefix": None}]
)
def test_values_of_a_wrong_type_are_errors_that_name_the_setting(changes):
    [name] = changes
    assert f"{name} is " in error_of(lambda: read(**changes))


@pytest.mark.parametrize(
    "changes", [{"beam": "3"}, {"beam": 3.0}, {"length_alpha": 1}, {"no_double_words": 1}]
)
def test_what_decoding_config_converts_is_converted(changes):
    [name] = changes
    expected = getattr(DecodingConfig.parse(changes, source="x"), name)
    found = getattr(read(**changes), name)
    assert (found, type(found)) == (expected, type(expected))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("method", "sample"),
        ("groups", 2),
        ("require", ("dog",)),
        ("replace_unknown", True),
    ],
)
def test_settings_that_need_torch_are_refused_and_not_supported(name, value):
    expected = f"{name} needs the backend 'torch'"
    assert expected in error_of(lambda: read(**{name: value}))
    assert torch_only(vars(DecodingConfig(**{name: value}))) == [name]
    stored = DecodingConfig(**{name: value}).to_json()
    assert "needs the backend 'torch'" in error_of(lambda: read(stored))
    assert read(stored, **{name: TORCH_ONLY[name]}).beam == 3


def test_settings_of_sampling_are_refused_unless_they_change_nothing():
    assert "seed needs the backend 'torch'" in error_of(lambda: read(seed=7))
    assert read(seed=0, temperature=1.0).beam == 4


def test_a_decoding_config_is_supported_whatever_settings_without_effect_are():
    settings = DecodingConfig(beam=7, forbid=["dog"], seed=7, temperature=2.0, diversity=1)
    assert torch_only(vars(settings)) == []


def test_every_setting_of_decoding_config_has_its_place():
    assert {*SCHEMA, *TORCH_ONLY, *WITHOUT_EFFECT} == {*PROPERTIES}
    assert [*SCHEMA] == [name for name in PROPERTIES if name in SCHEMA]
