"""What a check says about texts with their targets."""

import json

import pytest
import yaml

USUAL = [(f"one two three {word} .", f"eins zwei drei {word} .") for word in "abcdefgh"]


@pytest.fixture
def check(run, tmp_path):
    """Check pairs as two files; return the problems by kind, and the whole report."""

    def call(pairs, *arguments):
        for side, name in enumerate(("a.en", "a.de")):
            lines = [pair[side] + "\n" for pair in pairs]
            (tmp_path / name).write_text("".join(lines), encoding="utf-8")
        files = [tmp_path / "a.en", "--target", tmp_path / "a.de"]
        code, out, err = run("check", *files, "--json", *arguments)
        assert "Traceback" not in err
        report = json.loads(out)
        assert code == (3 if report["found"] else 0)
        return {each["kind"]: each["examples"] for each in report["problems"]}, report

    return call


def test_texts_and_words_of_both_sides_are_counted(check):
    problems, report = check([("a dog runs .", "ein Hund"), ("a cat .", "eine Katze")])
    assert problems == {}
    assert report["splits"]["a.en"] == {
        "pairs": 2,
        "targets": 2,
        "targets_per_source": {"1": 2},
        "words_per_source": {"3": 1, "4": 1},
        "words_per_target": {"2": 2},
    }
    assert "vocabulary" not in report
    source, target = report["source_vocabulary"], report["target_vocabulary"]
    # Of 7 source words, "a" and "." come twice each.
    assert source[0] == {"min_count": 1, "words": 5, "shares": {"a.en": 1.0}}
    assert source[1] == {"min_count": 2, "words": 2, "shares": {"a.en": 4 / 7}}
    assert [row["words"] for row in target[:2]] == [4, 0]


def test_a_text_that_training_cuts_is_reported_on_its_side(check):
    long = "very " * 30 + "long"
    problems, _ = check([("a b", "A B"), (long, "lang " * 20), ("x " * 10, long)])
    assert problems == {
        "sources of more than 30 words, cut in training": [
            f"line 2: '{('very ' * 12)}...' (31 words)"
        ],
        "targets of more than 30 words, cut in training": [
            f"line 3: '{('very ' * 12)}...' (31 words)"
        ],
    }


def test_a_wrong_encoding_is_reported_on_its_side_and_right_letters_are_not(check):
    problems, _ = check([("a cafÃ©", "ein Café"), ("Übung", "die MÃ¤use"), ("日本", "Japan")])
    assert problems == {
        "sources with a wrong encoding, kept": ["line 1: 'a cafÃ©'"],
        "targets with a wrong encoding, kept": ["line 2: 'die MÃ¤use'"],
    }


def test_a_pair_with_lengths_far_from_the_usual_ratio_is_reported(check):
    short, long = "a b", "word " * 12
    problems, _ = check([*USUAL, (short, long), (long + "x", short)])
    assert problems == {
        "pairs with very different lengths, kept": [
            "line 9: 2 and 12 words: 'a b'",
            f"line 10: 13 and 2 words: '{'word ' * 12}...'",
        ]
    }


def test_the_usual_ratio_is_that_of_the_data_so_summaries_are_no_fault(check):
    reports = [("word " * 25 + end, "short") for end in "abcdefgh"]
    assert check(reports)[0] == {}
    # Twice as long is not far, and a few words more are no fault, however short the source.
    assert check([*USUAL, ("a b c d e", "word " * 10), ("a", "b c d e f")])[0] == {}


def test_pairs_given_more_than_once_name_both_lines_and_other_targets_are_no_fault(check):
    problems, _ = check([("a", "A"), ("b", "B"), ("a", "A"), ("a", "other"), ("a", "A")])
    assert problems == {
        "pairs given more than once, kept": ["line 1 and line 3: 'a'", "line 1 and line 5: 'a'"]
    }


def test_the_text_and_the_page_show_both_vocabularies(run, check, tmp_path):
    page = tmp_path / "page.html"
    check([("a <b>", "ein Hund"), ("two dogs run", "zwei")], "--html", page)
    html = page.read_text()
    assert "Source vocabulary of a.en" in html
    assert "Target vocabulary of a.en" in html
    assert "histogram of words per source: from " in html
    shown = run("check", tmp_path / "a.en", "--target", tmp_path / "a.de")[1]
    assert "  pairs               2\n" in shown
    assert "source vocabulary of a.en, and the share" in shown
    assert "target vocabulary of a.en, and the share" in shown
    assert "image" not in shown


@pytest.fixture
def config(tmp_path):
    """Write the pairs of splits, and a config that names them; return its path."""

    def make(settings=None, **splits):
        data = dict(settings or {})
        for split, pairs in splits.items():
            file = tmp_path / f"{split}.tsv"
            file.write_text("".join("\t".join(pair) + "\n" for pair in pairs))
            data[split] = {"source": str(file)}
        path = tmp_path / "x.yaml"
        path.write_text(yaml.safe_dump({"data": data, "encoder": {"kind": "text"}}))
        return path

    return make


def report_of(run, *arguments):
    code, out, err = run("check", *arguments, "--json")
    assert "Traceback" not in err
    return code, json.loads(out)


def test_train_and_dev_are_compared_and_train_supplies_the_vocabularies(run, config):
    file = config(train=[*USUAL, ("both", "beide")], dev=[("both", "eins"), ("new", "neu")])
    code, report = report_of(run, file)
    assert code == 3
    assert [(each["source"], each["kind"], each["examples"]) for each in report["problems"]] == [
        ("train and dev", "sources in both splits, kept", ["line 1: 'both'"])
    ]
    assert report["source_vocabulary"][0]["shares"] == {"train": 1.0, "dev": 0.5}
    assert report["target_vocabulary"][0]["shares"] == {"train": 1.0, "dev": 0.5}


def test_the_share_that_training_holds_out_is_dev(run, config):
    report = report_of(run, config({"holdout": 0.25}, train=USUAL))[1]
    assert {name: split["pairs"] for name, split in report["splits"].items()} == {
        "train": 6,
        "dev": 2,
    }


def test_words_are_counted_by_the_tokenizer_of_the_config(run, config):
    sums = [("12+3", "15"), ("4+40", "44")]
    characters = {"tokenizer": {"kind": "character"}}
    report = report_of(run, config(characters, train=sums, dev=[("1+1", "2")]))[1]
    assert report["splits"]["train"]["words_per_source"] == {"4": 2}
    folded = {"tokenizer": {"kind": "word", "fold_case": True}}
    report = report_of(run, config(folded, train=[("A a", "x"), ("b", "y")], dev=[("c", "z")]))[1]
    assert report["source_vocabulary"][0]["words"] == 2


@pytest.mark.parametrize("task", ["addition", "dialogue", "summary"])
def test_generated_text_has_no_fault(run, tmp_path, task):
    made = {"task": task, "folder": str(tmp_path / "made"), "train": 200, "dev": 50}
    data = {"generated": made, "max_length": 50, "min_count": 1}  # most sums occur once
    (tmp_path / "x.yaml").write_text(yaml.safe_dump({"data": data, "encoder": {"kind": "text"}}))
    code, report = report_of(run, tmp_path / "x.yaml")
    assert (code, report["problems"]) == (0, [])
    assert [split["pairs"] for split in report["splits"].values()] == [200, 50]
