"""Where to compute, and in which precision."""

import os
import platform

import pytest
import torch

from captioner import Captioner, evaluate
from captioner.devices import autocast, available_memory, pick_device
from captioner.distributed import process_group
from captioner.errors import UsageError

CPU = torch.device("cpu")


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="is about x86")
def test_bf16_is_refused_on_a_cpu_whose_rnns_cannot_run_in_it(monkeypatch):
    # PyTorch's own error names no precision, and reads like a lack of memory.
    for feature in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
        monkeypatch.setattr(torch.cpu, feature, lambda: False)
    with pytest.raises(UsageError, match="needs a CPU with AVX-512 BF16"):
        autocast(CPU, "bf16")
    for precision in ("auto", "fp32"):
        with autocast(CPU, precision):
            assert torch.mm(torch.ones(2, 2), torch.ones(2, 2)).dtype == torch.float32


@pytest.mark.skipif(not torch.cpu._is_avx512_bf16_supported(), reason="this CPU has no bf16")
def test_bf16_multiplies_in_bfloat16():
    with autocast(CPU, "bf16"):
        assert torch.mm(torch.ones(2, 2), torch.ones(2, 2)).dtype == torch.bfloat16


@pytest.fixture
def two_gpus(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("auto", torch.device("cuda")),
        ("cuda", torch.device("cuda")),
        ("cuda:0", torch.device("cuda", 0)),
        ("cuda:1", torch.device("cuda", 1)),
        (torch.device("cuda", 1), torch.device("cuda", 1)),
        ("cpu", CPU),
    ],
)
def test_a_device_is_picked_by_its_name(two_gpus, name, expected):
    assert pick_device(name) == expected


def test_a_gpu_that_does_not_exist_is_refused_with_those_that_do(two_gpus):
    with pytest.raises(UsageError, match=r"'cuda:2' does not exist.*are cuda:0, cuda:1$"):
        pick_device("cuda:2")


@pytest.mark.parametrize("name", ["tpu", "cuda:", "cuda:x", "cuda:-1", "CPU", "", 0, None])
def test_what_is_no_device_is_refused_by_python_and_by_the_command_line(run, photo, name):
    with pytest.raises(UsageError, match="is not a device: use 'auto', 'cpu', 'cuda', 'cuda:N'"):
        pick_device(name)
    for command in (["caption", photo], ["train", "shapes"]):
        code, out, err = run(*command, "--device", name)
        assert (code, out) == (2, "")
        assert err.startswith(f"captioner: --device '{name}' is not a device")
        assert err.count("\n") == 1


def test_a_gpu_with_a_number_is_refused_where_each_rank_takes_its_own(two_gpus, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with (
        pytest.raises(UsageError, match="'cuda:1' is one GPU, but each of 2 ranks"),
        process_group(pick_device("cuda:1")),
    ):
        pass


@pytest.mark.parametrize("precision", ["fp8", "float32", None])
def test_a_precision_that_does_not_exist_is_refused(tiny_model, shapes, precision):
    with pytest.raises(UsageError, match="is not a precision: use 'auto' or 'fp32'"):
        Captioner.from_pretrained(tiny_model, device="cpu", precision=precision)
    with pytest.raises(UsageError, match="is not a precision"):
        evaluate(
            shapes / "captions_dev.json",
            model=tiny_model,
            images=shapes / "dev",
            device="cpu",
            precision=precision,
        )


@pytest.mark.skipif(platform.system() != "Linux", reason="is read from Linux's files")
def test_the_available_memory_is_what_can_still_be_allocated():
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert 0 < available_memory(CPU) < total
