"""A random search draws reproducible trials, stores their results, and continues after a stop."""

import statistics
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from captioner.errors import CaptionerError, UsageError
from captioner.models.folder import load_config
from experiments.random_search import page, random_search
from experiments.random_search.trials import Trial, best_first, draw, read_space, read_trials

ROOT = Path(__file__).parents[2]
SPACE = {
    "decoder.dropout": {"low": 0.1, "high": 0.5},
    "training.phases.0.learning_rate": {"low": 1e-4, "high": 1e-2, "log": True},
    "decoder.hidden_size": [8, 16],
}


@pytest.fixture
def files(tiny, tmp_path):
    """Write the config of all trials, and the space of settings."""
    shared = tiny(
        encoder={"trunk": "small_cnn", "weights": "none", "image_size": 32},
        training={"phases": [{"epochs": 1}]},
    )
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(shared.to_json()))
    (tmp_path / "space.yaml").write_text(yaml.safe_dump(SPACE))
    return tmp_path


@pytest.fixture
def search(files, monkeypatch):
    """Search in this process, with the given options, without figures, which take a second each."""
    monkeypatch.setattr(page, "plot", lambda *given: None)
    monkeypatch.setattr(random_search, "run_all", run_here)

    def call(*options):
        where = ["--space", files / "space.yaml", "--output", files / "search"]
        asked = [files / "config.yaml", *where, "--device", "cpu", *options]
        return CliRunner().invoke(
            random_search.app, [str(part) for part in asked], catch_exceptions=False
        )

    return call


def run_here(work, tasks, **_):
    for task in tasks:
        try:
            outcome = work(task)
        except CaptionerError as error:
            outcome = error
        yield task, outcome


@pytest.fixture
def fake_training(monkeypatch):
    """Replace training: trial i has the score scores[i], or diverges if that is None."""
    done = []

    def make(scores):
        def run_trial(trial, *, output, **_):
            done.append(trial.number)
            for name in ("best", "checkpoint-3"):
                (random_search.folder(output, trial.number) / name).mkdir(parents=True)
            if scores[trial.number] is None:
                raise CaptionerError("the loss (inf) is not a finite number")
            return replace(trial, cider=scores[trial.number], bleu_4=0.1, step=3, seconds=1.0)

        monkeypatch.setattr(random_search, "run_trial", run_trial)
        monkeypatch.setattr(random_search, "fill_features", lambda config, device: None)
        return done

    return make


def space_of(values, path):
    path.write_text(yaml.safe_dump(values))
    return read_space(path)


def test_a_trial_is_drawn_again_with_the_same_settings(tmp_path):
    space = space_of(SPACE, tmp_path / "space.yaml")
    assert draw(space, 0, 7) == draw(space, 0, 7)
    assert draw(space, 0, 7) != draw(space, 0, 8)
    assert draw(space, 0, 7) != draw(space, 1, 7)


def test_another_setting_does_not_change_the_others(tmp_path):
    before = draw(space_of(SPACE, tmp_path / "space.yaml"), 0, 3)
    after = draw(space_of({"data.min_count": [1, 2], **SPACE}, tmp_path / "space.yaml"), 0, 3)
    assert {key: after[key] for key in before} == before


def test_values_are_uniform_and_those_with_log_have_uniform_logarithms(tmp_path):
    space = space_of(SPACE, tmp_path / "space.yaml")
    drawn = [draw(space, 0, number) for number in range(400)]
    dropout = [settings["decoder.dropout"] for settings in drawn]
    rates = [settings["training.phases.0.learning_rate"] for settings in drawn]
    assert 0.1 <= min(dropout) <= max(dropout) <= 0.5
    assert statistics.mean(dropout) == pytest.approx(0.3, abs=0.02)
    assert 1e-4 <= min(rates) <= max(rates) <= 1e-2
    assert statistics.geometric_mean(rates) == pytest.approx(1e-3, rel=0.2)
    assert statistics.mean(
        settings["decoder.hidden_size"] == 8 for settings in drawn
    ) == pytest.approx(0.5, abs=0.1)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"low": 0.5, "high": 0.1}, r"low \(0.5\) is not below high \(0.1\)"),
        ({"low": 0, "high": 0.1, "log": True}, "has no logarithm"),
        ({"low": 0.1, "hihg": 0.2}, "did you mean 'high'"),
        (0.3, "give a list to choose from"),
        ([], "give a list to choose from"),
    ],
)
def test_a_mistake_in_the_space_is_reported_with_its_setting(values, message, tmp_path):
    with pytest.raises(UsageError, match=message) as error:
        space_of({"decoder.dropout": values}, tmp_path / "space.yaml")
    assert "space.yaml, decoder.dropout" in str(error.value)


def test_an_unknown_setting_is_reported_before_any_training(search, files):
    (files / "space.yaml").write_text("decoder.droput: [0.1]")
    with pytest.raises(UsageError, match=r"did you mean 'decoder\.dropout'"):
        search()
    assert not (files / "search").exists()


def test_trials_are_trained_with_their_settings_and_only_the_best_model_is_kept(search, files):
    assert search("--trials", "2").exit_code == 0
    trials = read_trials(files / "search" / "results.jsonl")
    assert sorted(trial.number for trial in trials) == [0, 1]
    for trial in trials:
        folder = random_search.folder(files / "search", trial.number)
        trained = load_config(folder / "config.yaml")
        assert trained.decoder.dropout == trial.settings["decoder.dropout"]
        assert (
            trained.training.phases[0].learning_rate
            == trial.settings["training.phases.0.learning_rate"]
        )
        assert not list(folder.glob("checkpoint-*"))
        assert (folder / "best").exists() == (trial == best_first(trials)[0])


def test_a_search_continues_with_the_trials_that_it_would_have_run(search, fake_training, files):
    done = fake_training([0.1, 0.3, 0.2, 0.4])
    search("--trials", "2")
    search("--trials", "4")
    assert done == [0, 1, 2, 3]
    space = read_space(files / "space.yaml")
    trials = read_trials(files / "search" / "results.jsonl")
    assert [trial.settings for trial in trials] == [draw(space, 0, number) for number in range(4)]
    assert [path.parent.name for path in (files / "search").glob("*/best")] == ["trial-0003"]
    assert not list((files / "search").glob("*/checkpoint-*"))


def test_a_killed_trial_is_repeated(search, fake_training, files):
    done = fake_training([0.1, 0.3])
    search("--trials", "2")
    results = files / "search" / "results.jsonl"
    results.write_text(
        results.read_text().splitlines(keepends=True)[0]
    )  # the second result was not stored
    for folder in random_search.folder(files / "search", 1).iterdir():
        folder.rmdir()
    search("--trials", "2")
    assert done == [0, 1, 1]


def test_a_failed_trial_is_recorded_with_its_reason_and_the_search_continues(
    search, fake_training, files
):
    fake_training([None, 0.2, 0.3])
    answer = search("--trials", "3")
    assert "trial 0 failed: the loss (inf) is not a finite number" in answer.stderr
    assert [trial.failed is None for trial in read_trials(files / "search" / "results.jsonl")] == [
        False,
        True,
        True,
    ]
    text = (files / "search" / "results.md").read_text()
    rows = [line.split("|")[1:3] for line in text.splitlines() if line.startswith("| ")][2:]
    assert [[cell.strip() for cell in row] for row in rows] == [
        ["2", "30.0"],
        ["1", "20.0"],
        ["0", "failed"],
    ]
    assert "Trial 0 failed: the loss (inf)" in text


def test_a_search_does_not_continue_another_one(search, fake_training, files):
    fake_training([0.1])
    search("--trials", "1")
    with pytest.raises(UsageError, match="a search with another seed: choose another --output"):
        search("--trials", "1", "--seed", "1")
    with pytest.raises(UsageError, match="a search with another config"):
        search("training.batch_size=4")


def test_each_setting_is_plotted_against_the_score(files):
    space = read_space(files / "space.yaml")
    trials = [
        Trial(number, draw(space, 0, number), cider=number / 10, bleu_4=0.1) for number in range(6)
    ]
    page.plot(trials, space, files / "plot.png")
    assert (files / "plot.png").stat().st_size > 5000


@pytest.mark.slow
def test_a_killed_search_is_continued(files):
    command = [
        sys.executable,
        "-m",
        "experiments.random_search.random_search",
        str(files / "config.yaml"),
        "--device",
        "cpu",
        "--jobs",
        "2",
    ]
    command += [
        "--space",
        str(files / "space.yaml"),
        "--output",
        str(files / "search"),
        "--trials",
        "5",
    ]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=ROOT) as first:
        next(line for line in first.stderr if line.startswith("trial"))
        first.kill()
    time.sleep(1)  # its processes exit with it
    before = read_trials(files / "search" / "results.jsonl")
    subprocess.run(command, check=True, cwd=ROOT)
    after = read_trials(files / "search" / "results.jsonl")
    assert after[: len(before)] == before
    assert sorted(trial.number for trial in after) == list(range(5))
    assert all(trial.cider is not None for trial in after)
    assert (files / "search" / "results.png").exists()
