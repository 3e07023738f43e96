"""Captions a second of beam search, from pixels, on a device and on the CPU of the same machine."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch

from benchmarks.synthetic import Setup, end_after_ten_words
from benchmarks.training_steps import settle_batch_norms, synchronize
from captioner.inference.torch_captioner import TorchCaptioner

BEAMS = (1, 3, 5)
BATCH = 64  # images at a time
IMAGES = 512  # that a GPU captions
CPU_IMAGES = 64  # that the CPU captions


class Speed(NamedTuple):
    """How fast a device captions."""

    device: str
    precision: str
    beam: int
    images: int  # that were captioned
    captions: float  # a second


def measure_decoding(setup: Setup, *, say: Callable[[str], None]) -> list[Speed]:
    """Caption images (3, size, size) in memory with beams of 1 (greedy), 3 and 5.

    The CPU captions fewer images, as it needs more time for each. Each device computes in the
    precision `auto`, and a GPU in fp32 too.
    """
    model = setup.build_model().to("cpu").eval()
    generator = np.random.default_rng(setup.seed)
    shape = (IMAGES, 3, setup.image_size, setup.image_size)
    pixels = generator.integers(0, 256, shape, dtype=np.uint8)
    first = torch.from_numpy(pixels[:BATCH])
    settle_batch_norms(model, first)
    with torch.inference_mode():
        summary = model.encode(first).summary  # (B, C)
    end_after_ten_words(model.decoder, summary.clone())
    on_device = [(setup.device, "auto", IMAGES), (setup.device, "fp32", IMAGES)]
    on_cpu = [(torch.device("cpu"), "auto", CPU_IMAGES)]
    speeds = []
    for device, precision, count in (on_device if setup.device.type == "cuda" else []) + on_cpu:
        captioner = TorchCaptioner(
            [model], setup.vocabulary, setup.config, device=device, precision=precision
        )
        for beam in BEAMS:
            taken = seconds_to_caption(captioner, pixels[:count], beam)
            speeds.append(Speed(str(device), precision, beam, count, count / taken))
            say(f"{device} {precision}, beam {beam}: {speeds[-1].captions:.1f} captions/s")
    return speeds


def seconds_to_caption(captioner: TorchCaptioner, pixels: np.ndarray, beam: int) -> float:
    """Return the seconds that all images take, after a batch to warm up."""
    batches = [pixels[start : start + BATCH] for start in range(0, len(pixels), BATCH)]
    decoding = {"method": "beam", "beam": beam}
    captioner.caption_pixels(batches[0], decoding=decoding)
    synchronize(captioner.device)
    start = time.perf_counter()
    for batch in batches:
        captioner.caption_pixels(batch, decoding=decoding)
    synchronize(captioner.device)
    return time.perf_counter() - start
