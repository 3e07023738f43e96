import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

SCRIPTS = Path(__file__).parents[2] / "scripts"
sys.path.append(str(SCRIPTS))  # as `python scripts/benchmark.py` finds its neighbours

import benchmark  # noqa: E402
import contests  # noqa: E402
from contests import CONTESTS, Setting  # noqa: E402
from typer.testing import CliRunner  # noqa: E402

from captioner.metrics.reward import Reward  # noqa: E402
from captioner.text.vocabulary import BOS, EOS  # noqa: E402


@pytest.fixture
def setting(tmp_path):
    """Make every size tiny, and leave out dropout, whose chance the two sides would draw differently."""
    return Setting(
        tmp_path,
        trunk="resnet18",
        image_size=32,
        picture=(44, 36),  # too small for reading at a reduced size, which gives other pixels
        words=60,
        width=16,
        dropout=0.0,
        cached_images=6,
        split_images=20,
        jpeg_images=3,
        decoded_images=40,
    )


@pytest.mark.parametrize("name", ["train-cached", "train-jpeg"])
def test_both_sides_learn_the_same_captions_step_by_step(name, setting):
    contest = CONTESTS[name](setting)
    ours = [loss for _ in range(3) for loss in contest.ours()]
    naive = [loss for _ in range(3) for loss in contest.naive()]
    assert ours == pytest.approx(naive, abs=1e-4)
    assert ours[2] < ours[0]
    assert contest.items == setting.captions * (
        setting.cached_images if name == "train-cached" else setting.jpeg_images
    )


@pytest.mark.parametrize("beam", [1, 3])
def test_both_sides_find_the_same_captions_of_features(beam, setting):
    setting = Setting(**{**vars(setting), "beam": beam})
    contest = CONTESTS["decode"](setting)
    assert contest.naive() == contest.ours()
    assert len(contest.ours()) == contest.items == 40


def test_self_critical_steps_find_captions_whether_or_not_their_reward_costs_something(
    setting, monkeypatch
):
    scored = []
    real = Reward.__call__
    monkeypatch.setattr(
        Reward, "__call__", lambda *asked: scored.append(len(asked[2])) or real(*asked)
    )
    contest = CONTESTS["self-critical"](setting)
    assert len(contest.naive()) == 1
    assert not scored
    assert len(contest.ours()) == 1
    assert scored == [contest.items] == [6 * 5]


def test_required_words_are_in_every_caption_of_that_contest(setting):
    contest = CONTESTS["require"](setting)
    wanted = {setting.words - 2, setting.words - 1}
    assert all(wanted <= set(words) for words in contest.ours())
    assert not any(wanted <= set(words) for words in contest.naive())


@pytest.mark.parametrize("max_length", [4, 20])
def test_both_sides_find_the_same_captions_of_pictures(max_length, setting):
    contest = CONTESTS["caption-jpeg"](Setting(**{**vars(setting), "max_length": max_length}))
    captions = contest.ours()
    assert contest.naive() == captions
    assert len(captions) == contest.items == 3
    assert all(
        caption.startswith("word") and len(caption.split()) <= max_length for caption in captions
    )


def test_captions_end_after_about_ten_words_as_those_of_a_trained_model(setting):
    lengths = [len(words) for words in CONTESTS["decode"](setting).ours()]
    assert statistics.mean(lengths) == pytest.approx(10, abs=1.5)
    assert 1 < statistics.stdev(lengths) < 4


def test_captions_to_learn_are_as_long_as_coco_s(setting):
    said = contests._say_something(setting, images=2000)
    assert all(
        caption[0] == BOS and caption[-1] == EOS for captions in said for caption in captions
    )
    lengths = [len(caption) - 2 for captions in said for caption in captions]
    assert statistics.mean(lengths) == pytest.approx(10.5, abs=0.2)
    assert statistics.stdev(lengths) == pytest.approx(2.4, abs=0.2)
    assert min(lengths) == 6
    assert 20 < max(lengths) <= 25


def test_a_result_is_the_median_of_rounds_in_which_both_sides_took_a_turn(setting, monkeypatch):
    turns = []
    contest = contests.Contest(
        "x", "images", 10, ours=lambda: turns.append("ours"), naive=lambda: turns.append("naive")
    )
    costs = {
        "ours": iter([9.0, 1.0, 2.0, 4.0]),
        "naive": iter([9.0, 10.0, 2.0, 16.0]),
    }  # the first ones do not count
    monkeypatch.setattr(
        benchmark, "cost", lambda work, _: (work(), (next(costs[turns[-1]]), None))[1]
    )
    result = benchmark.measure(contest, setting, rounds=3)
    assert turns == ["naive", "ours", "ours", "naive", "naive", "ours", "ours", "naive"]
    assert (result.ours, result.naive) == (10 / 2, 10 / 10)
    assert (result.lowest_ratio, result.ratio, result.highest_ratio) == (1, 4, 10)


def test_waiting_costs_nothing_and_working_does(setting):
    def work():
        end = time.process_time() + 0.05
        while time.process_time() < end:
            pass

    assert benchmark.cost(lambda: time.sleep(0.05), setting)[0] < 0.04
    assert benchmark.cost(work, setting)[0] >= 0.05


def test_the_command_prints_facts_and_a_row_for_each_job_and_says_the_rest_on_stderr(
    setting, monkeypatch
):
    monkeypatch.setattr(
        contests, "Setting", lambda *given: Setting(**{**vars(setting), "folder": given[0]})
    )
    answer = CliRunner().invoke(benchmark.app, ["--rounds", "1"])
    assert answer.exit_code == 0
    facts, head, *rows = answer.stdout.splitlines()
    assert facts.startswith("# cpu ")
    assert f"torch {torch.__version__}, threads 1" in facts
    assert "ratio" in head
    assert [row.split()[0] for row in rows] == list(CONTESTS) == list(benchmark.Name)
    assert "decode: round 1 of 1" in answer.stderr

    answer = CliRunner().invoke(benchmark.app, ["--only", "decode", "--rounds", "1", "--json"])
    facts, row = (json.loads(line) for line in answer.stdout.splitlines())
    assert facts["seed"] == 0
    assert (row["benchmark"], row["unit"], row["ours_mib"]) == ("decode", "images", None)
    assert row["ratio"] == pytest.approx(row["ours"] / row["naive"])


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_device_that_is_not_there_is_named_in_one_line():
    answer = CliRunner().invoke(benchmark.app, ["--device", "cuda"])
    assert answer.exit_code == 2
    assert len(answer.stderr.splitlines()) == 1
    assert "--device cuda" in answer.stderr


def test_help_shows_an_example_and_does_not_wait_for_torch():
    look = "import sys; sys.argv[1:] = ['--help']; import runpy\ntry: runpy.run_path(sys.argv[0], run_name='__main__')\n"
    look += "finally: print('torch' in sys.modules)"
    look = f"import sys; sys.path[0] = {str(SCRIPTS)!r}; sys.argv[0] = {str(SCRIPTS / 'benchmark.py')!r}; {look}"
    shown = subprocess.run(
        [sys.executable, "-c", look], capture_output=True, text=True, check=True, cwd=SCRIPTS.parent
    )
    assert "Example: python scripts/benchmark.py" in shown.stdout
    assert shown.stdout.splitlines()[-1] == "False"
