"""The encoder's laws: which stages learn, whose statistics drift, and what may be loaded."""

import pytest
import torch
import torchvision
from torch import nn

from captioner.errors import CaptionerError, UsageError
from captioner.models.backbones import TRUNKS
from captioner.models.build import load_model
from captioner.models.encoder import ImageEncoder
from captioner.models.folding import fold_batch_norms

IMAGES = torch.randint(
    0, 256, (2, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
)


@pytest.fixture(scope="module")
def resnet18_file(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "resnet18.pth"
    torch.save(torchvision.models.resnet18().state_dict(), path)
    return path


def test_the_summary_is_what_torchvision_pools(resnet18_file):
    encoder = ImageEncoder(trunk="resnet18").eval()
    encoder.load_trunk(str(resnet18_file))
    original = torchvision.models.resnet18()
    original.load_state_dict(torch.load(resnet18_file, weights_only=True))
    original.fc = nn.Identity()
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    pixels = (IMAGES / 255 - mean.view(3, 1, 1)) / std.view(3, 1, 1)
    memory = encoder(IMAGES)
    torch.testing.assert_close(memory.summary, original.eval()(pixels), rtol=1e-4, atol=1e-4)
    assert memory.grid.shape == (2, 4, 512)
    assert memory.mask.all()


@pytest.mark.parametrize("trunk", ["resnet18", "resnet50", "mobilenet_v2"])
def test_a_model_folder_names_the_trunk_as_torchvision_does(trunk):
    names = torchvision.models.get_model(trunk).state_dict()
    without_classifier = {name for name in names if not name.startswith(("fc.", "classifier."))}
    assert ImageEncoder(trunk=trunk).state_dict().keys() == {
        f"trunk.{name}" for name in without_classifier
    }


def test_cached_features_give_the_memory_that_the_images_gave():
    encoder = ImageEncoder(trunk="resnet18").eval()
    seen = encoder(IMAGES)
    again = encoder(encoder.features(IMAGES))
    pooled = encoder(encoder.features(IMAGES).mean(dim=1, keepdim=True))
    torch.testing.assert_close(again.summary, seen.summary)
    torch.testing.assert_close(pooled.summary, seen.summary)


@pytest.mark.parametrize("trunk", ["resnet18", "resnet50", "mobilenet_v2", "small_cnn"])
def test_folding_batch_norms_changes_nothing_but_the_time(trunk):
    torch.manual_seed(0)
    encoder = ImageEncoder(trunk=trunk, train_batch_norm=True)
    encoder.finetune("stem")
    with torch.no_grad():
        encoder.train()(IMAGES)  # so that the norms have something to fold
        expected = encoder.eval()(IMAGES).summary
        folded = fold_batch_norms(encoder)
        torch.testing.assert_close(folded(IMAGES).summary, expected, rtol=1e-3, atol=1e-4)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
    assert any(isinstance(module, nn.BatchNorm2d) for module in encoder.modules())


@pytest.mark.parametrize("trunk", sorted(TRUNKS))
def test_every_trunk_gives_as_many_channels_as_it_says(trunk):
    encoder = ImageEncoder(trunk=trunk).eval()
    with torch.inference_mode():
        assert encoder(IMAGES[:1]).summary.shape == (1, encoder.memory_size)


def test_a_frozen_trunk_does_not_drift_its_batch_norms_neither():
    encoder = ImageEncoder(trunk="resnet18", train_batch_norm=True).train()
    before = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    memory = encoder(IMAGES)
    assert not memory.summary.requires_grad
    for name, tensor in encoder.state_dict().items():
        torch.testing.assert_close(tensor, before[name])


def test_finetuning_from_a_stage_lets_it_and_the_later_ones_learn():
    encoder = ImageEncoder(trunk="resnet18", train_batch_norm=True).train()
    encoder.finetune("layer3")
    learning = {
        name.split(".")[1] for name, weight in encoder.named_parameters() if weight.requires_grad
    }
    assert learning == {"layer3", "layer4"}
    before = (
        encoder.trunk.layer2[0].bn1.running_mean.clone(),
        encoder.trunk.layer3[0].bn1.running_mean.clone(),
    )
    encoder(IMAGES).summary.sum().backward()
    torch.testing.assert_close(encoder.trunk.layer2[0].bn1.running_mean, before[0])
    assert not torch.allclose(encoder.trunk.layer3[0].bn1.running_mean, before[1])
    assert encoder.trunk.layer3[0].conv1.weight.grad is not None


def test_pretrained_batch_norms_keep_their_statistics_while_their_stage_learns():
    encoder = ImageEncoder(trunk="resnet18").train()
    encoder.finetune("stem")
    before = encoder.trunk.bn1.running_mean.clone()
    encoder(IMAGES).summary.sum().backward()
    torch.testing.assert_close(encoder.trunk.bn1.running_mean, before)
    assert encoder.trunk.conv1.weight.grad is not None


def test_an_unknown_stage_is_named_with_the_known_ones():
    with pytest.raises(UsageError, match="no stage 'layer9': choose one of stem, layer1"):
        ImageEncoder(trunk="resnet18").finetune("layer9")


def test_weights_are_loaded_strictly_but_for_the_classifier(tmp_path, resnet18_file):
    state = torch.load(resnet18_file, weights_only=True)
    del state["fc.weight"]
    torch.save(state, tmp_path / "no-classifier.pth")
    ImageEncoder(trunk="resnet18").load_trunk(str(tmp_path / "no-classifier.pth"))
    del state["layer3.0.conv1.weight"]
    torch.save(state, tmp_path / "holed.pth")
    with pytest.raises(
        CaptionerError, match=r"does not fit encoder.trunk=resnet18.*layer3\.0\.conv1\.weight"
    ):
        ImageEncoder(trunk="resnet18").load_trunk(str(tmp_path / "holed.pth"))


def test_half_precision_weights_become_single(tmp_path, resnet18_file):
    state = {
        name: tensor.half() for name, tensor in torch.load(resnet18_file, weights_only=True).items()
    }
    torch.save(state, tmp_path / "half.pth")
    encoder = ImageEncoder(trunk="resnet18")
    encoder.load_trunk(str(tmp_path / "half.pth"))
    assert encoder.trunk.conv1.weight.dtype == torch.float32


class Canary:
    """Would create a file if it were unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_a_malicious_weights_file_is_never_executed(tmp_path):
    torch.save({"conv1.weight": Canary(tmp_path / "executed")}, tmp_path / "evil.pth")
    with pytest.raises(CaptionerError, match=r"evil\.pth is not a state dict of tensors"):
        ImageEncoder(trunk="resnet18").load_trunk(str(tmp_path / "evil.pth"))
    assert not (tmp_path / "executed").exists()


def test_a_missing_weights_file_is_named(tmp_path):
    with pytest.raises(CaptionerError, match="there is no such file"):
        ImageEncoder(trunk="resnet18").load_trunk(str(tmp_path / "nothing.pth"))


def test_the_trunk_of_a_model_folder_serves_as_weights(tiny_model):
    trained = load_model(tiny_model).model.encoder
    encoder = ImageEncoder(trunk="small_cnn")
    encoder.load_trunk(str(tiny_model))
    own, expected = encoder.trunk.state_dict(), trained.trunk.state_dict()
    assert own.keys() == expected.keys()
    assert all(torch.equal(own[name], expected[name]) for name in own)
    with pytest.raises(CaptionerError, match="does not fit encoder"):
        ImageEncoder(trunk="resnet18").load_trunk(str(tiny_model))
