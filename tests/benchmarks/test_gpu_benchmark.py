"""The measurements of training on a GPU, at a tiny size on the CPU."""

import json
import os
from itertools import pairwise

import pytest
import torch
from typer.testing import CliRunner

from benchmarks import decoding_speed, gpu
from benchmarks.training_steps import (
    STAGES,
    AttentionSetup,
    Photographs,
    Stage,
    Trainee,
    seconds_of,
    split_batch,
    tf32,
)
from captioner.data.batching import collate
from captioner.errors import UsageError
from captioner.text.tokenizer import BOS, EOS
from captioner.training.objectives import TeacherForcing

CPU = torch.device("cpu")
SIZES = gpu.Sizes(12, 4, "stem", 0.0, matrix=32, workers=0)


@pytest.fixture(scope="module")
def setup(tmp_path_factory):
    return AttentionSetup(
        tmp_path_factory.mktemp("photographs"),
        trunk="small_cnn",
        image_size=32,
        jpeg_size=(44, 36),
        vocab_size=60,
        hidden_size=16,
        jpeg_images=3,
        max_length=5,
    )


@pytest.fixture(scope="module")
def report(setup):
    patch = pytest.MonkeyPatch()
    patch.setattr(decoding_speed, "BATCH", 4)
    patch.setattr(decoding_speed, "IMAGES", 8)
    patch.setattr(decoding_speed, "CPU_IMAGES", 4)
    with patch.context():
        yield gpu.run(setup, ["small_cnn"], ["tf32", "fp32"], SIZES)
    patch.undo()


@pytest.fixture(scope="module")
def trainee(setup):
    photographs = Photographs(setup, images=12, batch_size=4, workers=0)
    photographs.measure_loader()
    return Trainee(setup, photographs, finetune_from="stem")


def flops_of_small_cnn(size):
    """Two for each weight and position: six convolutions 3 x 3 of stride 2, padded by one."""
    total = 0
    for before, after in pairwise([3, 32, 64, 128, 256, 256, 256]):
        size = (size + 2 - 3) // 2 + 1
        total += 2 * 9 * before * after * size**2
    return total


def test_every_stage_in_every_format_has_a_positive_value_in_each_column(report):
    cases = report["cases"]
    assert [(case["stage"], case["format"]) for case in cases] == [
        (stage, name) for stage in STAGES for name in ("tf32", "fp32")
    ]
    for case in cases:
        assert case["error"] is None
        assert min(case[name] for name in ("images", "flops", "peak", "mfu")) > 0
        assert case["micro_batches"] == 1
        assert case["memory"] is None  # it is that of a GPU
        parts = {"loader", "encoder"}
        if case["stage"] != "features":
            parts |= {"decoder", "optimizer"}
        if case["stage"] == "self-critical":
            parts |= {"reward"}
        assert case["seconds"].keys() == parts
        assert all(seconds > 0 for seconds in case["seconds"].values())
        assert case["bottleneck"] in parts
    json.dumps(report)


def test_mfu_is_the_flops_a_second_over_the_measured_peak(report):
    for case in report["cases"]:
        assert case["peak"] == report["peaks"][case["format"]]
        assert case["mfu"] == pytest.approx(case["flops"] * case["images"] / case["peak"])


def test_an_image_has_five_captions_and_none_where_only_features_are_computed(report):
    for case in report["cases"]:
        per_image = 0 if case["stage"] == "features" else 5
        assert case["captions"] == pytest.approx(per_image * case["images"])


def test_the_flops_of_an_image_are_those_worked_out_by_hand(report):
    flops = {case["stage"]: case["flops"] for case in report["cases"]}
    forward = flops_of_small_cnn(32)
    assert flops["features"] == forward
    # Backward costs twice as much as forward, but the pixels need no gradient.
    backward = 2 * forward - 2 * 9 * 3 * 32 * 16**2
    assert flops["fine-tuned"] - flops["frozen"] == pytest.approx(forward + backward, rel=0.02)


def test_the_text_has_a_row_for_each_case_and_the_reason_of_one_that_failed(report):
    failed = report["cases"][0] | {"error": "OutOfMemoryError: too little"}
    text = gpu.to_text(report | {"cases": [failed, *report["cases"][1:]]})
    rows = [line for line in text.splitlines() if line.startswith("| small_cnn")]
    assert len(rows) == 8
    assert len({row.count("|") for row in rows}) == 1
    assert "OutOfMemoryError: too little" in rows[0]
    assert "| fine-tuned | fp32 |" in text
    assert [each["beam"] for each in report["decoding"]] == [1, 3, 5]
    assert all(each["captions"] > 0 for each in report["decoding"])


def test_a_case_that_fails_does_not_stop_the_others(trainee, monkeypatch):
    real = Stage.flops

    def fail(stage, name):
        if stage.stage == "frozen":
            raise RuntimeError("no such\n kernel")
        return real(stage, name)

    monkeypatch.setattr(Stage, "flops", fail)
    rates = {"pixels": 1.0, "features": 1.0}
    cases = [*gpu.measure_trunk(trainee, {"fp32": 1e9}, rates, SIZES)]
    assert [case.error for case in cases] == [None, "RuntimeError: no such kernel", None, None]


def test_a_batch_that_does_not_fit_is_divided_until_it_does(trainee, monkeypatch):
    stage, real = trainee.stage("frozen"), Stage.step

    def narrow(stage, name, micro_batches=None):
        micro_batches = micro_batches or stage._micro_batches()
        if len(micro_batches[0].source) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        real(stage, name, micro_batches)

    monkeypatch.setattr(Stage, "step", narrow)
    assert stage.measure("fp32", seconds=0.0).parts == 4  # batches of 4, 2 and 1


@pytest.mark.parametrize(
    ("loader", "works_ahead", "expected"),
    [(5.0, True, "decoder"), (5.0, False, "loader"), (7.0, True, "loader")],
)
def test_a_loader_that_works_ahead_must_take_longer_than_all_else(loader, works_ahead, expected):
    seconds = {"loader": loader, "encoder": 2.0, "decoder": 3.0, "optimizer": 1.0}
    assert gpu.bottleneck(seconds, works_ahead=works_ahead) == expected


def test_micro_batches_have_the_loss_of_their_batch(setup):
    torch.manual_seed(0)
    images = torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8)
    captions = [[[BOS, 7, EOS], [BOS, 8, 9, EOS]], [[BOS, 5, EOS]], [[BOS, 4, 5, 6, 7, EOS]]]
    batch = collate([(images[n], captions[n], n) for n in range(3)])
    objective = TeacherForcing(setup.build_model()).eval()
    parts = split_batch(batch, 2)
    assert [part.example_index.tolist() for part in parts] == [[0], [1, 2]]
    assert parts[0].tokens.shape == (2, 4)
    sums = [objective(part).loss.total.item() for part in parts]
    assert sum(sums) == pytest.approx(objective(batch).loss.total.item(), rel=1e-5)


def test_tf32_is_as_it_was_after_the_block():
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    for allowed in (True, False):
        with tf32(allowed):
            assert torch.backends.cudnn.allow_tf32 == allowed
            assert torch.backends.cuda.matmul.allow_tf32 == allowed
    assert (torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32) == before


def test_the_seconds_are_the_median_of_the_calls_after_a_warm_up(monkeypatch):
    times = iter([0.0, 1.0, 10.0, 12.0, 20.0, 29.0])  # calls of 1, 2 and 9 seconds
    monkeypatch.setattr("time.perf_counter", lambda: next(times))
    calls = []
    assert seconds_of(lambda: calls.append(1), CPU, calls=3) == 2.0
    assert len(calls) == 4


def test_fp32_is_measured_with_tf32_and_without_and_other_names_are_refused():
    assert gpu.parse_formats("bf16,fp32") == ["bf16", "tf32", "fp32"]
    with pytest.raises(UsageError, match="'fp8': use bf16, fp16 or fp32"):
        gpu.parse_formats("fp16,fp8")


def test_the_sizes_are_those_of_the_config_of_coco(monkeypatch, tmp_path):
    given = []

    def run(setup, trunks, formats, sizes):
        given.append((setup, trunks, sizes))
        return {"facts": {}}

    monkeypatch.setattr(gpu, "run", run)
    monkeypatch.setattr(gpu, "to_text", str)
    file = tmp_path / "gpu.json"
    answer = CliRunner().invoke(gpu.app, ["--device", "cpu", "--output", str(file)])
    assert answer.exit_code == 0, answer.output
    [(setup, trunks, sizes)] = given
    assert (sizes.batch_size, sizes.finetune_from) == (256, "layer2")
    assert sizes.images == 2 * 256 * max(2, len(os.sched_getaffinity(0)))
    assert trunks == ["resnet50", "resnet101"]
    assert (setup.jpeg_size, setup.image_size, setup.vocab_size) == ((640, 480), 224, 10_000)
    assert setup.config.decoder.context == "attention"
    assert setup.config.decoder.hidden_size == 512
    assert json.loads(file.read_text()) == {"facts": {}}
