"""The backend that captions: onnxruntime where it can, torch where something needs it."""

import pickle
import subprocess
import sys

import pytest

from captioner import Captioner, UsageError
from captioner.inference import captioner as choosing
from captioner.inference.torch_captioner import TorchCaptioner
from captioner.runtime.captioner import OnnxCaptioner


@pytest.fixture
def used(monkeypatch):
    """The backends that were asked for captions, in order."""
    names = []
    for name, backend in (("onnx", OnnxCaptioner), ("torch", TorchCaptioner)):
        caption_batch = backend._caption_batch

        def record(self, *args, name=name, caption_batch=caption_batch, **options):
            names.append(name)
            return caption_batch(self, *args, **options)

        monkeypatch.setattr(backend, "_caption_batch", record)
    return names


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch):
    """These tests say themselves whether there is a GPU."""
    monkeypatch.setattr(choosing, "has_nvidia_gpu", lambda: False)


@pytest.mark.parametrize(
    ("options", "backend"),
    [
        ({}, "onnx"),
        ({"decoding": {"beam": 5, "captions": 2, "min_length": 3, "prefix": "a"}}, "onnx"),
        ({"decoding": {"method": "sample"}}, "torch"),
        ({"decoding": {"groups": 2}}, "torch"),
        ({"decoding": {"require": ["red"]}}, "torch"),
        ({"explain": True}, "torch"),
    ],
)
def test_a_call_loads_torch_only_if_it_needs_it(onnx_model, photo, used, options, backend):
    captioner = Captioner.from_pretrained(onnx_model)
    captioner.caption(photo, **options)
    assert used == [backend]
    assert (captioner._torch is None) == (backend == "onnx")


@pytest.mark.parametrize(
    "options",
    [{"device": "cpu", "precision": "bf16"}, {"backend": "torch"}],
)
def test_an_argument_that_needs_torch_is_given_torch(onnx_model, photo, used, options):
    if options.get("precision") == "bf16":
        from captioner.devices import _cpu_runs_bf16

        if not _cpu_runs_bf16():
            pytest.skip("this CPU does not run RNNs in bfloat16")
    Captioner.from_pretrained(onnx_model, **options).caption(photo)
    assert used == ["torch"]


def test_a_folder_without_graphs_and_an_ensemble_are_run_by_torch(
    onnx_model, tiny_model, photo, used
):
    Captioner.from_pretrained(tiny_model).caption(photo)
    Captioner.from_pretrained(onnx_model, onnx_model).caption(photo)
    assert used == ["torch", "torch"]


def test_with_a_gpu_the_device_auto_is_torchs(onnx_model, photo, used, monkeypatch):
    monkeypatch.setattr(choosing, "has_nvidia_gpu", lambda: True)
    Captioner.from_pretrained(onnx_model).caption(photo)
    Captioner.from_pretrained(onnx_model, device="cpu").caption(photo)
    Captioner.from_pretrained(onnx_model, backend="onnx").caption(photo)
    assert used == ["torch", "onnx", "onnx"]


@pytest.mark.parametrize(
    ("folders", "options", "message"),
    [
        (("graphs", "graphs"), {}, "an ensemble"),
        (("none",), {}, "has no graphs"),
        (("graphs",), {"device": "cuda"}, "device 'cuda'"),
        (("graphs",), {"precision": "bf16"}, "precision 'bf16'"),
    ],
)
def test_onnx_refuses_at_once_what_it_cannot_run(onnx_model, tiny_model, folders, options, message):
    paths = [{"graphs": onnx_model, "none": tiny_model}[name] for name in folders]
    with pytest.raises(UsageError, match=message):
        Captioner.from_pretrained(*paths, backend="onnx", **options)


@pytest.mark.parametrize(
    "options", [{"explain": True}, {"decoding": {"method": "sample"}}], ids=["explain", "sample"]
)
def test_onnx_refuses_a_call_that_needs_torch(onnx_model, photo, options):
    captioner = Captioner.from_pretrained(onnx_model, backend="onnx")
    with pytest.raises(UsageError, match="torch"):
        captioner.caption(photo, **options)
    assert captioner.caption(photo).text  # and goes on


def test_an_unknown_backend_is_refused(onnx_model):
    with pytest.raises(UsageError, match="backend 'tensorflow' is not a backend"):
        Captioner.from_pretrained(onnx_model, backend="tensorflow")


def test_both_backends_have_the_same_settings_and_scores(onnx_model, photo):
    captioners = [Captioner.from_pretrained(onnx_model, backend=name) for name in ("onnx", "torch")]
    assert captioners[0].config == captioners[1].config
    assert captioners[0].decoding_config({"beam": 7}) == captioners[1].decoding_config({"beam": 7})
    scores = [next(each.score([photo], [["a red circle"]]))[0].log_prob for each in captioners]
    assert scores[0] == pytest.approx(scores[1], abs=1e-4)


def test_a_copy_of_what_onnxruntime_captions_with_can_be_saved(onnx_model, photo, tmp_path):
    captioner = Captioner.from_pretrained(onnx_model)
    captioner.save_pretrained(tmp_path / "copy")
    copy = Captioner.from_pretrained(tmp_path / "copy")
    assert copy.caption(photo).text == captioner.caption(photo).text


def test_a_captioner_can_be_sent_to_another_process(onnx_model, photo):
    captioner = Captioner.from_pretrained(onnx_model)
    copy = pickle.loads(pickle.dumps(captioner))
    assert copy.caption(photo) == captioner.caption(photo)
    assert copy.caption(photo, explain=True).words[0].heat


def test_the_command_captions_with_the_bundled_model_without_torch(photo):
    code = f"import sys; from captioner.cli.app import main\nmain(['caption', {str(photo)!r}])\n"
    check = "import atexit, sys; atexit.register(lambda: print('torch' in sys.modules))\n"
    run = subprocess.run([sys.executable, "-c", check + code], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert run.stdout.splitlines()[-1] == "False"


@pytest.mark.parametrize(("name", "backend"), [("onnx", "onnx"), ("torch", "torch")])
def test_the_command_has_an_option_for_the_backend(run, onnx_model, photo, used, name, backend):
    code, out, _ = run("caption", photo, "--model", onnx_model, "--backend", name)
    assert (code, used) == (0, [backend])
    assert out.startswith(str(photo))


def test_what_the_command_cannot_do_without_torch_names_the_options(run, onnx_model, photo):
    code, _, err = run("caption", photo, "--model", onnx_model, "--backend", "onnx", "--sample")
    assert code == 2
    assert "--sample" in err
    assert "torch" in err


def test_translating_has_no_backend_to_choose(run):
    code, _, err = run("translate", "--model", "x", "--backend", "onnx")
    assert code == 2
    assert "No such option" in err
