"""The options of decoding and inference are those of config/schema.py."""

import inspect
import json
import re
from typing import get_args

import pytest

from captioner.cli.options import option_name, with_option_names, with_options
from captioner.config.schema import DecodingConfig, InferenceConfig
from captioner.errors import CaptionerError, UsageError, parameter
from captioner.models.folder import BUNDLED, load_config
from captioner.training.train import train


def shown_help(run, command):
    """Return the help with all white space as single spaces."""
    return " ".join(run(command, "--help")[1].split())


@pytest.mark.parametrize(
    ("command", "left_out"),
    [
        ("caption", {"length_ratio", "replace_unknown"}),
        ("translate", {"min_confidence"}),
        ("evaluate", set()),
    ],
)
def test_every_setting_of_decoding_is_an_option_where_it_has_an_effect(run, command, left_out):
    text = shown_help(run, command)
    for name in DecodingConfig.model_fields:
        assert (f"{option_name(name)} " in text) == (name not in left_out), name


@pytest.mark.parametrize("command", ["caption", "evaluate"])
def test_an_option_has_the_help_text_of_its_setting(run, command):
    text = shown_help(run, command)
    for name, field in DecodingConfig.model_fields.items():
        if option_name(name) in text:
            shown = rf"{option_name(name)} .*?{re.escape(field.description)}"
            assert re.search(shown, text), name


def test_help_of_translate_speaks_of_translations_and_lines(run):
    text = shown_help(run, "translate")
    options = text.partition("Options:")[2].replace("--num-captions", "")
    assert not re.search("caption(?!er)|image|bundled", options)
    assert re.search("--num-captions .*?Maximum translations per line[.]", text)
    assert re.search(
        "--length-ratio .*?Raises max_length by this for each token of the source[.]", text
    )
    assert re.search("--batch-size .*?Lines per batch[.]", text)


@pytest.mark.parametrize("command", ["caption", "evaluate", "score", "calibrate"])
def test_every_setting_of_inference_is_an_option_with_its_default(run, command):
    text = shown_help(run, command)
    for name, field in InferenceConfig.model_fields.items():
        shown = (
            rf"{option_name(name)} .*?{re.escape(field.description)} .*?default: {field.default}"
        )
        assert re.search(shown, text), name


def test_help_shows_what_the_bundled_model_does_by_default(run):
    bundled = json.loads((BUNDLED / "config.json").read_text())["decoding"]
    text = shown_help(run, "caption")
    for name in ("beam", "max_length", "length_alpha", "length_norm"):
        shown = rf"{option_name(name)} [^-]*bundled: {bundled[name]}\)"
        assert re.search(shown, text), name
    assert "bundled" not in re.search("--length-ratio [^-]*", shown_help(run, "evaluate"))[0]


@pytest.mark.parametrize(
    ("option", "accepted", "refused"),
    [
        ("--beam", 1, 0),
        ("--diverse", 100, 101),
        ("--max-length", 1, 0),
        ("--min-length", 0, -1),
        ("--no-repeat-ngram", 1, 0),
        ("--min-confidence", 1, 1.5),
        ("--top-p", 0.001, 0),
        ("--top-p", 1, 1.5),
        ("--length-norm", "wu", "mean"),
        ("--batch-size", 1, 0),
    ],
)
def test_an_option_has_the_range_and_the_choices_of_its_setting(run, option, accepted, refused):
    sample = ["--sample"] if option == "--top-p" else []
    code, _, err = run("caption", "x.jpg", option, refused, *sample)
    assert code == 2
    assert f"Invalid value for '{option}'" in err
    code, _, err = run("caption", "x.jpg", option, accepted, *sample)
    assert code == 2
    assert "x.jpg" in err  # the next mistake


def test_only_given_options_reach_the_command():
    @with_options
    def command(decoding: dict[str, object], inference: InferenceConfig) -> None:
        received.append((decoding, inference))

    received = []
    absent = dict.fromkeys(inspect.signature(command).parameters)
    inference = InferenceConfig().model_dump()
    command(**absent | inference)
    command(**absent | inference | {"batch_size": 3, "method": False, "require": ["dog"]})
    assert received == [
        ({}, InferenceConfig()),
        ({"method": "beam", "require": ["dog"]}, InferenceConfig(batch_size=3)),
    ]


def test_a_rule_of_the_model_folder_can_be_turned_off(run):
    assert "--no-repeat-words / --repeat-words" in shown_help(run, "caption")

    @with_options
    def command(decoding: dict[str, object], inference: InferenceConfig) -> None:
        received.append(decoding)

    received = []
    absent = dict.fromkeys(inspect.signature(command).parameters)
    command(**absent | InferenceConfig().model_dump() | {"no_repeat_words": False})
    assert received == [{"no_repeat_words": False}]


def test_a_literal_setting_offers_exactly_its_values(run):
    choices = get_args(InferenceConfig.model_fields["precision"].annotation)
    shown = rf"--precision [<\[]{re.escape('|'.join(choices))}[>\]]"
    assert re.search(shown, shown_help(run, "caption"))


def test_an_error_names_options_for_the_parameters_that_it_marks_and_no_others():
    error = CaptionerError(f"{parameter('captions')} and beam and {parameter('min_length')}")
    assert with_option_names(error) == "--num-captions and beam and --min-length"
    assert str(error) == "captions and beam and min_length"


def test_a_file_that_is_named_like_a_parameter_keeps_its_name_on_the_command_line(
    run, tiny, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    config = tiny(output="resume").to_json()
    (tmp_path / "device.yaml").write_text(json.dumps(config))
    (tmp_path / "resume" / "checkpoint-1").mkdir(parents=True)
    code, _, err = run("train", "device.yaml", "--device", "cpu")
    assert code == 2
    assert "captioner: resume already contains a run: set --resume to 'auto' to continue it" in err
    with pytest.raises(UsageError, match=r"resume already .* set resume to 'auto' to continue it"):
        train(load_config("device.yaml"), device="cpu")


def test_help_of_caption_has_its_options_under_headings_each_once(run):
    text = run("caption", "--help")[1]
    headings = re.findall(r"^(\w.*):$", text, re.MULTILINE)
    assert headings == [
        *("Arguments", "Options", "Decoding options", "Options of texts and metadata"),
        *("Options for many images", "Hardware options"),
    ]
    of_heading = dict(
        zip(headings, re.split(r"^\w.*:$", text, flags=re.MULTILINE)[1:], strict=True)
    )
    for option, heading in {
        "--output": "Options",
        "--help": "Options",
        "--beam": "Decoding options",
        "--xmp": "Options of texts and metadata",
        "--ray": "Options for many images",
        "--format": "Options for many images",
        "--device": "Hardware options",
    }.items():
        under = [
            name
            for name, part in of_heading.items()
            if re.search(f"(?m)^  (-h, )?{option}\\b", part)
        ]
        assert under == [heading], option


def test_every_name_of_a_section_is_a_parameter():
    from captioner.cli.caption import SECTIONS, caption

    names = [name for section in SECTIONS.values() for name in section]
    assert set(names) < set(inspect.signature(caption).parameters)
    assert len(set(names)) == len(names)
