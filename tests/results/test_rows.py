"""Rows of bulk results as JSON lines, CSV, parquet and COCO results."""

import csv
import json

import pytest

from captioner.captions import Caption
from captioner.errors import ImageError, UsageError
from captioner.results.files import read_results
from captioner.results.rows import Row, check_table, format_rows, read_jsonl, write_table

ROWS = [
    Row("a, b.jpg", 'a "dog"\u2028', -1.5, 0.25, None),
    Row("\udce9.jpg", None, None, None, "no such file"),
    Row("\ud83d.jpg", "", -0.5, None, None),
]
SEVERAL = [Row("a.jpg", "a dog", -1.0, None, None, ["a dog", "a cat"])]


def test_a_row_says_what_the_caption_or_the_error_says():
    caption = Caption("a dog", (), -2.0, 0.5)
    other = Caption("a cat", (), -3.0, 0.4)
    assert Row.of("x", caption, several=False) == ("x", "a dog", -2.0, 0.5, None, None)
    both = Caption("a dog", (), -2.0, 0.5, others=(other,))
    assert Row.of("x", both, several=True).captions == ["a dog", "a cat"]
    silent = Caption("a dog", (), -2.0, 0.1, abstained=True)
    assert Row.of("x", silent, several=False) == ("x", None, -2.0, 0.1, None, None)
    error = ImageError("/long/x", "no such file")
    assert Row.of("x", error, several=False) == ("x", None, None, None, "no such file", None)
    assert Row.of("x", error, several=True).captions == []


@pytest.mark.parametrize("rows", [ROWS, SEVERAL])
def test_json_lines_are_ascii_and_read_back_as_they_were(rows):
    data = format_rows(rows, "jsonl")
    assert data.isascii()
    assert data.count(b"\n") == len(rows)
    assert list(read_jsonl(data.splitlines())) == rows


def test_json_lines_have_the_five_columns_and_captions_if_there_are_several():
    columns = ["image", "caption", "log_prob", "confidence", "error"]
    assert list(json.loads(format_rows(ROWS[:1], "jsonl"))) == columns
    assert list(json.loads(format_rows(SEVERAL, "jsonl"))) == [*columns, "captions"]


def test_csv_is_read_back_by_csv_and_names_keep_their_bytes(tmp_path):
    path = tmp_path / "rows.csv"
    write_table(path, iter(ROWS), several=False)
    assert b"\xe9.jpg" in path.read_bytes()
    with path.open(encoding="utf-8", errors="surrogateescape", newline="") as file:
        first, second, third = csv.DictReader(file)
    assert first == {
        **{"image": "a, b.jpg", "caption": 'a "dog"\u2028', "log_prob": "-1.5"},
        **{"confidence": "0.25", "error": ""},
    }
    assert (second["image"], second["error"]) == ("\udce9.jpg", "no such file")
    assert third["image"] == "\\ud83d.jpg"
    write_table(path, iter(SEVERAL), several=True)
    (row,) = csv.DictReader(path.open())
    assert json.loads(row["captions"]) == ["a dog", "a cat"]


def test_parquet_has_typed_columns_and_nulls(tmp_path):
    pq = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed")
    path = tmp_path / "rows.parquet"
    write_table(path, iter(ROWS), several=False)
    table = pq.read_table(path)
    kinds = [str(kind) for kind in table.schema.types]
    assert kinds == ["string", "string", "double", "double", "string"]
    assert table.to_pylist()[0] == ROWS[0].values()
    assert table.column("image").to_pylist()[1:] == ["\\udce9.jpg", "\\ud83d.jpg"]
    assert table.column("caption").to_pylist()[1:] == [None, ""]
    write_table(path, iter(SEVERAL), several=True)
    assert pq.read_table(path).to_pylist() == [SEVERAL[0].values()]


def test_a_parquet_file_of_many_rows_has_several_row_groups(tmp_path, monkeypatch):
    pq = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed")
    monkeypatch.setattr("captioner.results.rows.ROW_GROUP", 2)
    write_table(tmp_path / "rows.parquet", iter(ROWS[:1] * 5), several=False)
    file = pq.ParquetFile(tmp_path / "rows.parquet")
    groups = [file.metadata.row_group(number).num_rows for number in range(file.num_row_groups)]
    assert groups == [2, 2, 1]


@pytest.mark.parametrize("name", ["results.json", "results.jsonl"])
def test_coco_results_have_each_image_with_a_caption_once(tmp_path, name):
    path = tmp_path / name
    write_table(path, iter([*ROWS, *ROWS, *SEVERAL]), several=False, coco=True)
    assert list(read_results(path).items()) == [
        *(("a, b.jpg", 'a "dog"\u2028'), ("\ud83d.jpg", ""), ("a.jpg", "a dog"))
    ]
    write_table(path, iter(ROWS[1:2]), several=False, coco=True)
    assert path.read_text() == ("[]\n" if name.endswith("json") else "")


def test_rows_can_be_in_one_file_of_json_lines(tmp_path):
    path = tmp_path / "rows.jsonl"
    write_table(path, iter(ROWS), several=False)
    assert path.read_bytes() == format_rows(ROWS, "jsonl")


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_a_table_is_replaced_by_another_but_no_other_file_is(tmp_path, suffix):
    if suffix == "parquet":
        pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    path = tmp_path / f"rows.{suffix}"
    check_table(path)
    write_table(path, iter(ROWS), several=False)
    check_table(path)
    write_table(path, iter(SEVERAL), several=True)
    check_table(path)
    path.write_bytes(b'{"image": "a.jpg", "label": 3}\n')
    with pytest.raises(UsageError, match="choose another name"):
        check_table(path)
