"""Captions are split as COCO's own evaluation splits them."""

import json
import subprocess
import sys

import pytest

from captioner.text import tokenizer
from captioner.text.tokenizer import detokenize, tokenize


@pytest.mark.parametrize(
    ("caption", "words"),
    [
        ("A dog runs on the beach.", "a dog runs on the beach"),
        ("Two dogs, one cat; no birds!", "two dogs one cat no birds"),
        ("A man's hat. It isn't his", "a man 's hat it is n't his"),
        ("a dog 's bowl", "a dog 's bowl"),
        ("He cannot swim, they'll wanna go", "he can not swim they 'll wan na go"),
        ('a sign saying "stop here".', "a sign saying stop here"),
        ("a sign saying 'stop here'", "a sign saying stop here"),
        ("a “curly” sign that says ‘stop’ in a man’s hand…", "a curly sign that says stop in a man 's hand"),
        ("a room (with a bed) [and a lamp] -LRB- small -RRB-", "a room with a bed and a lamp small"),
        ("a well-lit t-shirt - black -- on a multi- colored line", "a well-lit t-shirt black on a multi colored line"),
        ("A plate.. The T.V. is on...", "a plate the t.v is on"),
        ("Seen on T.V.", "seen on t.v"),
        ("at 5:30, 3,000 people & 2 dogs", "at 5:30 3,000 people & 2 dogs"),
        ("two\nlines\r\n and\ta  tab\n", "two lines and a tab"),
    ],
)
def test_a_caption_becomes_lower_case_words_without_punctuation(caption, words):
    assert tokenize(caption) == words.split()


@pytest.mark.parametrize("caption", ["", "  \n", ".", "...", "-", "'", '"', "``''", "()", "?!", "-LRB-"])
def test_a_caption_of_no_words_has_none(caption):
    assert tokenize(caption) == []


@pytest.mark.parametrize(
    "caption",
    [
        "a man's hat",
        "it isn't his",
        "the girls' team",
        "they'll cannot wanna",
        "3/4 of a #1 sign at 5:30",
        "a t-shirt",
        "",
    ],
)
def test_words_written_as_a_caption_split_into_the_same_words(caption):
    words = tokenize(caption)
    assert tokenize(detokenize(words)) == words


def test_a_written_caption_reads_well():
    assert detokenize(["the", "man", "'s", "dog", "does", "n't", "run"]) == "the man's dog doesn't run"


@pytest.mark.parametrize("caption", ["a dog runs on the beach", "a dog runs.", "it is  late .", "we are gonna go", "."])
def test_the_short_cut_for_plain_captions_gives_the_treebank_words(caption):
    assert tokenize(caption) == tokenizer._tokenize_treebank(" ".join(caption.lower().split()))


def test_importing_the_tokeniser_does_not_import_nltk_or_torch():
    code = "import sys, captioner.text.tokenizer; print({'nltk', 'torch'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


@pytest.fixture(scope="module")
def coco_captions(research_data):
    annotations = json.loads((research_data / "coco" / "captions_val2017.json").read_text(encoding="utf-8"))
    return [annotation["caption"] for annotation in annotations["annotations"]]


@pytest.mark.data
@pytest.mark.slow
def test_it_agrees_with_the_java_tokeniser_on_cocos_captions(coco_captions):
    ptb = pytest.importorskip("pycocoevalcap.tokenizer.ptbtokenizer").PTBTokenizer()
    java = ptb.tokenize({i: [{"caption": caption}] for i, caption in enumerate(coco_captions)})
    agreeing = sum(" ".join(tokenize(caption)) == java[i][0] for i, caption in enumerate(coco_captions))
    assert agreeing / len(coco_captions) > 0.998


@pytest.mark.data
@pytest.mark.slow
def test_cocos_captions_survive_being_written_and_split_again(coco_captions):
    for words in map(tokenize, coco_captions):
        assert tokenize(detokenize(words)) == words


@pytest.mark.data
@pytest.mark.slow
def test_the_short_cut_agrees_on_cocos_captions(coco_captions):
    for caption in coco_captions:
        assert tokenize(caption) == tokenizer._tokenize_treebank(" ".join(caption.lower().split()))
