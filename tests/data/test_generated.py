"""The generated texts: right answers, no source twice, reproducible, and safe for other files."""

import json
import os
import re
from collections import Counter

import pytest

from captioner.data import generated
from captioner.data.generated import generate, generated_files
from captioner.data.parallel import load_pairs, pair_problems
from captioner.data.templates import COUNTS, VALUES
from captioner.errors import CaptionerError, UsageError

TASKS = ("addition", "dialogue", "summary")
SIZES = {"train": 900, "dev": 100}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The pairs of train and dev of each task."""

    def read(task):
        folder = tmp_path_factory.mktemp(task) / "new" / "folder"
        generate(task, folder, **SIZES)
        splits = []
        for file in generated_files(task, folder):
            problems = pair_problems(file, None)
            splits.append(load_pairs(file, None, problems))
            assert not list(problems)
        return splits

    return {task: read(task) for task in TASKS}


@pytest.mark.parametrize("task", TASKS)
def test_no_source_occurs_twice_so_none_of_dev_is_in_train(made, task):
    train, dev = made[task]
    assert (len(train), len(dev)) == (900, 100)
    assert len({pair.source for pair in train + dev}) == 1000


def test_the_targets_of_addition_are_the_sums(made):
    for pair in made["addition"][0] + made["addition"][1]:
        first, second = map(int, pair.source.split("+"))
        assert pair.captions == (str(first + second),)
        assert 0 <= min(first, second) <= max(first, second) <= 999


def test_short_and_long_numbers_are_about_equally_likely(made):
    numbers = [number for pair in made["addition"][0] for number in pair.source.split("+")]
    counts = Counter(map(len, numbers))
    # Without repeats, of 100 sums of one-digit numbers some are used up: a bit fewer than a third.
    assert sum(counts.values()) == 1800
    assert all(0.2 < counts[digits] / 1800 < 0.45 for digits in (1, 2, 3))


def test_the_likely_short_sums_do_not_all_come_first(tmp_path):
    generate("addition", tmp_path, train=19_000, dev=1_000)
    lengths = [len(line.split("\t")[0]) for line in (tmp_path / "train.tsv").open()]
    # Nearly all of the 100 sums such as 1+1 are drawn, and about half of them come in each half.
    assert 25 < lengths[9_500:].count(3) < 75


@pytest.fixture
def small_numbers(monkeypatch):
    """Let the numbers to add end at 99: all pairs of larger ones take a second for each set."""
    monkeypatch.setattr(generated, "LARGEST", 99)


def test_all_sums_can_be_had_and_no_more(tmp_path, small_numbers):
    with pytest.raises(UsageError, match=r"about 10,000 examples, and train \+ dev is 10,001"):
        generate("addition", tmp_path, train=10_000, dev=1)
    assert not list(tmp_path.iterdir())
    generate("addition", tmp_path, train=9_999, dev=1)


def test_there_are_a_million_sums(made):
    assert (generated.LARGEST + 1) ** 2 == 1_000_000
    numbers = [int(number) for pair in made["addition"][0] for number in pair.source.split("+")]
    assert max(numbers) > 950


def test_a_task_that_is_exhausted_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(generated, "report", lambda rng: (str(rng.randrange(5)), "x"))
    with pytest.raises(UsageError, match=r"summary has about 5 examples, and train \+ dev is 7"):
        generate("summary", tmp_path, train=6, dev=1)


def test_the_answer_of_a_dialogue_follows_from_what_was_said(made):
    kinds = Counter()
    for pair in made["dialogue"][0]:
        said, answer = pair.source, pair.captions[0]
        if answer.startswith("You did not tell me"):
            kinds["unsaid"] += 1
        elif left := re.fullmatch(r"You have (\w+) (\w+) left\.", answer):
            many, fruit, eaten = re.search(
                r"(?:I had|Of my) (\w+) (\w+)(?: and| I) ate (\w+)\.", said
            ).groups()
            assert fruit == left[2]
            assert COUNTS.index(many) - COUNTS.index(eaten) - 2 == COUNTS.index(left[1])
            kinds["left"] += 1
        else:
            # Each name, colour, number and place of the answer was said before the question.
            known = {word for values in VALUES.values() for word in values}
            facts = set(re.findall(r"\w+", answer)) & known
            assert facts <= set(re.findall(r"\w+", said))
            assert facts
    assert 0.05 < kinds["unsaid"] / 900 < 0.15
    assert kinds["left"]


def test_what_was_not_said_is_answered_so(made):
    for pair in made["dialogue"][0]:
        if pair.captions[0] == "You did not tell me your name.":
            assert not re.search(r"My name is|I am|call me", pair.source)
        elif re.search(r"(What is my name|Who am I)\?$", pair.source):
            name = re.search(r"(?:My name is|I am|call me) (\w+)\.", pair.source)[1]
            assert name in pair.captions[0]


def test_the_summary_of_a_report_has_its_facts(made):
    matches = 0
    for pair in made["summary"][0]:
        summary = pair.captions[0]
        assert 2 <= len(re.findall(r"[.](?= |$)", pair.source)) <= 4
        names = re.findall(r"\b[A-Z]\w+", summary)[1:]
        assert all(re.search(rf"\b{name}\b", pair.source) for name in names)
        if result := re.fullmatch(r"The (\w+) beat the (\w+) in \w+ by (\w+) to (\w+)\.", summary):
            winner, loser, high, low = result.groups()
            assert COUNTS.index(high) > COUNTS.index(low)
            first_sentence = pair.source.partition(". ")[0]
            teams = re.findall(r"[Tt]he (\w+)", first_sentence)
            assert sorted(teams) == sorted((winner, loser))
            scored = re.search(rf"{winner} scored {high} |{high} for the {winner}", pair.source)
            assert scored
            assert re.search(rf"{loser} scored {low}\.|{low} goals for the {loser}", pair.source)
            matches += 1
    assert matches


@pytest.mark.parametrize("task", TASKS)
def test_no_slot_of_a_template_is_left_open_and_sentences_begin_with_a_capital(made, task):
    for pair in made[task][0]:
        for text in (pair.source, *pair.captions):
            assert "{" not in text
            assert task == "addition" or all(
                sentence[0].isupper() or sentence[0].isdigit()
                for sentence in re.split(r"(?<=[.!?]) ", text)
            )


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def times(folder):
    return {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}


@pytest.mark.usefixtures("small_numbers")
@pytest.mark.parametrize("task", TASKS)
def test_the_same_arguments_give_the_same_files_and_another_seed_others(tmp_path, task):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        generate(task, tmp_path / name, train=20, dev=5, seed=seed)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    train = generated_files(task, tmp_path)[0].name
    assert contents(tmp_path / "a")[train] != contents(tmp_path / "c")[train]


def test_a_complete_set_is_not_written_again_and_any_other_is(tmp_path):
    generate("dialogue", tmp_path, train=20, dev=5)
    before, expected = times(tmp_path), contents(tmp_path)
    generate("dialogue", tmp_path, train=20, dev=5)
    assert times(tmp_path) == before
    (tmp_path / "dev.jsonl").unlink()
    generate("dialogue", tmp_path, train=20, dev=5)
    assert contents(tmp_path) == expected
    generate("dialogue", tmp_path, train=21, dev=5)
    assert len((tmp_path / "train.jsonl").read_text().splitlines()) == 21


def test_a_set_that_a_crash_left_unfinished_is_written_again(tmp_path, monkeypatch, small_numbers):
    generate("addition", tmp_path / "whole", train=21, dev=5)
    generate("addition", tmp_path / "cut", train=20, dev=5)
    write = generated._write

    def fail(file, lines):
        if file.name == "dev.tsv":
            raise KeyboardInterrupt
        write(file, lines)

    with monkeypatch.context() as patch:
        patch.setattr(generated, "_write", fail)
        with pytest.raises(KeyboardInterrupt):
            generate("addition", tmp_path / "cut", train=21, dev=5)
    generate("addition", tmp_path / "cut", train=21, dev=5)
    assert contents(tmp_path / "cut") == contents(tmp_path / "whole")


def test_files_that_were_not_generated_are_never_overwritten(tmp_path):
    (tmp_path / "train.tsv").write_text("mine\tmeins\n")
    with pytest.raises(UsageError, match=r"holds 'train\.tsv', which was not generated here"):
        generate("addition", tmp_path, train=20, dev=5)
    assert contents(tmp_path) == {"train.tsv": b"mine\tmeins\n"}


def test_a_folder_that_cannot_be_used_is_an_error_with_the_way_out(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(UsageError, match="is a file: choose a folder"):
        generate("addition", tmp_path / "file", train=20, dev=5)
    with pytest.raises(CaptionerError, match="choose another folder"):
        generate("addition", tmp_path / "file" / "inner", train=20, dev=5)
    with pytest.raises(UsageError, match="use at least 1"):
        generate("addition", tmp_path, train=0, dev=5)


def test_the_stamp_says_what_the_folder_holds(tmp_path):
    generate("summary", tmp_path, train=3, dev=2)
    stamp = json.loads((tmp_path / "generated.json").read_text())
    assert stamp["finished"] is True
    assert (stamp["task"], stamp["train"], stamp["dev"]) == ("summary", 3, 2)
    assert sorted(os.listdir(tmp_path)) == ["dev.jsonl", "generated.json", "train.jsonl"]
