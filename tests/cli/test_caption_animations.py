"""`captioner caption` of animated images: as images, and with --every as films."""

import json

import pytest
from pictures import noise, scene
from PIL import Image


@pytest.fixture
def animation(tmp_path):
    """Two frames of a second each."""
    path = tmp_path / "anim.gif"
    scene().save(path, save_all=True, append_images=[noise(64, 48)], duration=1000)
    return path


@pytest.fixture
def caption(run, tiny_model):
    def call(*arguments):
        return run("caption", *arguments, "--model", tiny_model, "--device", "cpu")

    return call


def test_an_animation_is_an_image_unless_the_time_between_frames_is_given(caption, animation):
    code, out, _ = caption(animation)
    assert code == 0
    assert [line.split("\t")[0] for line in out.splitlines()] == [str(animation)]
    assert len(out.split("\t")) == 2


def test_frames_are_captioned_with_their_times_without_av(caption, animation, monkeypatch):
    monkeypatch.setattr("captioner.data.films.find_spec", lambda name: None)
    still = animation.with_name("still.png")
    scene().save(still)
    code, out, err = caption(animation, still, "--every", "500ms")
    assert (code, err) == (0, "")
    columns = [line.split("\t")[:-1] for line in out.splitlines()]
    assert columns == [
        [str(still)],
        [str(animation), "00:00:00.000"],
        [str(animation), "00:00:01.000"],
    ]
    # The same frame as an image of its own.
    Image.open(animation).convert("RGB").save(still)
    assert out.splitlines()[1].split("\t")[2] == caption(still)[1].rstrip("\n").split("\t")[1]


def test_captions_of_an_animation_are_subtitles_and_json_lines(caption, animation, tmp_path):
    assert caption(animation, "--every", "1s", "--output", tmp_path / "a.vtt")[0] == 0
    assert "00:00:00.000 --> " in (tmp_path / "a.vtt").read_text()
    assert caption(animation, "--every", "1s", "--output", tmp_path / "a.jsonl")[0] == 0
    lines = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()]
    assert [line["time"] for line in lines] == [0.0, 1.0]


def test_a_still_image_has_no_frames(caption, animation):
    Image.open(animation).save(animation.with_name("still.gif"))
    for path in (animation.with_name("still.gif"), animation.parent):  # folders are not looked into
        code, out, err = caption(path, "--every", "1s")
        assert (code, out) == (2, "")
        assert "--every has no effect without a film: leave it out, or name an" in err
