"""Evaluation of text: which words its BLEU counts, and what must fit together."""

import pytest

from captioner import Translator, UsageError
from captioner.inference.evaluate_text import build_text_scorer, evaluate_text, score_text


def test_the_projects_bleu_counts_words_in_lower_case_and_sacrebleu_has_both():
    scores = score_text(["ein hund läuft schnell ."], [["Ein Hund läuft schnell."]])
    assert scores.metrics["Bleu_4"] == pytest.approx(1)
    assert scores.metrics["BLEU_lc"] == pytest.approx(1)
    assert scores.metrics["BLEU"] < 0.5
    assert "tok:word-lc" in scores.signatures["Bleu"]


@pytest.mark.parametrize(
    ("output", "reference", "tokens"),
    [
        ("犬が草の上を走っている。", "犬が草の上を走る。", "char"),
        ("一只狗在草地上奔跑。", "一只狗在草地上跑。", "zh"),
        ("สุนัขกำลังวิ่งบนหญ้า", "สุนัขวิ่งบนหญ้า", "char"),
        ("Ein Hund läuft schnell durch das Gras.", "Ein Hund läuft schnell durch Gras.", "13a"),
    ],
)
def test_sacrebleu_does_not_count_a_sentence_without_spaces_as_one_word(output, reference, tokens):
    scores = score_text([output], [[reference]])
    assert f"tok:{tokens}" in scores.signatures["BLEU"]
    assert 0.2 < scores.metrics["BLEU"] < 0.95  # with one word a sentence, it would be 0


def test_texts_are_named_by_their_line_from_1():
    assert [*score_text(["a", "b"], [["a"], ["b"]]).references] == [1, 2]
    with pytest.raises(UsageError, match="no references"):
        build_text_scorer([])


def test_different_numbers_of_texts_are_refused(tiny_translator):
    with pytest.raises(UsageError, match="there are 1 outputs but references of 2 texts"):
        score_text(["a"], [["a"], ["b"]])
    translator = Translator.from_pretrained(tiny_translator, device="cpu")
    with pytest.raises(UsageError, match="there are 3 sources but references of 2 texts"):
        evaluate_text(translator, ["a"] * 3, [["a"], ["b"]])


def test_the_results_are_written_before_they_are_scored(tiny_translator, tmp_path, monkeypatch):
    def fail(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("captioner.inference.evaluate_text.score_text", fail)
    translator = Translator.from_pretrained(tiny_translator, device="cpu")
    file = tmp_path / "out.de"
    with pytest.raises(KeyboardInterrupt):
        evaluate_text(translator, ["a dog", ""], [["x"], ["y"]], results=file)
    assert file.read_text() == translator.translate("a dog").text + "\n\n"


def test_weights_are_returned_if_asked_for(tiny_translator):
    translator = Translator.from_pretrained(tiny_translator, device="cpu")
    [aligned], _ = evaluate_text(translator, ["a dog"], [["x"]], align=True)
    [plain], _ = evaluate_text(translator, ["a dog"], [["x"]])
    assert plain.alignment is None
    assert len(aligned.alignment) == len(aligned.words)
