"""The ablation gives every run the same epochs, repeats no run, and reports results and gaps."""

import math
import os
import shlex
import signal
import statistics
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from captioner.config.training import PhaseConfig
from captioner.errors import CaptionerError, UsageError
from captioner.models.folder import load_config
from captioner.results.files import read_results
from experiments.ablation import ablation, page
from experiments.ablation import run as ablation_run
from experiments.ablation.by_length import LengthBin
from experiments.ablation.grid import Job, Row, Run, all_runs, split_phase
from experiments.ablation.page import BEGIN, END, kept_text, without_folders, write_page
from experiments.ablation.plot import draw
from experiments.ablation.results import (
    Result,
    check,
    load,
    load_failures,
    matched,
    run_settings,
    save,
)
from experiments.pool import time_limit

ROOT = Path(__file__).parents[2]
PHASE = PhaseConfig(epochs=6, learning_rate=2e-3)


@pytest.fixture
def config(tiny, tmp_path):
    """Write the config of all runs."""
    shared = tiny(
        encoder={"trunk": "small_cnn", "weights": "none", "image_size": 32},
        training={"validate_every": 1000, "phases": [{"epochs": 2, "learning_rate": 0.01}]},
    )
    path = tmp_path / "compare.yaml"
    path.write_text(yaml.safe_dump(shared.to_json()))
    return path


@pytest.fixture(autouse=True)
def no_plot(monkeypatch):
    """Skip the figure, which takes a second."""
    monkeypatch.setattr(page, "draw", lambda results, path: None)


def result_of(run, cider=0.4, seconds=10.0):
    """Return a result without a training."""
    config = {
        "decoder": {"embed_size": 8, "hidden_size": 8, "dropout": 0.1},
        "training": {"batch_size": 4},
        "data": {"captions_per_image": 1},
        "encoder": {"trunk": "resnet18"},
        "decoding": {"beam": 3},
    }
    scores = {**{f"Bleu_{n}": 0.6 / n for n in (1, 2, 3, 4)}, "CIDEr": cider}
    groups = [LengthBin(6.0, 9.0, 10, 0.2), LengthBin(9.2, 14.0, 12, 0.1)]
    return Result(run, config, scores, 3.0, 3.5, 1_000_000, seconds, 50.0, groups, "a machine")


def results_of(runs, ciders):
    return {run: result_of(run, cider) for run, cider in zip(runs, ciders, strict=True)}


def cells_of(text, *row):
    """Return the other cells of the table line that starts with `row`."""
    lines = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in text.splitlines()
        if line[:1] == "|"
    ]
    return next(cells[len(row) :] for cells in lines if cells[: len(row)] == list(row))


@pytest.mark.parametrize("objective", ablation.OBJECTIVES)
def test_every_objective_has_the_same_number_of_epochs(objective):
    phases = split_phase(objective, PHASE)
    assert sum(phase.epochs for phase in phases) == PHASE.epochs
    assert phases[-1].objective == objective
    assert [phase.objective for phase in phases[:-1]] == ["teacher_forcing"] * (
        objective == "self_critical"
    )


def test_self_critical_training_without_an_epoch_before_it_is_refused():
    with pytest.raises(UsageError, match=r"set training\.phases\.0\.epochs=2"):
        split_phase("self_critical", PhaseConfig(epochs=1))


def test_the_first_seed_comes_first_and_teacher_forcing_before_other_objectives():
    runs = all_runs(ablation.CONTEXTS, ablation.CELLS, ablation.OBJECTIVES, [0, 1])
    rows = math.prod(map(len, (ablation.CONTEXTS, ablation.CELLS, ablation.OBJECTIVES)))
    assert len({run.name for run in runs}) == len(runs) == 2 * rows
    assert [run.seed for run in runs] == [0] * rows + [1] * rows
    forced = [run.row.objective == "teacher_forcing" for run in runs[:rows]]
    assert forced == sorted(forced, reverse=True)
    assert {run.row.context for run in runs[: len(ablation.CONTEXTS)]} == set(ablation.CONTEXTS)


def test_a_run_stores_scores_and_captions_and_no_model(config, tmp_path):
    run = Run(Row("attention", "gru", "self_critical"), seed=1)
    made = load_config(
        config,
        run.settings(load_config(config).training.phases[0]),
        output=tmp_path / "o" / run.name,
    )
    result = ablation_run.train_and_score(Job(run, made))
    assert load([run], tmp_path / "o") == {run: result}
    assert not [
        path
        for path in made.output.iterdir()
        if path.name == "best" or path.name.startswith("checkpoint")
    ]
    captions = read_results(made.output / "captions.json")
    assert len(captions) == sum(group.images for group in result.by_length) == 8
    assert result.training_seconds > 0
    assert result.captions_per_second > 0
    assert result.loss < 10
    assert result.free_running_loss < 10


def test_the_first_step_counts_as_the_average_of_the_others():
    assert ablation_run.training_seconds([5.0, 7.0, 9.0]) == pytest.approx(6)


def test_existing_results_are_not_computed_again(config, tmp_path, monkeypatch):
    done = []

    def fake_run_all(work, tasks, **_):
        for task in tasks:
            if isinstance(task, Job):
                done.append(task.run.name)
                task.config.output.mkdir(parents=True)
                save(
                    replace(result_of(task.run), config=run_settings(task.config)),
                    task.config.output,
                )
                yield task, result_of(task.run)

    monkeypatch.setattr(ablation, "run_all", fake_run_all)
    asked = [
        str(config),
        "--contexts",
        "none,merge",
        "--cells",
        "rnn",
        "--objectives",
        "teacher_forcing",
    ]
    asked += ["--output", str(tmp_path / "runs"), "--document", str(tmp_path / "docs" / "table.md")]
    for seeds in ("0", "0", "0,1"):
        answer = CliRunner().invoke(
            ablation.app, [*asked, "--seeds", seeds], catch_exceptions=False
        )
        assert answer.exit_code == 0
    assert done == [
        f"{context}-rnn-teacher_forcing-{seed}" for seed in (0, 1) for context in ("none", "merge")
    ]
    assert (
        cells_of((tmp_path / "docs" / "table.md").read_text(), "merge", "rnn", "teacher_forcing")[0]
        == "2"
    )


def test_a_result_of_other_settings_is_refused(config, tmp_path):
    run = Run(Row("none", "lstm", "teacher_forcing"), 0)
    settings = run.settings(PHASE)
    job = Job(run, load_config(config, settings, output=tmp_path / run.name))
    stored = replace(result_of(run), config=run_settings(job.config))
    check(stored, job)
    other = load_config(config, [*settings, "decoder.dropout=0.7"], output=tmp_path / run.name)
    with pytest.raises(UsageError, match=r"other settings \(decoder.dropout\)"):
        check(stored, Job(run, other))


def test_a_setting_newer_than_the_result_counts_as_its_default(config, tmp_path):
    run = Run(Row("none", "lstm", "teacher_forcing"), 0)
    job = Job(run, load_config(config, run.settings(PHASE), output=tmp_path / run.name))
    older = run_settings(job.config)
    del older["training"]["ema"]
    check(replace(result_of(run), config=older), job)
    other = load_config(
        config, [*run.settings(PHASE), "training.ema=0.9"], output=tmp_path / run.name
    )
    with pytest.raises(UsageError, match=r"other settings \(training.ema\)"):
        check(replace(result_of(run), config=older), Job(run, other))


def test_a_saved_result_is_loaded_unchanged(tmp_path):
    run = Run(Row("none", "lstm", "teacher_forcing"), 0)
    (tmp_path / run.name).mkdir()
    save(result_of(run), tmp_path / run.name)
    absent = Run(run.row, 1)
    assert load([run, absent], tmp_path) == {run: result_of(run)}


def test_choices_are_compared_over_the_runs_that_all_of_them_have():
    runs = all_runs(["none", "merge"], ["lstm", "gru"], ["teacher_forcing"], [0])
    results = {run: result_of(run) for run in runs if run.row[:2] != ("merge", "gru")}
    assert {
        name: [r.run.row.cell for r in found] for name, found in matched(results, 0).items()
    } == {
        "none": ["lstm"],
        "merge": ["lstm"],
    }


def test_the_table_has_mean_and_deviation_over_seeds_and_names_missing_runs(tmp_path):
    runs = all_runs(["none", "merge"], ["lstm"], ["teacher_forcing", "free_running"], [0, 1, 2])
    forced = [run for run in runs if run.row.objective == "teacher_forcing"]
    results = results_of(
        forced[:5], [0.30, 0.10, 0.40, 0.10, 0.50]
    )  # none has three seeds, merge has two
    write_page(
        tmp_path / "table.md", runs, results, {}, phase=PHASE, command=["configs/compare.yaml"]
    )
    text = (tmp_path / "table.md").read_text()
    seeds, *scores = cells_of(text, "none", "lstm", "teacher_forcing")
    assert (seeds, scores[4]) == ("3", f"40.0 ± {statistics.stdev([30, 40, 50]):.1f}")
    assert cells_of(text, "merge", "lstm", "teacher_forcing")[:1] == ["2 of 3"]
    assert set(cells_of(text, "merge", "lstm", "free_running")[1:]) == {"–"}
    assert "Of 12 runs 7 are missing" in text
    assert "free_running with seed 0, all" in text
    assert "teacher_forcing with seed 2, merge-lstm" in text


def test_a_run_that_failed_or_took_too_long_is_shown_as_such(config, tmp_path, monkeypatch):
    def fake_run_all(work, tasks, **_):
        for task in tasks:
            if isinstance(task, Job):
                yield task, CaptionerError("stopped after 2 minutes")

    monkeypatch.setattr(ablation, "run_all", fake_run_all)
    page = tmp_path / "table.md"
    row = ("none", "rnn", "teacher_forcing")
    asked = [str(config), "--contexts", row[0], "--cells", row[1], "--objectives", row[2]]
    asked += ["--seeds", "0,1", "--output", str(tmp_path / "runs"), "--document", str(page)]
    CliRunner().invoke(ablation.app, asked, catch_exceptions=False)
    runs = all_runs(*([name] for name in row), [0, 1])
    failures = load_failures(runs, tmp_path / "runs")
    assert failures == dict.fromkeys(runs, "stopped after 2 minutes")
    assert "Of 2 runs 2 failed**: none-rnn-teacher_forcing-0: stopped after" in page.read_text()
    save(result_of(runs[0]), tmp_path / "runs" / runs[0].name)
    failures = load_failures(runs, tmp_path / "runs")
    write_page(page, runs, {runs[0]: result_of(runs[0])}, failures, phase=PHASE, command=["c.yaml"])
    assert cells_of(page.read_text(), *row)[0] == "1 of 2, 1 failed"
    assert "missing" not in page.read_text()


def test_a_run_is_stopped_at_its_time_limit():
    with pytest.raises(CaptionerError, match=r"stopped after 0\.00"), time_limit(0.02):
        time.sleep(5)
    with time_limit(0.02):
        pass
    time.sleep(0.05)  # the limit of a completed run stops nothing


def test_seconds_are_those_of_the_machine_with_most_runs(tmp_path):
    runs = all_runs(["none", "merge"], ["lstm"], ["teacher_forcing"], [0, 1])
    results = {run: result_of(run, seconds=10.0 + run.seed) for run in runs}
    slow = next(run for run in runs if run.row.context == "none" and run.seed == 1)
    results[slow] = replace(result_of(slow, seconds=99.0), machine="another")
    write_page(tmp_path / "table.md", runs, results, {}, phase=PHASE, command=["c.yaml"])
    text = (tmp_path / "table.md").read_text()
    assert cells_of(text, "none", "lstm", "teacher_forcing")[-2] == "10"
    assert (
        cells_of(text, "merge", "lstm", "teacher_forcing")[-2] == "10"
    )  # of 10 and 11: half to even
    assert "3 runs were made there, 1 on another, whose seconds do not count" in text


def test_the_gap_is_the_difference_of_the_two_losses(tmp_path):
    runs = all_runs(["none"], ["lstm"], ["teacher_forcing"], [0])
    write_page(
        tmp_path / "table.md", runs, results_of(runs, [0.3]), {}, phase=PHASE, command=["c.yaml"]
    )
    text = (tmp_path / "table.md").read_text()
    assert cells_of(text, "teacher_forcing")[:6] == ["1", "15.0", "30.0", "3.00", "3.50", "0.50"]
    assert cells_of(text, "objective", "6.0 to 9.0 (10 images)") == ["9.2 to 14.0 (12 images)"]


def test_the_figure_is_drawn_from_incomplete_results(tmp_path):
    runs = all_runs(ablation.CONTEXTS, ablation.CELLS, ablation.OBJECTIVES, [0, 1])[:80]
    draw(results_of(runs, [0.2 + number / 400 for number in range(80)]), tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 10_000


def test_a_page_without_results_lists_all_runs_as_missing(tmp_path):
    runs = all_runs(["none"], ["lstm"], ["teacher_forcing"], [0, 1])
    write_page(tmp_path / "table.md", runs, {}, {}, phase=PHASE, command=["c.yaml"])
    assert "Of 2 runs 2 are missing" in (tmp_path / "table.md").read_text()


def test_text_written_by_hand_is_kept(tmp_path):
    runs = all_runs(["none"], ["lstm"], ["teacher_forcing"], [0])
    path = tmp_path / "table.md"
    write_page(path, runs, {}, {}, phase=PHASE, command=["c.yaml"])
    path.write_text(path.read_text().replace(BEGIN, f"{BEGIN}\nAttention pays."))
    for _ in range(2):
        write_page(path, runs, results_of(runs, [0.3]), {}, phase=PHASE, command=["c.yaml"])
    assert path.read_text().count(f"{BEGIN}\nAttention pays.\n{END}") == 1


def test_the_command_of_a_row_gives_the_config_of_its_run(config, tmp_path):
    runs = all_runs(["none", "attention"], ["lstm"], ["teacher_forcing", "self_critical"], [0, 1])
    phase = load_config(config).training.phases[0]
    settings = ["decoder.dropout=0.3"]
    write_page(
        tmp_path / "t.md",
        runs,
        results_of(runs, [0.3] * 8),
        {},
        phase=phase,
        command=[str(config), *settings],
    )
    lines = [
        line
        for line in (tmp_path / "t.md").read_text().splitlines()
        if line.startswith("captioner train")
    ]
    assert len(lines) == 4
    for line, run in zip(lines, runs, strict=False):
        path, *pairs, _, output = shlex.split(line)[2:]
        repeated = load_config(Path(path), pairs, output=Path(output))
        assert repeated == load_config(
            config, [*settings, *run.settings(phase)], output=Path("runs") / run.name
        )


def test_folders_of_data_are_not_written_to_the_page():
    assert (
        without_folders("encoder.weights=/data/of/mine/resnet18.pth")
        == "encoder.weights=resnet18.pth"
    )
    assert without_folders("configs/compare.yaml") == "configs/compare.yaml"


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--contexts", "none,attenton", "unknown name 'attenton': choose from none,"),
        ("--seeds", "0,a", "give integers"),
    ],
)
def test_an_unknown_choice_is_named(config, option, value, message):
    with pytest.raises(UsageError, match=message):
        CliRunner().invoke(ablation.app, [str(config), option, value], catch_exceptions=False)


def test_a_config_with_several_phases_is_refused(config):
    phases = "training.phases=[{epochs: 1}, {epochs: 1}]"
    with pytest.raises(UsageError, match="give one phase"):
        CliRunner().invoke(ablation.app, [str(config), phases], catch_exceptions=False)


@pytest.mark.slow
def test_an_interrupted_ablation_continues_with_the_missing_runs(config, tmp_path):
    command = [
        sys.executable,
        "-m",
        "experiments.ablation.ablation",
        str(config),
        "--contexts",
        "none,merge",
        "--cells",
        "lstm",
    ]
    command += ["--objectives", "teacher_forcing,self_critical", "--seeds", "0,1", "--jobs", "2"]
    command += ["--output", str(tmp_path / "runs"), "--document", str(tmp_path / "table.md")]

    def results():
        return {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").glob("*/result.json")}

    with subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, start_new_session=True, cwd=ROOT
    ) as first:
        next(line for line in first.stderr if line.startswith("2/8"))
        os.killpg(first.pid, signal.SIGINT)  # as Ctrl-C does
        first.communicate()
    before = results()
    assert 2 <= len(before) < 8
    assert f"Of 8 runs {8 - len(before)} are missing" in (tmp_path / "table.md").read_text()
    subprocess.run(command, check=True, cwd=ROOT)
    assert len(results()) == 8
    assert results().items() >= before.items()
    assert "are missing" not in (tmp_path / "table.md").read_text()


def test_hand_written_text_between_the_marks_of_an_older_page_is_kept(tmp_path):
    path = tmp_path / "page.md"
    begin, end = "<!-- by hand: kept when the rest is written anew -->", "<!-- the end of it -->"
    path.write_text(f"# Title\n{begin}\nAttention pays.\n{end}\nTables.\n")
    assert kept_text(path) == "Attention pays."
