"""What is learnt of the case of words, and how it is restored."""

import pytest

from captioner.text.truecasing import capitalized, restore, starts_with_capital, usual_case


def sentences(*texts):
    return [text.split() for text in texts]


def cased(text, learnt, capitalize=False):
    return " ".join(restore(text.split(), learnt, capitalize=capitalize))


def test_the_most_frequent_form_inside_sentences_counts():
    learnt = usual_case(sentences("x Nike", "x Nike", "x NIKE", "Nike NASA"))
    assert cased("nike nasa", learnt) == "Nike NASA"


def test_the_first_word_of_a_sentence_is_not_counted():
    assert usual_case(sentences("Blue is x", "Blue is x . Red is y", '" Green is z')) == {}


def test_a_form_after_another_word_is_learnt_if_it_is_seen_twice():
    # "junge" is usually a noun (3 of 5), but an adjective after "eine".
    nouns = sentences("x der Junge", "x der Junge", "x ein Junge")
    twice = usual_case([*nouns, *sentences("x eine junge y", "x eine junge y")])
    assert cased("der junge , eine junge y", twice) == "der Junge , eine junge y"
    once = usual_case([*nouns, *sentences("x eine junge y")])
    assert cased("eine junge y", once) == "eine Junge y"


def test_unknown_words_are_written_as_known_words_with_their_longest_ending():
    # Most words in -ung have a capital, but none in -jung.
    learnt = usual_case(
        sentences("x Zeitung y", "x Übung y", "x Heizung y", "x blutjung y", "x altjung y")
    )
    assert cased("lesung steinjung", learnt) == "Lesung steinjung"
    # An ending that is not known says what most words say: here 3 of 5 have a capital.
    assert cased("u-lesung", learnt) == "U-Lesung"


def test_words_that_their_ending_tells_are_not_stored():
    learnt = usual_case(sentences("x Zeitung Übung Heizung"))
    assert "zeitung" not in learnt
    assert cased("zeitung", learnt) == "Zeitung"


def test_a_sentence_starts_with_a_capital_if_that_is_asked_for():
    assert cased('" a b ! c ... 5 d', {}, capitalize=True) == '" A b ! C ... 5 d'
    assert cased("a . b", {}, capitalize=False) == "a . b"


def test_a_word_with_a_usual_form_keeps_it_at_the_start():
    assert cased("iphone x", {"iphone": "iPhone"}, capitalize=True) == "iPhone x"


@pytest.mark.parametrize(
    ("word", "form"), [("ßa", "ßa"), ("ςa", "ςa"), ("éa", "Éa"), ("5a", "5a"), ("", "")]
)
def test_a_capital_is_one_that_lower_case_undoes(word, form):
    assert capitalized(word) == form


@pytest.mark.parametrize(
    ("texts", "expected"),
    [(["A b", "C d", "e"], True), (["a B", "c"], False), (["1", "本"], False), ([], False)],
)
def test_most_texts_tell_whether_texts_start_with_a_capital(texts, expected):
    assert starts_with_capital(texts) == expected
