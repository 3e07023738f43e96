"""Checking many images takes little memory."""

import os
import subprocess
import sys

import pytest

pytestmark = [
    pytest.mark.row(33),
    pytest.mark.slow,
    pytest.mark.skipif(
        not os.path.exists("/proc/self/status"), reason="this system does not report peak memory"
    ),
]

IMAGES, PER_IMAGE = 8_000, 5_000  # bytes of growth: 500 MB for a hundred thousand

PROGRAM = r"""
import contextlib, re, sys, typer
from captioner.cli import check  # imported first: memory of imports does not count
from pathlib import Path
from pycocotools.coco import COCO
def peak():
    status = Path("/proc/self/status").read_text()
    return 1024 * int(re.search(r"VmHWM:\s+(\d+)", status)[1])
before = peak()
with contextlib.suppress(typer.Exit):  # the copies are duplicates, which is a problem
    check.check(Path(sys.argv[1]), as_json=True)
print(peak() - before, file=sys.stderr)
"""


def test_a_check_grows_by_less_than_five_kilobytes_an_image(data_set):
    annotations = data_set.content["train"]
    annotations["images"], annotations["annotations"] = [], []
    for number in range(IMAGES):
        os.link(
            data_set.folder / "images" / f"{1 + number % 8}.jpg",
            data_set.folder / "images" / f"copy{number}.jpg",
        )
        annotations["images"].append({"id": number, "file_name": f"copy{number}.jpg"})
        for _ in range(5):
            data_set.caption(
                "train", number, f"a dog runs to the {number}th of many trees in the park"
            )
    data_set.write()
    command = [sys.executable, "-c", PROGRAM, str(data_set.folder / "train.json")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    growth = int(done.stderr.splitlines()[-1])
    print(f"{growth / 1e6:.0f} MB for {IMAGES:,} images")
    assert growth < IMAGES * PER_IMAGE
