"""Twenty thousand photographs in one run take no more memory than one thousand."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.row(32)

IMAGES = 20_000


def resident(process):
    """Memory that a process holds, in bytes."""
    fields = Path(f"/proc/{process.pid}/status").read_text().split("VmRSS:")[1].split()
    return int(fields[0]) * 1024


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.skipif(
    not Path("/proc/self/status").exists(),
    reason="this system does not tell how much memory is held",
)
def test_memory_stays_flat_over_many_images(shapes, untrained, tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    photos = sorted((shapes / "train").iterdir()) + sorted((shapes / "dev").iterdir())
    for number in range(IMAGES):
        os.link(photos[number % len(photos)], folder / f"{number:05}.png")
    options = ["--model", untrained(), "--device", "cpu", "--beam", "1", "--max-length", "3"]
    command = [
        sys.executable,
        "-m",
        "captioner",
        "caption",
        folder,
        *options,
        "--output",
        tmp_path / "said.jsonl",
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        held = []
        for number, _ in enumerate(process.stdout, 1):
            if number % 1000 == 0 and number < IMAGES:
                held.append(resident(process))
    assert process.returncode == 0
    assert number == IMAGES
    print(f"MiB after each thousand images: {[memory >> 20 for memory in held]}")
    assert max(held) - held[0] < 100e6
