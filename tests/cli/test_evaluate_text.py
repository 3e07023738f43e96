"""`captioner evaluate` scores text: a model's, or that of a file with a line for each text."""

import json

import pytest
import sacrebleu

from captioner import Translator
from captioner.inference.evaluate_text import evaluate_text, score_text

SOURCES = ["a dog runs.", "the cat", "a bird sings."]
REFERENCES = ["ein Hund läuft.", "der Hund", "ein Vogel läuft."]
OUTPUTS = ["ein Hund läuft.", "der Vogel", "ein Hund."]


@pytest.fixture
def files(tmp_path):
    """Files of sources, of references, and of outputs."""
    for name, lines in (("s.en", SOURCES), ("r.de", REFERENCES), ("out.de", OUTPUTS)):
        (tmp_path / name).write_text("".join(f"{line}\n" for line in lines))
    return tmp_path


@pytest.fixture
def evaluate(run, files, monkeypatch):
    monkeypatch.chdir(files)
    return lambda *arguments: run("evaluate", *arguments)


def as_json(scores):
    return json.loads(json.dumps(scores.as_dict()))


def test_a_file_of_outputs_has_the_scores_of_sacrebleu_and_they_are_stored(evaluate, files):
    code, out, _ = evaluate("--results", "out.de", "--references", "r.de", "--json")
    printed = json.loads(out)
    assert code == 0
    assert printed["BLEU"] == pytest.approx(
        sacrebleu.corpus_bleu(OUTPUTS, [REFERENCES]).score / 100
    )
    assert printed["chrF"] == pytest.approx(
        sacrebleu.corpus_chrf(OUTPUTS, [REFERENCES]).score / 100
    )
    assert printed["exact"] == pytest.approx(1 / 3)
    assert json.loads((files / "scores.json").read_text()) == {"out.de": printed}
    _, table, _ = evaluate("--results", "out.de", "--references", "r.de")
    assert printed["signatures"]["BLEU"] in table


def test_a_report_does_not_replace_the_results(evaluate, tiny_translator):
    asked = ("--model", tiny_translator, "--source", "s.en", "--references", "r.de")
    code, _, err = evaluate(*asked, "--results", "z.html", "--report", "./z.html")
    assert code == 2
    assert "--results and --report both name z.html" in err


def test_several_references_of_each_line_count(evaluate, files):
    (files / "r2.de").write_text("".join(f"{line}\n" for line in OUTPUTS))
    _, out, _ = evaluate(
        *("--results", "out.de", "--references", "r.de", "--references", "r2.de", "--json")
    )
    assert json.loads(out)["exact"] == 1
    assert "nrefs:2" in json.loads(out)["signatures"]["BLEU"]


def test_a_model_writes_outputs_that_score_the_same_again(evaluate, files, tiny_translator):
    asked = ("--references", "r.de", "--json")
    code, out, _ = evaluate(
        *("--model", tiny_translator, "--source", "s.en", "--results", "model.de"),
        *("--device", "cpu", "--beam", 2, *asked),
    )
    assert code == 0
    translator = Translator.from_pretrained(tiny_translator, device="cpu")
    expected = translator.translate(SOURCES, decoding={"beam": 2})
    assert (files / "model.de").read_text().splitlines() == [each.text for each in expected]
    printed = json.loads(out)
    assert printed == as_json(
        score_text([each.text for each in expected], [[r] for r in REFERENCES])
    )
    assert json.loads(evaluate("--results", "model.de", *asked)[1]) == printed
    _, scores = evaluate_text(translator, SOURCES, [[r] for r in REFERENCES], {"beam": 2})
    assert as_json(scores) == printed


def test_one_file_may_hold_sources_and_references(evaluate, files, tiny_translator):
    rows = [f"{source}\t{target}\n" for source, target in zip(SOURCES, REFERENCES, strict=True)]
    (files / "both.tsv").write_text("".join(rows))
    records = [
        {"source": source, "target": [target]}
        for source, target in zip(SOURCES, REFERENCES, strict=True)
    ]
    (files / "both.jsonl").write_text("\n".join(map(json.dumps, records)))
    model = ("--model", tiny_translator, "--device", "cpu", "--json")
    _, out, _ = evaluate(*model, "--source", "s.en", "--references", "r.de")
    assert evaluate(*model, "--source", "both.tsv")[1] == out
    assert evaluate(*model, "--source", "both.jsonl")[1] == out
    _, out, _ = evaluate("--results", "out.de", "--references", "r.de", "--json")
    assert evaluate("--results", "out.de", "--references", "both.tsv", "--json")[1] == out


def test_empty_lines_are_texts_too(evaluate, files):
    (files / "r.de").write_text("ein Hund\n\nder Hund\n")
    (files / "out.de").write_text("ein Hund\n\n\n")
    _, out, _ = evaluate("--results", "out.de", "--references", "r.de", "--json")
    assert json.loads(out)["exact"] == pytest.approx(2 / 3)


def test_the_report_holds_scores_references_and_heat_maps(evaluate, files, tiny_translator):
    code, out, _ = evaluate(
        *("--model", tiny_translator, "--source", "s.en", "--references", "r.de"),
        *("--report", "page.html", "--device", "cpu", "--json"),
    )
    page = (files / "page.html").read_text()
    assert code == 0
    assert f'"chrF":"{100 * json.loads(out)["chrF"]:.1f} (' in page
    assert all(json.dumps(text) in page for text in [*SOURCES, *REFERENCES])
    assert '"weights"' in page


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("", "name --annotations to score captions, or --references to score text"),
        ("--results out.de", "name --annotations"),
        ("--annotations a.json --references r.de", "name one kind"),
        ("--annotations a.json --source s.en", "name one kind"),
        ("--references r.de", "add --model FOLDER or --results FILE"),
        ("--references r.de --model m", "add --source FILE"),
        ("--source s.en --model m", "s.en holds one side only: add --references FILE"),
        ("--source s.en --references gone.de --model m", "gone.de: no such file"),
        ("--references r.de --results gone.de", "gone.de: no such results"),
        ("--references r.de --results out.de --beam 2", "add --model"),
        ("--references r.de --results out.de --report x.html", "add --model"),
        ("--references r.de --results out.de --images x", "--images has no effect with --refe"),
        ("--references r.de --results out.de --split x", "--split has no effect with --refe"),
        ("--source s.tsv --model m --seen x", "--seen has no effect with --source"),
        ("--references r.de --results out.de --java SPICE", "--java has no effect"),
        ("--references r.de --results out.de --explain", "--explain has no effect"),
        ("--references r.de --results out.de --allow-partial", "--allow-partial has no effect"),
        ("--references r.de --model m --min-confidence 0.5", "--min-confidence has no effect"),
        ("--annotations a.json --length-ratio 2", "--length-ratio has no effect with --annot"),
        ("--annotations a.json --replace-unknown", "--replace-unknown has no effect with --a"),
        ("--source s.en --references r.de --model m --report x.pdf", ".html"),
        ("--source s.en --references r.de --model m --results no/such/file", "create it first"),
    ],
)
def test_wrong_usage_is_named_and_exits_with_2(evaluate, arguments, message):
    code, out, err = evaluate(*arguments.split())
    assert (code, out) == (2, "")
    assert message in err


@pytest.mark.parametrize("shorter", ["s.en", "r.de", "r2.de", "out.de"])
def test_files_of_different_lengths_are_named_with_their_counts(
    evaluate, files, tiny_translator, shorter
):
    (files / "r2.de").write_text("a\nb\nc\n")
    (files / shorter).write_text("a\nb\n")
    asked = ["--results", "out.de"]
    if shorter == "s.en":
        asked = ["--model", tiny_translator, "--source", "s.en"]
    code, _, err = evaluate(*asked, "--references", "r.de", "--references", "r2.de")
    assert code == 2
    assert shorter in err
    assert " 2" in err
    assert " 3" in err


def test_a_text_with_bad_bytes_is_refused_by_line(evaluate, files):
    (files / "r.de").write_bytes(b"a\nb\xff\nc\n")
    code, _, err = evaluate("--results", "out.de", "--references", "r.de")
    assert code == 2
    assert "r.de" in err
    assert "line 2, column 2 is 0xff" in err
