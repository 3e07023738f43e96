"""COCO's tokenizer on captions that are not English: their scripts and their punctuation."""

import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from captioner.text.scripts import script_without_spaces, separate, suitable_kind_hint
from captioner.text.tokenizer import CAPTION_TOKENIZER, detokenize, tokenize

# Pieces of several scripts, among English ones, and marks that are hard to keep in their place.
PIECES = [
    *"犬がー々。、「」｡狗ไก็ำสฯລາာ်។क्त।॥한국أ،؟؛۔שצ״׳־էնր՞։የ፣།་éßσ·¿¡‹›‚‐‑‒“”’„«»…–—©🐕😀🇩🇪",
    *" \t\u3000\u200b\u200d\ufe0f\u0301\u0327ab1.,'-&#/",
    *("dog", "n't", "'s", "st.", "t-shirt", "paral·lel", "e\u0301"),
]


@pytest.mark.parametrize(
    ("caption", "words"),
    [
        ("¿Qué hace el perro? ¡Corre!", "qué hace el perro corre"),
        ("एक कुत्ता घास पर दौड़ रहा है।", "एक कुत्ता घास पर दौड़ रहा है"),
        ("كلب يركض، أين؟", "كلب يركض أين"),
        ("ایک کتا دوڑ رہا ہے۔", "ایک کتا دوڑ رہا ہے"),
        ("Շունը վազում է։", "շունը վազում է"),
        ("ውሻ፣ ድመት ይሮጣል።", "ውሻ ድመት ይሮጣል"),
        ("Ο σκύλος· τρέχει;", "ο σκύλος τρέχει"),
        ("‹Le chien› ‚court‘", "le chien court"),
        ("한 마리의 개가 달린다.", "한 마리의 개가 달린다"),
    ],
)
def test_punctuation_of_any_script_is_no_part_of_a_word(caption, words):
    assert tokenize(caption) == words.split()


@pytest.mark.parametrize(
    ("caption", "words"),
    [
        ("赤い犬が、草の上を走る。", "赤 い 犬 が 草 の 上 を 走 る"),
        ("一只“红色”的狗——奔跑！", "一 只 红 色 的 狗 奔 跑"),
        ("Tシャツ3枚", "t シ ャ ツ 3 枚"),
        ("สุนัขวิ่ง ในน้ำ", "สุ นั ข วิ่ ง ใ น น้ำ"),
        ("ໝາແລ່ນ", "ໝ າ ແ ລ່ ນ"),
        ("ខ្មែរ", "ខ្មែ រ"),
        ("a dog🐕🐕 runs", "a dog 🐕 🐕 runs"),
    ],
)
def test_the_words_of_a_script_without_spaces_are_its_characters(caption, words):
    assert tokenize(caption) == words.split()


@pytest.mark.parametrize("word", ["paral·lel", "צה״ל", "ג׳ירפה", "בית־ספר", "ո՞ւր", "x‑ray"])
def test_a_mark_inside_a_word_is_a_part_of_it(word):
    assert tokenize(f"a {word}, b") == ["a", word, "b"]


def test_a_sign_of_latin_text_stays_where_it_is():
    # as before this tokenizer knew other scripts; nor does "°" or "€" end a word
    assert tokenize("a café©, 5° and 3€ Coke™") == ["a", "café©", "5°", "and", "3€", "coke™"]


def test_marks_of_english_text_are_left_to_the_rules_of_english():
    text = "the man’s “café” – ‘5 o’clock’ — it’s 20° or 3½… £5 «ok» „no“"
    words = "the man 's café 5 o'clock it 's 20° or 3½ £5 ok no"
    assert separate(text) == text
    assert tokenize(text) == words.split()


def test_a_word_is_the_same_however_its_accents_are_encoded():
    assert tokenize("Cafe\u0301") == tokenize("Café") == ["caf\u00e9"]


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ("赤 い 犬 が 走 る", "赤い犬が走る"),
        ("t シ ャ ツ 3 枚", "tシャツ3枚"),
        ("สุ นั ข วิ่ ง", "สุนัขวิ่ง"),
        ("qué hace el perro", "qué hace el perro"),
        ("the café does n't open", "the café doesn't open"),
        ("한 마리의 개", "한 마리의 개"),
    ],
)
def test_a_caption_has_spaces_where_its_script_has_them(words, text):
    assert detokenize(words.split()) == CAPTION_TOKENIZER.detokenize(words.split()) == text


def test_characters_that_would_become_one_keep_their_space():
    assert detokenize(["ก", "ำ"]) == "ก ำ"  # "กำ" is one character
    assert tokenize("ก ำ") == ["ก", "ำ"]


def test_a_mark_beside_a_script_without_spaces_is_not_inside_a_word():
    assert tokenize("3·犬‐a") == ["3", "犬", "a"]
    assert tokenize("is·n't .9·a") == ["is", "n't", ".9", "a"]


@given(st.one_of(st.text(), st.lists(st.sampled_from(PIECES), max_size=12).map("".join)))
@settings(max_examples=1000, deadline=None)
def test_the_text_of_words_has_the_same_words(text):
    words = tokenize(text)
    assert tokenize(detokenize(words)) == words


def test_english_captions_do_not_need_the_library_of_other_scripts():
    code = (
        "import sys; from captioner.text.tokenizer import *; "
        "detokenize(tokenize('A dog\\'s bowl, 5:30.')); print('regex' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


ENGLISH = ["A dog runs in New York.", "Two men at a café sit", "a white CD player", "A Dog."]


@pytest.mark.parametrize(
    ("captions", "reason"),
    [
        (["赤い犬が走る。", "青い猫が寝る。"], "in a script without spaces"),
        (["สุนัขวิ่ง", "แมวนอน"], "in a script without spaces"),
        (["एक कुत्ता", "एक बिल्ली"], "letters that English lacks"),
        (["El niño corre", "¿Dónde está?", "un perro"], "letters that English lacks"),
        (["Ein Hund rennt.", "Eine Katze isst.", "Da ist er"], "capitals inside sentences"),
    ],
)
def test_a_hint_says_why_the_words_of_english_do_not_suit(captions, reason):
    hint = suitable_kind_hint(captions)
    assert reason in hint
    assert "data.tokenizer.kind=word" in hint
    assert "\n" not in hint


@pytest.mark.parametrize("captions", [ENGLISH * 3 + ["A dog"] * 8, [], ["", ""], ["A man's dog"]])
def test_english_captions_need_no_hint(captions):
    assert suitable_kind_hint(captions) == ""


@pytest.mark.parametrize(
    ("texts", "script"),
    [
        (["一只狗。"], "han"),
        (["犬が走る。"], "other"),
        (["สุนัขวิ่ง"], "other"),
        (["a dog beside the sign 犬"], ""),
        (["123", ""], ""),
    ],
)
def test_a_script_without_spaces_is_recognised_by_most_letters(texts, script):
    assert script_without_spaces(texts) == script
