"""Parallel text: aligned line by line, and every fault named by file and line."""

import io
import json
import sys

import pytest

from captioner.data.parallel import is_parallel, load_pairs, pair_problems, read_lines
from captioner.errors import UsageError


@pytest.fixture
def load(tmp_path):
    """Write and load one or two files, given as bytes or text; return pairs, and their problems."""

    def call(source, target=None, suffix=".en"):
        paths = [tmp_path / f"a{suffix}", tmp_path / "a.de"]
        for path, content in zip(paths, (source, target), strict=True):
            if content is not None:
                path.write_bytes(content if isinstance(content, bytes) else content.encode())
        second = None if target is None else paths[1]
        problems = pair_problems(paths[0], second)
        pairs = load_pairs(paths[0], second, problems)
        return pairs, {each.kind: list(each.cases) for each in problems}

    return call


def json_lines(*records):
    return "".join(json.dumps(record) + "\n" for record in records)


EXPECTED = [("line 1", "a dog", ("ein Hund",)), ("line 2", "two cats", ("zwei Katzen",))]


@pytest.mark.parametrize(
    ("source", "target"),
    [
        ("a dog\ntwo cats\n", "ein Hund\nzwei Katzen\n"),
        ("a dog\ntwo cats", "ein Hund\nzwei Katzen\n"),
        ("\ufeffa dog\r\ntwo cats\r\n", "\ufeffein Hund\nzwei Katzen"),
        ("  a dog \ntwo cats\n\n \n", "\tein Hund\nzwei Katzen\n"),
    ],
    ids=["plain", "no last line end", "byte order mark and CR LF", "spaces around, and at the end"],
)
def test_line_n_of_both_files_is_a_pair(load, source, target):
    assert load(source, target) == (EXPECTED, {})


@pytest.mark.parametrize(
    ("suffix", "content"),
    [
        (".tsv", "a dog\tein Hund\ntwo cats\tzwei Katzen\n"),
        (".TSV", "\ufeffa dog\tein Hund\r\ntwo cats\tzwei Katzen"),
        (
            ".jsonl",
            json_lines(
                {"source": "a dog", "target": "ein Hund"},
                {"source": "two cats", "target": ["zwei Katzen"], "id": 7},
            ),
        ),
    ],
)
def test_one_file_may_hold_both_sides(load, suffix, content):
    assert load(content, suffix=suffix) == (EXPECTED, {})


def test_only_a_line_feed_ends_a_line_and_tabs_and_quotes_are_text(load):
    odd = 'a\u2028b\x0bc\x85 "d'
    pairs, problems = load(f"{odd}\tx\nend\n", 'e\tf\n"g\n')
    assert [(pair.source, pair.captions) for pair in pairs] == [
        (f"{odd}\tx", ("e\tf",)),
        ("end", ('"g',)),
    ]
    assert problems == {}
    pairs, _ = load('"a\t"b\n\'source\ttarget"\n', suffix=".tsv")
    assert [pair[1:] for pair in pairs] == [('"a', ('"b',)), ("'source", ('target"',))]


def test_a_source_may_have_several_targets(load):
    pairs, problems = load(
        json_lines({"source": "a dog", "target": ["ein Hund", " ", "der Hund "]}), suffix=".jsonl"
    )
    assert pairs == [("line 1", "a dog", ("ein Hund", "der Hund"))]
    assert problems == {"empty targets among others, left out": ["line 1"]}


# A zero-width space, a byte order mark and a control character are as empty as nothing.
@pytest.mark.parametrize("empty", ["", " ", "\u3000", "\u200b", "\ufeff \x01"])
def test_lines_with_an_empty_side_are_left_out_and_the_others_keep_their_numbers(load, empty):
    expected = {
        "sources without a target, left out": ["line 2"],
        "targets without a source, left out": ["line 3"],
        "empty lines on both sides, left out": ["line 4"],
    }
    pairs, problems = load(f"a\nb\n{empty}\n{empty}\nc\n", f"A\n{empty}\nB\n{empty}\nC\n")
    assert pairs == [("line 1", "a", ("A",)), ("line 5", "c", ("C",))]
    assert problems == expected
    rows = f"a\tA\nb\t{empty}\n{empty}\tB\n{empty}\nc\tC\n"
    assert load(rows, suffix=".tsv") == (pairs, expected)
    rows = json_lines(
        {"source": "a", "target": "A"},
        {"source": "b", "target": [empty]},
        {"source": empty, "target": "B"},
        {"source": empty, "target": []},
        {"source": "c", "target": "C"},
    )
    assert load(rows, suffix=".jsonl") == (pairs, expected)


def test_an_empty_list_of_targets_leaves_the_source_out(load):
    rows = json_lines({"source": "a", "target": []}, {"source": "b", "target": "B"})
    pairs, problems = load(rows, suffix=".jsonl")
    assert [pair.place for pair in pairs] == ["line 2"]
    assert problems == {"sources without a target, left out": ["line 1"]}


@pytest.mark.parametrize(
    ("source", "target", "counts"),
    [
        ("a\nb\nc\n", "A\nB\n", "a.en has 3 and {}/a.de has 2"),
        ("a\nb\n", "A\nB\nC\nD\n\n", "a.en has 2 and {}/a.de has 4"),
    ],
)
def test_files_of_different_lengths_are_refused_with_both_counts(
    load, tmp_path, source, target, counts
):
    _, problems = load(source, target)
    [(kind, [case])] = problems.items()
    assert kind.startswith("different numbers of lines")
    assert case == f"{tmp_path}/" + counts.format(tmp_path)


def test_faults_are_named_by_file_and_line(load, tmp_path):
    _, problems = load(b"a\nb\0\nc\n", b"A\nB\nC\xe9\n")
    assert problems == {
        "lines with a NUL character: this is no text file": [f"{tmp_path}/a.en, line 2"],
        "lines not in UTF-8, to be saved as UTF-8": [f"{tmp_path}/a.de, line 3, column 2 is 0xe9"],
    }


WRONG_TARGET = "wrong or missing `target`, a text or a list"


@pytest.mark.parametrize(
    ("line", "kind", "case"),
    [
        ('{"source": "a"}', WRONG_TARGET, "line 2"),
        ('{"source": "a", "target": null}', WRONG_TARGET, "line 2"),
        ('{"source": "a", "target": 1}', WRONG_TARGET, "line 2"),
        ('{"source": "a", "target": {}}', WRONG_TARGET, "line 2"),
        ('{"source": "a", "target": ["b", 1]}', WRONG_TARGET, "line 2"),
        ('{"target": "a"}', "wrong `source`", "line 2.source is missing"),
        ('{"source": ["a"], "target": "b"}', "wrong `source`", "line 2.source is ['a']"),
        ('["a", "b"]', "not a JSON object", "line 2 is ['a', 'b']"),
        ("a\tb", "broken JSON", "line 2, column 1: Expecting value"),
        ('{"source": "a\\u0000", "target": "b"}', "NUL or half a character in JSON", "line 2"),
        (
            '{"source": "a", "target": ["b", "c\\ud83d"]}',
            "NUL or half a character in JSON",
            "line 2",
        ),
    ],
)
def test_wrong_json_is_an_error_of_its_line(load, line, kind, case):
    good = json_lines({"source": "x", "target": "y"})
    _, problems = load(f"{good}{line}\n{good}", suffix=".jsonl")
    assert problems == {kind: [case]}


@pytest.mark.parametrize("suffix", [".tsv", ".jsonl"])
def test_a_line_that_cannot_be_read_is_no_other_problem(load, suffix):
    good = {".tsv": b"a\tA\n", ".jsonl": b'{"source": "a", "target": "A"}\n'}[suffix]
    pairs, problems = load(good + b"\xff\n\0\n" + good, suffix=suffix)
    assert [pair.place for pair in pairs] == ["line 1", "line 4"]
    assert problems == {
        "lines not in UTF-8, to be saved as UTF-8": ["line 2, column 1 is 0xff"],
        "lines with a NUL character: this is no text file": ["line 3"],
    }


def test_a_bad_byte_in_json_is_reported_once(load):
    good = b'{"source": "a", "target": "b"}\n'
    _, problems = load(good[:13] + b"\xe9" + good[13:] + good, suffix=".jsonl")
    assert problems == {"lines not in UTF-8, to be saved as UTF-8": ["line 1, column 14 is 0xe9"]}


def test_rows_without_two_columns_are_errors(load):
    _, problems = load("a\tA\nb\nc\tC\tx\n", suffix=".tsv")
    assert problems == {
        "lines without exactly 2 columns, separated by a tab": ["line 2 has 1", "line 3 has 3"]
    }


def test_errors_explain_better_than_that_no_pair_is_left(load):
    with pytest.raises(UsageError, match=r"without exactly 2 columns.*line 1 has 3"):
        load("a\tA\tx\n", suffix=".tsv")


@pytest.mark.parametrize(
    ("source", "target", "suffix", "message"),
    [
        ("", "A\n", ".en", "a.en: is empty"),
        ("a\n", " \n", ".en", "a.de: is empty"),
        ("a\n\n", "\nA\n", ".en", "a.en and .*a.de: no line has both a source and a target"),
        ("a\n", None, ".en", "a.en: holds one side only: also name target"),
        ("{}\n", "A\n", ".jsonl", "a .jsonl file holds both sides: leave out target"),
        ("a\tA\n", "A\n", ".tsv", "a .tsv file holds both sides: leave out target"),
        ("a\rb\rc\r", "A\nB\nC\n", ".en", "a.en: its lines end with CR alone"),
        ("a\n".encode("utf-16"), "A\n", ".en", "a.en: is UTF-16, not UTF-8"),
    ],
)
def test_what_cannot_be_read_at_all_is_refused(load, source, target, suffix, message):
    with pytest.raises(UsageError, match=message):
        load(source, target, suffix)


def test_a_missing_file_and_a_folder_are_named(tmp_path):
    (tmp_path / "a.en").write_text("a\n")
    for target, reason in ((tmp_path / "gone", "no such file"), (tmp_path, "is a directory")):
        with pytest.raises(UsageError, match=f"^{target}: {reason}"):
            load_pairs(tmp_path / "a.en", target, pair_problems(tmp_path / "a.en", target))


def test_all_lines_to_translate_are_kept_empty_ones_too(tmp_path, monkeypatch):
    content = "\ufeffa dog\r\n\n \ntwo\u2028cats"
    (tmp_path / "a.txt").write_text(content, newline="")
    expected = ["a dog", "", " ", "two\u2028cats"]
    assert read_lines(tmp_path / "a.txt") == expected
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content.encode())))
    assert read_lines("-") == expected
    (tmp_path / "a.txt").write_text("")
    assert read_lines(tmp_path / "a.txt") == []


def test_lines_to_translate_that_are_no_text_are_refused_by_name_and_line(tmp_path, monkeypatch):
    (tmp_path / "a.txt").write_bytes(b"a\ncaf\xe9\n")
    with pytest.raises(UsageError, match=r"a\.txt: lines not in UTF-8.*line 2, column 4 is 0xe9"):
        read_lines(tmp_path / "a.txt")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"a\nb\0\n")))
    with pytest.raises(UsageError, match=r"^stdin: lines with a NUL character.*line 2"):
        read_lines("-")
    (tmp_path / "a.txt").write_bytes(b"a\rb\r")
    with pytest.raises(UsageError, match=r"a\.txt: its lines end with CR alone"):
        read_lines(tmp_path / "a.txt")
    with pytest.raises(UsageError, match="no such file"):
        read_lines(tmp_path / "gone.txt")


def test_a_file_of_both_sides_is_told_from_annotations_by_its_name_and_first_line(tmp_path):
    for name, content, expected in (
        ("a.tsv", "a dog\tein Hund\n", True),
        ("b.tsv", "\timage\tcaption\n0\t1.jpg\ta dog\n", False),
        ("a.jsonl", "\n" + json_lines({"source": "a", "target": "b"}), True),
        ("b.jsonl", json_lines({"image": "1.jpg", "caption": "a", "source": "web"}), False),
        ("c.jsonl", "{broken\n", False),
        ("a.txt", "a dog\n", False),
    ):
        (tmp_path / name).write_text(content)
        assert is_parallel(tmp_path / name) is expected
