"""The comparison of ideas: its configs, its stored results and its table."""

import json
from pathlib import Path

import pytest

from captioner.errors import UsageError
from experiments.ideas import CELLS, IDEAS, Run, _config, table, train_and_score

CONFIGS = Path(__file__).parents[2] / "configs"


def config_of(tmp_path, idea, cell="gru", settings=()):
    return _config(CONFIGS / "addition.yaml", settings, idea, cell, tmp_path)


def test_every_idea_differs_from_the_plain_model_in_what_it_names_only(tmp_path):
    plain = config_of(tmp_path, "plain")
    assert (plain.encoder.reverse, plain.encoder.bidirectional) == (False, False)
    assert (plain.encoder.cell, plain.decoder.cell, plain.decoder.context) == ("gru", "gru", "none")
    changed = {
        "reversed": {"reverse": True},
        "peeking": {"context": "every_step"},
        "reversed, peeking": {"reverse": True, "context": "every_step"},
        "attention": {"context": "attention"},
    }
    assert set(changed) == set(IDEAS) - {"plain"}
    for idea, changes in changed.items():
        config = config_of(tmp_path, idea)
        encoder, decoder = (
            {key: value for key, value in changes.items() if key in type(part).model_fields}
            for part in (plain.encoder, plain.decoder)
        )
        assert config.encoder == plain.encoder.model_copy(update=encoder)
        assert config.decoder == plain.decoder.model_copy(update=decoder)
        assert config.training == plain.training


def test_a_run_stores_its_best_scores_and_keeps_no_weights(tmp_path):
    settings = [
        "data.generated.train=40",
        "data.generated.dev=10",
        f"data.generated.folder={tmp_path / 'sums'}",
        "training.max_steps=1",
    ]
    run = Run("plain", "rnn", config_of(tmp_path, "plain", "rnn", settings))
    result = train_and_score(run)
    stored = json.loads((run.config.output / "result.json").read_text(encoding="utf-8"))
    assert stored["result"] == result
    assert {"exact", "Bleu_4", "dev_loss"} <= set(result)
    assert not list(run.config.output.glob("*/model.safetensors"))


def test_the_table_has_a_row_for_each_idea_and_a_dash_for_what_is_missing_or_outdated(tmp_path):
    runs = [Run(idea, cell, config_of(tmp_path, idea, cell)) for idea in IDEAS for cell in CELLS]
    for run, exact in ((runs[0], 0.125), (runs[-1], 1.0)):
        run.config.output.mkdir(parents=True)
        content = {"config": run.config.to_json(), "result": {"exact": exact, "Bleu_4": 0.5}}
        (run.config.output / "result.json").write_text(json.dumps(content), encoding="utf-8")
    lines = table(runs).splitlines()
    assert lines[0] == f"| exact match | {' | '.join(CELLS)} |"
    assert lines[2].startswith("| plain | 12.5 | – |")
    assert lines[6].endswith("| 100.0 |")
    other = runs[0]._replace(config=config_of(tmp_path, "plain", CELLS[0], ["training.seed=1"]))
    assert table([other, *runs[1:]]).splitlines()[2].startswith("| plain | – |")


def test_a_config_of_images_is_refused(tmp_path):
    with pytest.raises(UsageError):
        _config(CONFIGS / "shapes.yaml", [], "attention", "gru", tmp_path)
