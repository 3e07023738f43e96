"""Settings that the model or the memory cannot use: refused in one line, and never stored."""

import json

import numpy as np
import pytest
import torch

from captioner import Captioner, Translator, load_config
from captioner.config.schema import ConfidenceConfig, DecodingConfig
from captioner.decoding import memory
from captioner.errors import UsageError
from captioner.inference.torch_captioner import TorchCaptioner
from captioner.models.folder import BUNDLED
from captioner.training.train import train

pytestmark = pytest.mark.row(43)

HUGE = "9" * 400


@pytest.fixture
def little_memory(monkeypatch):
    """Let 2 GB be available."""
    monkeypatch.setattr(memory, "available_memory", lambda device: 2 * 10**9)


@pytest.fixture
def folder(tiny_model, tmp_path):
    folder = tmp_path / "model"
    Captioner.from_pretrained(tiny_model, device="cpu").save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("prefix=zzz", "prefix: 'zzz' is not in the model's vocabulary"),
        ("require=[ring, zzz]", "require: 'zzz' is not in the model's vocabulary"),
        ("forbid=[the blue]", "forbid: 'the blue' is not one word"),
        ("min_confidence=0.5", "min_confidence needs a calibrated model"),
        ("replace_unknown=true", "replace_unknown needs"),
        ("beam=900000", "beam=900000, batch_size=16: for"),
        ("captions=900000", "captions=900000, batch_size=16: for"),
        ("max_length=900000000", "lower beam or batch_size or max_length"),
        (f"beam={HUGE}", "beam is 99999999999999999999... (400 characters): input should be less"),
        (f"seed={HUGE}", "seed is 99999999999999999999... (400 characters): input should be less"),
        ("length_ratio=1e400", "length_ratio is '1e400': input should be a finite number"),
        ("length_ratio=.inf", "length_ratio is inf: input should be a finite number"),
    ],
)
def test_a_default_that_no_run_could_use_is_not_stored(
    run, folder, little_memory, setting, message
):
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    code, out, err = run("defaults", "--model", folder, setting)
    assert (code, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1
    assert "--" not in err  # the settings of this command are no options
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before


def test_a_default_of_a_translator_is_checked_with_its_vocabulary(
    run, tiny_translator, untrained_translator, tmp_path
):
    Translator.from_pretrained(tiny_translator, device="cpu").save_pretrained(tmp_path / "model")
    code, _, err = run("defaults", "--model", tmp_path / "model", "prefix=zzz")
    assert code == 2
    assert "prefix: 'zzz' is not in the model's vocabulary" in err
    assert run("defaults", "--model", tmp_path / "model", "prefix=der")[0] == 0


@pytest.mark.parametrize(
    ("decoding", "message"),
    [
        ({"prefix": "zzz"}, "decoding: prefix: 'zzz' is not in the model's vocabulary"),
        ({"beam": 9_000_000}, "decoding: beam=9000000, batch_size=16: for"),
    ],
)
def test_training_stores_no_default_that_no_run_could_use(tiny, little_memory, decoding, message):
    with pytest.raises(UsageError, match=message):
        train(tiny(decoding=decoding), device="cpu")
    assert not (tiny().output / "metrics.jsonl").exists()


def test_a_folder_with_such_a_default_names_the_command_that_changes_it(run, tiny_model, photo):
    captioner = TorchCaptioner.from_pretrained(tiny_model, device="cpu")
    broken = DecodingConfig(prefix="zzz")
    captioner.config = captioner.config.model_copy(update={"decoding": broken})
    with pytest.raises(UsageError, match="stores this setting: change it with captioner defaults"):
        captioner.caption(photo)
    with pytest.raises(UsageError, match=r"remove it$"):
        captioner.caption(photo, decoding={"prefix": "yyy"})


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"decoding": {"beam": 100_000}}, ["beam=100000", "lower beam or batch_size"]),
        ({"batch_size": 100_000}, ["beam=3, batch_size=100000", "lower beam or batch_size"]),
        ({"decoding": {"method": "sample", "captions": 90_000}}, ["lower captions or batch_size"]),
    ],
)
def test_what_does_not_fit_into_the_memory_is_refused_with_the_settings_that_need_it(
    tiny_model, photo, little_memory, settings, named
):
    captioner = Captioner.from_pretrained(tiny_model, device="cpu")
    with pytest.raises(UsageError, match="of memory, more than half of the 2 GB") as caught:
        next(captioner.stream(iter(photo for _ in range(9)), **settings))
    assert all(name in str(caught.value) for name in named)


def test_few_images_and_texts_need_less_memory_than_a_full_batch(
    tiny_model, tiny_translator, photo, monkeypatch
):
    many = {"batch_size": 64, "decoding": {"method": "sample", "captions": 100, "max_length": 4}}

    def to_lower(run, sources):
        """Return what the error says is to be lowered; nothing without an error."""
        try:
            run(sources, **many)
        except UsageError as error:
            return str(error).partition("lower ")[2]
        return ""

    captioner = TorchCaptioner.from_pretrained(tiny_model, device="cpu")
    translator = Translator.from_pretrained(tiny_translator, device="cpu")
    for pipeline, run, source in (
        (captioner, captioner.caption, photo),
        (translator, translator.translate, "a dog"),
    ):
        # Each of 100 captions: 20 bytes for each word of the vocabulary, and 32 for each token.
        needed = pipeline._source_bytes() + 100 * (len(pipeline.vocabulary) * 20 + 4 * 32)
        monkeypatch.setattr(memory, "available_memory", lambda device, size=needed: 4 * size)
        assert to_lower(run, source) == ""
        assert to_lower(run, [source] * 2) == ""
        assert to_lower(run, [source] * 3) == "captions or batch_size"
        assert to_lower(run, (each for each in [source])) == "captions or batch_size"
        monkeypatch.setattr(memory, "available_memory", lambda device, size=needed: size)
        assert to_lower(run, source) == "captions"  # a batch cannot be smaller


def test_sizes_below_a_gigabyte_are_told_in_megabytes(monkeypatch):
    monkeypatch.setattr(memory, "available_memory", lambda device: 30_000_000)
    config, device = DecodingConfig(beam=100, max_length=1), torch.device("cpu")
    # 100 beams x (9,000 words x 20 bytes + 100 candidates x 32 + 32) = 18.3 MB
    with pytest.raises(UsageError) as error:
        memory.check_search_memory(config, vocab_size=9000, batch_size=1, device=device)
    assert str(error.value) == (
        "beam=100: for 9,000 words the search needs about 18 MB of memory, more than half of the "
        "30 MB that are available: lower beam"
    )


@pytest.mark.parametrize(
    "batch_size", [0, -1, 2.5, "16", None, True, 10**400, np.float32(2), np.bool_(True)]
)
def test_a_batch_size_that_is_no_positive_integer_is_refused(
    tiny_model, tiny_translator, photo, batch_size
):
    captioner = Captioner.from_pretrained(tiny_model, device="cpu")
    translator = Translator.from_pretrained(tiny_translator, device="cpu")
    for call in (
        lambda: captioner.caption(photo, batch_size=batch_size),
        lambda: captioner.caption([photo], batch_size=batch_size),
        lambda: captioner.stream([], batch_size=batch_size),
        lambda: captioner.score([photo], [["a ring"]], batch_size=batch_size),
        lambda: translator.translate("a dog", batch_size=batch_size),
    ):
        with pytest.raises(
            UsageError, match=r"batch_size is .*: use an integer from 1 to 9223372036854775807"
        ) as error:
            call()
        assert len(str(error.value)) < 80


def test_a_batch_size_may_be_an_integer_of_numpy(tiny_model, photo):
    captioner = Captioner.from_pretrained(tiny_model, device="cpu")
    [*found] = captioner.stream([photo] * 3, batch_size=np.int64(2))
    assert found == [*captioner.stream([photo] * 3, batch_size=2)]


def test_the_name_of_a_decoding_setting_is_a_string(tiny_model, photo):
    captioner = Captioner.from_pretrained(tiny_model, device="cpu")
    with pytest.raises(UsageError, match="decoding: the name 3 is not a string"):
        captioner.caption(photo, decoding={3: 4})


@pytest.mark.parametrize("decoding", [3, "beam=3", ["beam"]])
def test_decoding_settings_that_are_no_settings_are_refused(tiny_model, photo, decoding):
    captioner = Captioner.from_pretrained(tiny_model, device="cpu")
    with pytest.raises(UsageError, match=r"decoding is .*: give the settings that differ"):
        captioner.caption(photo, decoding=decoding)


@pytest.mark.parametrize("option", ["--beam", "--batch-size", "--num-captions", "--seed"])
def test_numbers_of_400_digits_are_refused_by_options(run, photo, option):
    sample = ["--sample"] if option == "--seed" else []
    code, out, err = run("caption", photo, option, HUGE, *sample)
    assert (code, out) == (2, "")
    assert f"Invalid value for '{option}'" in err
    assert HUGE not in err


@pytest.mark.parametrize(
    "setting", ["training.seed", "training.batch_size", "data.max_length", "decoder.hidden_size"]
)
def test_numbers_of_400_digits_are_refused_by_configs(tmp_path, setting):
    (tmp_path / "x.yaml").write_text("data: {shapes: {folder: x}}")
    with pytest.raises(UsageError, match=rf"{setting} is 9+\.\.\. \(400 characters\)"):
        load_config(tmp_path / "x.yaml", [f"{setting}={HUGE}"])


@pytest.mark.parametrize("command", [["defaults", "beam=3"], ["defaults", "--reset"]])
@pytest.mark.parametrize("model", [[], ["--model", "bundled"]])
def test_the_installed_model_is_shown_but_not_changed(run, command, model):
    code, out, err = run(*command, *model)
    assert (code, out) == (2, "")
    assert "name the folder of another one with --model, or copy" in err
    code, out, _ = run("defaults", *model)
    assert code == 0
    assert "beam=" in out


@pytest.mark.parametrize("command", [["defaults", "beam=3"], ["calibrate", "--annotations", "x"]])
def test_the_installed_model_is_recognised_by_any_path(run, tmp_path, monkeypatch, command):
    (tmp_path / "link").symlink_to(BUNDLED, target_is_directory=True)
    monkeypatch.chdir(BUNDLED.parent)
    before = {file.name: file.stat().st_mtime_ns for file in BUNDLED.iterdir()}
    for model in (BUNDLED, tmp_path / "link", BUNDLED.name):
        code, out, err = run(*command, "--model", model)
        assert (code, out) == (2, "")
        assert "this would change the model that is installed" in err
    assert {file.name: file.stat().st_mtime_ns for file in BUNDLED.iterdir()} == before


def test_calibrating_the_installed_model_is_refused_before_anything_is_read(run, tmp_path):
    code, out, err = run("calibrate", "--annotations", tmp_path / "nothing.json")
    assert (code, out) == (2, "")
    assert "name the folder of another one with --model" in err


def test_a_calibrated_model_keeps_a_least_confidence_as_default(run, folder):
    captioner = TorchCaptioner.from_pretrained(folder, device="cpu")
    confidence = ConfidenceConfig(temperature=2.0, error=0.1, images=8)
    captioner.config = captioner.config.model_copy(update={"confidence": confidence})
    captioner.save_pretrained(folder)
    assert run("defaults", "--model", folder, "min_confidence=0.5")[0] == 0
    assert json.loads((folder / "config.json").read_text())["decoding"]["min_confidence"] == 0.5
