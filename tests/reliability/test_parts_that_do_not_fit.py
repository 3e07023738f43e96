"""Weights, words, settings and versions that do not belong together: strict, and explained."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from trainings import small

from captioner import Captioner
from captioner.config.schema import DecodingConfig
from captioner.errors import CaptionerError, UsageError
from captioner.models.folder import FORMAT_VERSION, read_model, write_config
from captioner.storage import write_checksums
from captioner.training.checkpoint import checkpoints
from captioner.training.train import train

pytestmark = pytest.mark.row(23)


def edit_json(file, **changes):
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def lose_a_word(folder):
    words = json.loads((folder / "vocab.json").read_text())["words"]
    edit_json(folder / "vocab.json", words=words[:-1])


def lose_a_tensor(folder):
    tensors = load_file(folder / "model.safetensors")
    tensors.pop("decoder.embedding.weight")
    save_file(tensors, folder / "model.safetensors")


def add_a_tensor(folder):
    tensors = load_file(folder / "model.safetensors")
    save_file(tensors | {"decoder.invented": torch.zeros(1)}, folder / "model.safetensors")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lose_a_word,
            r"vocab\.json \(\d+ words, \w{12}\) is not the one this model was trained with "
            r"\(\w{12}\)",
        ),
        (lose_a_tensor, r"do not fit the config: Missing key.*decoder\.embedding\.weight"),
        (add_a_tensor, r"do not fit the config: Unexpected key.*decoder\.invented"),
        (lambda folder: edit_json(folder / "config.json", invented=1), "unknown key 'invented'"),
        (
            lambda folder: edit_json(folder / "config.json", format_version=99),
            "format version 99, .*upgrade captioner",
        ),
        (
            lambda folder: edit_json(folder / "config.json", format_version="two"),
            "version two, .*copy the whole",
        ),
        (
            lambda folder: (folder / "config.json").write_text("[]"),
            r"config\.json is not a captioner model config",
        ),
    ],
)
def test_a_model_folder_of_parts_that_do_not_fit_is_explained(
    tiny_model, tmp_path, change, message
):
    shutil.copytree(tiny_model, tmp_path / "model")
    change(tmp_path / "model")
    write_checksums(tmp_path / "model")  # with the right checksums
    with pytest.raises(CaptionerError, match=message):
        Captioner.from_pretrained(tmp_path / "model")


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"decoder": {"hidden_size": 24}}, r"do not fit the config: size mismatch.*32.*48"),
        (
            {"training": {"phases": [{"epochs": 1, "finetune_from": "stem"}]}},
            "resume with the training.phases that the run started with",
        ),
    ],
)
def test_a_checkpoint_that_does_not_fit_the_settings_of_the_resumed_run_is_explained(
    tiny, sections, message
):
    train(small(tiny, training={"max_steps": 1}), device="cpu")
    with pytest.raises(CaptionerError, match=message):
        train(small(tiny, **sections), device="cpu", resume="auto")


def test_a_checkpoint_of_a_phase_that_the_config_lacks_is_explained(tiny):
    train(small(tiny, training={"max_steps": 4}), device="cpu")
    with pytest.raises(
        UsageError,
        match=r"checkpoint-4 is of phase 2, but training\.phases has 1: resume with the phases",
    ):
        train(small(tiny, training={"phases": [{"epochs": 1}]}), device="cpu", resume="auto")


def test_a_checkpoint_of_a_newer_captioner_is_explained(tiny, tmp_path):
    train(small(tiny, training={"max_steps": 1}), device="cpu")
    place = checkpoints(tmp_path / "run")[-1]
    state = torch.load(place / "training.pt", weights_only=True)
    state["progress"]["invented"] = 1
    torch.save(state, place / "training.pt")
    write_checksums(place)
    with pytest.raises(
        CaptionerError, match=r"is not the state of a training that this version reads \(.*invented"
    ):
        train(small(tiny), device="cpu", resume="auto")


def as_version_1(folder):
    """Write a folder in format version 1: other names of RNN weights, another length norm."""
    tensors = load_file(folder / "model.safetensors")
    save_file(
        {name.replace("rnn.layers.0.", "rnn."): tensor for name, tensor in tensors.items()},
        folder / "model.safetensors",
    )
    edit_json(
        folder / "config.json",
        format_version=1,
        decoding={"beam": 2, "max_length": 9, "length_alpha": 0.7},
    )
    write_checksums(folder)


def test_a_model_of_an_older_version_is_read_and_saved_in_the_current_format(
    tiny_model, shapes, tmp_path
):
    folder = tmp_path / "older"
    shutil.copytree(tiny_model, folder)
    as_version_1(folder)
    photos, found_by = sorted((shapes / "dev").iterdir())[:3], {"beam": 2, "max_length": 9}
    today, older = (
        [
            caption.text
            for caption in Captioner.from_pretrained(place).caption(photos, decoding=found_by)
        ]
        for place in (tiny_model, folder)
    )
    assert older == today
    config, _, _, state = read_model(folder)
    assert config.decoding == DecodingConfig(beam=2, max_length=9)
    write_config(folder, config)
    assert json.loads((folder / "config.json").read_text())["format_version"] == FORMAT_VERSION
    assert (
        load_file(folder / "model.safetensors").keys()
        == state.keys()
        == read_model(tiny_model).state.keys()
    )


def test_a_model_of_version_1_with_several_layers_is_refused(tiny_model, tmp_path):
    shutil.copytree(tiny_model, tmp_path / "older")
    as_version_1(tmp_path / "older")
    edit_json(tmp_path / "older" / "config.json", decoder={"layers": 2})
    write_checksums(tmp_path / "older")
    with pytest.raises(
        CaptionerError, match=r"several layers had no residual connections, .*: train the model"
    ):
        Captioner.from_pretrained(tmp_path / "older")
