"""The reference pages of the site have every command, option, setting and public name."""

import re
import sys
from pathlib import Path
from typing import get_args

import pytest
import typer
from pydantic import BaseModel

import captioner
from captioner.cli import app
from captioner.config.run import Config
from captioner.config.schema import InferenceConfig
from captioner.config.service import ServiceConfig

sys.path.append(str(Path(__file__).parents[2] / "docs/_ext"))
from commands_page import write_commands
from reference import fill
from settings_page import write_settings

COMMANDS = typer.main.get_command(app.load(app.COMMANDS)).commands


def section_of(text, heading):
    """Return what is below a heading of level 2."""
    [found] = re.findall(rf"^## {re.escape(heading)}\n(.*?)(?=^## |\Z)", text, re.M | re.S)
    return found


def rows_of(text):
    """Return the cells of each row of the tables of a text, by their first cell."""
    rows = [
        [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        for line in text.splitlines()
        if line.startswith("| `")
    ]
    return {name.strip("`").replace(r"\|", "|"): rest for name, *rest in rows}


@pytest.fixture(scope="module")
def commands():
    return write_commands()


@pytest.fixture(scope="module")
def settings():
    return write_settings()


@pytest.mark.parametrize("name", COMMANDS)
def test_the_page_has_every_option_and_argument_of_a_command(commands, name):
    documented = list(rows_of(section_of(commands, f"captioner {name}")))
    options = {word for names in documented for word in re.split(r"[ ,/]+", names)}
    context = COMMANDS[name].make_context(name, [], resilient_parsing=True)
    parameters = COMMANDS[name].get_params(context)
    for parameter in parameters:
        if parameter.param_type_name == "option":
            assert {*parameter.opts, *parameter.secondary_opts} <= options
    assert len(documented) == len(parameters)


def test_an_option_has_its_values_default_range_and_help(commands):
    caption = rows_of(section_of(commands, "captioner caption"))
    assert caption["--beam INTEGER"] == [
        "the model folder's; bundled: 4",
        "Number of beams; 1 is greedy. (1 or more)",
    ]
    assert caption["--length-norm none|average|wu"][1] == "Length normalization of scores."
    assert caption["--json"] == ["off", "Print JSON, one object per line."]
    assert caption["PATH..."][0] == "required"
    serve = rows_of(section_of(commands, "captioner serve"))
    assert serve["--port INTEGER"] == ["8000", "0: any that is free. (0 to 65535)"]


def test_a_command_has_its_usage_and_an_example_that_are_its_own(commands):
    section = section_of(commands, "captioner train")
    assert "\ncaptioner train [OPTIONS] CONFIG [KEY=VALUE]...\n" in section
    assert "Example: `captioner train " in section


def names_in(section, prefix=""):
    """Return the dotted names of the settings below a section of the schema."""
    for name, field in section.model_fields.items():
        children = sections_in(field.annotation)
        if not children:
            yield prefix + name
        for child in children:
            yield from names_in(child, f"{prefix}{name}.")


def sections_in(annotation):
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [section for part in get_args(annotation) for section in sections_in(part)]


def test_the_page_has_every_setting_and_no_other(settings):
    documented = [*rows_of(section_of(settings, "Settings of a run"))]
    assert sorted(documented) == sorted({*names_in(Config)})
    for heading, section in (("inference", InferenceConfig), ("the service", ServiceConfig)):
        rows = rows_of(section_of(settings, f"Settings of {heading}"))
        assert list(rows) == list(section.model_fields)


@pytest.mark.parametrize(
    ("name", "kind", "default"),
    [
        ("decoder.cell", "`lstm`, `gru`, `rnn`", "`lstm`"),
        ("decoder.dropout", r"number ≥ 0 and \< 1", "`0.5`"),
        ("decoding.top_p", r"number \> 0 and ≤ 1", "`1.0`"),
        ("decoding.top_k", "integer ≥ 1", "none"),
        ("decoding.require", "list of text", "none"),
        ("encoder.std", r"3 × number \> 0", "none"),
        ("data.shapes.folder", "path", "required"),
        ("output", "path", "`runs/captioner`"),
        ("training.accumulate", "integer ≥ 1 or `auto`", "`1`"),
        ("training.seed", "integer", "`0`"),
        ("training.cache_features", "true or false", "`true`"),
        (
            "training.phases.self_critical.reward",
            r"mapping of `CIDEr`, `Bleu_4`, `ROUGE_L`, `METEOR` to number ≥ 0",
            '`{"CIDEr": 1.0}`',
        ),
    ],
)
def test_a_setting_has_its_type_range_and_default(settings, name, kind, default):
    assert rows_of(settings)[name][:2] == [kind, default]


def test_every_public_name_of_the_package_has_a_directive_in_the_page_it_belongs_to():
    page = fill("<!-- generated: api -->")
    documented = re.findall(r"^\.\. auto\w+:: captioner\.(\w+)$", page, re.MULTILINE)
    assert sorted([*documented, "__version__"]) == sorted(captioner.__all__)
    assert ".. autofunction:: captioner.train\n" in page
    assert ".. autoexception:: captioner.UsageError\n" in page
