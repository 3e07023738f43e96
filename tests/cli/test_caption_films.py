"""`captioner caption` of films: times, subtitles, JSON lines, broken films, and interruptions."""

import json
import re

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("av")

from films import damage, decode_all, truncate, write_film

from captioner import Captioner
from captioner.cli.films import parse_every
from captioner.data.films import format_time
from captioner.errors import UsageError
from captioner.results.films import film_results


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    """A film of three scenes of two seconds; a square moves in each."""
    return write_film(tmp_path_factory.mktemp("films") / "film.mp4")


@pytest.fixture
def caption(run, tiny_model):
    def call(*arguments):
        return run("caption", *arguments, "--model", tiny_model, "--device", "cpu")

    return call


@pytest.fixture
def texts(monkeypatch):
    """Let captions be given texts, one a frame, in place of what a model generates."""
    from dataclasses import replace

    original = Captioner.stream

    def give(*wanted):
        def stream(self, images, **options):
            if images == []:  # the images that are named beside the film
                return
            for text, one in zip(wanted, original(self, images, **options), strict=True):
                yield replace(one, text=text, abstained=text is None)

        monkeypatch.setattr(Captioner, "stream", stream)

    return give


def test_captions_of_frames_are_those_of_the_same_frames_as_arrays(caption, film, tiny_model):
    code, out, err = caption(film, "--every", "2s")
    frames = [(time, image) for time, image in decode_all(film) if round(time, 3) in (0, 2, 4)]
    model = Captioner.from_pretrained(tiny_model, device="cpu")
    captions = model.caption([image for _, image in frames])
    assert (code, err) == (0, "")
    assert out == "".join(
        f"{film}\t{format_time(time)}\t{each.text}\n"
        for (time, _), each in zip(frames, captions, strict=True)
    )


def test_json_lines_have_the_time_in_seconds_and_every_word(caption, film):
    _, out, _ = caption(film, "--every", "1500ms", "--json")
    lines = [json.loads(line) for line in out.splitlines()]
    assert [line["time"] for line in lines] == [0.0, 1.5, 3.0, 4.5]
    assert {line["film"] for line in lines} == {str(film)}
    assert all(
        line["caption"].split() == [word["word"] for word in line["words"]] for line in lines
    )


def test_a_frame_is_captioned_every_two_seconds_unless_told_otherwise(caption, film):
    assert caption(film)[1] == caption(film, "--every", "2")[1]


def test_frames_that_hardly_differ_are_not_captioned_again(caption, film, tmp_path):
    still = write_film(tmp_path / "still.mkv", times=[0], seconds=1)
    assert len(caption(still, "--every", "0.1")[1].splitlines()) == 1
    # In a scene the square moves by 2 of 64 pixels a second, so only new scenes are other frames.
    slow = write_film(tmp_path / "slow.mkv", fps=2, seconds=12)
    times = [line.split("\t")[1] for line in caption(slow, "--every", "1")[1].splitlines()]
    assert {"00:00:00.000", "00:00:02.000", "00:00:04.000"} <= set(times)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("2s", 2), ("500ms", 0.5), ("1m", 60), ("0.5", 0.5), (".5s", 0.5), ("3", 3), ("2 S", 2)],
)
def test_times_between_frames(text, seconds):
    assert parse_every(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "0", "0s", "-1", "2x", "s", "nan", "inf", "1e3", "9" * 400])
def test_a_wrong_time_between_frames_is_refused_in_one_line(text, caption, film):
    with pytest.raises(UsageError, match="give a time of at least 1ms, such as 2s"):
        parse_every(text)
    code, out, err = caption(film, f"--every={text}")
    assert (code, out) == (2, "")
    assert err.startswith("captioner: --every ")
    assert "Traceback" not in err


def read_cues(path):
    """The cues of a WebVTT file as (start, end, text), times in milliseconds."""
    header, *blocks = path.read_text(encoding="utf-8").strip().split("\n\n")
    assert header == "WEBVTT"
    cues = []
    for block in blocks:
        if block.startswith("NOTE"):
            continue
        times, text = block.split("\n")
        numbers = [
            int(n)
            for n in re.fullmatch(
                r"(\d\d):(\d\d):(\d\d)\.(\d{3}) --> (\d\d):(\d\d):(\d\d)\.(\d{3})", times
            ).groups()
        ]
        start, end = (
            ((h * 60 + m) * 60 + s) * 1000 + ms for h, m, s, ms in (numbers[:4], numbers[4:])
        )
        cues.append((start, end, text))
    return cues


def test_a_cue_lasts_until_the_next_caption_that_differs(caption, film, texts, tmp_path):
    texts("a dog", "a dog", "a cat", "a <unk> & a cat", None, "a dog")
    output = tmp_path / "film.vtt"
    code, _, _ = caption(film, "--every", "1", "--output", output)
    assert code == 0
    assert read_cues(output) == [
        (0, 2000, "a dog"),
        (2000, 3000, "a cat"),
        (3000, 4000, "a &lt;unk&gt; &amp; a cat"),
        (5000, 6000, "a dog"),
    ]
    assert not output.with_name("film.vtt.part").exists()


def test_cues_are_never_empty_and_never_overlap(tmp_path):
    output = tmp_path / "film.vtt"
    with film_results(output, [tmp_path / "film.mp4"], provenance={}) as results:
        film = tmp_path / "film.mp4"
        for time, text in [
            (0.0, ""),
            (1.0, "a"),
            (1.0001, "b"),
            (2.0, "b\n\n00:01 --> x"),
            (3, ""),
        ]:
            results.add(film, time, [text])
        results.end(film, 3.0, complete=True)
    assert read_cues(output) == [(1000, 2000, "b"), (2000, 3000, "b 00:01 --&gt; x")]


def test_json_lines_of_films_have_times(caption, film, texts, tmp_path):
    texts("a dog", None, "a cat")
    output = tmp_path / "films.jsonl"
    assert caption(film, "--output", output)[0] == 0
    assert [json.loads(line) for line in output.read_text().splitlines()] == [
        {"film": str(film), "time": 0.0, "caption": "a dog"},
        {"film": str(film), "time": 2.0, "caption": None},
        {"film": str(film), "time": 4.0, "caption": "a cat"},
    ]


def test_several_captions_of_a_frame_are_lines_with_the_same_time(caption, film, tmp_path):
    output = tmp_path / "films.jsonl"
    _, out, _ = caption(film, "--num-captions", 2, "--output", output)
    rows = [line.split("\t") for line in out.splitlines()]
    assert [row[1] for row in rows[::2]] == [row[1] for row in rows[1::2]]
    for number, line in enumerate(map(json.loads, output.read_text().splitlines())):
        assert line["captions"] == [row[2] for row in rows[2 * number : 2 * number + 2]]


def test_broken_films_are_named_and_the_others_are_captioned(caption, film, tmp_path):
    text = tmp_path / "text.mp4"
    text.write_text("no film")
    half = truncate(write_film(tmp_path / "long.mkv", seconds=8), tmp_path / "half.mkv", share=0.6)
    photo = tmp_path / "photo.png"
    Image.new("RGB", (40, 40), "red").save(photo)
    code, out, err = caption(text, half, film, photo)
    assert code == 3
    lines = [line.split("\t")[0] for line in out.splitlines()]
    assert lines[0] == str(photo)  # images come first
    assert lines.count(str(film)) == 3
    assert 2 <= lines.count(str(half)) <= 3
    assert f"captioner: {text}: not a film in a supported format" in err
    assert f"captioner: {half}: truncated: ends at 00:00:0" in err
    assert "captioner: 2 of 3 films could not be read completely" in err


def test_of_a_film_that_breaks_the_captions_before_are_written(caption, tmp_path):
    long = write_film(tmp_path / "long.mp4", seconds=8, codec="libx264")
    path = damage(long, tmp_path / "damaged.mp4", start=0.5, length=60)
    output = tmp_path / "film.vtt"
    code, out, err = caption(path, "--output", output, "--every", "0.1")
    assert code == 3
    assert f"captioner: {path}: damaged at 00:00:0" in err
    assert out
    assert read_cues(output)[-1][1] == 8000


def test_films_of_globs_are_captioned_and_those_of_folders_are_not(caption, tmp_path):
    folder = tmp_path / "holiday"
    folder.mkdir()
    film = write_film(folder / "film.mp4", seconds=1)
    Image.new("RGB", (40, 40), "red").save(folder / "photo.png")
    named = [line.split("\t")[0] for line in caption(folder)[1].splitlines()]
    assert named == [str(folder / "photo.png")]
    named = [line.split("\t")[0] for line in caption(folder / "*.mp4")[1].splitlines()]
    assert named == [str(film)]


def test_a_film_with_the_name_of_a_photo_is_a_film(caption, film, tmp_path):
    renamed = tmp_path / "photo.jpg"
    renamed.write_bytes(film.read_bytes())
    assert len(caption(renamed)[1].splitlines()) == 3


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["FILM", "--report", "page.html"], "--report is for images, and FILM is a film"),
        (["FILM", "--annotations", "a.json"], "--annotations is for images, and FILM is a film"),
        (["FILM", "--output", "x.json"], "end the name of a file of captions of films in .vtt"),
        (["FILM", "OTHER", "--output", "x.vtt"], "subtitles are of one film, and 2 are named"),
        (["FILM", "PHOTO", "--output", "x.jsonl"], "FILM is a film and PHOTO is none"),
        (["PHOTO", "--every", "2s"], "--every has no effect without a film: leave it out"),
        (["PHOTO", "--output", "x.vtt"], "end it in .json"),
        (["FILM", "--explain"], "--explain has no effect without --report or --json"),
    ],
)
def test_options_that_do_not_fit_are_refused_before_anything_is_done(
    arguments, reason, caption, film, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    names = {"FILM": str(film), "OTHER": str(tmp_path / "b.mp4"), "PHOTO": str(tmp_path / "c.png")}
    (tmp_path / "b.mp4").write_bytes(film.read_bytes())
    Image.new("RGB", (8, 8)).save(tmp_path / "c.png")
    code, out, err = caption(*(names.get(each, each) for each in arguments))
    for name, path in names.items():
        reason = reason.replace(name, path)
    assert (code, out) == (2, "")
    assert reason in err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b.mp4", "c.png"]


@pytest.mark.parametrize(("name", "content"), [("x.vtt", "WEBVTT\n\nmine"), ("x.jsonl", "{}\n")])
def test_a_file_that_captioner_has_not_written_is_not_replaced(
    name, content, caption, film, tmp_path
):
    output = tmp_path / name
    output.write_text(content)
    code, _, err = caption(film, "--output", output)
    assert code == 2
    assert "was not written by captioner" in err
    assert output.read_text() == content


@pytest.mark.parametrize("name", ["x.vtt", "x.jsonl"])
def test_a_file_that_captioner_has_written_is_replaced(name, caption, film, tmp_path):
    output = tmp_path / name
    assert caption(film, "--output", output)[0] == 0
    assert caption(film, "--output", output, "--every", "10")[0] == 0
    assert len(re.findall(r" --> |time", output.read_text())) == 1


def test_without_the_package_that_decodes_the_command_to_install_it_is_shown(
    caption, film, monkeypatch
):
    monkeypatch.setattr("captioner.data.films.find_spec", lambda name: None)
    code, out, err = caption(film)
    assert (code, out) == (1, "")
    assert err == (
        "captioner: captioning a film needs the package av, which is not installed: "
        "pip install 'av>=18'\n"
    )


def test_heat_maps_of_frames_are_in_the_json_lines(run, film, attentive_model):
    _, out, _ = run("caption", film, "--model", attentive_model, "--json", "--explain")
    words = [word for line in out.splitlines() for word in json.loads(line)["words"]]
    assert words
    assert all(np.shape(word["heat"]) == (2, 2) for word in words)


def interrupt_after(number, monkeypatch):
    """Let Ctrl-C be pressed after so many captions."""
    original = Captioner.stream
    seen = []

    def stream(self, images, **options):
        for caption in original(self, images, **options) if images != [] else ():
            if len(seen) == number:
                raise KeyboardInterrupt
            seen.append(caption)
            yield caption

    monkeypatch.setattr(Captioner, "stream", stream)


def test_after_an_interruption_complete_films_are_not_captioned_again(
    caption, film, tmp_path, monkeypatch
):
    other = write_film(tmp_path / "other.mkv", seconds=8)
    whole, output = tmp_path / "whole.jsonl", tmp_path / "films.jsonl"
    caption(film, other, "--output", whole)
    with monkeypatch.context() as patched:
        interrupt_after(5, patched)
        code, out, err = caption(film, other, "--output", output)
    assert code == 130
    assert len(out.splitlines()) == 5
    assert f"5 captions are kept in {output}.part: run the same command again" in err
    assert not output.exists()
    code, out, err = caption(film, other, "--output", output)
    assert code == 0
    assert f"captioner: {film}: captioned by an interrupted run" in err
    assert {line.split("\t")[0] for line in out.splitlines()} == {str(other)}
    assert output.read_text() == whole.read_text()
    assert not output.with_name("films.jsonl.part").exists()


def test_after_an_interruption_a_broken_film_is_named_again(caption, film, tmp_path, monkeypatch):
    long = write_film(tmp_path / "long.mkv", seconds=8)
    broken = truncate(long, tmp_path / "half.mkv", share=0.6)
    output = tmp_path / "films.jsonl"
    with monkeypatch.context() as patched:
        interrupt_after(4, patched)
        assert caption(broken, film, "--output", output)[0] == 130
    code, _, err = caption(broken, film, "--output", output)
    assert code == 3
    assert f"captioner: {broken}: truncated" in err


def test_captions_of_an_interrupted_run_with_other_settings_are_not_mixed_in(
    caption, film, tmp_path, monkeypatch
):
    output = tmp_path / "films.jsonl"
    with monkeypatch.context() as patched:
        interrupt_after(2, patched)
        assert caption(film, "--output", output)[0] == 130
    code, _, err = caption(film, "--output", output, "--every", "1s")
    assert code == 2
    assert "with another model or other settings" in err


def test_after_an_interruption_the_subtitles_so_far_are_a_file_of_subtitles(
    caption, film, texts, tmp_path, monkeypatch
):
    texts("a dog", "a cat", "a man")
    interrupt_after(2, monkeypatch)
    output = tmp_path / "film.vtt"
    code, _, err = caption(film, "--output", output)
    assert code == 130
    part = tmp_path / "film.vtt.part"
    assert str(part) in err
    assert [cue[:2] for cue in read_cues(part)] == [(0, 2000)]


def test_frames_are_read_in_a_thread_beside_the_model(caption, film, monkeypatch):
    import threading

    from captioner.data import films

    threads = set()
    original = films._Sampler._decode
    monkeypatch.setattr(
        films._Sampler,
        "_decode",
        lambda self, packet: (threads.add(threading.current_thread()), original(self, packet))[1],
    )
    caption(film)
    assert threads
    assert threading.main_thread() not in threads
