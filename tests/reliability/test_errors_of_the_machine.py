"""Errors of the machine are told by what they are, and bfloat16 is tried before the first step."""

import contextlib
import errno
import os
import subprocess
import sys

import pytest
import torch
from trainings import small

import captioner.training.precision as precision
from captioner.config.training import TrainingConfig
from captioner.errors import CaptionerError, UsageError
from captioner.training.failures import explain_failures, is_out_of_memory
from captioner.training.recorder import read_log
from captioner.training.train import train

pytestmark = pytest.mark.row(36)

NO_LSTM = (
    "could not create a primitive descriptor for the LSTM forward propagation primitive. Run "
    "workload with environment variable ONEDNN_VERBOSE=all to get additional diagnostics."
)
NO_MEMORY = [
    RuntimeError("could not create a primitive"),
    RuntimeError("could not execute a primitive"),
    RuntimeError("could not create a memory object"),
    RuntimeError(
        "[enforce fail at alloc_cpu.cpp:127] . DefaultCPUAllocator: can't allocate memory"
    ),
    RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"),
    RuntimeError("cusolver error: CUSOLVER_STATUS_ALLOC_FAILED, when calling `cusolverDnCreate`"),
    RuntimeError("MPS backend out of memory (MPS allocated: 9 GB)"),
    RuntimeError("XPU out of memory. Tried to allocate 2.00 GiB."),
    RuntimeError("unable to mmap 9 bytes from file </torch_1_2>: Cannot allocate memory (12)"),
    torch.OutOfMemoryError("CUDA out of memory."),
    MemoryError(),
    OSError(errno.ENOMEM, "Cannot allocate memory"),
]
OTHER = [
    RuntimeError(NO_LSTM),
    RuntimeError("could not create a primitive descriptor iterator"),
    RuntimeError("CUDNN_STATUS_EXECUTION_FAILED"),
    RuntimeError("mat1 and mat2 shapes cannot be multiplied"),
    RuntimeError("memory format option is only supported by strided tensors"),
    OSError(errno.ENOSPC, "No space left on device"),
    ValueError("could not create a primitive"),
]


@pytest.mark.parametrize("error", NO_MEMORY, ids=lambda error: str(error)[:40])
def test_too_little_memory_is_known_by_its_type_or_its_whole_message(error):
    assert is_out_of_memory(error)


@pytest.mark.parametrize("error", OTHER, ids=lambda error: str(error)[:40])
def test_no_other_error_is_taken_for_too_little_memory(error):
    assert not is_out_of_memory(error)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (NO_MEMORY[-1], "out of memory with training.batch_size=64"),
        (RuntimeError("Too many open files. Communication with the workers is"), "ulimit -n"),
        (OSError(errno.EMFILE, "Too many open files"), "ulimit -n"),
        (
            RuntimeError(
                "unable to open shared memory object </torch_1_2> in read-write mode: Too many "
                "open files (24)"
            ),
            "ulimit -n",
        ),
        (
            RuntimeError(
                "Caught RuntimeError in DataLoader worker process 0.\n"
                "RuntimeError: unable to write to file </torch_12_345_0>: No space left on device"
            ),
            "too little shared memory (/dev/shm)",
        ),
        (RuntimeError("unable to allocate shared memory(shm) for file </torch_1>"), "/dev/shm"),
        (OSError(errno.ENOSPC, "No space left on device", "a.png"), "a.png: No space left"),
    ],
    ids=[
        *("memory", "files of workers", "files", "files of shared memory", "shared memory"),
        *("shared memory, too", "disk"),
    ],
)
def test_each_cause_has_its_own_line_and_way_out(tmp_path, error, expected):
    with pytest.raises(CaptionerError) as told, explain_failures(tmp_path, TrainingConfig()):
        raise error
    assert expected in str(told.value)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    "error", [RuntimeError(NO_LSTM), RuntimeError("[Errno 32] Broken pipe")], ids=["bug", "pipe"]
)
def test_what_is_none_of_them_keeps_its_traceback(tmp_path, error):
    """There is one rank: no other one has ended."""
    with pytest.raises(RuntimeError) as raised, explain_failures(tmp_path, TrainingConfig()):
        raise error
    assert raised.value is error


def test_only_the_first_rank_says_that_another_one_has_ended(tmp_path):
    """If the first one ends, it says why itself."""
    error, settings = torch.distributed.DistError("another rank has failed"), TrainingConfig()
    with (
        pytest.raises(CaptionerError, match="another rank has ended, so this one ends too"),
        explain_failures(tmp_path, settings, is_first=True),
    ):
        raise error
    with (
        pytest.raises(SystemExit, match=r"^1$"),
        explain_failures(tmp_path, settings, is_first=False),
    ):
        raise error


def without_bf16(monkeypatch, *, fails=True):
    """Let `auto` mean bfloat16 here, in which an LSTM may have no implementation."""
    import captioner.devices as devices

    monkeypatch.setattr(devices, "_bf16_is_faster", lambda device: True)
    monkeypatch.setattr(devices, "_cpu_runs_bf16", lambda: True)
    real = torch.nn.LSTM.forward

    def forward(self, *arguments, **named):
        if fails and torch.is_autocast_enabled("cpu"):
            raise RuntimeError(NO_LSTM)
        return real(self, *arguments, **named)

    monkeypatch.setattr(torch.nn.LSTM, "forward", forward)


def test_explicit_bf16_that_cannot_work_is_refused_before_the_first_step(tiny, monkeypatch):
    without_bf16(monkeypatch)
    config = small(tiny, training={"precision": "bf16"})
    expected = r"training\.precision=bf16 cannot train .* primitive\): set it to auto or fp32$"
    with pytest.raises(UsageError, match=expected):
        train(config, device="cpu")
    assert not (config.output / "metrics.jsonl").exists()


def test_auto_trains_in_float32_where_bfloat16_does_not_run(tiny, tmp_path, monkeypatch, capsys):
    train(small(tiny, output=tmp_path / "float", training={"precision": "fp32"}), device="cpu")
    without_bf16(monkeypatch)
    train(small(tiny, output=tmp_path / "auto", training={"precision": "auto"}), device="cpu")
    assert "bfloat16 cannot train this model on this cpu" in capsys.readouterr().err
    assert read_log(tmp_path / "auto") == read_log(tmp_path / "float")


class NoBackward(torch.autograd.Function):
    """A convolution that runs forward only."""

    @staticmethod
    def forward(ctx, output):
        return output.clone()

    @staticmethod
    def backward(ctx, gradient):
        raise RuntimeError(NO_LSTM.replace("LSTM forward", "convolution backward"))


@pytest.mark.parametrize(
    ("stages", "is_refused"),
    [([None], False), (["stem"], True), ([None, "stem"], True)],
    ids=["frozen", "trained", "trained later"],
)
def test_the_trial_runs_the_trunk_backward_if_a_phase_will(tiny, monkeypatch, stages, is_refused):
    without_bf16(monkeypatch, fails=False)
    real = torch.nn.Conv2d.forward

    def forward(self, images):
        output = real(self, images)
        return NoBackward.apply(output) if torch.is_autocast_enabled("cpu") else output

    monkeypatch.setattr(torch.nn.Conv2d, "forward", forward)
    phases = [{"epochs": 1, "finetune_from": stage} for stage in stages]
    config = tiny(training={"precision": "bf16", "phases": phases, "max_steps": 1})
    refused = pytest.raises(UsageError, match=r"the convolution backward .*: set it to auto")
    with refused if is_refused else contextlib.nullcontext():
        train(config, device="cpu")
    assert (config.output / "metrics.jsonl").exists() != is_refused


def test_the_trial_changes_neither_weights_nor_random_numbers(tiny, tmp_path, monkeypatch):
    """A run in bfloat16 is the same with and without it."""
    without_bf16(monkeypatch, fails=False)
    frozen = {"precision": "bf16", "phases": [{"epochs": 2}]}
    for name in ("with", "without"):
        train(small(tiny, output=tmp_path / name, training=frozen), device="cpu")
        monkeypatch.setattr(precision, "_take_trial_step", lambda *arguments: None)
    assert read_log(tmp_path / "with") == read_log(tmp_path / "without")


@pytest.mark.slow
@pytest.mark.skipif(
    not torch.backends.mkldnn.is_available()
    or not getattr(torch.cpu, "_is_avx512_bf16_supported", bool)(),
    reason="oneDNN's instructions are limited below those that torch reports",
)
def test_on_a_cpu_without_an_lstm_in_bfloat16_the_command_is_refused_in_one_line(tiny):
    import yaml

    config = small(tiny, training={"precision": "bf16"})
    file = config.output.with_suffix(".yaml")
    file.write_text(yaml.safe_dump(config.to_json()))
    run = subprocess.run(
        [sys.executable, "-m", "captioner", "train", str(file), "--device", "cpu"],
        env=os.environ | {"OMP_NUM_THREADS": "1", "ONEDNN_MAX_CPU_ISA": "AVX2"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 2
    assert "captioner: training.precision=bf16 cannot train this model on this cpu" in run.stderr
    assert "memory" not in run.stderr
