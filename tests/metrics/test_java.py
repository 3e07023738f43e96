"""Java's METEOR and SPICE, and the errors if something they need is missing."""

import importlib.util
import shutil
import sys
from types import SimpleNamespace

import pytest

from captioner.errors import UsageError
from captioner.metrics.java import JavaMeteor, Spice
from captioner.metrics.meteor import ALPHA, BETA, GAMMA

REFERENCES = [[["a", "dog"], ["the", "dog", "runs"]], [["two", "cats"]]]
CANDIDATES = [["a", "dog", "swims"], []]


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A folder that stands for pycocoevalcap, with SPICE's models."""
    folder = tmp_path / "pycocoevalcap"
    (folder / "spice" / "lib").mkdir(parents=True)
    for name in ("stanford-corenlp-3.6.0.jar", "stanford-corenlp-3.6.0-models.jar"):
        (folder / "spice" / "lib" / name).touch()
    found = SimpleNamespace(submodule_search_locations=[str(folder)])
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: found)
    return folder


@pytest.fixture
def java(tmp_path, monkeypatch):
    """Make a command `java` that runs some Python instead."""

    def make(code):
        command = tmp_path / "bin" / "java"
        command.parent.mkdir()
        command.write_text(f"#!{sys.executable}\nimport json, sys\n{code}\n")
        command.chmod(0o755)
        monkeypatch.setenv("PATH", str(command.parent))

    return make


@pytest.mark.parametrize("metric", [JavaMeteor, Spice])
def test_without_pycocoevalcap_the_package_is_named(metric, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        UsageError,
        match="pycocoevalcap, which is not installed: pip install pycocoevalcap",
    ):
        metric(REFERENCES)


@pytest.mark.parametrize("metric", [JavaMeteor, Spice])
def test_without_java_it_is_named(metric, package, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UsageError, match=r"needs Java, .* install"):
        metric(REFERENCES)


def test_without_its_models_spice_says_how_to_get_them(package, java):
    java("")
    (package / "spice" / "lib" / "stanford-corenlp-3.6.0-models.jar").unlink()
    with pytest.raises(
        UsageError, match=r"spice/lib/stanford-corenlp-3.6.0-models.jar does not exist: download it"
    ):
        Spice(REFERENCES)


@pytest.mark.parametrize("metric", [JavaMeteor, Spice])
def test_the_reason_for_a_failure_is_given(metric, package, java):
    java("sys.exit('Exception in thread main: no memory\\n\\tat somewhere')")
    with pytest.raises(UsageError, match=r"failed: Exception in thread main: no memory; .* Java 8"):
        metric(REFERENCES).score(CANDIDATES)


def test_an_answer_that_stops_short_is_refused(package, java):
    java("")
    with pytest.raises(UsageError, match="METEOR scored 0 of 2 captions: run it again"):
        JavaMeteor(REFERENCES).score(CANDIDATES)


# Lengths 3 and 2 with one function word each; one content word matches by the paraphrase matcher,
# and one function word exactly.
COUNTS = "3 2 1 1  0 0 1 1  0 0 0 0  0 0 0 0  1 1 0 0  2  2 2"


def test_meteors_counts_are_weighed(package, java):
    java(f"for line in sys.stdin: print('{COUNTS}')")
    row = (0.25 + 0.6 * 0.75, 0.25 + 0.6 * 0.75, 1.75, 1, 2, 2)
    metric = JavaMeteor(REFERENCES)
    assert metric.statistics(CANDIDATES) == [pytest.approx(row)] * 2
    precision, recall = 0.7 / 1.75, 0.7
    mean = precision * recall / (ALPHA * precision + (1 - ALPHA) * recall)
    expected = mean * (1 - GAMMA * 1**BETA)
    assert metric.score(CANDIDATES) == (pytest.approx(expected), [pytest.approx(expected)] * 2)


def test_meteor_is_asked_about_every_caption_and_none_can_break_a_line(package, java, tmp_path):
    log = str(tmp_path / "asked")
    java(f"for line in sys.stdin: open({log!r}, 'a').write(line); print('{COUNTS}')")
    JavaMeteor(REFERENCES).score([["a", "|||", "dog"], []])
    asked = [" ".join(line.split()) for line in (tmp_path / "asked").read_text().splitlines()]
    assert asked == ["SCORE ||| a dog ||| the dog runs ||| a dog", "SCORE ||| two cats |||"]


def test_spice_scores_are_read_in_the_order_of_the_images(package, java):
    java(
        "entries = json.load(open(sys.argv[sys.argv.index('-out') - 1]))\n"
        "assert entries[0]['test'] == 'a dog swims'\n"
        "assert entries[0]['refs'] == ['a dog', 'the dog runs']\n"
        "scores = [{'image_id': image, 'scores': {'All': {'f': score}}}\n"
        "          for image, score in [(1, None), (0, 0.5)]]\n"
        "json.dump(scores, open(sys.argv[sys.argv.index('-out') + 1], 'w'))"
    )
    assert Spice(REFERENCES).score(CANDIDATES) == (0.25, [0.5, 0])


@pytest.mark.slow
def test_java_meteor_equals_cocos_tool():
    coco = pytest.importorskip("pycocoevalcap.meteor.meteor")
    if shutil.which("java") is None:
        pytest.skip("there is no Java")
    references = [
        *REFERENCES,
        [["a", "young", "boy", "plays", "near", "the", "road"]],
        [["a", "café"]],
    ]
    candidates = [
        ["a", "dog", "swims"],
        ["cats"],
        ["a", "kid", "playing", "next", "to", "a", "street"],
        ["café"],
    ]
    tool = coco.Meteor()
    captions = {i: [" ".join(words) for words in image] for i, image in enumerate(references)}
    expected, each = tool.compute_score(
        captions, {i: [" ".join(words)] for i, words in enumerate(candidates)}
    )
    mean, ours = JavaMeteor(references).score(candidates)
    assert ours == pytest.approx(each, abs=1e-9)
    assert mean == pytest.approx(expected, abs=1e-9)
