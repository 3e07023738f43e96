"""Peer and captioner do the same work, take turns, and a ratio is that of one round."""

import json

import pytest

from benchmarks import peer_tasks
from benchmarks.peer_tasks import CAPTION_TOKENS, Skipped, Task, write_results
from benchmarks.peers import HEAD, measure
from benchmarks.synthetic import Setup
from captioner.inference.captioner import Captioner
from captioner.metrics.scorer import Scorer


def test_sides_take_turns_and_a_ratio_is_that_of_one_round(monkeypatch):
    now, order = [0.0], []
    takes = {"peer": iter([9.0, 4.0, 6.0, 9.0]), "ours": iter([9.0, 2.0, 2.0, 1.0])}

    def side(name):
        def work():
            order.append(name)
            now[0] += next(takes[name])

        return work

    monkeypatch.setattr("benchmarks.peers.time.perf_counter", lambda: now[0])
    task = Task("caption", "images", 12, "a peer", side("peer"), "captioner", side("ours"))
    result = measure(task, threads=1, rounds=3)
    assert order == ["ours", "peer", "peer", "ours", "ours", "peer", "peer", "ours"]
    assert (result.lowest, result.ratio, result.highest) == (4 / 2, 6 / 2, 9 / 1)
    assert result.peer_speed == 12 / 6  # the median of 4, 6 and 9 seconds
    assert result.our_speed == 12 / 2
    assert len(result.cells()) == len(HEAD)


def test_a_peer_that_is_not_installed_is_named_with_the_way_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setattr(peer_tasks, "find_spec", lambda name: None)
    monkeypatch.setattr(peer_tasks, "which", lambda name: None)
    [caption] = peer_tasks.caption_tasks(Setup(tmp_path))
    [score] = peer_tasks.metric_tasks(tmp_path)
    assert isinstance(caption, Skipped)
    assert "pip install transformers" in caption.reason
    assert isinstance(score, Skipped)
    assert "java and pycocoevalcap" in score.reason


def test_the_bundled_model_says_exactly_as_many_words_as_the_peer(tmp_path):
    setup = Setup(tmp_path, jpeg_images=2)
    run = peer_tasks.caption_ours(Captioner.from_pretrained(), setup.write_jpegs())
    assert [len(caption.words) for caption in run()] == [CAPTION_TOKENS] * 2


def test_candidates_are_references_that_lack_some_words(tmp_path, monkeypatch):
    monkeypatch.delenv("CAPTIONER_DATA", raising=False)
    annotations, results = write_results(tmp_path, images=40)
    references = {}
    for each in json.loads(annotations.read_text())["annotations"]:
        references.setdefault(each["image_id"], []).append(each["caption"])
    candidates = {each["image_id"]: each["caption"] for each in json.loads(results.read_text())}
    assert [len(captions) for captions in references.values()] == [5] * 40
    kept = [
        len(candidates[key].split()) / len(captions[0].split())
        for key, captions in references.items()
    ]
    assert sum(kept) / len(kept) == pytest.approx(1 - peer_tasks.DROPPED, abs=0.05)
    assert 0.1 < Scorer(references).score(candidates).metrics["Bleu_4"] < 1


@pytest.mark.slow
def test_the_peer_says_exactly_as_many_tokens(tmp_path):
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    vit = transformers.ViTConfig(
        hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32
    )
    gpt = transformers.GPT2Config(n_embd=32, n_layer=1, n_head=2)
    both = transformers.VisionEncoderDecoderConfig.from_encoder_decoder_configs(vit, gpt)
    setup = Setup(tmp_path, jpeg_images=2)
    captions = peer_tasks.hugging_face(setup.write_jpegs(), both)()
    assert [len(caption) for caption in captions] == [CAPTION_TOKENS] * 2
    assert both.decoder.eos_token_id not in {token for each in captions for token in each}
