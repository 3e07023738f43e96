"""Results files are validated when read, and written atomically."""

import io
import json
import os
import re
from threading import Thread

import pytest

from captioner.errors import CaptionerError, UsageError
from captioner.results.files import check_destination, read_results, write_results

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


def test_several_captions_of_an_image_are_kept_and_the_best_is_read(tmp_path):
    for name in ("r.json", "r.jsonl"):
        write_results(tmp_path / name, {1: ["a dog", "a cat"], 2: "a bird", 3: ["a fish"]})
        assert read_results(tmp_path / name) == {1: "a dog", 2: "a bird", 3: "a fish"}
    assert json.loads((tmp_path / "r.json").read_text()) == [
        {"image_id": 1, "caption": "a dog", "captions": ["a dog", "a cat"]},
        {"image_id": 2, "caption": "a bird"},
        {"image_id": 3, "caption": "a fish"},
    ]


LIST = json.dumps([{"image_id": 1, "caption": "a dog"}, {"image_id": 2, "caption": "a cat"}])
LINES = "\n".join(map(json.dumps, json.loads(LIST)))


@pytest.mark.parametrize("name", ["r.json", "r.jsonl", "r.JSON", "r.JSONL", "r", "r.txt"])
@pytest.mark.parametrize("content", [LIST, "\n " + LIST, LINES, "\n" + LINES + "\n\n"])
def test_the_content_tells_a_list_from_lines_whatever_the_name_is(tmp_path, name, content):
    (tmp_path / name).write_text(content)
    assert read_results(tmp_path / name) == {1: "a dog", 2: "a cat"}


def test_the_suffix_has_any_case(tmp_path):
    for name, start in (("r.JSON", "["), ("r.JSONL", "{")):
        check_destination(tmp_path / name)
        write_results(tmp_path / name, {1: "a dog"})
        assert (tmp_path / name).read_text().startswith(start)


def test_results_are_read_from_a_pipe_and_from_stdin(tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "pipe")
    writer = Thread(target=(tmp_path / "pipe").write_text, args=[LIST])
    writer.start()
    assert read_results(tmp_path / "pipe") == {1: "a dog", 2: "a cat"}
    writer.join()
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(LINES.encode())))
    assert read_results("-") == {1: "a dog", 2: "a cat"}


@pytest.mark.parametrize(
    ("content", "hint"),
    [
        ({"1": "a dog", "2": "a cat"}, "it maps images to captions: write one {"),
        ({"1": ["a dog"]}, "it maps images to captions: write one {"),
        ({"image_id": 1, "caption": "a dog"}, "put the result into a list, or end the name in"),
        ({"images": [], "annotations": []}, "this is a file of annotations"),
        ([{"image": "1.jpg", "caption": "a dog"}], 'name the key "image_id", not "image"'),
        ({"results": [{"image_id": 1}], "n": 1}, "not a list of results: write one {"),
        ({"results": [{"image_id": 1}]}, "not a list of results: write one {"),
        ([{"image_id": 1, "captions": ["a dog"]}], 'put all captions of an image into "captions"'),
        ([{"image_id": 1, "caption": "a"}] * 2, 'put all captions of an image into "captions"'),
    ],
)
def test_what_is_not_a_list_of_results_is_refused_with_what_to_do(tmp_path, content, hint):
    (tmp_path / "r.json").write_text(json.dumps(content))
    with pytest.raises(UsageError, match=re.escape(hint)):
        read_results(tmp_path / "r.json")


def test_an_empty_json_file_is_called_empty(tmp_path):
    (tmp_path / "r.json").write_text("\n")
    with pytest.raises(UsageError, match=r"r\.json: is empty: write one \{"):
        read_results(tmp_path / "r.json")


ANNOTATION = {"image": "1.jpg", "image_id": 1, "caption": "a dog"}


@pytest.mark.parametrize(
    ("name", "content"),
    [("a.jsonl", json.dumps(ANNOTATION)), ("a.json", json.dumps([ANNOTATION]))],
)
def test_annotations_that_could_be_results_are_not_replaced(tmp_path, name, content):
    (tmp_path / name).write_text(content)
    assert read_results(tmp_path / name) == {1: "a dog"}
    with pytest.raises(UsageError, match="is not a results file: choose another name"):
        check_destination(tmp_path / name)


def test_results_of_captioner_may_be_replaced(tmp_path):
    for name in ("r.json", "r.jsonl"):
        write_results(tmp_path / name, {1: ["a dog", "a cat"], 2: "a bird"})
        check_destination(tmp_path / name)
