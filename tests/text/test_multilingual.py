"""Tokenizers for text of any language: what a token is, and how tokens become text again."""

import subprocess
import sys
import time
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from captioner.errors import UsageError
from captioner.text.multilingual import (
    CharacterTokenizer,
    WordTokenizer,
    build_tokenizer,
    tokenizer_from_json,
    usual_spacing_of,
)
from captioner.text.tokenizer import CAPTION_TOKENIZER

WORDS = WordTokenizer()
FOLDED = WordTokenizer(True, {"hund": "Hund", "ß": "ẞ", "σ": "Σ", "ok": "OK"}, True, {"%": "none"})
CHARACTERS = CharacterTokenizer()

# Pieces that meet in text, and those that are hard to tell apart from each other.
PIECES = [
    *" \t\n.,;:!?'’\"„“”«»()-–/&@#%$€_*=…\0\u00ad\u200b\u200c\u200d\u0301\ufe0f\u20e3\ud800",
    *"aIßİςΣǅﬁé5१\u1100\u1161本カー々ﾞ。「ไกำष😀🇩🇪©\U000e0067\U0001fffe",
    *("10", "e\u0301", "n't", "'s", "’S", "l'", "qu’", "'n'", "'70s", "U.S.", "&amp;", "www."),
    *("a@b.c", "-5", "لا", "ม่", "ក្", "မြ", "क्", "한국", "👍🏽"),
    *("👩\u200d👧", "1\ufe0f\u20e3"),
]
MARKS = st.sampled_from(["", "\u0301", "\u102c", "\u0e49", "\ufe0f\u20e3", "\u0941\u0301"])
texts = st.one_of(st.text(), st.lists(st.sampled_from(PIECES), max_size=12).map("".join))


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("Ein Hund, der läuft.", "Ein Hund , der läuft ."),
        ("The man's dog doesn't run at 5 o'clock!", "The man 's dog doesn't run at 5 o'clock !"),
        ("Ein T-Shirt für 3,50 € um 10:30 Uhr", "Ein T-Shirt für 3,50 € um 10:30 Uhr"),
        ("L'homme qu’il a vu aujourd'hui", "L' homme qu’ il a vu aujourd'hui"),
        ("ein Ess- und Wohnzimmer, z.B. hier", "ein Ess- und Wohnzimmer , z.B. hier"),
        ("rock 'n' roll in the '70s", "rock 'n' roll in the '70s"),
        ("the girls' (red) room...", "the girls ' ( red ) room ..."),
        ("„Offen“, 50% bei AT&T", "„ Offen “ , 50 % bei AT&T"),
        ("1.000 von -5 bis 3/4", "1.000 von -5 bis 3/4"),
        ("see www.a.org/b?c=1, mail a.b@c.de.", "see www.a.org/b?c=1 , mail a.b@c.de ."),
        ("नमस्ते दुनिया।", "नमस्ते दुनिया ।"),  # Hindi: vowel signs are marks, not letters
        ("كِتَابٌ، قلم؟", "كِتَابٌ ، قلم ؟"),
        ("می\u200cخواهم", "می\u200cخواهم"),  # Persian: the joiner is within the word
        ("한국어 문장", "한국어 문장"),  # Korean has spaces
        ("日本語のTシャツ3枚。", "日 本 語 の T シ ャ ツ 3 枚 。"),
        ("我有两只狗，", "我 有 两 只 狗 ，"),
        ("ไม่กินน้ำ", "ไ ม่ กิ น น้ำ"),
        (
            "👩\u200d👩\u200d👧👍🏽 🇩🇪🇫🇷1\ufe0f\u20e3!",
            "👩\u200d👩\u200d👧 👍🏽 🇩🇪 🇫🇷 1\ufe0f\u20e3 !",
        ),
        ("", ""),
        (" \n\0\u200b", ""),
    ],
)
def test_words_numbers_and_marks_are_tokens(text, tokens):
    assert WORDS.tokenize(text) == tokens.split()


def test_beside_a_script_without_spaces_a_space_is_a_token():
    assert WORDS.tokenize("ไป มา ok go") == ["ไ", "ป", " ", "ม", "า", " ", "ok", "go"]


def test_composed_and_decomposed_text_have_the_same_tokens():
    assert WORDS.tokenize("Cafe\u0301") == WORDS.tokenize("Café") == ["Caf\u00e9"]
    # Unicode has a composed "h" with a macron below, but no "H".
    assert FOLDED.tokenize("H\u0331") == ["\u1e96"]


def test_a_soft_hyphen_does_not_divide_a_word():
    assert WORDS.tokenize("Fuß\u00adball") == ["Fußball"]


@pytest.mark.parametrize(
    "text",
    [
        "Ein Hund, der läuft.",
        "The man's dog (a poodle) doesn't bark; it sleeps!",
        'A sign says "stop here", and "go".',
        "Das „Open“-Schild und die „Bar“.",
        "Ein ‚kleines‘ Haus – sehr klein…",
        "It is the girls' room.",
        "The girls' room and the boys' room.",
        "It says 'free dinner' here.",
        "¿Qué? ¡No!",
        "L'homme qu'il a vu",
        "A dog/cat for $5, 50% off.",
        "日本語のTシャツ、3枚「赤」。",
        "你好, world 和 平",
        "ไป มา 3 คน",
        "नमस्ते दुनिया।",
        "كتاب، قلم؟",
        "赤い犬が草の上を走っている。",
        "一只“红色”的狗——在草地上奔跑（快）！",
        "《书》里有3只狗，100％是T恤。",
        "สุนัขสีแดงกำลังวิ่ง บนหญ้า",
        "ایک کتا، گھاس پر دوڑ رہا ہے۔",
        "Շունը վազում է։ Ո՞ւր է",
        "ውሻ፣ ድመት ይሮጣል።",
        "ခွေးသည် ပြေးနေသည်။",
        "הכלב רץ, צה״ל בית־ספר.",
        "En hund sa: ”Hej!” och ”nej”.",
        "Good 👍🏽!",
    ],
)
def test_tokens_become_text_as_it_is_written(text):
    assert WORDS.detokenize(WORDS.tokenize(text)) == text


@pytest.mark.parametrize(
    ("tokens", "text"),
    [
        (["(", ")", ".", "'s"], "().'s"),  # no text has been divided so, but a model may say it
        (["5", "/", "8", "."], "5/ 8."),  # "5/8" is one token
        (["l'", "."], "l' ."),
        (["l'", "homme", "5", "/", "8"], "l'homme 5/ 8"),
        ([], ""),
    ],
)
def test_any_tokens_become_text(tokens, text):
    assert WORDS.detokenize(tokens) == text


@given(texts)
@settings(max_examples=500, deadline=None)
def test_text_from_tokens_has_the_same_tokens(text):
    for tokenizer in (WORDS, FOLDED, CHARACTERS):
        tokens = tokenizer.tokenize(text)
        assert tokenizer.tokenize(tokenizer.detokenize(tokens)) == tokens


@given(st.lists(st.tuples(st.sampled_from([*"aｶ本ကก-.&1😀l'", "&amp;", "www.a", ".a"]), MARKS)))
@settings(max_examples=500, deadline=None)
def test_a_combining_mark_is_never_separated_from_its_base(clusters):
    text = "".join(base + mark for base, mark in clusters)
    assert not [token for token in WORDS.tokenize(text) if unicodedata.category(token[0])[0] == "M"]


def test_folded_tokens_are_lower_case_and_the_text_has_the_usual_case():
    train = ["Ein Hund sieht den Hund.", "Dort ist der Hund von Ida.", "Ein Mann geht. Er lacht."]
    tokenizer = build_tokenizer("word", texts=train, fold_case=True)
    assert tokenizer.tokenize("Der HUND.") == ["der", "hund", "."]
    # "Ein" and "Er" are only seen where every word has a capital.
    assert tokenizer.detokenize(["der", "hund", "von", "ida", "ist", "er", "."]) == (
        "Der Hund von Ida ist er."
    )
    assert tokenizer.detokenize(["dort", ".", "er", "lacht"]) == "Dort. Er lacht"


def test_a_usual_form_that_is_another_word_is_not_used():
    assert WordTokenizer(True, {"hund": "Hunde"}).detokenize(["ein", "hund"]) == "ein hund"


def test_copied_words_keep_their_spelling_and_the_text_is_joined_as_usual():
    train = ["Ein Hund sieht den Hund.", "Dort ist der Hund von Ida.", "Dort Runs Runs."]
    tokenizer = build_tokenizer("word", texts=train, fold_case=True)
    assert tokenizer.detokenize(["der", "runs", ",", "der", "hund"]) == "Der Runs, der Hund"
    assert tokenizer.detokenize(["der", "runs", ",", "der", "hund"], {1}) == "Der runs, der Hund"
    assert tokenizer.detokenize(["iPod", "'s", "HUND", ",", "ida", "."], {0}) == (
        "iPod's HUND, Ida."
    )
    # "5/8" would be one token, so that these are joined with care
    assert tokenizer.detokenize(["Timbuktu", ",", "5", "/", "8", "runs", "hund"], {5}) == (
        "Timbuktu, 5/ 8 runs Hund"
    )
    assert WORDS.detokenize(["Der", "Timbuktu", ",", "hund"], {1}) == "Der Timbuktu, hund"


def test_without_folding_the_case_stays():
    assert WORDS.detokenize(["der", "HUND"]) == "der HUND"


def test_the_spacing_of_a_language_is_learnt_from_its_texts():
    french = ["« Oui ! » dit-il : non", "Il dit : « Non ! » ou elle : « Si »", "Oui ! 5 % ou"] * 5
    tokenizer = build_tokenizer("word", texts=french)
    assert tokenizer.spacing == dict.fromkeys("!%:«»", "none")
    text = "Elle dit : « Oui ! », 7 % et (non)."
    assert tokenizer.detokenize(tokenizer.tokenize(text)) == text


def test_the_common_spacing_need_not_be_learnt():
    assert usual_spacing_of(["Oui, non. Si; a (b) c/d „x“ y - z!"] * 9) == {}
    assert usual_spacing_of(["5 % a"] * 4) == {}  # too rare to tell
    assert usual_spacing_of(["5 % a"] * 10 + ["5% a"] * 6) == {}  # not often enough
    # The hyphen says nothing where it is the quotation mark that may be attached to it.
    assert usual_spacing_of(["a - b"] * 5 + ["„x“-Schild"] * 20) == {}


def test_characters_are_those_that_readers_see_and_spaces_are_characters():
    assert CHARACTERS.tokenize("57+5") == ["5", "7", "+", "5"]
    assert CHARACTERS.tokenize("नि  e\u0301\t👍🏽 ") == ["नि", " ", "é", " ", "👍🏽"]
    assert CHARACTERS.detokenize(["a", " ", "b"]) == "a b"


@pytest.mark.parametrize("tokenizer", [CAPTION_TOKENIZER, WORDS, FOLDED, CHARACTERS])
def test_a_tokenizer_is_built_again_from_its_json(tokenizer):
    assert tokenizer_from_json(tokenizer.to_json()) == tokenizer


@pytest.mark.parametrize(
    "values",
    [
        {"kind": "words"},
        {"kind": "word"},
        WORDS.to_json() | {"usual_case": {"a": 1}},
        WORDS.to_json() | {"fold_case": "yes"},
        {"kind": "subword"},
        [],
        None,
    ],
)
def test_what_is_no_tokenizer_is_an_error_that_names_those_there_are(values):
    with pytest.raises(UsageError, match="is no tokenizer: use caption, word, character"):
        tokenizer_from_json(values)


def test_each_kind_is_built_by_its_name():
    assert build_tokenizer("caption", texts=[]) is CAPTION_TOKENIZER
    assert build_tokenizer("character", texts=[]) == CHARACTERS
    assert build_tokenizer("word", texts=["A dog."]) == WORDS
    with pytest.raises(UsageError, match="'wort' is no tokenizer"):
        build_tokenizer("wort", texts=[])


def test_captions_are_tokenized_without_the_library_regex():
    code = (
        "import sys, captioner.text.tokenizer as t; t.Vocabulary(t.SPECIALS);"
        "print([name in sys.modules for name in ('regex', 'tokenizers')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[False, False]"


@pytest.mark.parametrize("piece", ["a.", "'", "www.", "a-", "1,", "&a", "𝕏\u0301", "-1:", "ก "])
def test_a_long_line_takes_time_in_proportion_to_its_length(piece):
    start = time.perf_counter()
    WORDS.tokenize(piece * 20_000)
    assert time.perf_counter() - start < 5  # 0.1 s; with backtracking, minutes


@pytest.mark.data
@pytest.mark.parametrize(
    ("language", "exact", "exact_folded"), [("en", 0.998, 0.95), ("de", 0.998, 0.90)]
)
def test_multi30k_comes_back_from_its_tokens(research_data, language, exact, exact_folded):
    train, val = (
        (research_data / "multi30k" / f"{split}.{language}").read_text("utf-8").split("\n")[:-1]
        for split in ("train", "val")
    )

    def share(tokenizer, lines):
        return sum(
            tokenizer.detokenize(tokenizer.tokenize(line)) == " ".join(line.split())
            for line in lines
        ) / len(lines)

    assert share(build_tokenizer("word", texts=train), val) >= exact
    assert share(build_tokenizer("word", texts=train), train) >= exact
    assert share(build_tokenizer("word", texts=train, fold_case=True), val) >= exact_folded
