"""An exported folder: nothing wrong is published, and its page works as it is written."""

import json
import re
import shutil
import subprocess
import sys

import numpy as np
import onnx
import pytest
from PIL import Image

from captioner import Captioner, CaptionerError
from captioner.export import folder as exporting
from captioner.export.folder import export_model
from captioner.export.onnx import write_graphs


def damage(monkeypatch, change):
    """Change the graph of a step after it was written, as a wrong exporter would."""

    def write_wrong_graphs(folder):
        loaded = write_graphs(folder)
        model = onnx.load(str(folder / "step.onnx"), load_external_data=False)
        change(model.graph)
        onnx.save(model, str(folder / "step.onnx"))
        return loaded

    monkeypatch.setattr(exporting, "write_graphs", write_wrong_graphs)


def hidden_state_as_cell_state(graph):
    """The trap of one tensor that is given as both: the graph reads it twice."""
    hidden, cell = (value.name for value in graph.input[1:3])
    for node in graph.node:
        node.input[:] = [hidden if name == cell else name for name in node.input]


def constant_rows(graph):
    """A batch size that became a constant: all captions read the state of the first."""
    name = graph.input[1].name
    first = onnx.numpy_helper.from_array(np.array([0]), "first")
    graph.initializer.append(first)
    only = onnx.helper.make_node("Gather", [name, "first"], ["only"], axis=0)
    for node in graph.node:
        node.input[:] = ["only" if each == name else each for each in node.input]
    graph.node.insert(0, only)


@pytest.mark.row(30)
@pytest.mark.parametrize("change", [hidden_state_as_cell_state, constant_rows])
def test_graphs_that_differ_are_not_published(attentive_model, tmp_path, monkeypatch, change):
    damage(monkeypatch, change)
    with pytest.raises(CaptionerError) as error:
        export_model(attentive_model, tmp_path / "exported")
    assert "nothing was written" in str(error.value)
    assert error.value.exit_code == 1
    assert [*tmp_path.iterdir()] == []


@pytest.mark.row(30)
def test_an_earlier_export_stays_as_it_is(tiny_model, tmp_path, monkeypatch):
    export_model(tiny_model, tmp_path / "exported")
    before = {file.name: file.read_bytes() for file in (tmp_path / "exported").iterdir()}
    damage(monkeypatch, hidden_state_as_cell_state)
    with pytest.raises(CaptionerError):
        export_model(tiny_model, tmp_path / "exported")
    assert {f.name: f.read_bytes() for f in (tmp_path / "exported").iterdir()} == before


def test_an_export_is_a_model_folder_for_torch_too(tiny_model, tmp_path):
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
    ran = subprocess.run(
        [sys.executable, "-c", alone], cwd=tmp_path / "exported", capture_output=True, text=True
    )
    expected = Captioner.from_pretrained(model, device="cpu").caption(
        tmp_path / "exported/photo.jpg", decoding={"beam": 1}
    )
    assert ran.stdout.split() == [word.text for word in expected.words]
    assert str(tmp_path / "exported") in with_captioner


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
    assert "captions are those of PyTorch" in err
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
