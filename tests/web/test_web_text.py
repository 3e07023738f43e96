"""The page divides and joins words as the library does."""

import random

import pytest

from captioner.decoding.search import unspaced_characters
from captioner.text.tokenizer import SPECIALS, Vocabulary, detokenize, tokenize

PARTS = (
    *(
        "a",
        "dog's",
        "don't",
        "can't",
        "cannot",
        "gonna",
        "t-shirt",
        "u.s.",
        "U.S.-made",
        "Mr.",
        "no.",
    ),
    *("st.", "3,000", "5:54", ".5", "-5", "3.5-inch", "#love", "and/or", "dallas.com", "o'clock"),
    *(
        "&",
        "AT&T",
        "&amp;",
        "'s",
        "’s",
        "'em",
        "'till",
        "the 90s",
        "'90s",
        "(red)",
        "-lrb-",
        '"hi"',
    ),
    *("...", "!", "?", ",", "john a. noble", "x", "$5", "50%", "café", "jalapeño", "boys'", "n't"),
)


def test_texts_are_divided_into_the_same_words(node):
    rng = random.Random(3)
    texts = [*PARTS, *(" ".join(rng.choices(PARTS, k=rng.randint(1, 6))) for _ in range(1000))]
    words = node("const { tokenize } = await load('text.js'); respond(data.map(tokenize));", texts)
    assert words == [tokenize(text) for text in texts]


@pytest.mark.parametrize(
    "words",
    [
        "a dog 's bowl",
        "it does n't run",
        "they 're n't 's 'll",
        "'s",
        "犬 が 走 る a dog",
        "x 's 犬",
    ],
)
def test_words_are_joined_into_the_same_caption(words, node):
    vocabulary = Vocabulary([*SPECIALS, *dict.fromkeys(words.split())])
    caption = node(
        """
        const { Vocabulary } = await load("text.js");
        respond(new Vocabulary(data.words, data.unspaced).detokenize(data.ids));
        """,
        {
            "words": vocabulary.words,
            "unspaced": list(unspaced_characters(vocabulary)),
            "ids": [vocabulary.id_of(word) for word in words.split()],
        },
    )
    assert caption == detokenize(words.split())
