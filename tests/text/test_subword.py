"""Subwords: nothing of a text is lost, and the model is inside the vocabulary's file."""

import json
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from captioner.errors import UsageError
from captioner.text.multilingual import build_tokenizer, tokenizer_from_json
from captioner.text.tokenizer import UNK, Vocabulary

pytest.importorskip("tokenizers", reason="subwords need the extra 'subword'")

from captioner.text.subword import SubwordTokenizer, train_subwords

TEXTS = [
    "low low low low low",
    "lower lower",
    "newest newest newest",
    "widest, widest, low, low, low, low,",
]
TOKENIZER = train_subwords(TEXTS, 60)


def test_frequent_words_are_one_subword_and_others_are_made_of_parts():
    assert TOKENIZER.tokenize("low") == ["▁low"]
    # "es" + "t" is the first merge in Sennrich et al., figure 1.
    assert TOKENIZER.tokenize("lowest") == ["▁low", "est"]


def test_punctuation_is_never_part_of_a_longer_subword():
    assert TOKENIZER.tokenize("low, low.") == ["▁low", ",", "▁low", "."]


@given(st.one_of(st.text(), st.text("lowerst ,.▁é😀\u0301")))
@settings(max_examples=300, deadline=None)
def test_text_comes_back_from_its_subwords(text):
    tokens = TOKENIZER.tokenize(text)
    assert TOKENIZER.tokenize(TOKENIZER.detokenize(tokens)) == tokens


def test_spaces_and_unknown_characters_are_kept():
    text = "low (😀 日本) ,x"
    assert TOKENIZER.detokenize(TOKENIZER.tokenize(f"  {text} ")) == text


def test_training_is_repeatable():
    assert train_subwords(TEXTS, 60).model_json == TOKENIZER.model_json


@pytest.mark.parametrize("size", [16, 20])  # 12 characters, <unk>, and 3 or 7 merges
def test_the_size_counts_characters_and_merges(size):
    tokenizer = build_tokenizer("subword", texts=TEXTS, subwords=size)
    assert len(json.loads(tokenizer.to_json()["model"])["model"]["vocab"]) == size


def test_the_file_of_the_vocabulary_holds_the_model(tmp_path):
    captions = [TOKENIZER.tokenize(text) for text in TEXTS]
    vocabulary = Vocabulary.from_captions(captions, min_count=1, tokenizer=TOKENIZER)
    vocabulary.save(tmp_path / "vocab.json")
    loaded = Vocabulary.load(tmp_path / "vocab.json")
    assert (loaded, loaded.digest) == (vocabulary, vocabulary.digest)
    tokens = loaded.tokenizer.tokenize("lowest 😀")
    assert loaded.encode_source(tokens)[-1] == UNK
    assert loaded.tokenizer.detokenize(tokens) == "lowest 😀"


def test_a_missing_library_is_answered_with_the_command_that_installs_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    for build in (lambda: train_subwords(TEXTS, 60), lambda: SubwordTokenizer("{}")):
        with pytest.raises(UsageError, match="run pip install tokenizers"):
            build()


def test_a_broken_model_is_an_error():
    with pytest.raises(UsageError, match="the subword model cannot be read"):
        tokenizer_from_json({"kind": "subword", "model": "{}"})
