"""Mistakes in configs: one message lists all of them, with key and value; exit code 2."""

import pytest

from captioner.config.loading import apply_overrides, read_yaml
from captioner.config.run import Config
from captioner.errors import CaptionerError, UsageError
from captioner.models.folder import load_config

pytestmark = pytest.mark.row(24)

DATA = {"data": {"shapes": {"folder": "x"}}}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"decoder": {"hiden_size": 3}},
            "unknown key 'decoder.hiden_size': did you mean 'decoder.hidden_size'?",
        ),
        (
            {"decoder": {"cell": "lsmt"}},
            "decoder.cell is 'lsmt': choose one of 'lstm', 'gru', 'rnn'",
        ),
        (
            {"training": {"phases": [{"epochs": 0}]}},
            "training.phases.0.epochs is 0: input should be greater than or equal to 1",
        ),
        (
            {"training": {"phases": [{"lerning_rate": 1}]}},
            "did you mean 'training.phases.0.learning_rate'?",
        ),
        ({"training": {"batch_size": "many"}}, "training.batch_size is 'many'"),
        ({"training": {"batch_size": "auto"}}, "accumulate=auto finds how many fit into memory"),
        ({"seed": 3}, "unknown key 'seed'"),
        ({"data": None}, "data is None"),
    ],
)
def test_a_mistake_is_named_with_the_way_out(values, message):
    with pytest.raises(UsageError) as caught:
        Config.parse(DATA | values, source="x.yaml")
    assert message in str(caught.value)
    assert str(caught.value).startswith("x.yaml: ")


def test_all_mistakes_are_reported_at_once():
    with pytest.raises(UsageError) as caught:
        Config.parse({"decoder": {"cell": "lsmt", "layers": 0}}, source="x.yaml")
    assert (
        len(str(caught.value).splitlines()) == 4
    )  # headline, cell, layers, and data, which is missing


@pytest.mark.parametrize(
    ("pair", "message"),
    [
        ("training", "write key=value"),
        ("=3", "write key=value"),
        ("output.deep.er=3", "no such section or list item"),
        ("training.phases.7.epochs=1", "no such section or list item"),
        ("data.min_count=[1", "is not a YAML value"),
    ],
)
def test_a_setting_that_leads_nowhere_is_named(pair, message):
    with pytest.raises(UsageError, match=message):
        apply_overrides({"output": "runs", "training": {"phases": [{}]}}, [pair])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a: [1", "is not plain YAML: line 1, column "),
        (b"a: &a [*a]", "line 1, column 8: aliases are not supported"),
        (b"a: !!python/object:os.system x", "line 1, column 4: tags are not supported"),
        (b"a:\n  " + b"[" * 5000, "line 2, column 34: more than 32 levels deep"),
        (b"a: 0x" + b"f" * 5000, "4300 digits"),
        (b'a: "\\UFFFFFFFF"', "a character code above U\\+10FFFF"),
        (b'a: "\\U00110000"', "a character code above U\\+10FFFF"),
        (b"a: \x01", "special characters are not allowed"),
        (b"- 1", "holds no settings"),
        (b"", "holds no settings"),
        (b"\xff\xfe\x00", "is not UTF-8 text"),
    ],
)
def test_a_broken_config_file_is_named_with_the_position(tmp_path, content, message):
    (tmp_path / "x.yaml").write_bytes(content)
    with pytest.raises(UsageError, match=message):
        read_yaml(tmp_path / "x.yaml")


def test_a_missing_config_file_is_named(tmp_path):
    with pytest.raises(
        UsageError, match=r"nothing\.yaml cannot be read: No such file.*check the path"
    ):
        read_yaml(tmp_path / "nothing.yaml")


def test_the_command_line_reports_all_mistakes_and_exits_with_2(run, tmp_path):
    file = tmp_path / "x.yaml"
    file.write_text(
        "decoder: {hiden_size: 3, cell: lsmt}\ntraining: {batch_size: many, weight_decay: 1e-3}\n"
    )
    code, out, err = run("train", file, "training.seed=x")
    assert (code, out) == (2, "")
    for mistake in (
        "unknown key 'decoder.hiden_size': did you mean 'decoder.hidden_size'?",
        "decoder.cell is 'lsmt': choose one of 'lstm', 'gru', 'rnn'",
        "training.batch_size is 'many'",
        "training.seed is 'x'",
        "data is missing",
    ):
        assert mistake in err
    assert "weight_decay" not in err  # 1e-3 is a number, though YAML 1.1 takes it for text


def test_dates_in_names_are_text(tmp_path):
    (tmp_path / "x.yaml").write_text("data: {shapes: {folder: 2024-13-45}}\noutput: 2024-01-01\n")
    config = load_config(tmp_path / "x.yaml")
    assert (str(config.data.shapes.folder), str(config.output)) == ("2024-13-45", "2024-01-01")


def test_a_model_to_start_from_whose_name_no_file_can_have_is_refused(tmp_path):
    (tmp_path / "x.yaml").write_text(f"init: {'x' * 300}")
    with pytest.raises(CaptionerError, match="is not a model folder"):
        load_config(tmp_path / "x.yaml")
