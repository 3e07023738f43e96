"""Where to compute, and in which precision."""

import platform

import pytest
import torch

from captioner import Captioner, devices, evaluate
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
        (torch.device("cpu", 0), CPU),
        ("mps:0", torch.device("mps")),
    ],
)
def test_a_device_is_picked_by_its_name(two_gpus, monkeypatch, name, expected):
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert pick_device(name) == expected


def test_a_gpu_that_does_not_exist_is_refused_with_those_that_do(two_gpus):
    with pytest.raises(UsageError, match=r"'cuda:2' does not exist.*are cuda:0, cuda:1$"):
        pick_device("cuda:2")


@pytest.mark.parametrize(
    "name", ["tpu", "cuda:", "cuda:x", "cuda:-1", "cuda:01", "cuda:N", "cpu:1", "CPU", "", 0, None]
)
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


GIGABYTE = 10**9


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """Write Linux's files about memory: 12 GB are available, as of 20."""
    monkeypatch.setattr(devices, "_SYSTEM", tmp_path)
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/meminfo").write_text(
        "MemTotal:       19531250 kB\nMemFree:        1953125 kB\nMemAvailable:   11718750 kB\n"
    )
    return tmp_path


def write_group(machine, path, *, limit, used, files=0):
    group = machine / "sys/fs/cgroup" / path
    group.mkdir(parents=True, exist_ok=True)
    (group / "memory.max").write_text(f"{limit}\n")
    (group / "memory.current").write_text(f"{used}\n")
    (group / "memory.stat").write_text(
        f"anon {used - files}\nfile {files}\ninactive_file {files // 2}\n"
        f"active_file {files // 2 - GIGABYTE}\nslab_reclaimable {GIGABYTE}\nslab {3 * GIGABYTE}\n"
    )


def test_the_available_memory_of_a_machine_without_limits_is_what_linux_says(machine):
    assert available_memory(CPU) == 12 * GIGABYTE
    write_group(machine, "", limit="max", used=7 * GIGABYTE)
    assert available_memory(CPU) == 12 * GIGABYTE


def test_a_container_may_use_the_memory_of_the_files_that_it_has_read(machine):
    # 6 GB of the 10 GB that are used are cached files: they are dropped when the memory is needed.
    write_group(machine, "", limit=11 * GIGABYTE, used=10 * GIGABYTE, files=6 * GIGABYTE)
    assert available_memory(CPU) == 7 * GIGABYTE


def test_the_tightest_limit_of_the_own_cgroup_and_of_those_around_it_counts(machine):
    (machine / "proc/self/cgroup").write_text("4:memory:/other\n0::/slurm/job_7/step_0\n")
    size = {"used": 4 * GIGABYTE, "files": 2 * GIGABYTE}
    write_group(machine, "slurm/job_7/step_0", limit="max", **size)
    assert available_memory(CPU) == 12 * GIGABYTE
    write_group(machine, "slurm/job_7", limit=8 * GIGABYTE, **size)
    assert available_memory(CPU) == 6 * GIGABYTE
    write_group(machine, "slurm/job_7/step_0", limit=5 * GIGABYTE, **size)
    assert available_memory(CPU) == 3 * GIGABYTE
    write_group(machine, "slurm/job_8", limit=1, used=0)  # of somebody else
    assert available_memory(CPU) == 3 * GIGABYTE


def test_a_cgroup_that_is_over_its_limit_leaves_nothing(machine):
    write_group(machine, "", limit=GIGABYTE, used=5 * GIGABYTE, files=2 * GIGABYTE)
    assert available_memory(CPU) == 0


def test_the_available_memory_is_not_known_where_the_system_hides_it(tmp_path, monkeypatch):
    monkeypatch.setattr(devices, "_SYSTEM", tmp_path)
    assert available_memory(CPU) is None
    assert available_memory(torch.device("mps")) is None


def test_memory_of_a_gpu_that_torch_holds_but_does_not_use_is_available(monkeypatch):
    sizes = {"mem_get_info": (3, 80), "memory_reserved": 50, "memory_allocated": 10}
    for name, size in sizes.items():
        monkeypatch.setattr(torch.cuda, name, lambda device, size=size: size)
    assert available_memory(torch.device("cuda", 0)) == 3 + 50 - 10
