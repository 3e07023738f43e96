"""Films: frames at a regular distance in time, and what is wrong with a broken one."""

import os
import struct

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("av")

from films import COLOURS, damage, decode_all, truncate, write_film, write_sound

from captioner.data import films
from captioner.data.films import Film, Frame, changed_frames, format_time, is_film
from captioner.data.transforms import Squash
from captioner.errors import ImageError


def read(path, every, **options):
    """The frames of a film and the message of its error, if it has one."""
    frames = []
    film = Film(path, every=every, **options)
    try:
        for frame in film:
            frames.append((frame.time, np.asarray(frame.image)))
    except ImageError as error:
        return frames, str(error)
    return frames, None


def expected(frames, every):
    """The first of all frames at or after each multiple of `every`."""
    chosen, number = [], 0
    for time, image in frames:
        if not chosen or time >= number * every - 1e-4:
            chosen.append((time, image))
            while number * every <= time + 1e-4:
                number += 1
    return chosen


# Containers and codecs with and without frames that depend on later ones, open and closed groups
# of pictures, and a stream whose key frames are no intra pictures.
KINDS = {
    "mp4": ("libx264", {}),
    "open.mp4": ("libx264", {"x264-params": "open-gop=1:bframes=3:keyint=12:scenecut=0"}),
    "refresh.mp4": ("libx264", {"g": "1000", "x264-params": "intra-refresh=1:keyint=40"}),
    "mkv": ("mpeg4", {"bf": "2"}),
    "webm": ("libvpx-vp9", {"deadline": "realtime", "cpu-used": "8"}),
    "avi": ("mpeg4", {}),
    "mov": ("mjpeg", {}),
    "mpg": ("mpeg2video", {"bf": "2"}),
    "ts": ("mpeg2video", {}),
    "flv": ("flv", {}),
    "wmv": ("wmv2", {}),
}


@pytest.mark.parametrize("kind", KINDS)
def test_frames_are_the_first_at_or_after_each_multiple_as_a_complete_decoding_has_them(
    kind, tmp_path
):
    codec, options = KINDS[kind]
    fps = 25 if kind in ("mpg", "refresh.mp4") else 10
    path = write_film(tmp_path / f"film.{kind}", seconds=9, fps=fps, codec=codec, **options)
    every_frame = decode_all(path)
    assert len(every_frame) == 9 * fps
    for every in (0.3, 1.1, 2.0, 4.0):
        frames, error = read(path, every)
        wanted = expected(every_frame, every)
        assert error is None
        assert [time for time, _ in frames] == pytest.approx([time for time, _ in wanted])
        assert all((mine[1] == all_[1]).all() for mine, all_ in zip(frames, wanted, strict=True))


def test_every_frame_is_read_if_the_distance_is_that_of_the_frames(tmp_path):
    path = write_film(tmp_path / "film.mkv", seconds=3)
    frames, _ = read(path, 0.1)
    assert [round(10 * time) for time, _ in frames] == list(range(30))


def test_what_lies_before_a_needed_key_frame_is_not_decoded(tmp_path, monkeypatch):
    path = write_film(tmp_path / "film.mp4", seconds=20)
    decoded = []
    original = films._Sampler._decode
    monkeypatch.setattr(
        films._Sampler,
        "_decode",
        lambda self, packet: (decoded.append(packet), original(self, packet))[1],
    )
    frames, _ = read(path, 5.0)
    assert [round(time) for time, _ in frames] == [0, 5, 10, 15]
    assert len(decoded) < 100  # of 200; the first and the last group of pictures are


def test_a_film_without_a_constant_frame_rate_gives_no_frame_twice(tmp_path):
    path = write_film(tmp_path / "film.mkv", times=[0, 10, 20, 350, 360, 900, 910])
    frames, _ = read(path, 1.0)
    assert [round(time, 3) for time, _ in frames] == [0, 3.5, 9.0]


def test_the_end_of_a_film_is_that_of_its_last_frame(tmp_path):
    film = Film(write_film(tmp_path / "film.mp4", seconds=5), every=3.0)
    assert [*film]
    assert film.end == pytest.approx(5.0)


@pytest.mark.parametrize(
    ("matrix", "corner"),
    [  # MP4: x' = a x + c y, y' = b x + d y, with y downwards; where the top left corner goes
        ((1, 0, 0, 1), (0, 0)),
        ((0, 1, -1, 0), (0, -1)),  # x' = -y, y' = x: to the top right
        ((-1, 0, 0, -1), (-1, -1)),
        ((0, -1, 1, 0), (-1, 0)),  # x' = y, y' = -x: to the bottom left
    ],
)
def test_the_rotation_in_the_header_is_applied(matrix, corner, tmp_path):
    path = write_film(tmp_path / "film.mp4", seconds=1, size=(96, 48))
    content = bytearray(path.read_bytes())
    place = content.index(b"tkhd") + 44
    a, b, c, d = (65536 * value for value in matrix)
    content[place : place + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(content)
    [(_, image), *_], _ = read(path, 9.0)
    assert image.shape == ((48, 96, 3) if a else (96, 48, 3))
    # The white square is at the top left of the first frame.
    rows = slice(0, 20) if corner[0] == 0 else slice(-20, None)
    columns = slice(0, 20) if corner[1] == 0 else slice(-20, None)
    assert image[rows, columns].mean() > image.mean() + 40


def test_films_are_recognised_by_their_content(tmp_path):
    film = write_film(tmp_path / "film.mp4", seconds=1)
    renamed = film.rename(tmp_path / "photo.jpg")
    image = tmp_path / "image.mp4"
    Image.new("RGB", (8, 8)).save(image, format="PNG")
    photo = tmp_path / "photo.avif.mov"
    photo.write_bytes(b"\0\0\0\x20ftypavif" + bytes(400))
    text = tmp_path / "text.mp4"
    text.write_text("no film")
    os.mkfifo(tmp_path / "pipe.mp4")
    assert is_film(renamed)
    assert is_film(text)  # by its name: the error says then that it is none
    assert not any(map(is_film, (image, photo, tmp_path / "pipe.mp4", tmp_path / "gone.mp4")))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "is empty (0 bytes)"),
        (b"no film\n" * 99, "not a film in a supported format (MP4, "),
        (b"#EXTM3U\n#EXTINF:5,\nfilm.ts\n", "not a film in a supported format"),
        (b"\0\0\0\x20ftypisom" + bytes(500), "truncated, corrupt, or in a variant"),
        (b"\x1aE\xdf\xa3" + bytes(500), "truncated, corrupt, or in a variant"),
    ],
)
def test_a_file_that_is_no_film_is_named_with_the_reason(content, reason, tmp_path):
    path = tmp_path / "film.mp4"
    path.write_bytes(content)
    frames, error = read(path, 1.0)
    assert not frames
    assert error.startswith(f"{path}: {reason}")


def test_tags_that_are_not_utf8_do_not_matter(tmp_path):
    film = write_film(tmp_path / "film.mkv", seconds=1)
    content = film.read_bytes()
    film.write_bytes(content.replace(b"Lavf", b"\xe9avf"))  # the name of the program that wrote it
    assert film.read_bytes() != content
    assert len(read(film, 0.5)[0]) == 2


def test_a_file_with_sound_only_holds_no_video(tmp_path):
    path = write_sound(tmp_path / "sound.mp4")
    assert read(path, 1.0) == ([], f"{path}: holds no video")


@pytest.mark.parametrize(
    ("codec", "reason"),
    [
        ("libx264", "too large: 64 x 48 pixels, the limit is 3,071 in all"),
        ("mpeg4", "too large, or its size is not known: the limit is 3,071 pixels"),
    ],
)
def test_a_film_of_too_many_pixels_is_not_decoded(codec, reason, tmp_path, monkeypatch):
    path = write_film(tmp_path / "film.mp4", seconds=1, codec=codec)
    monkeypatch.setattr(films._Sampler, "_decode", lambda *_: pytest.fail("decoded"))
    assert read(path, 1.0, max_pixels=64 * 48 - 1) == ([], f"{path}: {reason}")


def test_a_stream_whose_frames_grow_beyond_the_limit_breaks_there(tmp_path):
    # MPEG transport streams can be joined: the second has larger frames.
    small = write_film(tmp_path / "small.ts", seconds=1, codec="mpeg2video", fps=25)
    large = write_film(tmp_path / "large.ts", seconds=1, codec="mpeg2video", fps=25, size=(96, 64))
    both = tmp_path / "both.ts"
    both.write_bytes(small.read_bytes() + large.read_bytes())
    frames, error = read(both, 0.04, max_pixels=64 * 48)
    assert {image.shape for _, image in frames} == {(48, 64, 3)}
    assert error.startswith(f"{both}: ")


@pytest.mark.parametrize("kind", ["mkv", "mp4"])
def test_of_a_truncated_film_the_beginning_is_read(kind, tmp_path):
    container = {"container": {"options": {"movflags": "faststart"}}} if kind == "mp4" else {}
    film = write_film(tmp_path / f"film.{kind}", seconds=8, **container)
    path = truncate(film, tmp_path / f"half.{kind}", share=0.6)
    frames, error = read(path, 1.0)
    assert 3 <= len(frames) <= 6
    assert all(
        (mine[1] == all_[1]).all()
        for mine, all_ in zip(frames, expected(decode_all(film), 1.0), strict=False)
    )
    assert error.startswith(f"{path}: truncated: ends at 00:00:0")
    assert error.endswith(" of 00:00:08.000")


def test_frames_that_depend_on_damaged_data_are_left_out_and_the_others_are_read(tmp_path):
    film = write_film(tmp_path / "film.mp4", seconds=8, codec="libx264")
    path = damage(film, tmp_path / "damaged.mp4", start=0.5, length=60)
    frames, error = read(path, 0.1)
    assert error.startswith(f"{path}: damaged at 00:00:0")
    originals = {round(time, 3): image for time, image in decode_all(film)}
    assert 40 <= len(frames) < len(originals)
    assert all((image == originals[round(time, 3)]).all() for time, image in frames)
    assert frames[-1][0] == pytest.approx(7.9)


def test_a_film_of_many_packets_without_a_key_frame_does_not_fill_the_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(films, "MAX_WAITING", 7)
    path = write_film(tmp_path / "film.mp4", seconds=8)
    most = []
    original = films._Sampler._sample

    def sample(self, packets):
        most.append(len(packets))
        return original(self, packets)

    monkeypatch.setattr(films._Sampler, "_sample", sample)
    frames, _ = read(path, 7.0)
    assert max(most) <= 7
    assert [round(time) for time, _ in frames] == [0, 7]


def grey(value):
    return Image.new("RGB", (40, 30), (value, value, value))


def test_frames_that_hardly_differ_from_the_last_one_kept_are_left_out():
    # Grey of one value: the mean difference of pixels is that of the values. A slow change adds up.
    values = [100, 102, 100, 98, 103, 104, 106, 103]
    frames = [Frame(float(number), grey(value)) for number, value in enumerate(values)]
    kept = [frame.time for frame in changed_frames(frames, Squash(16))]
    assert kept == [0, 4, 6, 7]


def test_a_small_object_changes_a_frame_by_its_share_of_the_pixels():
    image = grey(100)
    image.paste((200, 200, 200), (0, 0, 8, 4))  # 2.7 % of the pixels by 100
    smaller = grey(100)
    smaller.paste((200, 200, 200), (0, 0, 4, 4))  # 1.3 %
    frames = [Frame(0.0, grey(100)), Frame(1.0, smaller), Frame(2.0, image)]
    assert [frame.time for frame in changed_frames(frames, Squash(32))] == [0, 2]


def test_times_are_written_as_webvtt_has_them():
    assert format_time(0) == "00:00:00.000"
    assert format_time(4.0004) == "00:00:04.000"
    assert format_time(59.9996) == "00:01:00.000"
    assert format_time(360_000 + 3_723.5) == "101:02:03.500"


def test_the_scenes_of_the_test_film_have_different_colours(tmp_path):
    frames, _ = read(write_film(tmp_path / "film.mp4"), 2.0)
    for (_, image), colour in zip(frames, COLOURS, strict=False):
        assert np.abs(image[-4:].mean(axis=(0, 1)) - colour).max() < 20


def test_of_joined_films_whose_times_begin_again_the_first_is_read_and_the_place_is_named(tmp_path):
    film = write_film(tmp_path / "film.ts", seconds=4, codec="mpeg2video")
    joined = tmp_path / "joined.ts"
    joined.write_bytes(2 * film.read_bytes())
    times = [round(time, 3) for time, _ in read(joined, 1.0)[0]]
    assert times == [round(time, 3) for time, _ in read(film, 1.0)[0]]
    reason = "its times jump back at 00:00:04.000: what follows is left out"
    assert read(joined, 1.0)[1] == f"{joined}: {reason}"
    assert read(film, 1.0)[1] is None
