"""`tokenize` splits captions as COCO's evaluation does, and `detokenize` reverses it."""

import itertools
import json
import random
import re
import shutil
import subprocess
import sys
from collections import Counter

import pytest

from captioner.data.datasets import load_references
from captioner.models.folder import BUNDLED
from captioner.text import tokenizer
from captioner.text.tokenizer import ABBREVIATIONS, Vocabulary, detokenize, tokenize


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
        (
            "a “curly” sign that says ‘stop’ in a man’s hand…",
            "a curly sign that says stop in a man 's hand",
        ),
        (
            "a room (with a bed) [and a lamp] -LRB- small -RRB-",
            "a room with a bed and a lamp small",
        ),
        (
            "a well-lit t-shirt - black -- on a multi- colored line",
            "a well-lit t-shirt black on a multi colored line",
        ),
        ("at 5:30, 3,000 people & 2 dogs", "at 5:30 3,000 people & 2 dogs"),
        ("two\nlines\r\n and\ta  tab\n", "two lines and a tab"),
        ("ein Mädchen fährt über die Straße, कुत्ता", "ein mädchen fährt über die straße कुत्ता"),
    ],
)
def test_a_caption_becomes_lower_case_words_without_punctuation(caption, words):
    assert tokenize(caption) == words.split()


@pytest.mark.parametrize(
    ("caption", "words"),
    [
        ("A cross road of Furnace St. and Crapo St.", "a cross road of furnace st. and crapo st."),
        ('the signs "W 122 St.", and "Broadway"', "the signs w 122 st. and broadway"),
        ("St. Patrick's Day. Mr.Bean", "st. patrick 's day mr.bean"),
        ("A plate.. The T.V. is on... and the T.V", "a plate the t.v. is on and the t.v"),
        ("a U.S.-made R.V.'s door", "a u.s.-made r.v. 's door"),
        ("a sign for W. Centre", "a sign for w. centre"),
        ("a bus says No. 5, and no. is no.1", "a bus says no. 5 and no is no. 1"),
    ],
)
def test_the_dot_of_an_abbreviation_belongs_to_the_word_as_in_java(caption, words):
    assert tokenize(caption) == words.split()


@pytest.mark.parametrize(
    "caption", ["a sign that reads K.", "this is K. A man sees it", "this is k. the man sees it"]
)
def test_the_dot_of_a_letter_that_ends_a_sentence_is_a_full_stop(caption):
    assert "k" in tokenize(caption)


@pytest.mark.parametrize(
    ("caption", "words"),
    [
        ("offering food to an elephant/", "offering food to an elephant /"),
        ("and/or 8th Ave/CTH D", "and/or 8th ave/cth d"),
        ("p+q on=f p#q", "p + q on = f p #q"),
        ("color`s cars", "color s cars"),
    ],
)
def test_a_symbol_is_a_word_of_its_own_as_in_java(caption, words):
    assert tokenize(caption) == words.split()


@pytest.mark.parametrize(
    ("caption", "words"),
    [
        ("the time of 5:54pm, or 5pm", "the time of 5:54 pm or 5pm"),
        ("22 3/4 street, 1/2-inch, 3.5-inch, 3.5ft", "22 3/4 street 1/2-inch 3.5-inch 3.5 ft"),
        (".5 and -5 and 10-12", ".5 and -5 and 10-12"),
    ],
)
def test_a_number_ends_where_java_ends_it(caption, words):
    assert tokenize(caption) == words.split()


@pytest.mark.parametrize(
    ("caption", "words"),
    [
        ("a slip 'n' slide", "a slip 'n' slide"),
        ("'hook 'em horns' 'til the '70s", "hook 'em horns 'til the '70s"),
        ("an ant 's-eye-view, a bird's-eye view", "an ant 's eye-view a bird 's eye view"),
        ("five o'clock at the girls' o'neill", "five o'clock at the girls o'neill"),
        ("they wouldn't've, can't've", "they would n't 've ca n't 've"),
    ],
)
def test_an_apostrophe_makes_a_clitic_a_word_or_a_quote_as_in_java(caption, words):
    assert tokenize(caption) == words.split()


def test_an_ampersand_may_be_written_as_in_html():
    assert tokenize("stone &amp; tile") == tokenize("stone & tile") == ["stone", "&", "tile"]


@pytest.mark.parametrize(
    "caption", ["", "  \n", ".", "...", "-", "'", '"', "``''", "()", "?!", "-LRB-"]
)
def test_a_caption_without_words_has_no_tokens(caption):
    assert tokenize(caption) == []


def test_tokenize_reverses_detokenize():
    pieces = [
        *"a&#@5'.,:-/+(\"’",
        " ",
        "dog",
        "can",
        "not",
        "n't",
        "'s",
        "'em",
        "st.",
        "t.v.",
        "no.",
        "the",
        "-lrb-",
        "&amp;",
    ]
    rng = random.Random(0)
    for _ in range(5000):
        words = tokenize("".join(rng.choices([*pieces, *" " * len(pieces)], k=12)))
        assert tokenize(detokenize(words)) == words


def test_detokenize_joins_clitics_to_their_words():
    assert (
        detokenize(["the", "man", "'s", "dog", "does", "n't", "run"]) == "the man's dog doesn't run"
    )
    assert detokenize(["a", "t-shirt", "'s", "logo"]) == "a t-shirt's logo"


@pytest.mark.parametrize(
    "caption",
    [
        "a dog runs on the beach",
        "a dog runs.",
        "it is  late .",
        "we are gonna go",
        "main st.",
        "a sign k.",
        ".",
    ],
)
def test_the_fast_path_for_plain_captions_returns_the_treebank_words(caption):
    assert tokenize(caption) == tokenizer._tokenize_treebank(" ".join(caption.lower().split()))


def test_importing_the_tokenizer_does_not_import_torch():
    code = "import sys, captioner.text.tokenizer; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@pytest.fixture(scope="module")
def java_words():
    """Return a function that splits captions with COCO's own tokenizer."""
    ptb = pytest.importorskip(
        "pycocoevalcap.tokenizer.ptbtokenizer", reason="COCO's tokenizer needs pycocoevalcap"
    )
    if shutil.which("java") is None:
        pytest.skip("COCO's tokenizer needs java")

    def tokenised(captions):
        java = ptb.PTBTokenizer().tokenize(
            {i: [{"caption": caption}] for i, caption in enumerate(captions)}
        )
        return [java[i][0].split() for i in range(len(captions))]

    return tokenised


@pytest.fixture(scope="module")
def corpora(research_data):
    """The raw captions of four data sets."""

    def coco(path):
        annotations = json.loads((research_data / path).read_text(encoding="utf-8"))["annotations"]
        return [annotation["caption"] for annotation in annotations]

    rsicd = [
        (research_data / "rsicd" / f"captions_{split}.jsonl").read_text("utf-8")
        for split in ("train", "dev")
    ]
    return {
        "COCO": coco("coco/captions_val2017.json"),
        "Flickr8k": coco("flickr8k/captions_train.json"),
        "Multi30k": (research_data / "multi30k" / "train.en").read_text("utf-8").splitlines(),
        "RSICD": [
            caption
            for line in "".join(rsicd).splitlines()
            for caption in json.loads(line)["captions"]
        ],
    }


def cause_of_difference(ours, java):
    """Return the cause of a difference."""
    if ours == [
        word for word in java if word not in {f"-{side}{kind}b-" for side in "lr" for kind in "rcs"}
    ]:
        return "brackets"
    if ours == [part for word in java for part in re.split("(&)", word) if part]:
        return "capitals around &"
    if ours == [word[0] if re.fullmatch(r"[a-z]\.", word) else word for word in java]:
        return "the dot of a letter"
    return "unknown"


@pytest.mark.data
@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "captions", "causes"),
    [
        ("COCO", 25_014, {"brackets": 2}),
        ("Flickr8k", 29_995, {"brackets": 5, "the dot of a letter": 1}),
        ("Multi30k", 29_000, {"brackets": 20, "capitals around &": 5, "the dot of a letter": 1}),
        ("RSICD", 3_661, {"brackets": 2}),
    ],
)
def test_it_equals_cocos_java_tokenizer_but_for_these_captions(
    corpora, java_words, name, captions, causes
):
    pairs = list(zip(map(tokenize, corpora[name]), java_words(corpora[name]), strict=True))
    differing = Counter(cause_of_difference(ours, java) for ours, java in pairs if ours != java)
    print(f"{name}: {differing.total()} of {len(pairs):,} captions differ: {dict(differing)}")
    assert (len(pairs), differing) == (captions, causes)


@pytest.mark.slow
def test_the_abbreviations_are_those_of_the_java_tokenizer(java_words):
    for form in ("a {} dog", "a dog, {}"):
        captions = [form.format(word) for word in sorted(ABBREVIATIONS)]
        assert java_words(captions) == [tokenize(caption) for caption in captions]


@pytest.mark.data
@pytest.mark.slow
def test_the_captions_of_four_data_sets_are_equal_after_detokenize_and_tokenize(corpora):
    for words in map(tokenize, itertools.chain(*corpora.values())):
        assert tokenize(detokenize(words)) == words


@pytest.mark.data
@pytest.mark.slow
def test_the_fast_path_agrees_on_the_captions_of_four_data_sets(corpora):
    for caption in itertools.chain(*corpora.values()):
        assert tokenize(caption) == tokenizer._tokenize_treebank(" ".join(caption.lower().split()))


@pytest.mark.data
def test_the_bundled_vocabulary_is_that_of_its_training_captions(research_data):
    coco = research_data / "coco"
    general = load_references(coco / "general" / "captions.json")
    val2017 = load_references(coco / "captions_mini_val2017.json")
    rows = json.loads((coco / "general" / "captions.json").read_text("utf-8"))["annotations"]
    in_order = dict.fromkeys(row["image_id"] for row in rows)
    five = [image for image in in_order if len(general[image]) >= 5]
    held_out = {*val2017, *five[::2]}  # docs/recipe.md: the general dev set
    photographs = load_references(coco / "captions_mini_train2017.json") | general
    dev = val2017 | {image: general[image] for image in five[::2]}
    flickr8k = load_references(research_data / "flickr8k" / "captions_dev.json")  # ids may repeat
    references = {
        tuple(tokenize(caption)) for caption in itertools.chain(*dev.values(), *flickr8k.values())
    }
    text = (research_data / "text" / "captions_coco.txt").read_text("utf-8").splitlines()
    captions = [
        *itertools.chain(
            *load_references(research_data / "flickr8k" / "captions_train.json").values()
        ),
        *itertools.chain(*(photographs[image] for image in photographs.keys() - held_out)),
        *(line for line in text if tuple(tokenize(line)) not in references),
    ]
    words = Vocabulary.from_captions(map(tokenize, captions), min_count=5).words
    bundled = json.loads((BUNDLED / "vocab.json").read_text("utf-8"))
    assert list(words) == bundled["words"]
