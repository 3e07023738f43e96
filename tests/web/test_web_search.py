"""The page searches for captions as the library does: equal token ids and log-probabilities."""

import random

import pytest
import torch

from captioner.config.schema import DecodingConfig
from captioner.decoding.search import build_search, function_words, unspaced_characters
from captioner.text.tokenizer import SPECIALS, Vocabulary

WORDS = ("a", "the", "of", "dog", "cat", "runs", "red", "慢", "ball")
VOCABULARY = Vocabulary([*SPECIALS, *WORDS])
SIZE = len(VOCABULARY)

SEARCH = """
    const { beamSearch } = await load("search.js");
    const { buildRules } = await load("rules.js");
    const table = data.table.map((rows) => rows.map((row) => Float32Array.from(row)));
    // The state of a row is its last token; the next one depends on the last two.
    const step = async (state, rows, tokens) => ({
      logProbs: tokens.map((token, index) => table[state[rows[index]]][token].slice()),
      state: tokens,
    });
    const results = [];
    for (const { settings, ...constraints } of data.cases) {
      const rules = buildRules(settings, { ...constraints, graphs: data.graphs });
      const found = await beamSearch(step, [0], settings, rules);
      results.push(found.map(({ tokens, logProbs }) => [tokens, logProbs]));
    }
    respond(results);
"""


@pytest.fixture(scope="module")
def table():
    """Log-probabilities (last but one, last, next) of a random language."""
    rng = torch.Generator().manual_seed(5)
    return (2 * torch.randn(SIZE, SIZE, SIZE, generator=rng)).log_softmax(dim=2)


@pytest.fixture
def captions_in_node(node, table):
    """Search with each of these settings in JavaScript."""

    def search(all_settings):
        ids = VOCABULARY.id_of
        cases = [
            {
                "settings": settings.to_json(),
                "prefix": [ids(word) for word in settings.prefix.split()],
                "forbidden": [ids(word) for word in settings.forbid],
            }
            for settings in all_settings
        ]
        graphs = {
            "function_words": list(function_words(VOCABULARY)),
            "unspaced": list(unspaced_characters(VOCABULARY)),
        }
        return node(SEARCH, {"table": table.tolist(), "cases": cases, "graphs": graphs})

    return search


def captions_in_python(settings, table):
    def step(token_ids, state):
        return table[state[0], token_ids].clone(), (token_ids,)

    [found] = build_search(step, settings, VOCABULARY)((torch.tensor([0]),), [0])
    return [[one.token_ids, one.log_probs] for one in found]


def random_settings(rng):
    return DecodingConfig(
        captions=rng.choice([1, 1, 2, 5]),
        beam=rng.choice([1, 2, 3, 4, 8]),
        min_length=rng.choice([0, 0, 3, 6]),
        max_length=rng.choice([6, 7, 12]),
        length_norm=rng.choice(["none", "average", "wu"]),
        length_alpha=rng.choice([0.0, 0.9, 1.6]),
        prefix=rng.choice(["", "", "the red", "a"]),
        forbid=rng.choice([(), (), ("dog",), ("dog", "runs")]),
        no_repeat_ngram=rng.choice([None, None, 1, 2, 3]),
        no_double_words=rng.choice([False, True]),
        no_repeat_words=rng.choice([False, True]),
    )


def test_captions_equal_those_of_the_library_for_all_settings(captions_in_node, table):
    rng = random.Random(7)
    all_settings = [random_settings(rng) for _ in range(200)]
    for settings, found in zip(all_settings, captions_in_node(all_settings), strict=True):
        expected = captions_in_python(settings, table)
        assert [tokens for tokens, _ in found] == [tokens for tokens, _ in expected], settings
        for (_, ours), (_, theirs) in zip(found, expected, strict=True):
            assert ours == pytest.approx(theirs, abs=1e-6)


def test_a_caption_for_which_the_rules_leave_no_word_ends(captions_in_node):
    forbid = tuple(word for word in WORDS if word != "a")
    settings = DecodingConfig(beam=2, min_length=5, no_repeat_ngram=1, forbid=forbid)
    [[[tokens, _], *_]] = captions_in_node([settings])
    assert tokens == [VOCABULARY.id_of("a")]
