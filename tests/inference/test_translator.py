"""The translator: order, batches, limits, alignment, unknown words and ensembles."""

import math

import pytest
import torch

from captioner.decoding.search import length_limits
from captioner.errors import UsageError
from captioner.inference.captioner import Captioner
from captioner.inference.translator import Translator, _with_case
from captioner.text.multilingual import CharacterTokenizer, WordTokenizer
from captioner.text.tokenizer import BOS, EOS, UNK
from captioner.types import Batch

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


FOLDED = WordTokenizer(True, {"hund": "Hund", "vogel": "Vogel", "runs": "Runs"}, capitalize=True)


@pytest.fixture
def folding(untrained_translator):
    """A model of lower-case words that generates <unk> only."""
    folder = untrained_translator(tokenizer=FOLDED, context="attention")
    translator = Translator.from_pretrained(folder, device="cpu", precision="fp32")
    translator.models[0].decoder.output.bias.data[UNK] = 50.0
    return translator


def copying(length, **settings):
    """Settings under which unknown words are replaced, in a text of `length` words."""
    limits = {"max_length": length, "length_ratio": 0, "min_length": length}
    return {"replace_unknown": True, "beam": 1, **limits, **settings}


def prefer(model, preferred):
    """Make a model attend most to the first of these source positions, then to the next."""
    decode = model.decode

    def with_weights(batch, state):
        output = decode(batch, state)
        weights = torch.zeros_like(output.weights)
        for rank, position in enumerate(preferred):
            weights[..., position] = 0.5**rank
        return output._replace(weights=weights)

    model.decode = with_weights


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


def test_source_tokens_have_the_case_of_the_text_though_the_model_reads_lower_case(folding):
    shown = folding.translate("The DOG, runs in Timbuktu.", align=True).source
    assert shown == ("The", "DOG", ",", "runs", "in", "Timbuktu", ".")
    lower = folding.translate("the dog, runs in timbuktu.", align=True)
    assert folding.translate("The DOG, runs in Timbuktu.").log_prob == lower.log_prob


@pytest.mark.parametrize(
    ("tokenizer", "text", "tokens"),
    [
        (FOLDED, "The DOG's", ["The", "DOG", "'s"]),
        (FOLDED, "Das İ.S.", ["das", "i̇", ".", "s", "."]),  # in lower case it has more tokens
        (WordTokenizer(), "The DOG", ["The", "DOG"]),
        (CharacterTokenizer(), "A b", ["A", " ", "b"]),
    ],
)
def test_the_tokens_in_the_case_of_the_text_are_as_many_as_the_model_reads(tokenizer, text, tokens):
    assert _with_case(tokenizer, text) == tokens
    assert len(tokenizer.tokenize(text)) == len(tokens)


def test_a_copied_word_keeps_its_spelling_and_punctuation_is_attached(folding):
    prefer(folding.models[0], [1])
    one = folding.translate("der runs", decoding=copying(2, prefix="hund"))
    assert one.text == "Hund runs"
    one = folding.translate("in Timbuktu", decoding=copying(3, require=["."], prefix="der hund"))
    assert one.text == "Der Hund."
    one = folding.translate("in Timbuktu", decoding=copying(3, require=["."], prefix="der"))
    assert one.text == "Der Timbuktu."
    assert [word.text for word in one.words] == ["der", "Timbuktu", "."]


@pytest.mark.parametrize(
    ("forbid", "copied"),
    [([], "Gnu"), (["gnu"], "Zebra"), (["Gnu", "ZEBRA"], "Emu"), (["zebra"], "Gnu")],
)
def test_a_forbidden_source_word_gives_way_to_the_next_by_weight(folding, forbid, copied):
    prefer(folding.models[0], [2, 0, 1])
    one = folding.translate("Zebra Emu Gnu", decoding=copying(1, forbid=forbid))
    assert (one.text, [word.text for word in one.words]) == (copied, [copied])


def test_an_unknown_word_is_left_out_if_every_source_word_is_forbidden(folding):
    settings = copying(2, forbid=["zebra"], prefix="hund")
    one = folding.translate("Zebra zebra", decoding=settings, align=True)
    assert (one.text, [word.text for word in one.words]) == ("Hund", ["hund"])
    assert len(one.alignment) == 1
    assert "<unk>" not in one.text


def by_hand(models, source, words):
    """Log-probabilities (words, V) and attention weights of the mean of models, for given words."""
    tokens = torch.tensor([[BOS, *words, EOS]])
    one = torch.zeros(1, dtype=torch.int64)
    batch = Batch(source, tokens, torch.ones_like(tokens, dtype=torch.bool), one, one)
    with torch.no_grad():
        weights = [model.decode(batch, model.init_state(source)).weights for model in models]
        states = [model.init_state(source) for model in models]
        log_probs = []
        for token in (BOS, *words):
            steps = [
                model.step(torch.tensor([token]), state)
                for model, state in zip(models, states, strict=True)
            ]
            states = [state for _, state in steps]
            log_probs.append(torch.stack([each.exp() for each, _ in steps]).mean(dim=0).log()[0])
    return torch.stack(log_probs), torch.stack(weights).mean(dim=0)[:-1]


def test_an_ensemble_takes_the_mean_of_the_probabilities_and_of_the_attention_weights(
    untrained_translator,
):
    folders = [untrained_translator(seed=seed, context="attention") for seed in (3, 4)]
    ensemble = Translator.from_pretrained(*folders, device="cpu", precision="fp32")
    alone = [Translator.from_pretrained(folder, precision="fp32") for folder in folders]
    differ = 0
    for text in filter(str.strip, TEXTS):
        found = ensemble.translate(text, align=True, decoding={"beam": 1})
        words = [ensemble.vocabulary.id_of(word.text) for word in found.words]
        tokens = ensemble.source_vocabulary.encode_source(text.split())
        log_probs, weights = by_hand(ensemble.models, torch.tensor([tokens]), words)
        total = sum(float(row[token]) for row, token in zip(log_probs, [*words, EOS], strict=True))
        assert found.log_prob == pytest.approx(total, abs=1e-4)
        log_probs[:, [0, BOS, UNK]] = -torch.inf
        assert log_probs.argmax(dim=1).tolist()[: len(words)] == words
        assert len(words) > 0
        torch.testing.assert_close(torch.tensor(found.alignment), weights, atol=1e-4, rtol=0)
        differ += all(
            one.translate(text, decoding={"beam": 1}).log_prob != found.log_prob for one in alone
        )
    assert differ > 2


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


def test_no_repeat_words_does_not_take_all_unknown_words_for_one(translator):
    translator.models[0].decoder.output.bias.data[UNK] = 50.0
    one = translator.translate("Zebra gnu", decoding=copying(3, no_repeat_words=True))
    assert [word.text in ("Zebra", "gnu") for word in one.words] == [True] * 3


def test_a_word_of_several_tokens_is_shown_as_the_tokenizer_splits_it(untrained_translator):
    folder = untrained_translator(tokenizer=CharacterTokenizer())
    translator = Translator.from_pretrained(folder, device="cpu")
    with pytest.raises(UsageError, match=r"'Hu' is not one word but 2 tokens .*\(H u\)"):
        translator.translate("a", decoding={"require": ["Hu"]})
