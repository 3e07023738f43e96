"""scores.json holds the scores of all results files of its folder."""

import json

import pytest

from captioner.errors import CaptionerError, UsageError
from captioner.metrics.scorer import Scorer
from captioner.results.files import check_scores_file, write_scores


@pytest.fixture(scope="module")
def scores():
    return Scorer({1: ["a dog runs"]}).score({1: "a dog"})


def test_scores_have_the_name_of_their_results_file_as_key(tmp_path, scores):
    for name in ("one.json", "two.jsonl", "one.json"):
        write_scores(tmp_path / name, scores)
    known = json.loads((tmp_path / "scores.json").read_text())
    expected = json.loads(json.dumps(scores.as_dict()))
    assert known == {"one.json": expected, "two.jsonl": expected}
    assert [path.name for path in tmp_path.iterdir()] == ["scores.json"]


@pytest.mark.parametrize("content", ['{"one.json": {"Bleu', "[]", '{"Bleu_1": 0.5}', b"\xff"])
def test_a_file_with_other_content_is_named_and_kept(tmp_path, scores, content):
    path = tmp_path / "scores.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    before = path.read_bytes()
    for call in (check_scores_file, lambda results: write_scores(results, scores)):
        with pytest.raises(UsageError, match=r"scores\.json: .*move it away"):
            call(tmp_path / "one.json")
    assert path.read_bytes() == before


def test_a_missing_file_and_a_valid_one_pass_the_check(tmp_path, scores):
    check_scores_file(tmp_path / "one.json")
    write_scores(tmp_path / "one.json", scores)
    check_scores_file(tmp_path / "one.json")


def test_results_must_not_have_the_name_of_the_scores_file(tmp_path):
    with pytest.raises(UsageError, match="choose another name"):
        check_scores_file(tmp_path / "scores.json")


def test_a_missing_folder_is_named_in_the_error(tmp_path, scores):
    with pytest.raises(CaptionerError, match=r"nowhere.*No such file"):
        write_scores(tmp_path / "nowhere" / "one.json", scores)
