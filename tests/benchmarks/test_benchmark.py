"""Both sides of a workload compute the same, and the benchmark reports what it measured."""

import json
import statistics
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from benchmarks import benchmark, synthetic, texts, translation
from benchmarks.synthetic import Setup
from benchmarks.texts import TextSetup
from benchmarks.workloads import WORKLOADS, Workload
from captioner.errors import UsageError
from captioner.metrics.reward import Reward
from captioner.text.tokenizer import BOS, EOS

ROOT = Path(__file__).parents[2]


@pytest.fixture
def setup(tmp_path):
    """Return tiny sizes, without dropout: the two sides would draw different random numbers."""
    return Setup(
        tmp_path,
        trunk="resnet18",
        image_size=32,
        jpeg_size=(44, 36),  # too small to be decoded at a reduced size, which changes the pixels
        vocab_size=60,
        hidden_size=16,
        dropout=0.0,
        cached_images=6,
        split_images=20,
        jpeg_images=3,
        decoded_images=40,
    )


@pytest.mark.parametrize("name", ["train-cached", "train-jpeg"])
def test_both_sides_have_the_same_losses_in_three_steps(name, setup):
    workload = WORKLOADS[name](setup)
    ours = [loss for _ in range(3) for loss in workload.ours()]
    baseline = [loss for _ in range(3) for loss in workload.baseline()]
    assert ours == pytest.approx(baseline, abs=1e-4)
    assert ours[2] < ours[0]
    images = setup.cached_images if name == "train-cached" else setup.jpeg_images
    assert workload.items == setup.captions_per_image * images


@pytest.mark.parametrize("beam", [1, 3])
def test_both_sides_find_the_same_captions_of_features(beam, setup):
    workload = WORKLOADS["decode"](replace(setup, beam=beam))
    assert workload.baseline() == workload.ours()
    assert len(workload.ours()) == workload.items == 40


def test_only_our_self_critical_step_computes_cider(setup, monkeypatch):
    scored = []
    real = Reward.__call__
    monkeypatch.setattr(
        Reward, "__call__", lambda *given: scored.append(len(given[2])) or real(*given)
    )
    workload = WORKLOADS["self-critical"](setup)
    assert len(workload.baseline()) == 1
    assert not scored
    assert len(workload.ours()) == 1
    assert scored == [workload.items] == [6 * 5]


def test_required_words_are_in_every_caption_of_that_workload(setup):
    workload = WORKLOADS["require"](setup)
    required = {setup.vocab_size - 2, setup.vocab_size - 1}
    assert all(required <= set(token_ids) for token_ids in workload.ours())
    assert not any(required <= set(token_ids) for token_ids in workload.baseline())


@pytest.mark.parametrize("max_length", [4, 20])
def test_both_sides_find_the_same_captions_of_jpeg_files(max_length, setup):
    workload = WORKLOADS["caption-jpeg"](replace(setup, max_length=max_length))
    captions = workload.ours()
    assert workload.baseline() == captions
    assert len(captions) == workload.items == 3
    assert all(
        caption.startswith("word") and len(caption.split()) <= max_length for caption in captions
    )


def test_captions_end_after_about_ten_words_as_those_of_a_trained_model(setup):
    lengths = [len(token_ids) for token_ids in WORKLOADS["decode"](setup).ours()]
    assert statistics.mean(lengths) == pytest.approx(10, abs=1.5)
    assert 1 < statistics.stdev(lengths) < 4


def test_random_captions_are_as_long_as_those_of_coco(setup):
    captions = [caption for group in setup.random_captions(images=2000) for caption in group]
    assert all(caption[0] == BOS and caption[-1] == EOS for caption in captions)
    lengths = [len(caption) - 2 for caption in captions]
    assert statistics.mean(lengths) == pytest.approx(10.5, abs=0.2)
    assert statistics.stdev(lengths) == pytest.approx(2.4, abs=0.2)
    assert min(lengths) == 6
    assert 20 < max(lengths) <= 25


def test_a_result_is_the_median_of_rounds_in_which_both_sides_take_turns(setup, monkeypatch):
    turns = []
    workload = Workload(
        "x",
        "images",
        10,
        ours=lambda: turns.append("ours"),
        baseline=lambda: turns.append("baseline"),
    )
    costs = {  # the first ones are those of the warm-up
        "ours": iter([9.0, 1.0, 2.0, 4.0]),
        "baseline": iter([9.0, 10.0, 2.0, 16.0]),
    }
    monkeypatch.setattr(
        benchmark, "cost", lambda work, _: (work(), (next(costs[turns[-1]]), None))[1]
    )
    result = benchmark.measure(workload, setup, rounds=3)
    ours_first, baseline_first = ["ours", "baseline"], ["baseline", "ours"]
    assert turns == [*baseline_first, *ours_first, *baseline_first, *ours_first]
    assert (result.ours, result.baseline) == (10 / 2, 10 / 10)
    assert (result.lowest_ratio, result.ratio, result.highest_ratio) == (1, 4, 10)


def test_the_cost_is_the_time_of_computing_and_not_of_waiting(setup):
    def work():
        end = time.process_time() + 0.05
        while time.process_time() < end:
            pass

    assert benchmark.cost(lambda: time.sleep(0.05), setup)[0] < 0.04
    assert benchmark.cost(work, setup)[0] >= 0.05


def test_facts_and_results_are_on_stdout_and_progress_is_on_stderr(setup, monkeypatch):
    monkeypatch.setattr(synthetic, "Setup", lambda *given: replace(setup, folder=given[0]))
    sizes = {"vocab_size": 60, "hidden_size": 16, "pairs": 20, "translated": 2}
    monkeypatch.setattr(texts, "TextSetup", lambda *given: TextSetup(*given, **sizes))
    answer = CliRunner().invoke(benchmark.app, ["--rounds", "1"])
    assert answer.exit_code == 0
    facts, head, *rows = answer.stdout.splitlines()
    assert facts.startswith("# cpu ")
    assert f"torch {torch.__version__}, threads 1" in facts
    assert "ratio" in head
    assert [row.split()[0] for row in rows] == list(benchmark.Name)
    assert list(benchmark.Name) == [*WORKLOADS, *translation.WORKLOADS]
    assert "decode: round 1 of 1" in answer.stderr

    answer = CliRunner().invoke(benchmark.app, ["--only", "decode", "--rounds", "1", "--json"])
    facts, row = (json.loads(line) for line in answer.stdout.splitlines())
    assert facts["seed"] == 0
    assert (row["benchmark"], row["unit"], row["ours_mib"]) == ("decode", "images", None)
    assert row["ratio"] == pytest.approx(row["ours"] / row["baseline"])


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_device_that_is_not_available_is_reported_in_one_line():
    command = [sys.executable, "-m", "benchmarks.benchmark", "--device", "cuda"]
    answer = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert answer.returncode == UsageError.exit_code == 2
    assert len(answer.stderr.splitlines()) == 1
    assert answer.stderr.startswith("benchmark: --device 'cuda' is not available")


def test_help_shows_an_example_and_does_not_import_torch():
    code = (
        "import runpy, sys; sys.argv = ['x', '--help']\n"
        "try: runpy.run_module('benchmarks.benchmark', run_name='__main__')\n"
        "finally: print('torch' in sys.modules)"
    )
    shown = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert "Example: python -m benchmarks.benchmark" in shown.stdout
    assert shown.stdout.splitlines()[-1] == "False"
