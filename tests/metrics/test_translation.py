"""Scores of translations: sacreBLEU, chrF, BLEU over tokens, and exact match."""

import json
import math
import random
import subprocess
import sys

import pytest
import sacrebleu
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF

from captioner.errors import UsageError
from captioner.metrics.significance import MAX_EXAMPLES, MIN_IMAGES
from captioner.metrics.translation import TranslationScorer, compare_translations

METRICS = ["BLEU", "BLEU_lc", "chrF", "Bleu_1", "Bleu_2", "Bleu_3", "Bleu_4", "exact"]
WORDS = ["der", "die", "Hund", "Mann", "läuft", "auf", "in", "am", "Haus", ",", "rot", "und", "Ein"]
REFERENCES = {"x": ["Der Hund läuft am Strand."], "y": ["Ein Mann sitzt.", "Da sitzt ein Mann."]}
OUTPUTS = {"x": "der Hund läuft am Strand.", "y": "Ein Mann sitzt."}


def scorer(references, tokenize=str.split):
    return TranslationScorer(references, tokenize)


def random_texts(number, *, references=1, seed=0):
    """Return references, and outputs in which one word in five is another one."""
    rng = random.Random(seed)

    def text():
        return " ".join(rng.choices(WORDS, k=rng.randint(4, 14))) + "."

    texts = {i: [text() for _ in range(rng.randint(1, references))] for i in range(number)}
    outputs = {
        i: " ".join(word if rng.random() < 0.8 else rng.choice(WORDS) for word in each[0].split())
        for i, each in texts.items()
    }
    return texts, outputs


def words_13a(text):
    return BLEU(tokenize="13a").tokenizer(text).split()


def test_a_small_case_by_hand():
    # x: 5 words, of which "der" is wrong: matches 4, 3, 2, 1 of 5, 4, 3, 2. y: all of 3, 2, 1, 0.
    metrics = scorer(REFERENCES).score(OUTPUTS).metrics
    precisions = [7 / 8, 5 / 6, 3 / 4, 1 / 2]  # 8 words against 5 + 3: no brevity penalty
    for n in range(1, 5):
        expected = math.prod(precisions[:n]) ** (1 / n)
        assert metrics[f"Bleu_{n}"] == pytest.approx(expected, abs=1e-8)
    assert metrics["exact"] == 1 / 2
    # 13a splits the full stops: 10 words; cased: 9, 7, 5, 3 match of 10, 8, 6, 4; folded: all.
    full = scorer(REFERENCES).evaluate(OUTPUTS).metrics
    cased = math.prod([9 / 10, 7 / 8, 5 / 6, 3 / 4]) ** (1 / 4)
    assert full["BLEU"] == pytest.approx(cased, abs=1e-12)
    assert full["BLEU_lc"] == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("references", [1, 3])
def test_scores_and_signatures_are_those_of_sacrebleu(references):
    texts, outputs = random_texts(60, references=references)
    evaluation = scorer(texts).evaluate(outputs)
    # An independent padding: None for each missing reference.
    streams = [[dict(enumerate(each)).get(k) for each in texts.values()] for k in range(references)]
    for name, metric in {
        "BLEU": BLEU(),
        "BLEU_lc": BLEU(lowercase=True),
        "chrF": CHRF(),
    }.items():
        score = metric.corpus_score(list(outputs.values()), streams).score
        assert evaluation.metrics[name] == pytest.approx(score / 100, abs=1e-12)
        assert evaluation.signatures[name] == str(metric.get_signature())
    nrefs = "nrefs:1|" if references == 1 else "nrefs:var|"
    assert all(nrefs in signature for signature in evaluation.signatures.values())


def test_bleu_over_sacrebleus_tokens_equals_sacrebleu():
    texts, outputs = random_texts(60, references=3)
    metrics = scorer(texts, words_13a).evaluate(outputs).metrics
    assert metrics["Bleu_4"] == pytest.approx(metrics["BLEU"], abs=1e-9)


def test_bleu_does_not_depend_on_what_the_tokens_contain():
    # A character tokenizer has tokens that are spaces: the same scores as with another letter.
    texts, outputs = random_texts(20)
    spaces = scorer(texts, list).score(outputs).metrics
    letters = scorer(texts, lambda text: list(text.replace(" ", "_"))).score(outputs).metrics
    assert spaces == letters
    assert 0 < spaces["Bleu_4"] < 1


def test_an_output_is_exact_if_it_equals_any_reference_but_for_spaces_and_composition():
    references = {1: ["62"], 2: ["a", "b  ü"], 3: ["Ja"], 4: ["5 7"]}
    outputs = {1: "62", 2: "b u\u0308\n", 3: "ja", 4: "57"}
    assert scorer(references).score(outputs).metrics["exact"] == 2 / 4


@pytest.mark.parametrize(
    ("output", "references"),
    [
        ("a b c d f", ["a b c d e", "a b"]),
        ("a b", ["a b c d e"]),  # too short for 3-grams, and brevity penalty
        ("a b x d", ["a b c d"]),  # no 3-gram and no 4-gram matches: smoothed twice
        ("A b c d e", ["a b c d e f"]),
    ],
)
def test_samples_of_texts_have_sacrebleus_scores(output, references):
    # Every resample of one text is that text, so both ends of the interval are its score.
    library = {"BLEU": BLEU(), "BLEU_lc": BLEU(lowercase=True), "chrF": CHRF()}
    intervals = scorer({0: references}).evaluate({0: output}).intervals
    for name, metric in library.items():
        expected = metric.corpus_score([output], [[text] for text in references]).score / 100
        assert intervals[name] == pytest.approx((expected, expected), abs=1e-12)


def test_intervals_are_deterministic_and_contain_the_scores():
    texts, outputs = random_texts(80, references=2)
    outputs |= {i: texts[i][0] for i in range(10)}  # exact
    evaluation = scorer(texts).evaluate(outputs)
    assert list(evaluation.metrics) == list(evaluation.intervals) == METRICS
    for name, (low, high) in evaluation.intervals.items():
        assert low < evaluation.metrics[name] < high
    assert scorer(texts).evaluate(outputs).intervals == evaluation.intervals


def test_the_order_of_the_texts_does_not_matter():
    texts, outputs = random_texts(40, references=2)
    expected = scorer(texts).evaluate(outputs)
    swapped = scorer(texts).evaluate(dict(reversed(outputs.items())))
    assert swapped.metrics == expected.metrics
    assert swapped.intervals == expected.intervals
    other = scorer(dict(reversed(texts.items()))).evaluate(outputs)
    assert other.metrics == pytest.approx(expected.metrics, abs=1e-12)
    assert other.signatures == expected.signatures


def test_empty_outputs_score_zero():
    evaluation = scorer(REFERENCES).evaluate({"x": "", "y": "  "})
    assert evaluation.metrics == dict.fromkeys(METRICS, 0)
    assert evaluation.intervals == dict.fromkeys(METRICS, (0, 0))


def test_an_empty_reference_is_scored():
    metrics = scorer({1: [""], 2: ["a b c d"]}).evaluate({1: "", 2: "a b c d"}).metrics
    assert metrics == pytest.approx(dict.fromkeys(METRICS, 1), abs=1e-8)


def test_outputs_that_do_not_fit_the_references_are_named():
    with pytest.raises(UsageError, match=r"no output for 1 text \('y'\), 1 text \(3\) not in the"):
        scorer(REFERENCES).score({"x": "a", 3: "b"})
    with pytest.raises(UsageError, match=r"no output for 2 texts \('x', 'y'\)"):
        scorer(REFERENCES).evaluate({})


@pytest.mark.parametrize(
    ("references", "message"),
    [({}, "there are no references"), ({1: ["a"], 2: []}, r"1 text \(2\) without a reference")],
)
def test_texts_without_references_are_refused(references, message):
    with pytest.raises(UsageError, match=message):
        scorer(references)


def test_json_and_table_hold_metrics_intervals_and_signatures():
    evaluation = TranslationScorer(REFERENCES, str.split, tokenizer_name="word").evaluate(OUTPUTS)
    values = json.loads(json.dumps(evaluation.as_dict()))
    assert values.keys() - METRICS == {"intervals", "signatures"}
    assert {name: values[name] for name in METRICS} == evaluation.metrics
    assert values["signatures"]["BLEU_lc"].endswith(f"version:{sacrebleu.__version__}")
    rows = evaluation.table().split("\n")
    assert rows[2].startswith("sacreBLEU lc  100.00   100.00 to 100.00")
    assert rows[8].startswith("exact match    50.00   0.00 to 100.00")
    assert f"sacreBLEU: {evaluation.signatures['BLEU']}" in rows
    assert rows[-1].startswith("BLEU-1 to 4: texts:2|nrefs:var|split:")
    assert "|tok:word|" in rows[-1]


def test_training_scores_do_not_import_sacrebleu():
    code = (
        "from captioner.metrics.translation import TranslationScorer; import sys;"
        "TranslationScorer({1: ['a b']}, str.split).score({1: 'a b'}).metrics;"
        "sys.exit('sacrebleu' in sys.modules or 'torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.fixture(scope="module")
def compared():
    """Compare the outputs of `random_texts` to those in which some texts are as the reference."""
    texts, outputs = random_texts(MIN_IMAGES * 3, references=2)
    scorer = TranslationScorer(texts, str.split)

    def compare(*, a=(), b=()):
        sets = [outputs | {i: texts[i][0] for i in exact} for exact in (a, b)]
        return compare_translations(*map(scorer.evaluate, sets))

    return compare


def test_the_better_set_wins_the_resamples_in_every_metric(compared):
    comparison = compared(b=range(45))
    assert list(comparison.differences) == METRICS
    for difference in comparison.differences.values():
        assert difference.difference == pytest.approx(difference.b - difference.a)
        assert 0 < difference.low < difference.difference < difference.high
        assert difference.b_wins == 1
    assert comparison.verdict.startswith("b is better: sacreBLEU +")


def test_swapping_the_sets_mirrors_the_comparison(compared):
    there, back = compared(b=range(45)), compared(a=range(45))
    for name, (a, b, difference, low, high, b_wins) in there.differences.items():
        assert back.differences[name] == pytest.approx((b, a, -difference, -high, -low, 1 - b_wins))
    assert back.verdict == there.verdict.replace("b is better", "a is better")


def test_equal_sets_do_not_differ(compared):
    comparison = compared()
    for a, b, *rest in comparison.differences.values():
        assert a == b
        assert rest == [0, 0, 0, 0.5]
    assert comparison.verdict.startswith("no significant difference on these 90 texts")
    assert comparison.better_a == comparison.better_b == []


def test_the_resamples_are_the_same_for_both_sets():
    # b is a in every text but one: with separate resamples the difference would often be negative.
    texts, outputs = random_texts(60)
    scored = TranslationScorer(texts, str.split)
    a = scored.evaluate({**outputs, 0: ""})
    b = scored.evaluate(outputs)
    assert compare_translations(a, b).differences["chrF"].low >= 0


def test_the_texts_on_which_each_set_leads_most_are_shown_with_their_reference(compared):
    comparison = compared(a=range(3), b=range(10, 80))
    assert {pair.text_id for pair in comparison.better_a} <= set(range(3))
    assert len(comparison.better_b) == MAX_EXAMPLES
    leads = [pair.score_b - pair.score_a for pair in comparison.better_b]
    assert leads == sorted(leads, reverse=True)
    for pair in comparison.better_b:
        assert pair.b == pair.reference != pair.a
        expected = CHRF().sentence_score(pair.a, [pair.reference]).score / 100
        assert pair.score_b == 1
        assert pair.score_a >= expected  # a second reference may be closer
    table = comparison.table()
    first = comparison.better_b[0]
    assert "texts on which b leads most (chrF):" in table
    assert f"{first.text_id}: {first.reference}" in table
    assert "resamples of the texts" in table
    assert comparison.signature.startswith("sacreBLEU: nrefs:var|case:mixed")
    values = json.loads(json.dumps(comparison.as_dict()))
    assert values["better_b"][0]["reference"] == first.reference
    assert values["metrics"]["BLEU"]["b_wins"] == comparison.differences["BLEU"].b_wins


def test_few_texts_give_no_verdict():
    scored = scorer(REFERENCES)
    comparison = compare_translations(scored.evaluate(OUTPUTS), scored.evaluate(OUTPUTS))
    assert comparison.verdict == "2 texts are too few to tell which is better"


def test_sets_of_different_texts_cannot_be_compared():
    a = scorer(REFERENCES).evaluate(OUTPUTS)
    b = scorer({1: ["a"]}).evaluate({1: "a"})
    with pytest.raises(UsageError, match="no output for 2 texts"):
        compare_translations(a, b)


@pytest.mark.data
def test_scores_of_multi30k_equal_those_of_sacrebleus_command_line(research_data, tmp_path):
    reference = research_data / "multi30k" / "val.de"
    lines = reference.read_text(encoding="utf-8").split("\n")[:-1]
    rng = random.Random(0)
    outputs = [" ".join(w for w in line.split() if rng.random() < 0.9) for line in lines]
    (tmp_path / "out.de").write_text("\n".join(outputs) + "\n", encoding="utf-8")
    texts = {i: [line] for i, line in enumerate(lines)}
    evaluation = scorer(texts, words_13a).evaluate(dict(enumerate(outputs)))
    for name, options in {
        "BLEU": ["-m", "bleu"],
        "BLEU_lc": ["-m", "bleu", "-lc"],
        "chrF": ["-m", "chrf"],
    }.items():
        command = [sys.executable, "-m", "sacrebleu", reference, "-i", tmp_path / "out.de"]
        done = subprocess.run(
            [*command, *options, "-w", "6"], capture_output=True, text=True, check=True
        )
        printed = json.loads(done.stdout)
        assert 100 * evaluation.metrics[name] == pytest.approx(printed["score"], abs=1e-6)
        assert evaluation.signatures[name] == printed["signature"]
        low, high = evaluation.intervals[name]
        assert low < evaluation.metrics[name] < high
    assert evaluation.metrics["Bleu_4"] == pytest.approx(evaluation.metrics["BLEU"], abs=1e-9)
