"""The stages do the work of `Captioner.caption`, and the table and the JSON show what they cost."""

import itertools
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from benchmarks import stages
from captioner.inference.torch_captioner import TorchCaptioner

ROOT = Path(__file__).parents[2]
STAGES = ["read and decode", "resize", "encoder", "search", "words and confidence"]


@pytest.fixture
def photos(shapes):
    """Eight images; with batches of three, the last batch is not full."""
    return sorted((shapes / "dev").iterdir())


def captioner_of(folder, **decoding):
    captioner = TorchCaptioner.from_pretrained(folder, device="cpu")
    changed = captioner.decoding_config(decoding)
    captioner.config = captioner.config.model_copy(update={"decoding": changed})
    return captioner


@pytest.mark.parametrize("model", ["tiny_model", "attentive_model"])
@pytest.mark.parametrize("decoding", [{}, {"beam": 1}, {"min_length": 6}])
def test_the_stages_find_the_captions_of_the_captioner(model, decoding, photos, request):
    captioner = captioner_of(request.getfixturevalue(model), **decoding)
    captions, _ = stages.caption_in_stages(captioner, photos, 3)
    expected = captioner.caption(photos, batch_size=3)
    assert captions == [caption.text for caption in expected]
    assert all(captions)


def test_the_best_of_several_captions_is_the_caption(tiny_model, photos):
    captioner = captioner_of(tiny_model, beam=4, captions=4)
    captions, _ = stages.caption_in_stages(captioner, photos, 3)
    assert captions == [caption.text for caption in captioner.caption(photos, batch_size=3)]


def test_the_encoder_gets_the_pixels_of_the_captioner(tiny_model, tmp_path):
    # large enough for the JPEG decoder's reduced size, which changes the pixels
    Image.effect_noise((150, 130), 80).convert("RGB").save(tmp_path / "noise.jpg")
    captioner, files, inputs = captioner_of(tiny_model), [tmp_path / "noise.jpg"], []
    captioner.step_model.encoder.register_forward_pre_hook(lambda _, given: inputs.append(given[0]))
    stages.caption_in_stages(captioner, files, 1)
    captioner.caption(files)
    assert torch.equal(*inputs)


def test_a_model_that_samples_is_measured_with_beam_search(tiny_model, photos):
    captioner = captioner_of(tiny_model, method="sample")
    captions, _ = stages.caption_in_stages(captioner, photos, 3)
    expected = captioner.caption(photos, decoding={"method": "beam"}, batch_size=3)
    assert captions == [caption.text for caption in expected]


def test_each_stage_of_each_batch_is_measured(tiny_model, photos, monkeypatch):
    clock = itertools.count()
    monkeypatch.setattr(stages.time, "process_time", lambda: next(clock))
    _, seconds = stages.caption_in_stages(captioner_of(tiny_model), photos, 3)
    assert seconds == dict.fromkeys(STAGES, 3)  # one tick in each of three batches


def test_costs_are_medians_of_an_image_without_the_warm_up(photos, monkeypatch):
    costs = iter([90.0, 1.0, 8.0, 3.0])
    clock = iter([0.0, 90.0, 90.0, 92.0, 92.0, 116.0, 116.0, 120.0])  # 90 (warm-up), 2, 24, 4
    monkeypatch.setattr(
        stages, "caption_in_stages", lambda *given: ([], dict.fromkeys(STAGES, next(costs)))
    )
    monkeypatch.setattr(stages.time, "process_time", lambda: next(clock))

    class Silent:
        def caption(self, files, decoding, batch_size):
            assert (files, batch_size) == (photos, 4)

    seconds, whole = stages.measure(Silent(), photos, 4, rounds=3)
    assert seconds == dict.fromkeys(STAGES, 3 / 8)
    assert whole == 4 / 8


def test_the_table_shows_the_sum_and_the_check_as_shares_of_it():
    seconds = dict(zip(STAGES, [0.01, 0.02, 0.04, 0.01, 0.02], strict=True))
    _, _, *rows = stages.table({"once: load": 1.5}, seconds, 0.11).splitlines()
    cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]
    assert cells[0] == ["once: load", "1.50", "–"]
    assert [row[0] for row in cells[1:6]] == STAGES
    assert [row[2] for row in cells[1:6]] == ["10.0%", "20.0%", "40.0%", "10.0%", "20.0%"]
    assert cells[6][1:] == ["0.10000", "100.0%"]
    assert cells[7][1:] == ["0.11000", "110.0%"]


def test_the_command_measures_all_stages_and_writes_json(tiny_model, tmp_path):
    Image.new("RGB", (60, 40), "red").save(tmp_path / "large.png")
    Image.new("RGB", (20, 30), "blue").save(tmp_path / "small.png")
    options = ["--model", tiny_model, "--images", tmp_path / "*.png", "--batch-size", "5"]
    result = tmp_path / "stages.json"
    answer = CliRunner().invoke(
        stages.app, [*map(str, options), "--rounds", "1", "--json", str(result)]
    )
    assert answer.exit_code == 0, answer.output
    facts, head, _, *rows = answer.stdout.splitlines()
    assert facts.startswith("# cpu ")
    assert f"torch {torch.__version__}, threads 1" in facts
    assert "trunk small_cnn, input 32, beam 3, photographs 2" in facts
    assert "pixels 20 x 30 to 60 x 40, batch 5" in facts
    assert "CPU seconds" in head
    assert [row.split("|")[1].strip() for row in rows[:-2]] == [*stages.ONCE, *STAGES]

    values = json.loads(result.read_text())
    assert (values["rounds"], values["trunk"], values["threads"]) == (1, "small_cnn", 1)
    assert list(values["once"]) == list(stages.ONCE)
    assert list(values["image"]) == STAGES
    assert values["sum"] == pytest.approx(sum(values["image"].values()))
    assert min(*values["once"].values(), *values["image"].values(), values["check"]) > 0


def test_the_photographs_are_repeated_to_fill_whole_batches(tiny_model, photos, monkeypatch):
    measured = []

    def measure(captioner, files, batch_size, rounds):
        measured.extend(files)
        return dict.fromkeys(STAGES, 1.0), 5.0

    monkeypatch.setattr(stages, "measure", measure)
    monkeypatch.setattr(stages, "measure_once", lambda folder: {})
    options = ["--model", tiny_model, "--images", photos[0].parent, "--batch-size", "5"]
    assert CliRunner().invoke(stages.app, [*map(str, options)]).exit_code == 0
    assert measured == [*photos * 4, *photos[:3]]  # 35: the first multiple of 5 from 32 on


def run_module(*options):
    command = [sys.executable, "-m", "benchmarks.stages", *options]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)


def test_a_missing_model_is_reported_in_one_line(tmp_path):
    answer = run_module("--model", str(tmp_path))
    assert answer.returncode == 1
    assert answer.stderr.startswith(f"stages: {tmp_path} is not a model folder")
    assert len(answer.stderr.splitlines()) == 1


def test_help_shows_an_example():
    assert "Example: python -m benchmarks.stages --model" in run_module("--help").stdout
