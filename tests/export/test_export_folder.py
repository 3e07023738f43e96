"""An exported folder: nothing wrong is published, and its page works as it is written."""

import json
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image, ImageOps

from captioner import Captioner, CaptionerError, UsageError
from captioner.export.folder import export_model
from captioner.locking import Lock
from captioner.storage import write_checksums

pytestmark = pytest.mark.usefixtures("few_sources")


def test_an_export_is_a_model_folder_for_torch_too(untrained, tmp_path):
    tiny_model = untrained(trunk="resnet18")
    export_model(tiny_model, tmp_path / "exported")
    image = Image.effect_mandelbrot((40, 40), (-2, -1.5, 1, 1.5), 50)
    captions = [
        Captioner.from_pretrained(folder, device="cpu").caption(image)
        for folder in (tiny_model, tmp_path / "exported")
    ]
    assert captions[0].text == captions[1].text
    # nothing but what it says of itself is new
    config = [
        json.loads((f / "config.json").read_text()) for f in (tiny_model, tmp_path / "exported")
    ]
    assert config[0] == config[1]


def test_the_model_card_is_kept_beside_the_page_about_the_graphs(tiny_model, tmp_path):
    shutil.copytree(tiny_model, tmp_path / "model")
    (tmp_path / "model/README.md").write_text("what I was trained on")
    export_model(tmp_path / "model", tmp_path / "exported")
    assert (tmp_path / "exported/MODEL_CARD.md").read_text() == "what I was trained on"
    assert "step.onnx" in (tmp_path / "exported/README.md").read_text()


@pytest.mark.parametrize("card", ["what I was trained on", None])
def test_a_folder_that_is_exported_onto_itself_twice_keeps_its_card(tiny_model, tmp_path, card):
    model = tmp_path / "model"
    shutil.copytree(tiny_model, model)
    if card:
        (model / "README.md").write_text(card)
    for _ in range(2):
        export_model(model, model)
    found = (model / "MODEL_CARD.md").read_text() if (model / "MODEL_CARD.md").is_file() else None
    assert found == card
    assert "step.onnx" in (model / "README.md").read_text()


@pytest.mark.parametrize("transform", ["squash", "crop"])
def test_the_python_of_the_page_captions_without_captioner(
    tiny_model, tmp_path, transform, monkeypatch
):
    model = tmp_path / "model"
    captioner = Captioner.from_pretrained(tiny_model, device="cpu")
    encoder = captioner.config.encoder.model_copy(update={"transform": transform})
    config = captioner.config.model_copy(update={"encoder": encoder})
    Captioner(captioner.models, captioner.vocabulary, config, device="cpu").save_pretrained(model)
    export_model(model, tmp_path / "exported")
    photo = Image.effect_mandelbrot((90, 60), (-2, -1.5, 1, 1.5), 50).convert("RGB")
    photo.save(tmp_path / "exported/photo.jpg")
    page = (tmp_path / "exported/README.md").read_text()
    with_captioner, alone = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert "captioner" not in alone
    # a small model can give the same words to other pixels
    [reads] = re.findall(r"^image = ImageOps.*^pixels = [^\n]*", alone, re.DOTALL | re.MULTILINE)
    values = {"np": np, "Image": Image, "ImageOps": ImageOps}
    monkeypatch.chdir(tmp_path / "exported")
    exec(reads, values)
    pixels = Captioner.from_pretrained(model, device="cpu").prepare("photo.jpg")
    assert (values["pixels"][0] == pixels).all()
    ran = subprocess.run(
        [sys.executable, "-c", alone], cwd=tmp_path / "exported", capture_output=True, text=True
    )
    expected = Captioner.from_pretrained(model, device="cpu").caption(
        tmp_path / "exported/photo.jpg", decoding={"beam": 1}
    )
    assert ran.stdout.split() == [word.text for word in expected.words]
    folder = tmp_path / "exported"
    ran = subprocess.run(
        [sys.executable, "-c", with_captioner], cwd=folder, capture_output=True, text=True
    )
    assert ran.stdout.strip() == Captioner.from_pretrained(model).caption(folder / "photo.jpg").text


def test_the_page_of_a_translator_translates(untrained_translator, tmp_path):
    export_model(untrained_translator(), tmp_path / "exported")
    page = (tmp_path / "exported/README.md").read_text()
    [code] = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    ran = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path / "exported", capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stderr
    assert len(ran.stdout.splitlines()) == 1


def test_the_command_says_how_near_the_graphs_are(run, tiny_model, tmp_path):
    code, out, err = run("export", "--model", tiny_model, "--output", tmp_path / "out", "--greedy")
    assert (code, out) == (0, f"{tmp_path / 'out'}\n")
    assert "test captions equal PyTorch's" in err
    assert (tmp_path / "out/greedy.onnx").is_file()


@pytest.mark.parametrize(
    ("arguments", "exit_code", "message"),
    [
        ([], 2, "--output"),
        (["--output", "out", "--web", "site"], 2, "--ort"),
        (["--output", "out", "--ort", "."], 2, "--web"),
        (["--model", "nowhere", "--output", "out"], 1, "nowhere is not a model folder"),
    ],
)
def test_wrong_usage_is_one_line(run, tmp_path, monkeypatch, arguments, exit_code, message):
    monkeypatch.chdir(tmp_path)
    code, _, err = run("export", *arguments)
    assert code == exit_code
    assert message in err
    assert not (tmp_path / "out").exists()


def test_a_folder_of_another_model_is_not_replaced(tiny_model, attentive_model, tmp_path):
    shutil.copytree(tiny_model, tmp_path / "mine")
    before = (tmp_path / "mine/model.safetensors").read_bytes()
    with pytest.raises(UsageError, match="name another folder"):
        export_model(attentive_model, tmp_path / "mine")
    assert (tmp_path / "mine/model.safetensors").read_bytes() == before
    export_model(tiny_model, tmp_path / "exported")
    export_model(attentive_model, tmp_path / "exported")  # an earlier export is


def test_the_only_copy_of_float32_weights_is_not_halved(tiny_model, tmp_path):
    model = tmp_path / "model"
    shutil.copytree(tiny_model, model)
    with pytest.raises(UsageError, match="float16 only"):
        export_model(model, model, half=True)
    export_model(model, tmp_path / "half", half=True)
    export_model(tmp_path / "half", tmp_path / "half", half=True)  # nothing is lost


def test_two_exports_to_one_folder_do_not_mix(tiny_model, tmp_path):
    with Lock(tmp_path / ".exported.lock", what="it"), pytest.raises(UsageError, match="process"):
        export_model(tiny_model, tmp_path / "exported")
    export_model(tiny_model, tmp_path / "exported")
    assert {each.name for each in tmp_path.iterdir()} == {"exported"}


def test_folders_beside_the_export_are_left_alone(tiny_model, tmp_path):
    for name in ("exported.tmp", "exported.old"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "mine").write_text("precious")
    for _ in range(2):
        export_model(tiny_model, tmp_path / "exported")
    assert all((tmp_path / name / "mine").exists() for name in ("exported.tmp", "exported.old"))


@pytest.mark.parametrize("file", ["encoder.onnx", "step.onnx"])
def test_graphs_of_two_models_are_refused_in_one_line(tiny_model, attentive_model, tmp_path, file):
    for model, name in ((tiny_model, "one"), (attentive_model, "two")):
        export_model(model, tmp_path / name)
    shutil.copy(tmp_path / "two" / file, tmp_path / "one" / file)
    write_checksums(tmp_path / "one")
    with pytest.raises(CaptionerError, match=r"not of one model|cannot be opened"):
        Captioner.from_pretrained(tmp_path / "one", backend="onnx")
