"""Results files are validated when read, and written atomically."""

import json

import pytest

from captioner.errors import CaptionerError, UsageError
from captioner.results.files import read_results, write_results

RESULTS = {42: "a dog runs", "beach.jpg": 'a "café"\u2028 at night'}


@pytest.mark.parametrize("name", ["results.json", "results.jsonl"])
def test_read_results_returns_what_write_results_wrote(tmp_path, name):
    write_results(tmp_path / name, RESULTS)
    assert read_results(tmp_path / name) == RESULTS
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("name", ["results.json", "results.jsonl"])
def test_a_file_without_results_is_valid(tmp_path, name):
    write_results(tmp_path / name, {})
    assert read_results(tmp_path / name) == {}


def test_a_json_file_has_the_format_of_cocos_tools(tmp_path):
    write_results(tmp_path / "results.json", {42: "a dog"})
    assert json.loads((tmp_path / "results.json").read_text()) == [
        {"image_id": 42, "caption": "a dog"}
    ]


def test_json_lines_hold_one_result_each(tmp_path):
    write_results(tmp_path / "results.jsonl", RESULTS)
    lines = (tmp_path / "results.jsonl").read_text().splitlines()
    assert [json.loads(line)["image_id"] for line in lines] == [*RESULTS]


def test_a_byte_order_mark_and_other_keys_are_accepted(tmp_path):
    (tmp_path / "r.json").write_text(
        '[{"image_id": 1, "caption": "a", "score": 0.5}]', encoding="utf-8-sig"
    )
    assert read_results(tmp_path / "r.json") == {1: "a"}


def test_a_failed_write_keeps_the_old_file_and_leaves_nothing_behind(tmp_path, monkeypatch):
    write_results(tmp_path / "r.json", {1: "old"})

    def full_disk(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full_disk)
    with pytest.raises(CaptionerError, match=r"r\.json.*No space left"):
        write_results(tmp_path / "r.json", {1: "new"})
    assert read_results(tmp_path / "r.json") == {1: "old"}
    assert [path.name for path in tmp_path.iterdir()] == ["r.json"]


def test_a_missing_folder_is_named_in_the_error(tmp_path):
    with pytest.raises(CaptionerError, match=r"nowhere.*No such file"):
        write_results(tmp_path / "nowhere" / "r.json", {})


def test_a_missing_file_is_named_in_the_error(tmp_path):
    with pytest.raises(UsageError, match=r"r\.json.*No such file"):
        read_results(tmp_path / "r.json")
