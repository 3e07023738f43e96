"""The `OnnxCaptioner`: captions and scores as those of torch, without torch, in every process."""

import json
import math
import os
import pickle
import shutil
import signal
import subprocess
import sys

import pytest
from PIL import Image

from captioner import Captioner, CaptionerError, ImageError, UsageError
from captioner.config.schema import DecodingConfig
from captioner.runtime.captioner import OnnxCaptioner
from captioner.runtime.graphs import usable_threads
from captioner.storage import write_checksums
from captioner.text.tokenizer import SPECIALS


@pytest.fixture(scope="module", params=["onnx_model", "attentive_onnx_model"])
def both(request):
    """The captioners of one folder: with torch, and with its graphs."""
    folder = request.getfixturevalue(request.param)
    return Captioner.from_pretrained(folder, device="cpu"), OnnxCaptioner.from_pretrained(folder)


@pytest.fixture(scope="module")
def captioner(onnx_model):
    return OnnxCaptioner.from_pretrained(onnx_model)


def assert_equal(one, other):
    """Check that two captions are equal, their numbers to 1e-4."""
    assert (one.text, one.sure, one.abstained) == (other.text, other.sure, other.abstained)
    assert [word.text for word in one.words] == [word.text for word in other.words]
    for numbers in (
        lambda caption: [caption.log_prob, *(word.log_prob for word in caption.words)],
        lambda caption: [caption.confidence, *(word.confidence for word in caption.words)],
    ):
        if None not in numbers(one):
            assert numbers(one) == pytest.approx(numbers(other), abs=1e-4)
        else:
            assert numbers(one) == numbers(other)
    assert len(one.others) == len(other.others)
    for each, its_equal in zip(one.others, other.others, strict=True):
        assert_equal(each, its_equal)


DECODINGS = {
    "of the folder": None,
    "greedy": {"beam": 1},
    "beam": {"beam": 5, "length_norm": "average"},
    "n best": {"captions": 4, "length_norm": "none"},
    "rules": {
        "forbid": ["blue", "zeppelin"],
        "no_repeat_ngram": 2,
        "prefix": "a",
        "min_length": 4,
        "max_length": 6,
    },
    "words": {"no_double_words": True, "no_repeat_words": True, "min_length": 8},
}


@pytest.mark.parametrize("batch_size", [1, 5])
@pytest.mark.parametrize("decoding", DECODINGS.values(), ids=DECODINGS)
def test_captions_equal_those_of_torch(both, shapes, decoding, batch_size):
    photos = sorted((shapes / "train").iterdir())[:7]
    with_torch, with_onnx = both
    expected = with_torch.caption(photos, decoding=decoding)
    found = with_onnx.caption(photos, decoding=decoding, batch_size=batch_size)
    for one, other in zip(found, expected, strict=True):
        assert_equal(one, other)
    settings = with_torch.decoding_config(decoding)
    for one, other in zip(
        with_onnx.caption(photos, decoding=settings, batch_size=batch_size), found, strict=True
    ):
        assert_equal(one, other)


@pytest.mark.parametrize(("word", "text"), [("a", "a a a"), ("red", "red")])
def test_of_words_that_may_not_repeat_function_words_may(captioner, photo, word, text):
    # nothing but one word is left to say: a caption without an allowed token ends
    others = [each for each in captioner.vocabulary.words if each not in (word, *SPECIALS)]
    decoding = {"no_repeat_words": True, "forbid": others, "min_length": 3, "max_length": 3}
    assert captioner.caption(photo, decoding=decoding).text == text


def test_a_model_that_crops_sees_the_center_only(onnx_model, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(onnx_model, folder)
    config = json.loads((folder / "config.json").read_text())
    config["encoder"]["transform"] = "crop"
    (folder / "config.json").write_text(json.dumps(config))
    write_checksums(folder)
    image = Image.new("RGB", (128, 64), "blue")
    image.paste("red", (32, 0, 96, 64))  # the crop is 56 pixels wide
    for model in (onnx_model, folder):
        pixels = OnnxCaptioner.from_pretrained(model).prepare(image)
        has_blue = pixels[2].max() > 100
        assert has_blue == (model == onnx_model)


def test_forbidden_words_are_replaced_as_in_torch(both, photo):
    with_torch, with_onnx = both
    words = sorted({*with_torch.caption(photo).text.split()})
    found = with_onnx.caption(photo, decoding={"forbid": words})
    assert not {*words} & {*found.text.split()}
    assert_equal(found, with_torch.caption(photo, decoding={"forbid": words}))


def test_scores_equal_those_of_torch(both, shapes):
    photos = sorted((shapes / "train").iterdir())[:4]
    captions = [
        ["a red circle", "a zeppelin", ""],
        [],
        ["a small blue ring above a green square", "red"],
        ["circle circle circle"],
    ]
    with_torch, with_onnx = both
    expected = [*with_torch.score(photos, captions)]
    for batch_size in (1, 3):
        found = [*with_onnx.score(photos, captions, batch_size=batch_size)]
        assert [len(each) for each in found] == [3, 0, 2, 1]
        for ours, theirs in zip(found, expected, strict=True):
            for one, other in zip(ours, theirs, strict=True):
                assert_equal(one, other)
    assert [word.text for word in found[0][1].words] == ["a", "<unk>"]


def test_a_caption_below_min_confidence_is_not_to_be_shown(captioner, photo):
    caption = captioner.caption(photo)
    assert 0 < caption.confidence < 1
    words = [math.exp(word.log_prob / 2) for word in caption.words]  # the temperature is 2
    assert [word.confidence for word in caption.words] == pytest.approx(words)
    for wanted in (caption.confidence - 0.01, caption.confidence + 0.01):
        found = captioner.caption(photo, decoding={"min_confidence": wanted})
        assert found.abstained == (wanted > caption.confidence)


def test_an_image_that_cannot_be_read_is_an_error_in_its_place(captioner, photo):
    first, broken, last = captioner.stream([photo, b"<html>", photo])
    assert first.text == last.text == captioner.caption(photo).text
    assert isinstance(broken, ImageError)
    with pytest.raises(ImageError):
        captioner.caption([photo, b"<html>"])
    none, error, [scored] = captioner.score([photo, b"<html>", photo], [[], ["a"], ["a ring"]])
    assert none == []
    assert isinstance(error, ImageError)
    assert scored.text == "a ring"
    assert captioner.caption([]) == []


@pytest.mark.parametrize(
    ("decoding", "message"),
    [
        ({"prefix": "a rad"}, "prefix: 'rad' is not in the model's vocabulary: did you mean red"),
        ({"forbid": ["red circle"]}, "'red circle' is not one word"),
        ({"prefix": "a red circle", "forbid": ["red"]}, "'red' is forbidden"),
        ({"prefix": "a red circle", "max_length": 2}, "no room"),
        ({"beem": 3}, "did you mean 'beam'"),
        ({"beam": 900000}, "lower beam or batch_size"),
        (3, "decoding is '3': give the settings that differ"),
    ],
)
def test_settings_that_are_wrong_for_the_model_are_the_errors_of_torch(both, decoding, message):
    messages = []
    for each in both:
        with pytest.raises(UsageError, match=message) as error:
            each.stream([], decoding=decoding)
        messages.append(str(error.value))
    if "beam" not in str(decoding):  # the memory that is available changes
        assert messages[0] == messages[1]


def test_what_only_torch_can_do_is_refused_before_the_first_image(captioner, photo):
    sampling = DecodingConfig(method="sample")
    for options in ({"decoding": {"groups": 2}}, {"decoding": sampling}, {"explain": True}):
        with pytest.raises(UsageError, match="needs the backend 'torch'"):
            captioner.stream([photo], **options)


def test_min_confidence_needs_a_calibrated_model(attentive_onnx_model, photo):
    captioner = OnnxCaptioner.from_pretrained(attentive_onnx_model)
    with pytest.raises(UsageError, match="min_confidence needs a calibrated model"):
        captioner.caption(photo, decoding={"min_confidence": 0.5})


def test_a_wrong_setting_that_the_folder_stores_says_how_to_change_it(onnx_model, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(onnx_model, folder)
    config = json.loads((folder / "config.json").read_text())
    config["decoding"]["prefix"] = "zeppelin"
    (folder / "config.json").write_text(json.dumps(config))
    write_checksums(folder)
    captioner = OnnxCaptioner.from_pretrained(folder)
    with pytest.raises(UsageError, match="change it with captioner defaults"):
        captioner.stream([])
    with pytest.raises(UsageError, match=r"vocabulary: remove it$"):
        captioner.stream([], decoding={"prefix": "zeppelin"})


# The folder


def changed(change):
    """Return a function that changes graphs.json and its checksum."""

    def damage(folder):
        file = folder / "graphs.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), **change}))
        write_checksums(folder)

    return damage


def without_graphs(folder):
    (folder / "graphs.json").unlink()
    write_checksums(folder)


def with_a_broken_graph(folder):
    (folder / "step.onnx").write_bytes(b"no graph")
    write_checksums(folder)


def with_a_changed_file(name):
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes() + b"x")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (without_graphs, "has no graphs.json, which onnxruntime needs: run captioner export"),
        (changed({"weights": "0" * 64}), "belongs to other weights .*: run captioner export"),
        (changed({"format": 2}), "has format 2, this captioner reads format 1"),
        (with_a_broken_graph, "step.onnx cannot be opened by onnxruntime"),
        (with_a_changed_file("encoder.onnx"), "encoder.onnx is corrupt"),
        (with_a_changed_file("model.safetensors"), "model.safetensors is corrupt"),
        (lambda folder: (folder / "step.onnx").unlink(), "step.onnx is missing"),
        (lambda folder: (folder / "config.json").unlink(), "is not a model folder"),
    ],
)
def test_a_folder_whose_graphs_cannot_be_used_is_an_error_of_one_line(
    onnx_model, tmp_path, damage, message
):
    folder = tmp_path / "model"
    shutil.copytree(onnx_model, folder)
    damage(folder)
    with pytest.raises(CaptionerError, match=message) as error:
        OnnxCaptioner.from_pretrained(folder)
    assert len(str(error.value).splitlines()) == 1


def test_a_model_that_reads_texts_is_refused(tiny_translator, with_graphs):
    with pytest.raises(UsageError, match="reads texts: use Translator"):
        OnnxCaptioner.from_pretrained(with_graphs(tiny_translator))


# The process

WITHOUT_TORCH = """
import sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"torch", "torchvision", "pydantic", "typer", "rich", "yaml"}:
            raise ImportError(name)

sys.meta_path.insert(0, Refuse())
from captioner.runtime.captioner import OnnxCaptioner

captioner = OnnxCaptioner.from_pretrained(sys.argv[1])
print(captioner.caption(sys.argv[2], decoding={"captions": 2, "forbid": "blue"}).text)
print(next(captioner.score([sys.argv[2]], [["a red circle"]]))[0].text)
"""


def printed_by(code, *arguments, **environment):
    """Run code in a process whose environment says nothing about onnxruntime's telemetry."""
    inherited = {key: value for key, value in os.environ.items() if "TELEMETRY" not in key}
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=200,
        env=inherited | environment,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_captioning_and_scoring_need_neither_torch_nor_pydantic(captioner, onnx_model, photo):
    caption = captioner.caption(photo, decoding={"captions": 2, "forbid": "blue"}).text
    assert printed_by(WITHOUT_TORCH, onnx_model, photo) == [caption, "a red circle"]


def test_onnxruntime_prepares_no_reports_about_its_use(onnx_model, photo, tmp_path):
    # what it is going to send lies in a cache in the user's home
    home = {"HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path), "CI": ""}
    printed_by(WITHOUT_TORCH, onnx_model, photo, **home)
    assert not [*tmp_path.iterdir()]


FORK = """
import os, signal, sys
from captioner.runtime.captioner import OnnxCaptioner

captioner = OnnxCaptioner.from_pretrained(sys.argv[1])
before = captioner.caption([sys.argv[2]] * 3)
for task in ("none", "caption"):
    child = os.fork()
    if child == 0:
        signal.alarm(60)
        equal = task == "none" or captioner.caption([sys.argv[2]] * 3) == before
        # An ordinary end, which frees what the parent made.
        sys.exit(0 if equal else 1)
    assert os.waitpid(child, 0)[1] == 0, task
assert captioner.caption([sys.argv[2]] * 3) == before
"""


@pytest.mark.skipif(not hasattr(signal, "alarm"), reason="this system does not fork")
def test_a_forked_child_can_caption_and_can_end(onnx_model, photo):
    # with one thread, there would be nothing to wait for
    printed_by(FORK, onnx_model, photo, OMP_NUM_THREADS="2")


def test_a_pickled_captioner_captions_as_before(captioner, photo):
    again = pickle.loads(pickle.dumps(captioner))
    assert again.caption(photo) == captioner.caption(photo)


def test_omp_num_threads_sets_the_number_of_threads(monkeypatch):
    for value, expected in (("3", 3), (" 4,2 ", 4)):
        monkeypatch.setenv("OMP_NUM_THREADS", value)
        assert usable_threads() == expected
    for value in ("", "0", "many", "-1"):
        monkeypatch.setenv("OMP_NUM_THREADS", value)
        monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 5, 7}, raising=False)
        assert usable_threads() == 3
