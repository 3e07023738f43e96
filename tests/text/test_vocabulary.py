"""The vocabulary: order and stability of ids, encoding, and its file."""

import hashlib
import json

import pytest

from captioner.errors import UsageError
from captioner.models.folder import BUNDLED
from captioner.text.multilingual import CharacterTokenizer, WordTokenizer
from captioner.text.tokenizer import (
    BOS,
    CAPTION_TOKENIZER,
    EOS,
    PAD,
    SPECIALS,
    UNK,
    Vocabulary,
)

CAPTIONS = [["a", "dog", "runs"], ["a", "dog", "sits"], ["a", "cat", "sits"]]


@pytest.fixture
def vocabulary():
    return Vocabulary.from_captions(CAPTIONS, min_count=2)


def test_words_are_ordered_by_count_and_then_by_the_alphabet():
    assert Vocabulary.from_captions(CAPTIONS, min_count=1).words == (
        *SPECIALS,
        "a",
        "dog",
        "sits",
        "cat",
        "runs",
    )


def test_the_specials_are_the_first_four_ids():
    assert (PAD, BOS, EOS, UNK) == (0, 1, 2, 3)
    assert Vocabulary.from_captions([]).words == ("<pad>", "<bos>", "<eos>", "<unk>")


def test_words_rarer_than_the_minimum_are_unknown(vocabulary):
    assert "sits" in vocabulary
    assert "cat" not in vocabulary
    assert vocabulary.encode(["cat"]) == [BOS, UNK, EOS]


def test_the_order_of_the_captions_does_not_matter(vocabulary):
    assert Vocabulary.from_captions(reversed(CAPTIONS), min_count=2) == vocabulary


def test_decoding_returns_the_words_that_were_encoded(vocabulary):
    ids = vocabulary.encode(["a", "dog", "sits"])
    assert (ids[0], ids[-1]) == (BOS, EOS)
    assert vocabulary.decode(ids) == ["a", "dog", "sits"]


def test_a_long_caption_is_cut_and_still_ends(vocabulary):
    assert vocabulary.encode(["a", "dog", "sits"], max_length=2) == vocabulary.encode(["a", "dog"])


def test_decoding_stops_at_the_end_and_skips_specials(vocabulary):
    a, dog = vocabulary.encode(["a", "dog"])[1:-1]
    assert vocabulary.decode([BOS, a, UNK, PAD, dog, EOS, a]) == ["a", "dog"]


def test_text_that_looks_like_a_special_is_an_unknown_word():
    vocabulary = Vocabulary.from_captions([["<eos>", "a", "<pad>"]], min_count=1)
    assert vocabulary.encode(["a", "<eos>"]) == [BOS, 4, UNK, EOS]
    assert "<eos>" not in vocabulary


def test_an_extended_vocabulary_keeps_the_old_ids(vocabulary):
    longer = vocabulary.extended(
        [["zebra", "zebra", "ant", "ant", "dog", "dog", "once"]], min_count=2
    )
    assert longer.words == (*vocabulary.words, "ant", "zebra")
    assert len(longer) == len(vocabulary) + 2


def test_a_saved_vocabulary_is_loaded_again(vocabulary, tmp_path):
    vocabulary.save(tmp_path / "vocab.json")
    loaded = Vocabulary.load(tmp_path / "vocab.json")
    assert loaded == vocabulary
    assert loaded.digest == vocabulary.digest
    assert json.loads((tmp_path / "vocab.json").read_text()) == {
        "format": 1,
        "words": [*vocabulary.words],
    }


def test_vocabularies_in_another_order_have_another_digest(vocabulary):
    *rest, last_but_one, last = vocabulary.words
    assert Vocabulary([*rest, last, last_but_one]).digest != vocabulary.digest


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("", "Expecting value"),
        ("[]", "expected"),
        ('{"format": 2, "words": []}', "format 2"),
        ('{"format": 1, "words": "a b"}', "list of strings"),
        ('{"format": 1, "words": ["<pad>", "<bos>", "<eos>", "<unk>", 7]}', "list of strings"),
        ('{"format": 1, "words": ["a", "<pad>", "<bos>", "<eos>", "<unk>"]}', "first words"),
        ('{"format": 1, "words": ["<pad>", "<bos>", "<eos>", "<unk>", "a", "a"]}', "'a'"),
    ],
)
def test_an_invalid_file_is_an_error_that_names_the_file_and_the_reason(tmp_path, content, reason):
    (tmp_path / "vocab.json").write_text(content)
    with pytest.raises(UsageError, match=reason) as caught:
        Vocabulary.load(tmp_path / "vocab.json")
    assert str(tmp_path / "vocab.json") in str(caught.value)


def test_a_missing_file_is_an_error_that_names_the_file(tmp_path):
    with pytest.raises(UsageError, match=r"vocab\.json.*No such file"):
        Vocabulary.load(tmp_path / "vocab.json")


def test_a_source_is_encoded_without_a_sign_of_its_start_and_end(vocabulary):
    assert vocabulary.encode_source(["a", "cat", "sits"]) == [
        vocabulary.id_of("a"),
        UNK,
        vocabulary.id_of("sits"),
    ]
    assert vocabulary.encode_source(["a", "cat", "sits"], max_length=1) == [vocabulary.id_of("a")]
    assert vocabulary.encode_source([]) == []


def test_the_digest_of_a_vocabulary_of_captions_is_that_of_its_words(vocabulary):
    words = "<pad>\n<bos>\n<eos>\n<unk>\na\ndog\nsits"
    assert vocabulary.digest == hashlib.sha256(words.encode()).hexdigest()


def test_another_tokenizer_is_saved_and_changes_the_digest(vocabulary, tmp_path):
    tokenizer = WordTokenizer(True, {"hund": "Hund"}, True, {"%": "none"})
    other = Vocabulary(vocabulary.words, tokenizer)
    other.save(tmp_path / "vocab.json")
    loaded = Vocabulary.load(tmp_path / "vocab.json")
    assert loaded == other != vocabulary
    assert Vocabulary(vocabulary.words[:-1], tokenizer) != other
    assert loaded.digest == other.digest != vocabulary.digest
    assert loaded.tokenizer == tokenizer


def test_an_extended_vocabulary_keeps_the_tokenizer():
    vocabulary = Vocabulary.from_captions(CAPTIONS, tokenizer=CharacterTokenizer())
    assert vocabulary.extended(CAPTIONS, min_count=1).tokenizer == CharacterTokenizer()


def test_an_unknown_tokenizer_is_an_error_that_names_the_file(tmp_path):
    content = {"format": 1, "words": SPECIALS, "tokenizer": {"kind": "morphemes"}}
    (tmp_path / "vocab.json").write_text(json.dumps(content))
    with pytest.raises(UsageError, match=r"vocab\.json: .*morphemes.* is no tokenizer"):
        Vocabulary.load(tmp_path / "vocab.json")


def test_the_bundled_vocabulary_loads_and_has_the_digest_of_its_model():
    config = json.loads((BUNDLED / "config.json").read_text("utf-8"))
    vocabulary = Vocabulary.load(BUNDLED / "vocab.json")
    assert vocabulary.tokenizer is CAPTION_TOKENIZER
    assert vocabulary.digest in json.dumps(config)
