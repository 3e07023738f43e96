"""What METEOR knows of words, from a small copy of its files, and from the installed ones."""

import gzip
import tracemalloc
import zipfile

import pytest
from rich.console import Console

from captioner.errors import UsageError
from captioner.metrics import paraphrases
from captioner.metrics.meteor import Meteor
from captioner.metrics.meteor_words import find_meteor, normalize, read_synonyms
from captioner.metrics.paraphrases import read_paraphrases

SYNSETS = {"man": "1 2", "guy": "2", "ran": "9", "run": "3", "operate": "3", "dish": "4", "as": "5"}
SYNSETS |= {"a": "5", "pinch": "6", "pinche": "7", "boss": "8", "bos": "8"}
EXCEPTIONS = {"man": "men manned", "run": "ran running"}
PAIRS = [("next to", "near"), ("near", "close to"), ("street", "road"), ("road", "street")]


def lines(table):
    return "".join(f"{key}\n{value}\n" for key, value in table.items())


def write_table(folder, text):
    (folder / "data" / "paraphrase-en.gz").write_bytes(gzip.compress(text.encode()))


def table_of(pairs):
    return "".join(f"0.1\n{phrase}\n{other}\n" for phrase, other in pairs)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with METEOR's files, which the variable names."""
    with zipfile.ZipFile(tmp_path / "meteor-1.5.jar", "w") as program:
        program.writestr("function/english.words", "the\nto\na\n")
        program.writestr("synonym/english.synsets", lines(SYNSETS))
        program.writestr("synonym/english.exceptions", lines(EXCEPTIONS))
    (tmp_path / "data").mkdir()
    write_table(tmp_path, table_of(PAIRS))
    monkeypatch.setenv("CAPTIONER_METEOR", str(tmp_path))
    return tmp_path


def test_the_variable_names_the_folder_or_turns_it_off(folder, monkeypatch):
    assert find_meteor() == folder
    monkeypatch.setenv("CAPTIONER_METEOR", "off")
    assert find_meteor() is None


def test_a_named_folder_without_the_files_is_refused(folder):
    (folder / "data" / "paraphrase-en.gz").unlink()
    with pytest.raises(UsageError, match=r"paraphrase-en.gz does not exist: name the folder that"):
        find_meteor()


@pytest.mark.parametrize(
    ("tokens", "seen"),
    [
        ("a t-shirt and/or a bar-b-q", "a t shirt and / or a bar b-q"),
        ("the man 's dog does n't", "the man ' s dog does n 't"),
        ("o'clock 1990's dogs'", "o 'clock 1990 's dogs '"),
        ("u.s. t.v. w. blvd. c.d", "us tv w. blvd. c.d"),
        ("on main st.", "on main st ."),
        ("10,000 at 5:54 for $5", "10,000 at 5 : 54 for $ 5"),
        ("3,a 11.01.2009", "3 , a 11.01.2009"),
    ],
)
def test_tokens_are_normalized_as_java_prints_them(tokens, seen):
    assert " ".join(normalize(tokens.split())) == seen


def test_the_base_form_is_that_of_an_exception_or_else_of_the_first_rule(folder):
    synsets = read_synonyms(folder)
    assert synsets("men") == ["1", "2"]
    assert synsets("ran") == ["9", "3"]  # its own, then those of "run"
    assert synsets("dishes") == ["4"]
    assert synsets("pinches") == ["7"]  # "pinche" comes before "pinch"
    assert synsets("as") == ["5"]  # two letters: no rule is tried, which would give "a" as well
    assert synsets("boss") == ["8"]
    assert synsets("zebras") == []


def test_with_meteors_files_all_four_matchers_are_used(folder):
    metric = Meteor([[["a", "man", "next", "to", "the", "road"]], [["guys"]]])
    assert metric.stages == "exact+stem+synonym+paraphrase"
    assert metric.name == "METEOR"
    # Function words are a, the, to. "next to" and "near" count .6: 1 (.75 + .25) and .75.
    row, synonym = metric.statistics([["a", "man", "near", "the", "road"], ["man"]])
    matched, reference_matched = (
        0.25 + 0.75 + 0.6 * size + 0.25 + 0.75 for size in (0.75, 0.75 + 0.25)
    )
    assert row == pytest.approx((matched, reference_matched, 2.75, 3, (5 + 6) / 2, 0))
    assert synonym == pytest.approx((0.8 * 0.75, 0.8 * 0.75, 0.75, 0.75, 1, 0))


def test_a_pair_of_the_table_matches_in_both_directions(folder):
    for candidate, reference in [("close to", "near"), ("near", "close to")]:
        (row,) = Meteor([[reference.split()]]).statistics([candidate.split()])
        assert row[4] == 1.5
    assert Meteor([[["close", "to"]]]).score([["road"]]) == (0, [0])
    assert Meteor([[[]]]).score([["near"]]) == (0, [0])


def test_a_pair_that_is_in_the_table_twice_has_an_alternative(folder):
    # Java does not match "street" and "road" alone, whose pair is there in both directions
    assert Meteor([[["street"]]]).score([["road"]]) == (0, [0])
    assert Meteor([[["a", "street"]]]).statistics([["a", "road"]])[0][4] == 2


def test_a_pair_may_lie_in_two_blocks_of_the_file(folder, monkeypatch):
    def pairs():
        read_paraphrases.cache_clear()
        parts = read_paraphrases(folder / "data" / "paraphrase-en.gz")
        return [pair for one, other in parts for pair in zip(one, other, strict=True)]

    whole = pairs()
    assert whole == [(hash(one.encode()), hash(other.encode())) for one, other in PAIRS]
    for size in range(1, 40):
        monkeypatch.setattr(paraphrases, "_BLOCK", size)
        assert pairs() == whole


def test_the_table_takes_sixteen_bytes_for_each_pair(folder, monkeypatch):
    pairs = 200_000
    write_table(folder, table_of((f"a {i}", f"b {i}") for i in range(pairs)))
    monkeypatch.setattr(paraphrases, "_BLOCK", 1 << 14)
    tracemalloc.start()
    try:
        Meteor([[["a"]]]).score([["a"]])
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert 16 * pairs < kept < 18 * pairs


def test_a_terminal_shows_that_the_table_is_read(folder, monkeypatch):
    terminal = Console(force_terminal=True, record=True)
    monkeypatch.setattr("captioner.console.console", terminal)
    metric = Meteor([[["a"]]])
    with terminal.capture() as first:
        metric.score([["a"]])
    assert "loading METEOR's paraphrase table" in first.get()
    with terminal.capture() as second:
        metric.score([["a"]])
    assert second.get() == ""


AGAIN = r": install it again: pip install --force-reinstall --no-deps pycocoevalcap; CAPTIONER_"


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda data: data[: len(data) // 2], "end-of-stream marker"),
        (lambda data: b"version https://git-lfs", "Not a gzipped file"),
        (lambda data: b"", "it is empty"),
        (lambda data: gzip.compress(b""), "it is empty"),
        (lambda data: gzip.compress(gzip.decompress(data)[:-1]), "it stops within a pair"),
        (lambda data: gzip.compress(b"<p>\n<b>\n</p>\n"), "not probability, phrase and paraphrase"),
        (
            lambda data: gzip.compress(gzip.decompress(data).replace(b"\n", b"\r\n")),
            "not probability, phrase and paraphrase",
        ),
    ],
)
def test_a_damaged_table_is_one_line(folder, damage, reason):
    table = folder / "data" / "paraphrase-en.gz"
    table.write_bytes(damage(table.read_bytes()))
    with pytest.raises(
        UsageError, match=rf"cannot read .*paraphrase-en.gz \(.*{reason}.*\){AGAIN}"
    ):
        Meteor([[["a"]]]).score([["a"]])


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        (None, "File is not a zip file"),
        ({}, "no item named"),
        ({"synonym/english.synsets": b"dog\n1\ncat\n"}, r"zip\(\) argument"),
        ({"function/english.words": b"\xff\n"}, "can't decode"),
    ],
)
def test_a_damaged_program_is_one_line(folder, files, reason):
    jar = folder / "meteor-1.5.jar"
    whole = ("function/english.words", "synonym/english.synsets", "synonym/english.exceptions")
    if files is None:
        jar.write_bytes(jar.read_bytes()[:-30])
    else:
        with zipfile.ZipFile(jar, "w") as program:
            for name in whole if files else ():
                program.writestr(name, files.get(name, b""))
    with pytest.raises(UsageError, match=rf"cannot read .*1.5.jar \(.*{reason}.*\){AGAIN}"):
        Meteor([[["a"]]])


# The counts that Java's program printed for these pairs: matched words of both, and chunks.
PRINTED = [
    ("a kid playing next to a street", "a young boy plays near the road", 6, 3),
    ("a puppy runs in front of the house", "the dog running before a home", 4.5, 3),
    ("the man 's t-shirt is n't red", "a man 's shirt was not reddish", 7, 3),
]


@pytest.mark.slow
@pytest.mark.parametrize(("candidate", "reference", "matches", "chunks"), PRINTED)
def test_the_counts_are_those_of_java(candidate, reference, matches, chunks, monkeypatch):
    pytest.importorskip("pycocoevalcap")
    monkeypatch.delenv("CAPTIONER_METEOR")
    (row,) = Meteor([[reference.split()]]).statistics([candidate.split()])
    assert row[4:] == (matches, chunks)


def test_scores_do_not_depend_on_how_strings_are_hashed(folder, random_captions, printed):
    """The words of these captions have synonyms and paraphrases, of one and of several words."""
    pairs = [("dog", "cat"), ("cat", "dog"), ("on", "in"), ("the dog", "a cat"), ("of", "on the")]
    write_table(folder, table_of([*pairs, ("runs", "cat in"), ("red", "man on")]))
    references, candidates = random_captions(20, shortest=4)
    code = f"print(Meteor({references}).score({candidates}))"
    whole = f"from captioner.metrics.meteor import Meteor; {code}"
    assert len(printed(whole, CAPTIONER_METEOR=str(folder))) == 1
