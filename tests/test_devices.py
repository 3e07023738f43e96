"""Where to compute, and in which precision."""

import platform

import pytest
import torch

from captioner.devices import autocast
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
