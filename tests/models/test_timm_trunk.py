"""Trunks of the package timm: the grid, the stages, the pixels and the weights of its models."""

from importlib.util import find_spec

import pytest
import torch
from torch import nn

from captioner import Captioner, train
from captioner.config.schema import ImageEncoderConfig
from captioner.errors import CaptionerError, MissingPackageError, UsageError
from captioner.models import timm_trunk
from captioner.models.encoder import ImageEncoder
from captioner.models.folder import load_config, read_config
from captioner.models.folding import fold_batch_norms
from captioner.models.timm_stages import find_stages
from captioner.models.timm_trunk import with_pixels

pytestmark = pytest.mark.skipif(find_spec("timm") is None, reason="timm is not installed")

IMAGES = torch.randint(
    0, 256, (2, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
)
SIZE = 64  # most test models of timm were trained with 160 pixels


@pytest.fixture(scope="session")
def timm():
    """The package, which takes seconds to import: not when tests are collected."""
    return pytest.importorskip("timm")


def encoder_of(name, **settings):
    torch.manual_seed(0)
    return ImageEncoder(trunk=f"timm/{name}", **{"image_size": SIZE} | settings).eval()


def of_timm(name, encoder, **settings):
    """The same model with the same weights, created by timm."""
    from timm import create_model

    model = create_model(name, num_classes=0, **settings).eval()
    model.load_state_dict(encoder.trunk.state_dict(), strict=False)
    return model


def normalised(images, model):
    """Pixels as timm's documentation says: (pixel / 255 - mean) / std."""
    mean, std = (torch.tensor(model.pretrained_cfg[key]).view(3, 1, 1) for key in ("mean", "std"))
    return (images / 255 - mean) / std


def learning(encoder):
    return {name for name, weight in encoder.trunk.named_parameters() if weight.requires_grad}


@torch.no_grad()
def test_the_grid_is_what_timm_pools_in_all_layouts_of_features():
    # (B, C, h, w); (B, h, w, C); tokens (B, 1 + P, C), of which the first is that of the class
    for name, settings, grid in [
        ("test_resnet", {}, lambda features: features.flatten(2).transpose(1, 2)),
        ("test_mambaout", {}, lambda features: features.flatten(1, 2)),
        ("test_vit", {"img_size": SIZE}, lambda features: features[:, 1:]),
    ]:
        encoder = encoder_of(name)
        model = of_timm(name, encoder, **settings)
        expected = grid(model.forward_features(normalised(IMAGES, model)))
        assert expected.shape[2] == encoder.memory_size
        torch.testing.assert_close(encoder(IMAGES).grid, expected, rtol=1e-4, atol=1e-4)


def test_a_grid_keeps_the_rows_and_columns_of_the_image():
    tokens = torch.arange(5.0).view(1, 5, 1)  # the class, and 2 x 2 patches
    model = nn.Module()
    model.num_prefix_tokens = 1
    assert timm_trunk._as_map(model, tokens).tolist() == [[[[1, 2], [3, 4]]]]


@pytest.mark.parametrize(
    ("features", "reason"),
    [
        ((torch.zeros(1, 5, 2), torch.zeros(1, 2, 2)), "several tensors"),
        (torch.zeros(1, 2), "2 dimensions"),
        (torch.zeros(1, 7, 2), "7 tokens are no square"),
        (torch.zeros(1, 1, 2), "1 tokens are no square"),
    ],
)
def test_features_that_are_no_grid_are_refused_with_the_reason(timm, features, reason, monkeypatch):
    model = nn.Module()
    model.cls_token = nn.Parameter(torch.zeros(1))
    model.forward_features = lambda images: features
    monkeypatch.setattr(timm, "create_model", lambda *args, **settings: model)
    with pytest.raises(UsageError, match=rf"timm/test_vit gives no grid.*{reason}.*timm/resnet50"):
        encoder_of("test_vit")


def test_stages_are_those_of_timms_feature_info_after_a_stem():
    stages = encoder_of("test_resnet").layout.stages
    assert [*stages] == ["stem", "layer1", "layer2", "layer3", "layer4"]
    assert stages["stem"] == ("conv1", "bn1", "act1")
    stages = encoder_of("test_efficientnet").layout.stages
    assert [*stages] == ["stem", *(f"blocks.{number}" for number in range(5)), "head"]
    assert "conv_head" in stages["head"]


def test_the_stem_ends_where_the_first_stage_begins_however_the_model_is_built():
    class Model(nn.Module):
        feature_info = ({"module": "stem.1"}, {"module": "stages.0"}, {"module": "pool"})

        def __init__(self):
            super().__init__()
            self.stem = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Sequential(nn.Conv2d(4, 4, 3)))
            self.stages = nn.Sequential(nn.Sequential(nn.Conv2d(4, 4, 3)))
            self.pool, self.norm = nn.Identity(), nn.BatchNorm2d(4)

    assert find_stages(Model()) == {
        "stem": ("stem.0", "stem.1"),
        "stages.0": ("stages.0",),
        "head": ("pool", "norm"),  # the output of `pool` is listed, but it has no weights
    }
    model = Model()
    model.feature_info = [{"module": "block.0"}]  # there is no such module
    assert [*find_stages(model)] == ["stem", "stem.1", "stages.0", "head"]


def test_finetuning_from_a_stage_lets_it_and_the_later_ones_learn():
    encoder = encoder_of("test_vit")
    encoder.finetune("blocks.4")
    assert "norm.weight" in learning(encoder)
    assert {name.split(".")[1] for name in learning(encoder) if "blocks" in name} == {"4", "5"}
    assert not {"pos_embed", "cls_token", "patch_embed.proj.weight"} & learning(encoder)
    encoder(IMAGES).summary.sum().backward()
    assert encoder.trunk.blocks[4].mlp.fc1.weight.grad is not None
    assert encoder.trunk.blocks[3].mlp.fc1.weight.grad is None
    encoder.finetune("stem")
    assert learning(encoder) == {name for name, _ in encoder.trunk.named_parameters()}
    encoder.finetune(None)
    assert not learning(encoder)
    with pytest.raises(UsageError, match=r"no stage 'blocks.9': choose one of stem, blocks.0"):
        encoder.finetune("blocks.9")


@pytest.mark.parametrize("name", ["test_convnext", "test_efficientnet", "test_vit3"])
def test_every_weight_that_learns_gets_a_gradient(name):
    # ranks would wait for the others; these models have layers that only a classifier reads
    encoder = encoder_of(name)
    encoder.finetune("stem")
    encoder(IMAGES).summary.square().sum().backward()
    assert [key for key, weight in encoder.named_parameters() if weight.grad is None] == []


def test_the_batch_norms_of_frozen_stages_keep_their_statistics():
    encoder = encoder_of("test_efficientnet", train_batch_norm=True)
    encoder.finetune("blocks.2")
    encoder.train()
    before = {name: value.clone() for name, value in encoder.trunk.named_buffers()}
    encoder(IMAGES)
    changed = {
        name
        for name, value in encoder.trunk.named_buffers()
        if name.endswith("running_mean") and not torch.equal(value, before[name])
    }
    assert {name.split(".")[1] for name in changed if "blocks" in name} == {"2", "3", "4"}
    assert "bn1.running_mean" not in changed


@torch.no_grad()
def vary_norms(encoder):
    """Set the batch norms as no initialisation does, so that folding them wrongly shows."""
    for module in encoder.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.weight.uniform_(0.5, 1.5)
            module.bias.uniform_(-0.5, 0.5)
            module.running_mean.uniform_(-0.2, 0.2)
            module.running_var.uniform_(0.5, 1.5)


@torch.no_grad()
@pytest.mark.parametrize("name", ["test_resnet", "test_efficientnet", "test_byobnet"])
def test_batch_norms_are_folded_with_the_activation_in_which_they_end(name):
    encoder = encoder_of(name)
    vary_norms(encoder)
    folded = fold_batch_norms(encoder)
    before, after = (
        sum(isinstance(module, nn.BatchNorm2d) for module in each.modules())
        for each in (encoder, folded)
    )
    assert after <= before / 10
    torch.testing.assert_close(folded(IMAGES).grid, encoder(IMAGES).grid, rtol=1e-3, atol=1e-3)


class NormFirst(nn.Module):
    """It lists its convolution before its norm, and runs them the other way round."""

    pretrained_cfg = None

    def __init__(self, channels):
        super().__init__()
        self.convolution, self.norm = nn.Conv2d(3, channels, 3, stride=2), nn.BatchNorm2d(3)

    def forward_features(self, x):
        return self.convolution(self.norm(x))


@torch.no_grad()
@pytest.mark.parametrize("channels", [3, 8])
def test_a_model_that_runs_its_modules_in_another_order_is_not_folded(timm, channels, monkeypatch):
    monkeypatch.setattr(timm, "create_model", lambda *args, **settings: NormFirst(channels))
    encoder = encoder_of("test_resnet")
    vary_norms(encoder)
    folded = fold_batch_norms(encoder)
    torch.testing.assert_close(folded(IMAGES).grid, encoder(IMAGES).grid)
    assert isinstance(folded.trunk.norm, nn.BatchNorm2d)


def test_other_norms_are_left_alone():
    encoder = encoder_of("test_convnext")
    names = [type(module).__name__ for module in encoder.trunk.modules()]
    assert [type(module).__name__ for module in fold_batch_norms(encoder).trunk.modules()] == names


def test_pixels_are_those_that_the_model_was_trained_with_unless_they_are_given():
    # test_resnet: 160 pixels, a mean and a standard deviation of 0.5
    found = with_pixels(ImageEncoderConfig(trunk="timm/test_resnet"))
    assert (found.image_size, found.mean, found.std) == (160, (0.5,) * 3, (0.5,) * 3)
    own = ImageEncoderConfig(trunk="timm/test_resnet", image_size=224, mean=(0.1, 0.2, 0.3))
    found = with_pixels(own)
    assert (found.image_size, found.mean, found.std) == (224, (0.1, 0.2, 0.3), (0.5,) * 3)
    others = ImageEncoderConfig(trunk="resnet18")
    assert with_pixels(others) is others


def test_a_mean_and_deviation_that_are_given_are_used_by_any_trunk():
    encoder = ImageEncoder(trunk="small_cnn", mean=(0, 0.5, 1), std=(1, 0.5, 0.25))
    assert encoder.mean.flatten().tolist() == [0, 127.5, 255]
    assert encoder.std.flatten().tolist() == [255, 127.5, 63.75]


def test_weights_of_a_file_are_loaded_without_their_classifier(timm, tmp_path):
    torch.manual_seed(1)
    model = timm.create_model("test_resnet").eval()
    torch.save(model.state_dict(), tmp_path / "whole.pth")
    encoder = encoder_of("test_resnet")
    encoder.load_trunk(str(tmp_path / "whole.pth"))
    expected = model.state_dict()
    own = encoder.trunk.state_dict()
    assert own.keys() == {name for name in expected if not name.startswith("fc.")}
    assert all(torch.equal(value, expected[name]) for name, value in own.items())
    state = dict(expected)
    del state["layer3.0.conv1.weight"]
    torch.save(state, tmp_path / "holed.pth")
    with pytest.raises(
        CaptionerError,
        match=r"holed.pth does not fit encoder.trunk=timm/test_resnet: .*layer3\.0\.conv1\.weight",
    ) as raised:
        encoder.load_trunk(str(tmp_path / "holed.pth"))
    assert "\n" not in str(raised.value)


def test_a_position_embedding_is_adapted_to_the_size_of_the_images(timm, tmp_path):
    model = timm.create_model("test_vit")  # 160 pixels are 10 x 10 patches
    torch.save(model.state_dict(), tmp_path / "vit.pth")
    encoder = encoder_of("test_vit")
    encoder.load_trunk(str(tmp_path / "vit.pth"))
    assert encoder.trunk.pos_embed.shape == (1, 1 + 4 * 4, 64)
    position = model.pos_embed[:, 1:].mean(), encoder.trunk.pos_embed[:, 1:].mean()
    torch.testing.assert_close(*position, atol=1e-2, rtol=0)
    assert torch.equal(encoder.trunk.blocks[0].attn.qkv.weight, model.blocks[0].attn.qkv.weight)


def test_pretrained_weights_that_cannot_be_downloaded_are_one_line_with_the_way_out(
    timm, monkeypatch, tmp_path
):
    import huggingface_hub

    class Offline:
        def model_info(self, repository, timeout):
            raise ConnectionError("no\nnetwork")

    monkeypatch.setattr(huggingface_hub, "HfApi", Offline)
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *names: None)
    encoder = encoder_of("test_resnet")
    with pytest.raises(
        CaptionerError,
        match=r"timm/test_resnet could not be downloaded from https://huggingface.co/timm/"
        r"test_resnet\.r160_in1k \(no network\): .* set encoder.weights to its path, or to none$",
    ):
        encoder.load_trunk("default")
    model = timm.create_model("test_resnet")
    torch.save(model.state_dict(), tmp_path / "cached.bin")
    cached = str(tmp_path / "cached.bin")
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *names: cached)
    encoder.load_trunk("default")  # asks no network
    assert torch.equal(encoder.trunk.conv1[0].weight, model.conv1[0].weight)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("convnext_tny", "has no model convnext_tny: did you mean convnext_tiny"),
        ("convnext_tiny.fb_in1", "no weights 'fb_in1' of convnext_tiny: did you mean fb_in1k"),
        ("qqqqqq", "has no model qqqqqq; timm.list_models"),
    ],
)
def test_a_name_that_timm_does_not_have_is_named_with_the_nearest(name, message):
    with pytest.raises(UsageError, match=message):
        encoder_of(name)


def test_a_size_that_a_model_cannot_take_is_named_with_its_own():
    with pytest.raises(UsageError, match=r"image_size=8 does not fit .*test_vit .* set it to 160"):
        encoder_of("test_vit", image_size=8)


def test_timm_is_named_where_it_is_not_installed(monkeypatch):
    monkeypatch.setattr(timm_trunk, "find_spec", lambda name: None)
    with pytest.raises(
        MissingPackageError,
        match=r"^encoder.trunk=timm/resnet18 needs the package timm, .*: pip install 'timm>=1.0'$",
    ):
        encoder_of("resnet18")


def run_config(tiny, trunk, **training):
    phases = [{"epochs": 1}, {"epochs": 2, "finetune_from": "stem"}]
    return tiny(
        encoder={"trunk": f"timm/{trunk}", "weights": "none"},
        training={"phases": phases} | training,
    )


@pytest.mark.slow
@pytest.mark.parametrize("trunk", ["test_resnet", "test_convnext", "test_vit", "test_mambaout"])
def test_a_trained_model_captions_from_its_folder_without_the_settings_of_timm(
    timm, tiny, trunk, photo, tmp_path, monkeypatch
):
    config = run_config(tiny, trunk)
    best = train(config, device="cpu")
    stored = read_config(best)["encoder"]
    assert stored["image_size"] == 32
    assert stored["mean"] == list(timm.get_pretrained_cfg(f"{trunk}").mean)
    captioner = Captioner.from_pretrained(best, device="cpu", backend="torch")
    caption = captioner.caption(photo)
    changed = timm.models.get_pretrained_cfg(trunk)
    changed.mean, changed.std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    monkeypatch.setattr(timm.models, "get_pretrained_cfg", lambda name: changed)
    again = Captioner.from_pretrained(best, device="cpu", backend="torch").caption(photo)
    assert (again.text, again.log_prob) == (caption.text, caption.log_prob)
    continued = load_config(config.output / "config.yaml", [f"init={best}"])
    assert continued.encoder.mean == tuple(stored["mean"])


@pytest.mark.slow
@pytest.mark.parametrize(
    "trunk", ["test_resnet", "test_efficientnet", "test_convnext", "test_vit", "test_mambaout"]
)
def test_an_exported_model_computes_what_pytorch_computes(tiny, trunk, tmp_path):
    pytest.importorskip("onnx")
    from captioner.export.onnx import write_graphs
    from captioner.export.verify import TOLERANCE, compare_backends

    best = train(run_config(tiny, trunk), device="cpu")
    assert compare_backends(best, write_graphs(best)).difference <= TOLERANCE


GRIDS = (
    *("resnet18", "resnetv2_50", "res2net50_26w_4s", "mobilenetv3_small_100", "efficientnet_b0"),
    *("regnety_002", "densenet121", "vgg11", "repvgg_a0", "convnext_atto", "mobilevit_xxs"),
    *("swin_tiny_patch4_window7_224", "vit_tiny_patch16_224", "vit_small_patch16_dinov3"),
    *("deit_tiny_distilled_patch16_224", "mixer_s32_224", "xcit_nano_12_p16_224", "levit_128s"),
    *("pvt_v2_b0", "hiera_tiny_224", "volo_d1_224", "mvitv2_tiny", "edgenext_xx_small"),
    *("poolformer_s12", "hrnet_w18_small", "ghostnet_100", "visformer_tiny", "mambaout_femto"),
)


@pytest.mark.slow
@pytest.mark.parametrize("name", GRIDS)
def test_models_of_many_architectures_give_a_grid_and_freeze_by_stages(name):
    encoder = ImageEncoder(trunk=f"timm/{name}").eval()
    size = encoder.layout.image_size
    images = torch.randint(0, 256, (1, 3, size, size), dtype=torch.uint8)
    with torch.no_grad():
        grid = encoder(images).grid
        vary_norms(encoder)
        folded = fold_batch_norms(encoder)
        expected = encoder(images).grid
        assert (folded(images).grid - expected).abs().max() <= 0.01 * expected.abs().max()
    assert grid.shape[2] == encoder.memory_size
    assert grid.shape[1] >= 4
    counts = []
    for stage in encoder.layout.stages:
        encoder.finetune(stage)
        trained = [weight for weight in encoder.parameters() if weight.requires_grad]
        counts.append(sum(weight.numel() for weight in trained))
    assert counts[0] == sum(weight.numel() for weight in encoder.parameters())
    assert counts == sorted(counts, reverse=True)
    assert len({*counts}) == len(counts) >= 3  # each stage has weights


@pytest.mark.slow
@pytest.mark.parametrize("name", ["pit_ti_224", "crossvit_tiny_240", "coat_tiny"])
def test_models_without_a_grid_are_refused(name):
    with pytest.raises(UsageError, match=f"timm/{name} gives no grid of features"):
        ImageEncoder(trunk=f"timm/{name}")
