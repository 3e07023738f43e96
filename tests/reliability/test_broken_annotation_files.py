"""An unreadable annotation file stops training before it starts: one line with the reason."""

import codecs
import json

import pytest

from captioner.data.datasets import load_references

pytestmark = pytest.mark.row(18)


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        pytest.param(lambda data: data[:-20], "broken JSON in line 1, column ", id="truncated"),
        pytest.param(lambda data: b"", "is empty", id="empty"),
        pytest.param(
            lambda data: b"[" + data + b"]", "line 1 begins a JSON list, not an object", id="a list"
        ),
        pytest.param(
            lambda data: data.replace(b'"images"', b'"pictures"'),
            "has no list `images`",
            id="no images",
        ),
        pytest.param(
            lambda data: data.replace(b'"id": 5', b'"id": NaN'),
            "column 20: NaN is not JSON",
            id="NaN",
        ),
        pytest.param(
            lambda data: data.decode().encode("utf-16"), "is UTF-16, not UTF-8 (byte 0", id="UTF-16"
        ),
        pytest.param(
            lambda data: b"[" * 100_000,
            "line 1: cannot be parsed",
            id="a hundred thousand brackets",
        ),
    ],
)
@pytest.mark.parametrize("command", ["train", "check"])
def test_a_broken_file_is_reported_in_one_line(run, data_set, spoil, reason, command):
    config = data_set.write()
    path = data_set.folder / "dev.json"
    path.write_bytes(spoil(path.read_bytes()))
    code, out, err = run(command, config)
    assert (code, out) == (2, "")
    [message] = err.splitlines()
    assert message.startswith(f"captioner: {path}: ")
    assert reason in message


def test_bytes_that_are_not_utf_8_stop_training_and_are_listed_by_the_check(run, data_set):
    config = data_set.write()
    path = data_set.folder / "dev.json"
    path.write_bytes(path.read_bytes().replace(b"runs", b"r\xe9ns"))
    column = path.read_bytes().index(b"\xe9") + 1
    place = f"line 1, column {column} is 0xe9"
    code, _, err = run("train", config)
    assert code == 2
    assert err == f"captioner: {path}: lines not in UTF-8, to be saved as UTF-8 (1): {place}\n"
    code, out, _ = run("check", config)
    assert code == 3
    assert place in out


def test_a_byte_order_mark_is_accepted(run, data_set):
    config = data_set.write()
    path = data_set.folder / "dev.json"
    path.write_bytes(codecs.BOM_UTF8 + path.read_bytes())
    assert run("check", config)[0] == 0
    assert load_references(path) == {number: ["a dog runs"] for number in (5, 6, 7, 8)}


def test_all_broken_lines_are_reported_at_once(run, data_set):
    config = data_set.write()
    lines = [json.dumps({"image": f"{number}.jpg", "caption": "a dog"}) for number in (1, 2, 3, 4)]
    path = data_set.folder / "captions.jsonl"
    path.write_text("\n".join([lines[0], lines[1][:-1], lines[2], lines[3][1:]]))
    code, _, err = run("train", config, f"data.train.annotations={path}")
    assert code == 2
    assert f"{path}: broken JSON (2): line 2, column " in err
    assert ", line 4, column " in err


def test_a_csv_header_whose_quotes_hide_its_columns_is_reported(run, data_set):
    config = data_set.write()
    path = data_set.folder / "captions.csv"
    path.write_text('"a,image,caption,b"\n1.jpg,a dog\n')
    code, _, err = run("train", config, f"data.train.annotations={path}")
    assert code == 2
    assert err.startswith(f"captioner: {path}: unsupported annotation format")
    assert "Its first line is '\"a,image,caption,b\"'" in err
