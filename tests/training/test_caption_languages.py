"""Captions in other languages than English: trained, printed, scored, calibrated and checked."""

import json
import re

import pytest
from PIL import Image, ImageFont

from captioner import Captioner
from captioner.config.run import Config
from captioner.errors import UsageError
from captioner.text.multilingual import CharacterTokenizer, WordTokenizer
from captioner.text.tokenizer import SPECIALS, Vocabulary
from captioner.training import recorder
from captioner.training.self_critical import caption_reward
from captioner.training.train import start_model, train

CAPTIONS = {
    (220, 30, 30): "赤い犬が草の上を走っている。",
    (30, 200, 30): "แมวสีเขียว นอนอยู่",
    (30, 30, 220): "एक नीली बिल्ली सो रही है।",
    (220, 220, 30): "¿Dónde corre el perro? ¡Ahí!",
    (20, 20, 20): "Ein schwarzer Hund läuft, und die Katze schläft.",
}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Images of five colours; the captions of each colour are in another language."""
    folder = tmp_path_factory.mktemp("languages")
    rows = []
    for number in range(4):
        for place, (colour, caption) in enumerate(CAPTIONS.items()):
            name = f"{place}-{number}.png"
            shade = tuple(level + 5 * number for level in colour)
            Image.new("RGB", (32, 32), shade).save(folder / name)
            rows.append(json.dumps({"image": name, "captions": [caption]}, ensure_ascii=False))
    (folder / "captions.jsonl").write_text("\n".join(rows), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def config_of(data):
    """Make the config of a run on these images: its output, and settings of its tokenizer."""

    def make(output, *, epochs=1, max_length=60, init=None, training=None, **tokenizer):
        source = {"annotations": data / "captions.jsonl", "images": data}
        values = {
            "data": {
                **{"train": source, "dev": source, "min_count": 1, "max_length": 60},
                "tokenizer": tokenizer,
            },
            "encoder": {"trunk": "small_cnn", "weights": "none", "image_size": 32},
            "decoder": {"embed_size": 32, "hidden_size": 64, "dropout": 0.0},
            "decoding": {"max_length": max_length, "beam": 1},
            "training": {
                **{"batch_size": 5, "workers": 0},
                "phases": [
                    {
                        **{"epochs": epochs, "finetune_from": "stem"},
                        **{"learning_rate": 1e-2, "trunk_learning_rate": 1e-3},
                    }
                ],
                **(training or {}),
            },
            **{"output": output, "init": init},
        }
        return Config.parse(values, source="languages")

    return make


@pytest.fixture(scope="module")
def folder(config_of, tmp_path_factory):
    """A model that has learnt the captions of all colours, in tokens of the kind "word"."""
    output = tmp_path_factory.mktemp("run") / "word"
    return train(config_of(output, epochs=12, kind="word"), device="cpu")


def test_captions_are_printed_as_their_language_writes_them(folder, data, run):
    images = [data / f"{place}-0.png" for place in range(len(CAPTIONS))]
    code, out, _ = run("caption", *images, "--model", folder, "--device", "cpu")
    printed = [line.split("\t")[1] for line in out.splitlines()]
    assert (code, printed) == (0, [*CAPTIONS.values()])


def test_the_tokenizer_is_stored_with_the_model(folder, config_of, tmp_path):
    loaded = Captioner.from_pretrained(folder, device="cpu")
    assert loaded.vocabulary.tokenizer.kind == "word"
    loaded.save_pretrained(tmp_path / "copy")
    copy = Captioner.from_pretrained(tmp_path / "copy", device="cpu").vocabulary
    assert copy.tokenizer == loaded.vocabulary.tokenizer
    other = config_of(tmp_path / "run", init=str(folder), kind="character")
    with pytest.raises(UsageError, match=r"data\.tokenizer\.kind differs from that of init="):
        train(other, device="cpu")


def test_captions_in_other_languages_are_scored_by_their_words(folder, data, run):
    asked = ["--annotations", data / "captions.jsonl", "--images", data, "--model", folder]
    code, out, _ = run("evaluate", *asked, "--device", "cpu", "--json")
    scores = json.loads(out)
    # with one word a sentence, there would be no n-gram of four words
    assert code == 0
    assert scores["Bleu_4"] == pytest.approx(1)
    assert scores["CIDEr"] == pytest.approx(10)


def test_confidence_is_calibrated_on_the_words_of_the_model(folder, data, run, tmp_path):
    copy = tmp_path / "copy"
    Captioner.from_pretrained(folder, device="cpu").save_pretrained(copy)
    asked = ["--annotations", data / "captions.jsonl", "--images", data, "--model", copy]
    code, out, _ = run("calibrate", *asked, "--device", "cpu")
    # All words are right: none is unsure. By COCO's words, "Hund" and "。" would be wrong.
    assert code == 0
    assert re.search(r"captions.jsonl .* 0% +100% +- +100% +-\n", out), out


def test_a_check_counts_the_words_of_the_configured_tokenizer(config_of, run, tmp_path):
    lengths = {}
    for kind in ("caption", "word", "character"):
        file = tmp_path / f"{kind}.yaml"
        file.write_text(json.dumps(config_of(tmp_path / "run", kind=kind).to_json()))
        _, out, err = run("check", file, "--json")
        found = json.loads(out)["splits"]["train"]["words_per_caption"]
        lengths[kind] = {int(length) for length in found}
        assert "data.tokenizer.kind" not in err
    tokenizers = {"word": WordTokenizer(), "character": CharacterTokenizer()}
    for kind, tokenizer in tokenizers.items():
        assert lengths[kind] == {len(tokenizer.tokenize(text)) for text in CAPTIONS.values()}
    assert lengths["caption"] == {13, 6, 5, 8}  # counted by hand, without punctuation


def test_the_tokenizer_that_suits_is_named_before_training_unless_one_is_chosen(
    config_of, data, run, tmp_path, capsys
):
    hint = "data.tokenizer.kind=word suits them"
    file = tmp_path / "config.yaml"
    file.write_text(json.dumps(config_of(tmp_path / "run").to_json()))
    assert hint in run("check", file)[2]
    assert hint in run("check", data / "captions.jsonl", "--images", data)[2]
    for number, (chosen, said) in enumerate([({}, True), ({"kind": "caption"}, False)]):
        train(config_of(tmp_path / f"run{number}", **chosen), device="cpu")
        assert (hint in capsys.readouterr().err) == said


def test_captions_longer_than_the_model_may_generate_are_told(config_of, tmp_path, caplog):
    examples = [Captions("abcdefghij"), Captions("abc")]
    for max_length, said in [(9, True), (10, False)]:
        config = config_of(tmp_path / "run", kind="character", max_length=max_length)
        caplog.clear()
        start_model(config, examples, None)
        told = f"captions have more tokens than decoding.max_length={max_length}, which cuts"
        assert (told in caplog.text) == said
        assert ("for example to 10 (1): 50 % of 2" in caplog.text) == said


class Captions:
    """The captions of one image."""

    def __init__(self, *captions):
        self.captions = captions


def test_words_in_lower_case_need_a_tokenizer_of_words(config_of, tmp_path):
    with pytest.raises(UsageError, match=r"set data\.tokenizer\.kind=word, or leave it out"):
        config_of(tmp_path / "run", fold_case=True)
    assert config_of(tmp_path / "run", fold_case=True, kind="word").data.tokenizer.fold_case


def test_the_reward_of_parts_of_words_is_that_of_the_words():
    captions = ["Ein Hund läuft.", "Eine Katze schläft.", "Der Mann liest ein Buch."]
    rewards = []
    for tokenizer in (CharacterTokenizer(), WordTokenizer()):
        tokenized = [tokenizer.tokenize(caption) for caption in captions]
        vocabulary = Vocabulary.from_captions(tokenized, min_count=1, tokenizer=tokenizer)
        reward = caption_reward([*map(Captions, captions)], vocabulary, {"CIDEr": 1.0})
        candidate = [vocabulary.encode(words)[1:-1] for words in tokenized]
        rewards.append(reward([0, 0, 2], [candidate[0], candidate[1], candidate[2]]).tolist())
    assert rewards[0] == pytest.approx(rewards[1])
    assert rewards[0][1] < rewards[0][0]
    assert len(vocabulary) > len(SPECIALS)


def test_a_text_without_spaces_is_wrapped_in_pictures_of_samples():
    font = ImageFont.load_default(13)
    for text in ("W" * 40, "A dog and " + "W" * 40, "a dog runs on the beach"):
        lines = recorder._wrap(text, font, 100, limit=20)
        assert "".join(lines).replace(" ", "") == text.replace(" ", "")
        assert all(lines)
        assert max(map(font.getlength, lines)) <= 100


def test_a_new_subword_of_a_model_needs_no_minimum_count(config_of, tmp_path):
    pytest.importorskip("tokenizers")
    first = [Captions("abc abc abd", "abd")]
    settings = {"kind": "subword", "subwords": 30}
    model, vocabulary, _ = start_model(config_of(tmp_path / "run", **settings), first, None)
    config = config_of(tmp_path / "run", **settings)
    Captioner([model], vocabulary, config.model, device="cpu").save_pretrained(tmp_path / "first")
    continued = config_of(tmp_path / "run", init=str(tmp_path / "first"), **settings)
    continued = continued.model_copy(
        update={"data": continued.data.model_copy(update={"min_count": 5})}
    )
    _, extended, _ = start_model(continued, [Captions("abz")], None)
    assert "z" not in vocabulary
    assert "z" in extended
