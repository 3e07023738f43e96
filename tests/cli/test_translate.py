"""`captioner translate`: its lines, JSON, alignments and reports, and what it refuses."""

import io
import json
import os
import pty
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from threading import Thread

import pytest

from captioner import Translator
from captioner.text.tokenizer import UNK

TEXTS = ["a dog runs.", "", "the cat", "a man sings.", "the bird sleeps. the dog"]


@pytest.fixture
def translate(run, tiny_translator, monkeypatch):
    """Translate what is on stdin: bytes or text."""

    def call(text, *arguments, model=tiny_translator):
        data = text if isinstance(text, bytes) else text.encode()
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(data)))
        return run("translate", "--model", model, "--device", "cpu", *arguments)

    return call


@pytest.fixture(scope="module")
def translator(tiny_translator):
    return Translator.from_pretrained(tiny_translator, device="cpu")


def test_each_line_is_translated_in_order_and_an_empty_one_is_empty(translate, translator):
    code, out, err = translate("\n".join(TEXTS))
    assert (code, err) == (0, "")
    assert out.split("\n") == [*(one.text for one in translator.translate(TEXTS)), ""]
    assert out.split("\n")[1] == ""
    assert len(set(out.split("\n"))) > 2  # else the order would not matter


def test_a_file_gives_the_same_lines_as_stdin(translate, run, tiny_translator, tmp_path):
    (tmp_path / "text.en").write_text("\n".join(TEXTS))
    named = run("translate", "--model", tiny_translator, tmp_path / "text.en", "--device", "cpu")
    assert named == translate("\n".join(TEXTS)) == translate("\n".join(TEXTS), "-")


def test_a_named_pipe_is_read_once(translate, run, tiny_translator, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    writer = Thread(target=(tmp_path / "pipe").write_text, args=["\n".join(TEXTS)])
    writer.start()
    named = run("translate", "--model", tiny_translator, tmp_path / "pipe", "--device", "cpu")
    writer.join()
    assert named == translate("\n".join(TEXTS))


def test_an_empty_input_gives_an_empty_output(translate):
    assert translate("") == (0, "", "")


def test_lines_that_cannot_be_read_are_empty_and_named_and_the_others_translated(translate):
    _, expected, _ = translate("a dog runs.\n\n\nthe cat")
    code, out, err = translate(b"a dog runs.\n\xff\na\0b\nthe cat")
    assert code == 3
    assert out == expected
    assert "captioner: stdin, line 2: not UTF-8 (column 1 is 0xff): save it as UTF-8\n" in err
    assert "captioner: stdin, line 3: has a NUL character: it is no text\n" in err
    assert err.endswith("captioner: stdin: 2 lines could not be read\n")


def test_a_text_whose_lines_end_with_cr_alone_is_refused(translate, tmp_path):
    code, out, err = translate(b"a dog\rthe cat\ra man\r")
    assert (code, out) == (2, "")
    assert "stdin: its lines end with CR alone: save it with LF or CR LF" in err


def test_only_the_first_of_many_bad_lines_are_named(translate):
    code, out, err = translate(b"\xff\n" * 50)
    assert (code, out) == (3, "\n" * 50)
    assert "line 20:" in err
    assert "line 21:" not in err
    assert "50 lines could not be read" in err


def test_several_translations_have_number_log_probability_and_text(translate, translator):
    _, out, _ = translate("a dog runs.\n\nthe cat\n", "--num-captions", 3)
    rows = [line.split("\t") for line in out.splitlines()]
    assert [number for number, *_ in rows] == ["1"] * 3 + ["2"] + ["3"] * 3
    assert rows[3] == ["2", "0.0000", ""]
    best = translator.translate("a dog runs.", decoding={"captions": 3})
    expected = [(each.text, each.log_prob) for each in (best, *best.others)]
    assert [(text, float(log_prob)) for _, log_prob, text in rows[:3]] == [
        (text, pytest.approx(log_prob, abs=1e-3)) for text, log_prob in expected
    ]


def test_json_has_a_line_for_each_line(translate, translator):
    code, out, _ = translate(b"a dog runs.\n\xff\n\n", "--json")
    first, unreadable, empty = map(json.loads, out.splitlines())
    expected = translator.translate("a dog runs.")
    assert code == 3
    assert first == {
        "source": "a dog runs.",
        "text": expected.text,
        "log_prob": pytest.approx(expected.log_prob, abs=1e-4),
        "words": [
            {"word": word.text, "log_prob": pytest.approx(word.log_prob, abs=1e-4)}
            for word in expected.words
        ],
    }
    assert unreadable == {
        "source": None,
        "text": None,
        "problem": "not UTF-8 (column 1 is 0xff): save it as UTF-8",
    }
    assert empty == {"source": "", "text": "", "log_prob": 0, "words": []}


def test_json_lists_the_other_translations(translate):
    _, out, _ = translate("a dog", "--json", "--num-captions", 3)
    _, rows, _ = translate("a dog", "--num-captions", 3)
    line = json.loads(out)
    texts = [row.split("\t")[2] for row in rows.splitlines()]
    assert [line["text"], *(other["text"] for other in line["others"])] == texts
    assert all({*other} == {"text", "log_prob", "words"} for other in line["others"])


def test_align_names_the_source_token_of_the_largest_weight(translate):
    _, out, _ = translate("a dog runs.", "--align", "--json")
    line = json.loads(out)
    assert line["source_tokens"] == ["a", "dog", "runs", "."]
    expected = []
    for word in line["words"]:
        assert sum(word["attention"]) == pytest.approx(1, abs=1e-4)
        most = max(range(4), key=word["attention"].__getitem__)
        expected.append(f"{word['word']}←{line['source_tokens'][most]}")
    _, out, _ = translate("a dog runs.\n\n", "--align")
    assert expected
    assert out == f"{line['text']}\t{' '.join(expected)}\n\t\n"
    _, out, _ = translate("a dog runs.", "--align", "--num-captions", 2)
    assert [len(row.split("\t")) for row in out.splitlines()] == [4, 4]


@pytest.mark.parametrize(
    ("arguments", "obeyed"),
    [
        (["--require", "Vogel"], lambda text: "Vogel" in text),
        (["--forbid", "ein"], lambda text: "ein" not in text.split()),
        (["--prefix", "der Hund"], lambda text: text.startswith("der Hund")),
        (["--max-length", 2, "--length-ratio", 0], lambda text: len(text.split()) <= 2),
        (["--sample", "--seed", 2, "--require", "läuft"], lambda text: "läuft" in text),
    ],
)
def test_every_translation_follows_the_settings(translate, arguments, obeyed):
    code, out, _ = translate("a dog runs.\nthe cat\n", *arguments)
    assert code == 0
    assert all(obeyed(text) for text in out.splitlines())


def test_unknown_words_are_replaced_by_source_words(translate, tiny_translator, tmp_path):
    model = Translator.from_pretrained(tiny_translator, device="cpu")
    model.models[0].decoder.output.bias.data[UNK] = 5  # it prefers <unk> to every word
    model.save_pretrained(tmp_path / "model")
    _, out, _ = translate("zebra gnu\n", "--replace-unknown", model=tmp_path / "model")
    assert set(out.split()) <= {"zebra", "gnu"}
    assert out.split()
    _, out, _ = translate("zebra gnu\n", model=tmp_path / "model")
    assert not {"zebra", "gnu", "<unk>"} & set(out.split())


def test_a_forbidden_source_word_is_not_copied(translate, tiny_translator, tmp_path):
    model = Translator.from_pretrained(tiny_translator, device="cpu")
    model.models[0].decoder.output.bias.data[UNK] = 50
    model.save_pretrained(tmp_path / "model")
    options = ["--replace-unknown", "--max-length", 2, "--length-ratio", 0]
    _, out, _ = translate("Zebra gnu\n", *options, model=tmp_path / "model")
    first = out.split()[0]
    other = {"Zebra": "gnu", "gnu": "Zebra"}[first]
    _, out, _ = translate("Zebra gnu\n", *options, "--forbid", first, model=tmp_path / "model")
    assert out == f"{other} {other}\n"


def test_a_control_character_of_the_source_does_not_break_a_line(translate, monkeypatch):
    stream = Translator.stream

    def with_breaks(*arguments, **options):
        for one in stream(*arguments, **options):
            yield type(one)("a\x1b[2J\tb\u2028c\r", one.words, one.log_prob)

    monkeypatch.setattr(Translator, "stream", with_breaks)
    assert translate("a dog")[1] == "a [2J b c \n"


def test_output_is_a_file_and_stdout_stays_empty(translate, tmp_path):
    _, printed, _ = translate("a dog\nthe cat")
    file = tmp_path / "out.de"
    assert translate("a dog\nthe cat", "--output", file) == (0, "", "")
    assert file.read_text() == printed
    other = tmp_path / "other.de"
    code, _, _ = translate(b"a dog\n\xff\n", "--output", other)
    assert code == 3
    assert other.read_text() == printed.splitlines()[0] + "\n\n"


def test_output_replaces_no_file_because_it_could_be_the_references(translate, tmp_path):
    file = tmp_path / "references.de"
    file.write_text("ein Hund\n")
    code, out, err = translate("a dog", "--output", file)
    assert (code, out) == (2, "")
    assert "exists already, and it could be your data: choose another name, or delete it" in err
    assert file.read_text() == "ein Hund\n"
    file.write_text("")  # as mktemp makes it
    assert translate("a dog", "--output", file)[0] == 0


def test_output_to_a_device_does_not_replace_it(translate, tmp_path):
    link = tmp_path / "nowhere"
    link.symlink_to("/dev/null")
    assert translate("a dog", "--output", link) == (0, "", "")
    assert link.is_symlink()
    assert Path("/dev/null").is_char_device()


def test_translations_are_utf_8_in_a_pipe_whatever_the_locale_is(translate, monkeypatch):
    monkeypatch.setattr(Translator, "stream", _umlauts(Translator.stream))
    sys.stdout.reconfigure(encoding="ascii")
    assert translate("a dog")[1] == "Hündin\n"


def _umlauts(stream):
    def with_umlauts(*arguments, **options):
        for one in stream(*arguments, **options):
            yield type(one)("Hündin", one.words, one.log_prob)

    return with_umlauts


def test_a_report_has_every_text_that_has_a_translation(translate, tmp_path):
    page = tmp_path / "page.html"
    code, _, _ = translate("a dog\n\nthe cat", "--report", page, "--num-captions", 2)
    text = page.read_text()
    assert code == 0
    assert '"title":"stdin, 2 translations"' in text
    assert text.count('"weights":"') == 2
    assert [f'"line":{number},' in text for number in (1, 2, 3)] == [True, False, True]


def test_a_model_without_attention_has_a_report_without_heat_maps_and_no_alignment(
    translate, untrained_translator, tmp_path
):
    model, page = untrained_translator(), tmp_path / "page.html"
    code, _, _ = translate("a dog", "--report", page, model=model)
    assert code == 0
    assert '"text":"a dog"' in page.read_text()
    assert '"weights"' not in page.read_text()
    code, out, err = translate("a dog", "--align", model=model)
    assert (code, out) == (2, "")
    assert "--align needs a model with attention" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nothing.txt"], "nothing.txt: no such file"),
        (["."], ".: is a directory"),
        (["--output", "no/such/file"], "create it first"),
        (["--output", "."], ". is a folder"),
        (["--report", "page.pdf"], ".html"),
        (["--output", "z.html", "--report", "./z.html"], "--output and --report both name z.html"),
        (["--min-confidence", "0.5"], "--min-confidence"),
        (["--top-k", "2"], "--top-k has no effect without --sample"),
        (["--require", "zebra"], "--require: 'zebra' is not in the model's vocabulary"),
    ],
)
def test_wrong_usage_is_named_before_anything_is_read(translate, arguments, message):
    code, out, err = translate("a dog\n", *arguments)
    assert (code, out) == (2, "")
    assert message in err


def test_a_missing_model_is_wrong_usage_with_an_example(run):
    code, _, err = run("translate", "x.txt")
    assert code == 2
    assert "Missing option '--model'" in err
    assert err.splitlines()[-1].startswith("Example: captioner translate --model")


def test_a_model_of_the_other_kind_names_the_other_command(run, translate, tiny_model, photo):
    code, _, err = translate("a dog", model=tiny_model)
    assert code == 2
    assert "captioner caption" in err


def test_caption_with_a_model_of_text_names_translate(run, tiny_translator, photo):
    code, _, err = run("caption", photo, "--model", tiny_translator)
    assert code == 2
    assert "captioner translate" in err


def started(model, *arguments, **options):
    command = [sys.executable, "-m", "captioner", "translate", "--model", str(model), "--device"]
    return subprocess.Popen(
        [*command, "cpu", *arguments],
        env=os.environ | {"OMP_NUM_THREADS": "1", "TERM": "dumb"},
        **options,
    )


@pytest.mark.slow
def test_a_program_gets_the_answer_to_each_line_before_it_writes_the_next(tiny_translator):
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with started(tiny_translator, **pipes) as process:
        answers = []
        for text in ("a dog", "", "the cat"):
            process.stdin.write(text + "\n")
            process.stdin.flush()
            answers.append(process.stdout.readline())
        process.stdin.close()
        assert process.wait(20) == 0
    assert answers[1] == "\n"
    assert answers[0] != "\n" != answers[2]


@pytest.mark.slow
def test_a_closed_pipe_ends_without_a_message(tiny_translator, tmp_path):
    (tmp_path / "text.en").write_text("a dog\n" * 20_000)
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with started(tiny_translator, str(tmp_path / "text.en"), **pipes) as process:
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""
        process.wait(60)


@pytest.mark.slow
def test_an_interrupted_translation_ends_with_130(tiny_translator, tmp_path):
    (tmp_path / "text.en").write_text("a dog\n" * 200_000)
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with started(tiny_translator, str(tmp_path / "text.en"), **pipes) as process:
        process.stdout.readline()
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (130, b"captioner: interrupted\n")


class Terminal:
    """A command on a terminal of its own, and somebody who types."""

    def __init__(self, model, *arguments, **options):
        self.ours, theirs = pty.openpty()
        self.shown = b""
        streams = {"stdin": theirs, "stdout": theirs, "stderr": theirs} | options
        self.process = started(model, *arguments, start_new_session=True, **streams)
        os.close(theirs)

    def wait_for(self, text, *, times=1, seconds=60):
        end = time.monotonic() + seconds
        while self.shown.count(text) < times:
            assert time.monotonic() < end, self.shown
            if not select.select([self.ours], [], [], 1)[0]:
                continue
            try:
                self.shown += os.read(self.ours, 1000)
            except OSError:  # the command has closed the terminal
                break
        assert self.shown.count(text) >= times, self.shown

    def type(self, keys):
        os.write(self.ours, keys)


@pytest.fixture
def on_terminal(tiny_translator):
    """Start the command on a terminal; after the test it is stopped."""
    started = []

    def call(**options):
        started.append(Terminal(tiny_translator, **options))
        return started[-1]

    yield call
    for terminal in started:
        terminal.process.kill()
        os.close(terminal.ours)


@pytest.mark.slow
def test_on_a_terminal_each_line_is_translated_when_it_is_typed(on_terminal, translator):
    terminal = on_terminal()
    terminal.wait_for(b"> ")
    terminal.type(b"a dog\n")
    terminal.wait_for(b"> ", times=2)
    assert f"\n{translator.translate('a dog').text}\r\n> " in terminal.shown.decode()
    terminal.type(b"\x04")  # Ctrl-D
    assert terminal.process.wait(20) == 0


@pytest.mark.slow
def test_on_a_terminal_the_prompt_is_not_in_a_redirected_output(on_terminal, translator):
    terminal = on_terminal(stdout=subprocess.PIPE)
    terminal.wait_for(b"> ")
    terminal.type(b"a dog\n")
    terminal.wait_for(b"> ", times=2)
    terminal.type(b"\x04")
    out = terminal.process.communicate(timeout=20)[0].decode()
    assert out == translator.translate("a dog").text + "\n"


@pytest.mark.slow
def test_on_a_terminal_an_interrupt_ends_with_130(on_terminal):
    terminal = on_terminal()
    terminal.wait_for(b"> ")
    time.sleep(1)  # between prompt and input, Python notices a signal only with the next key
    terminal.process.send_signal(signal.SIGINT)
    terminal.wait_for(b"captioner: interrupted")
    assert terminal.process.wait(20) == 130
