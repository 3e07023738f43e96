"""The translator: order, batches, limits, alignment, unknown words and ensembles."""

import math

import pytest
import torch

from captioner.decoding.search import length_limits
from captioner.errors import UsageError
from captioner.inference.captioner import Captioner
from captioner.inference.translator import Translator
from captioner.text.tokenizer import UNK

TEXTS = ["a dog runs .", "", "the cat sleeps", "a bird sings . the man runs .", "dog", "  "]


@pytest.fixture
def translator(tiny_translator):
    return Translator.from_pretrained(tiny_translator, device="cpu", precision="fp32")


def test_translations_come_in_the_order_of_the_texts_and_do_not_depend_on_the_others(translator):
    together = translator.translate(TEXTS, batch_size=2)
    for text, translation in zip(TEXTS, together, strict=True):
        alone = translator.translate(text)
        assert (alone.text, alone.source) == (translation.text, translation.source)
        assert alone.log_prob == pytest.approx(translation.log_prob, abs=1e-4)
    assert len({one.text for one in together}) > 2


@pytest.mark.parametrize("method", ["beam", "sample"])
def test_several_translations_of_a_text_do_not_depend_on_the_other_texts(translator, method):
    settings = {"method": method, "captions": 3}
    together = translator.translate(TEXTS, decoding=settings)
    for text, translation in zip(TEXTS, together, strict=True):
        alone = translator.translate(text, decoding=settings)
        assert [alone.text, *(other.text for other in alone.others)] == [
            translation.text,
            *(other.text for other in translation.others),
        ]


def test_an_empty_text_has_an_empty_translation(translator):
    for text in ("", " \t"):
        translation = translator.translate(text)
        assert (translation.text, translation.words, translation.log_prob) == ("", (), 0.0)


def test_the_log_probability_is_that_of_teacher_forcing(translator):
    translation = translator.translate("a dog runs .", decoding={"beam": 4})
    ids = [translator.vocabulary.id_of(word.text) for word in translation.words]
    source = torch.tensor([translator.source_vocabulary.encode_source(["a", "dog", "runs", "."])])
    [model] = translator.models
    with torch.no_grad():
        state = model.init_state(source)
    total, previous = 0.0, 1
    for token in [*ids, 2]:  # <eos> at the end
        with torch.no_grad():
            log_probs, state = model.step(torch.tensor([previous]), state)
        total, previous = total + float(log_probs[0, token]), token
    assert translation.log_prob == pytest.approx(total, abs=1e-4)


def test_the_limit_of_a_translation_follows_the_length_of_its_source(translator):
    settings = translator.decoding_config(
        {"max_length": 1, "length_ratio": 2.0, "min_length": 0, "beam": 1}
    )
    source = torch.tensor([[4, 5, 6, 0], [4, 5, 6, 7]])
    assert length_limits(source, settings).tolist() == [1 + 2 * 3, 1 + 2 * 4]
    images = torch.zeros((2, 3, 8, 8), dtype=torch.uint8)
    assert length_limits(images, settings).tolist() == [1, 1]
    translator.models[0].decoder.output.bias.data[2] = -50.0  # <eos> only at the limit
    found = translator.translate(["a dog runs", "a", "a dog runs ."], decoding=settings)
    assert [len(one.words) for one in found] == [7, 3, 9]


def test_the_alignment_has_a_weight_for_each_source_token_at_each_word(translator):
    for translation in translator.translate(TEXTS, align=True, batch_size=6):
        if not translation.source:
            continue
        assert len(translation.alignment) == len(translation.words)
        for weights in translation.alignment:
            assert len(weights) == len(translation.source)
            assert sum(weights) == pytest.approx(1, abs=1e-5)


def test_an_unknown_word_is_replaced_by_the_source_word_that_it_attends_to(translator):
    decoder = translator.models[0].decoder
    with torch.no_grad():
        decoder.output.bias[UNK] = 50.0
    text, settings = "the Zeppelin runs", {"replace_unknown": True, "max_length": 1, "beam": 1}
    settings["length_ratio"] = 0
    translation = translator.translate(text, decoding=settings, align=True)
    [weights] = translation.alignment
    attended = text.split()[max(range(3), key=lambda position: weights[position])]
    assert [word.text for word in translation.words] == [attended]
    assert "<unk>" not in translator.translate(text).text  # it is never generated otherwise


def test_an_ensemble_of_a_model_with_itself_translates_and_aligns_as_the_model(tiny_translator):
    one = Translator.from_pretrained(tiny_translator, precision="fp32")
    two = Translator.from_pretrained(tiny_translator, tiny_translator, precision="fp32")
    for alone, both in zip(
        one.translate(TEXTS, align=True), two.translate(TEXTS, align=True), strict=True
    ):
        assert alone.text == both.text
        for row, other in zip(alone.alignment or (), both.alignment or (), strict=True):
            assert row == pytest.approx(other, abs=1e-5)


def test_what_needs_attention_is_refused_without_it(untrained_translator):
    translator = Translator.from_pretrained(untrained_translator(), device="cpu")
    assert not translator.has_attention
    with pytest.raises(UsageError, match="align needs a model with attention"):
        translator.translate("a dog", align=True)
    with pytest.raises(UsageError, match="replace_unknown needs a model with attention"):
        translator.translate("a dog", decoding={"replace_unknown": True})


def test_each_door_names_the_other_for_the_other_kind_of_model(tiny_model, tiny_translator):
    with pytest.raises(UsageError, match=r"reads images: use Captioner"):
        Translator.from_pretrained(tiny_model)
    with pytest.raises(UsageError, match=r"reads texts: use Translator"):
        Captioner.from_pretrained(tiny_translator)
    with pytest.raises(UsageError, match="model is missing"):
        Translator.from_pretrained()


def test_a_saved_translator_translates_as_before(translator, tmp_path):
    translator.save_pretrained(tmp_path / "copy")
    copy = Translator.from_pretrained(tmp_path / "copy", precision="fp32")
    before, after = translator.translate(TEXTS), copy.translate(TEXTS)
    assert [one.text for one in before] == [one.text for one in after]
    assert all(
        math.isclose(one.log_prob, other.log_prob, abs_tol=1e-5)
        for one, other in zip(before, after, strict=True)
    )
