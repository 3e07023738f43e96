"""A random search draws the same trials whenever it is asked, keeps what came of them, and goes on where it stood."""

import statistics
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

SCRIPTS = Path(__file__).parents[2] / "scripts"
sys.path.append(str(SCRIPTS))  # as `python scripts/search.py` finds its neighbours

import search  # noqa: E402
import search_page  # noqa: E402
from trials import Trial, best_first, draw, read_space, read_trials  # noqa: E402
from typer.testing import CliRunner  # noqa: E402

from captioner.config.loading import to_json  # noqa: E402
from captioner.errors import CaptionerError, UsageError  # noqa: E402
from captioner.training.settings import load_config  # noqa: E402

SPACE = {
    "decoder.dropout": {"low": 0.1, "high": 0.5},
    "training.phases.0.learning_rate": {"low": 1e-4, "high": 1e-2, "log": True},
    "decoder.hidden_size": [8, 16],
}


@pytest.fixture
def files(tiny, tmp_path):
    """Write what trials share, and what they differ in."""
    shared = tiny(
        encoder={"trunk": "small_cnn", "weights": "none", "image_size": 32},
        training={"phases": [{"epochs": 1}]},
    )
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(to_json(shared)))
    (tmp_path / "space.yaml").write_text(yaml.safe_dump(SPACE))
    return tmp_path


@pytest.fixture
def begin(files, monkeypatch):
    """Search in this process, with the options given, and without plots, which take a second each."""
    monkeypatch.setattr(search_page, "plot", lambda *given: None)
    monkeypatch.setattr(search, "run_all", in_this_process)

    def call(*options):
        where = ["--space", files / "space.yaml", "--output", files / "search"]
        asked = [files / "config.yaml", *where, "--device", "cpu", *options]
        return CliRunner().invoke(search.app, [str(part) for part in asked], catch_exceptions=False)

    return call


def in_this_process(work, tasks, **_):
    for task in tasks:
        try:
            outcome = work(task)
        except CaptionerError as error:
            outcome = error
        yield task, outcome


@pytest.fixture
def pretend(monkeypatch):
    """Train nothing: trials have the scores given, in the order of their numbers; `None` is one that diverges."""
    done = []

    def make(scores):
        def try_out(trial, *, output, **_):
            done.append(trial.number)
            for name in ("best", "checkpoint-3"):
                (search.place(output, trial.number) / name).mkdir(parents=True)
            if scores[trial.number] is None:
                raise CaptionerError("the loss (inf) is not a finite number")
            return replace(trial, cider=scores[trial.number], bleu_4=0.1, step=3, seconds=1.0)

        monkeypatch.setattr(search, "try_out", try_out)
        monkeypatch.setattr(search, "fill_features", lambda config, device: None)
        return done

    return make


def space_of(values, path):
    path.write_text(yaml.safe_dump(values))
    return read_space(path)


def test_a_trial_is_the_same_whenever_it_is_drawn(tmp_path):
    space = space_of(SPACE, tmp_path / "space.yaml")
    assert draw(space, 0, 7) == draw(space, 0, 7)
    assert draw(space, 0, 7) != draw(space, 0, 8)
    assert draw(space, 0, 7) != draw(space, 1, 7)


def test_a_further_setting_leaves_the_others_as_they_were(tmp_path):
    before = draw(space_of(SPACE, tmp_path / "space.yaml"), 0, 3)
    after = draw(space_of({"data.min_count": [1, 2], **SPACE}, tmp_path / "space.yaml"), 0, 3)
    assert {key: after[key] for key in before} == before


def test_values_are_drawn_evenly_and_learning_rates_evenly_in_their_logarithms(tmp_path):
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
    ("values", "said"),
    [
        ({"low": 0.5, "high": 0.1}, r"low \(0.5\) is not below high \(0.1\)"),
        ({"low": 0, "high": 0.1, "log": True}, "has no logarithm"),
        ({"low": 0.1, "hihg": 0.2}, "did you mean 'high'"),
        (0.3, "give a list to choose from"),
        ([], "give a list to choose from"),
    ],
)
def test_a_mistake_in_the_space_is_told_with_its_setting(values, said, tmp_path):
    with pytest.raises(UsageError, match=said) as told:
        space_of({"decoder.dropout": values}, tmp_path / "space.yaml")
    assert "space.yaml, decoder.dropout" in str(told.value)


def test_a_setting_that_is_none_is_told_before_anything_is_trained(begin, files):
    (files / "space.yaml").write_text("decoder.droput: [0.1]")
    with pytest.raises(UsageError, match=r"did you mean 'decoder\.dropout'"):
        begin()
    assert not (files / "search").exists()


def test_trials_are_trained_with_their_settings_and_the_best_model_alone_is_kept(begin, files):
    assert begin("--trials", "2").exit_code == 0
    trials = read_trials(files / "search" / "results.jsonl")
    assert sorted(trial.number for trial in trials) == [0, 1]
    for trial in trials:
        folder = search.place(files / "search", trial.number)
        trained = load_config(folder / "config.yaml")
        assert trained.decoder.dropout == trial.settings["decoder.dropout"]
        assert (
            trained.training.phases[0].learning_rate
            == trial.settings["training.phases.0.learning_rate"]
        )
        assert not list(folder.glob("checkpoint-*"))
        assert (folder / "best").exists() == (trial == best_first(trials)[0])


def test_a_search_goes_on_with_the_trials_that_it_would_have_made(begin, pretend, files):
    done = pretend([0.1, 0.3, 0.2, 0.4])
    begin("--trials", "2")
    begin("--trials", "4")
    assert done == [0, 1, 2, 3]
    space = read_space(files / "space.yaml")
    trials = read_trials(files / "search" / "results.jsonl")
    assert [trial.settings for trial in trials] == [draw(space, 0, number) for number in range(4)]
    assert [path.parent.name for path in (files / "search").glob("*/best")] == ["trial-0003"]
    assert not list((files / "search").glob("*/checkpoint-*"))


def test_a_trial_that_was_killed_is_repeated(begin, pretend, files):
    done = pretend([0.1, 0.3])
    begin("--trials", "2")
    results = files / "search" / "results.jsonl"
    results.write_text(
        results.read_text().splitlines(keepends=True)[0]
    )  # the end of the second was not noted
    for folder in search.place(files / "search", 1).iterdir():
        folder.rmdir()
    begin("--trials", "2")
    assert done == [0, 1, 1]


def test_a_trial_that_fails_is_recorded_with_its_reason_and_the_search_goes_on(
    begin, pretend, files
):
    pretend([None, 0.2, 0.3])
    answer = begin("--trials", "3")
    assert "trial 0 failed: the loss (inf) is not a finite number" in answer.stderr
    assert [trial.failed is None for trial in read_trials(files / "search" / "results.jsonl")] == [
        False,
        True,
        True,
    ]
    page = (files / "search" / "results.md").read_text()
    rows = [line.split("|")[1:3] for line in page.splitlines() if line.startswith("| ")][2:]
    assert [[cell.strip() for cell in row] for row in rows] == [
        ["2", "30.0"],
        ["1", "20.0"],
        ["0", "failed"],
    ]
    assert "Trial 0 failed: the loss (inf)" in page


def test_another_search_does_not_go_on_with_this_one(begin, pretend, files):
    pretend([0.1])
    begin("--trials", "1")
    with pytest.raises(UsageError, match="a search with another seed: choose another --output"):
        begin("--trials", "1", "--seed", "1")
    with pytest.raises(UsageError, match="a search with another config"):
        begin("training.batch_size=4")


def test_each_setting_is_drawn_against_the_score(files):
    space = read_space(files / "space.yaml")
    trials = [
        Trial(number, draw(space, 0, number), cider=number / 10, bleu_4=0.1) for number in range(6)
    ]
    search_page.plot(trials, space, files / "plot.png")
    assert (files / "plot.png").stat().st_size > 5000


@pytest.mark.slow
def test_a_search_that_is_killed_goes_on(files):
    command = [
        sys.executable,
        str(SCRIPTS / "decoding/search.py"),
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
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as first:
        next(line for line in first.stderr if line.startswith("trial"))
        first.kill()
    time.sleep(1)  # its processes leave with it
    before = read_trials(files / "search" / "results.jsonl")
    subprocess.run(command, check=True)
    after = read_trials(files / "search" / "results.jsonl")
    assert after[: len(before)] == before
    assert sorted(trial.number for trial in after) == list(range(5))
    assert all(trial.cider is not None for trial in after)
    assert (files / "search" / "results.png").exists()
