"""The comparison gives every way the same budget, repeats nothing, and says what it found and what is missing."""

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

SCRIPTS = Path(__file__).parents[2] / "scripts"
sys.path.append(str(SCRIPTS))  # as `python scripts/compare.py` finds its neighbours

import compare  # noqa: E402
import compare_run  # noqa: E402
import comparison_page  # noqa: E402
from comparison import Job, Row, Run, in_order, phases_of  # noqa: E402
from comparison_page import BEGIN, END, without_folders, write_page  # noqa: E402
from comparison_plot import draw  # noqa: E402
from comparison_results import Result, check, load, matched, save, settings_of  # noqa: E402
from experiments import run_all  # noqa: E402
from typer.testing import CliRunner  # noqa: E402

from captioner.config.loading import read_yaml, to_json  # noqa: E402
from captioner.config.schema import PhaseConfig  # noqa: E402
from captioner.errors import CaptionerError, UsageError  # noqa: E402
from captioner.metrics.diversity import LengthBin  # noqa: E402
from captioner.results.files import read_results  # noqa: E402
from captioner.training.settings import load_config  # noqa: E402

PHASE = PhaseConfig(epochs=6, learning_rate=2e-3)


@pytest.fixture
def config(tiny, tmp_path):
    """Write what all runs share into a file."""
    shared = tiny(
        encoder={"trunk": "small_cnn", "weights": "none", "image_size": 32},
        training={"validate_every": 1000, "phases": [{"epochs": 2, "learning_rate": 0.01}]},
    )
    path = tmp_path / "compare.yaml"
    path.write_text(yaml.safe_dump(to_json(shared)))
    return path


@pytest.fixture(autouse=True)
def no_plot(monkeypatch):
    """Spare the second that a plot takes."""
    monkeypatch.setattr(comparison_page, "draw", lambda results, path: None)


def result_of(run, cider=0.4, seconds=10.0):
    """Make a result that nobody trained for."""
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


def cells_of(page, *row):
    """Find the line of the table that starts so."""
    lines = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in page.splitlines()
        if line[:1] == "|"
    ]
    return next(cells[len(row) :] for cells in lines if cells[: len(row)] == list(row))


@pytest.mark.parametrize("objective", compare.OBJECTIVES)
def test_every_objective_has_the_same_number_of_epochs(objective):
    phases = phases_of(objective, PHASE)
    assert sum(phase.epochs for phase in phases) == PHASE.epochs
    assert phases[-1].objective == objective
    assert [phase.objective for phase in phases[:-1]] == ["teacher_forcing"] * (
        objective == "self_critical"
    )


def test_self_critical_training_without_an_epoch_to_start_from_is_refused():
    with pytest.raises(UsageError, match=r"set training\.phases\.0\.epochs=2"):
        phases_of("self_critical", PhaseConfig(epochs=1))


def test_one_seed_of_everything_comes_first_and_teacher_forcing_before_others():
    runs = in_order(compare.CONTEXTS, compare.CELLS, compare.OBJECTIVES, [0, 1])
    rows = math.prod(map(len, (compare.CONTEXTS, compare.CELLS, compare.OBJECTIVES)))
    assert len({run.name for run in runs}) == len(runs) == 2 * rows
    assert [run.seed for run in runs] == [0] * rows + [1] * rows
    forced = [run.row.objective == "teacher_forcing" for run in runs[:rows]]
    assert forced == sorted(forced, reverse=True)
    assert {run.row.context for run in runs[: len(compare.CONTEXTS)]} == set(compare.CONTEXTS)


def test_a_run_leaves_its_scores_and_captions_and_no_model(config, tmp_path):
    run = Run(Row("attention", "gru", "self_critical"), seed=1)
    made = load_config(
        config,
        run.settings(load_config(config).training.phases[0]),
        output=tmp_path / "o" / run.name,
    )
    result = compare_run.carry_out(Job(run, made))
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


def test_steps_are_timed_from_the_first_to_the_last_and_one_more_is_added_for_the_first():
    assert compare_run.total([5.0, 7.0, 9.0]) == pytest.approx(6)


def test_what_is_there_is_not_done_again(config, tmp_path, monkeypatch):
    done = []

    def pretend(work, tasks, **_):
        for task in tasks:
            if isinstance(task, Job):
                done.append(task.run.name)
                task.config.output.mkdir(parents=True)
                save(
                    replace(result_of(task.run), config=settings_of(task.config)),
                    task.config.output,
                )
                yield task, result_of(task.run)

    monkeypatch.setattr(compare, "run_all", pretend)
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
        answer = CliRunner().invoke(compare.app, [*asked, "--seeds", seeds], catch_exceptions=False)
        assert answer.exit_code == 0
    assert done == [
        f"{context}-rnn-teacher_forcing-{seed}" for seed in (0, 1) for context in ("none", "merge")
    ]
    assert (
        cells_of((tmp_path / "docs" / "table.md").read_text(), "merge", "rnn", "teacher_forcing")[0]
        == "2"
    )


def test_a_result_of_other_settings_is_not_taken_for_one_of_these(config, tmp_path):
    run = Run(Row("none", "lstm", "teacher_forcing"), 0)
    settings = run.settings(PHASE)
    job = Job(run, load_config(config, settings, output=tmp_path / run.name))
    there = replace(result_of(run), config=settings_of(job.config))
    check(there, job)
    other = load_config(config, [*settings, "decoder.dropout=0.7"], output=tmp_path / run.name)
    with pytest.raises(UsageError, match=r"other settings \(decoder.dropout\)"):
        check(there, Job(run, other))


def test_a_setting_that_did_not_exist_yet_counts_as_its_default(config, tmp_path):
    run = Run(Row("none", "lstm", "teacher_forcing"), 0)
    job = Job(run, load_config(config, run.settings(PHASE), output=tmp_path / run.name))
    older = settings_of(job.config)
    del older["training"]["ema"]
    check(replace(result_of(run), config=older), job)
    other = load_config(
        config, [*run.settings(PHASE), "training.ema=0.9"], output=tmp_path / run.name
    )
    with pytest.raises(UsageError, match=r"other settings \(training.ema\)"):
        check(replace(result_of(run), config=older), Job(run, other))


def test_a_result_survives_being_kept(tmp_path):
    run = Run(Row("none", "lstm", "teacher_forcing"), 0)
    (tmp_path / run.name).mkdir()
    save(result_of(run), tmp_path / run.name)
    absent = Run(run.row, 1)
    assert load([run, absent], tmp_path) == {run: result_of(run)}


def test_a_choice_is_judged_by_the_runs_that_all_its_peers_have():
    runs = in_order(["none", "merge"], ["lstm", "gru"], ["teacher_forcing"], [0])
    there = {run: result_of(run) for run in runs if run.row[:2] != ("merge", "gru")}
    assert {name: [r.run.row.cell for r in found] for name, found in matched(there, 0).items()} == {
        "none": ["lstm"],
        "merge": ["lstm"],
    }


def test_the_table_gives_mean_and_deviation_over_seeds_and_names_what_is_missing(tmp_path):
    runs = in_order(["none", "merge"], ["lstm"], ["teacher_forcing", "free_running"], [0, 1, 2])
    forced = [run for run in runs if run.row.objective == "teacher_forcing"]
    results = results_of(
        forced[:5], [0.30, 0.10, 0.40, 0.10, 0.50]
    )  # none has three seeds, merge has two
    write_page(tmp_path / "table.md", runs, results, phase=PHASE, command=["configs/compare.yaml"])
    page = (tmp_path / "table.md").read_text()
    seeds, *scores = cells_of(page, "none", "lstm", "teacher_forcing")
    assert (seeds, scores[4]) == ("3", f"40.0 ± {statistics.stdev([30, 40, 50]):.1f}")
    assert cells_of(page, "merge", "lstm", "teacher_forcing")[:1] == ["2 of 3"]
    assert set(cells_of(page, "merge", "lstm", "free_running")[1:]) == {"–"}
    assert "Of 12 runs 7 are missing" in page
    assert "free_running with seed 0, all" in page
    assert "teacher_forcing with seed 2, merge-lstm" in page


def test_what_teacher_forcing_hides_is_the_difference_of_two_losses(tmp_path):
    runs = in_order(["none"], ["lstm"], ["teacher_forcing"], [0])
    write_page(
        tmp_path / "table.md", runs, results_of(runs, [0.3]), phase=PHASE, command=["c.yaml"]
    )
    page = (tmp_path / "table.md").read_text()
    assert cells_of(page, "teacher_forcing")[:6] == ["1", "15.0", "30.0", "3.00", "3.50", "0.50"]
    assert cells_of(page, "objective", "6.0 to 9.0 (10 images)") == ["9.2 to 14.0 (12 images)"]


def test_all_is_drawn_even_of_a_table_that_is_half_there(tmp_path):
    runs = in_order(compare.CONTEXTS, compare.CELLS, compare.OBJECTIVES, [0, 1])[:80]
    draw(results_of(runs, [0.2 + number / 400 for number in range(80)]), tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 10_000


def test_a_page_without_results_says_that_all_are_missing(tmp_path):
    runs = in_order(["none"], ["lstm"], ["teacher_forcing"], [0, 1])
    write_page(tmp_path / "table.md", runs, {}, phase=PHASE, command=["c.yaml"])
    assert "Of 2 runs 2 are missing" in (tmp_path / "table.md").read_text()


def test_what_was_written_by_hand_is_kept(tmp_path):
    runs = in_order(["none"], ["lstm"], ["teacher_forcing"], [0])
    path = tmp_path / "table.md"
    write_page(path, runs, {}, phase=PHASE, command=["c.yaml"])
    path.write_text(path.read_text().replace(BEGIN, f"{BEGIN}\nAttention pays."))
    for _ in range(2):
        write_page(path, runs, results_of(runs, [0.3]), phase=PHASE, command=["c.yaml"])
    assert path.read_text().count(f"{BEGIN}\nAttention pays.\n{END}") == 1


def test_the_command_of_a_row_makes_the_config_that_its_run_had(config, tmp_path):
    runs = in_order(["none", "attention"], ["lstm"], ["teacher_forcing", "self_critical"], [0, 1])
    phase = load_config(config).training.phases[0]
    settings = ["decoder.dropout=0.3"]
    write_page(
        tmp_path / "t.md",
        runs,
        results_of(runs, [0.3] * 8),
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


def test_where_data_lies_is_not_written_down():
    assert (
        without_folders("encoder.weights=/data/of/mine/resnet18.pth")
        == "encoder.weights=resnet18.pth"
    )
    assert without_folders("configs/compare.yaml") == "configs/compare.yaml"


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("--contexts", "none,attenton", "there is no 'attenton': choose from none,"),
        ("--seeds", "0,a", "whole numbers"),
    ],
)
def test_a_choice_that_is_none_is_named(config, option, value, said):
    with pytest.raises(UsageError, match=said):
        CliRunner().invoke(compare.app, [str(config), option, value], catch_exceptions=False)


def test_a_config_with_several_phases_is_refused(config):
    phases = "training.phases=[{epochs: 1}, {epochs: 1}]"
    with pytest.raises(UsageError, match="give one phase"):
        CliRunner().invoke(compare.app, [str(config), phases], catch_exceptions=False)


def test_tasks_are_done_in_processes_of_their_own_and_one_that_fails_does_not_stop_the_others(
    tmp_path,
):
    (tmp_path / "good.yaml").write_text("a: 1")
    tasks = [tmp_path / "missing.yaml", tmp_path / "good.yaml"]
    outcomes = dict(run_all(read_yaml, tasks, jobs=2))
    assert outcomes[tasks[1]] == {"a": 1}
    assert isinstance(outcomes[tasks[0]], UsageError)


def test_a_bug_is_raised():
    with pytest.raises(ValueError, match="invalid literal"):
        list(run_all(int, ["one"], jobs=1))


def test_a_process_that_is_killed_is_told_in_a_line():
    with pytest.raises(CaptionerError, match="start again with fewer --jobs"):
        list(run_all(os._exit, [1], jobs=1))


def test_when_time_is_up_nothing_more_is_begun():
    assert list(run_all(math.sqrt, [1.0, 4.0], jobs=1, until=time.monotonic())) == []


@pytest.mark.slow
def test_an_interrupted_comparison_goes_on_with_what_is_missing(config, tmp_path):
    command = [
        sys.executable,
        str(SCRIPTS / "compare.py"),
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
        command, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as first:
        next(line for line in first.stderr if line.startswith("2/8"))
        os.killpg(first.pid, signal.SIGINT)  # as Ctrl-C does
        first.communicate()
    before = results()
    assert 2 <= len(before) < 8
    assert f"Of 8 runs {8 - len(before)} are missing" in (tmp_path / "table.md").read_text()
    subprocess.run(command, check=True)
    assert len(results()) == 8
    assert results().items() >= before.items()
    assert "are missing" not in (tmp_path / "table.md").read_text()
