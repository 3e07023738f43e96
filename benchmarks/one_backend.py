"""What captioning costs with one backend, in a process of its own, as JSON on one line.

    python -m benchmarks.one_backend BACKEND MODEL PHOTO...

`benchmarks.backends` runs this for both backends. The time of the imports counts, so
this file imports nothing at its head but the standard library.
"""

from __future__ import annotations

import json
import resource
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from captioner import Captioner

BATCH = 16  # images of the encoder's batch
BEAMS = 4  # of each image in the step
REPEATS = {"encoder": 5, "step": 50}  # the median counts
_MAXRSS_PER_MB = 10**6 if sys.platform == "darwin" else 10**6 / 1024  # bytes, else KiB

Backend = Literal["torch", "onnx"]

LOAD = "import and load: CPU seconds"
MANY = "{} photographs: "
ENCODER = f"encoder, batches of {BATCH}: ms an image"
STEP = f"one step of {BATCH * BEAMS} beams: ms"


def measure_backend(backend: Backend, model: Path, files: Sequence[Path]) -> dict[str, float]:
    """Return the costs of a backend in this process, which has not captioned before."""
    start = time.process_time()
    from captioner import Captioner

    captioner = Captioner.from_pretrained(model, device="cpu", backend=backend)
    costs = {LOAD: time.process_time() - start}
    captioner.caption(files[:BATCH])  # the warm-up
    cpu, wall = time.process_time(), time.perf_counter()
    captioner.caption(files)
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    many = MANY.format(len(files))
    costs |= {
        f"{many}images a second": len(files) / wall,
        f"{many}CPU ms an image": cpu / len(files) * 1e3,
        # before the parts are measured, which take memory of their own
        f"{many}peak MB": peak_megabytes(resource.getrusage(resource.RUSAGE_SELF)),
    }
    return costs | _measure_parts(captioner, backend, model)


def peak_megabytes(usage: resource.struct_rusage) -> float:
    """Return the most memory that a process has used."""
    return usage.ru_maxrss / _MAXRSS_PER_MB


def _measure_parts(captioner: Captioner, backend: Backend, model: Path) -> dict[str, float]:
    """Return the time of the encoder and of a step of the decoder, on random images."""
    import numpy as np

    size = captioner.config.encoder.image_size  # type: ignore[union-attr]
    shape = (BATCH, 3, size, size)
    pixels: Any = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    rows: Any = np.repeat(np.arange(BATCH), BEAMS)  # (N,) the image of each beam
    token_ids: Any = np.full(len(rows), 4)  # any word
    parts: Any  # have init_state and step
    with ExitStack() as stack:
        if backend == "onnx":
            from captioner.runtime.graphs import Graphs

            parts = Graphs(model)
        else:
            import torch

            from captioner.config.schema import INFERENCE
            from captioner.devices import autocast

            parts = captioner.step_model
            stack.enter_context(torch.inference_mode())
            stack.enter_context(autocast(captioner.device, INFERENCE.precision))
            pixels, rows, token_ids = map(torch.from_numpy, (pixels, rows, token_ids))
        state = tuple(part[rows] for part in parts.init_state(pixels))
        encode = _median_seconds(lambda: parts.init_state(pixels), REPEATS["encoder"])
        step = _median_seconds(lambda: parts.step(token_ids, state), REPEATS["step"])
    return {ENCODER: encode / BATCH * 1e3, STEP: step * 1e3}


def _median_seconds(work: Callable[[], object], repeats: int) -> float:
    """Return the median of the times of `work`, after a warm-up."""
    times = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:])


if __name__ == "__main__":
    backend, model, *files = sys.argv[1:]
    costs = measure_backend(backend, Path(model), [Path(file) for file in files])  # type: ignore[arg-type]
    print(json.dumps(costs))
