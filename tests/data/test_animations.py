"""Animated images as films: their frames, times, and ends."""

import pytest
from PIL import Image, ImageDraw

from captioner.data.animations import Animation, is_animation
from captioner.errors import ImageError

COLOURS = ("red", "lime", "blue", "yellow")
TIMES = [0.0, 0.5, 1.5, 1.75]  # of the frames below, in seconds
LENGTHS = [500, 1000, 250, 700]  # in milliseconds


def frames(size=(40, 30)):
    """Full frames of one colour, with something that differs at the same place in each."""
    for number, colour in enumerate(COLOURS):
        image = Image.new("RGB", size, colour)
        ImageDraw.Draw(image).point((number, 0), "black")
        yield image


def animate(path, kind, **options):
    first, *others = frames()
    options = {"duration": LENGTHS, "loop": 0} | options
    first.save(path, kind, save_all=True, append_images=others, **options)
    return path


def shown(path, every=0.001):
    """(time, colour) of each frame, colours to the nearest of those above."""
    named = {"red": (255, 0, 0), "lime": (0, 255, 0), "blue": (0, 0, 255), "yellow": (255, 255, 0)}

    def nearest(pixel):
        return min(
            named, key=lambda c: sum(abs(a - b) for a, b in zip(pixel, named[c], strict=True))
        )

    animation = Animation(path, every=every)
    found = [(round(time, 3), nearest(image.getpixel((20, 15)))) for time, image in animation]
    return found, round(animation.end, 3)


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "AVIF"])
def test_every_frame_is_read_with_its_time(tmp_path, kind):
    Image.init()
    if kind not in Image.SAVE_ALL:
        pytest.skip(f"this Pillow writes no animated {kind}")
    path = animate(tmp_path / "film.gif", kind)  # whatever its suffix
    assert is_animation(path)
    assert shown(path) == (list(zip(TIMES, COLOURS, strict=True)), 2.45)


@pytest.mark.parametrize(("every", "times"), [(1.0, [0, 1.5]), (0.6, [0, 1.5]), (0.25, TIMES)])
def test_frames_are_the_first_at_or_after_each_multiple(tmp_path, every, times):
    # 0.6 s: the first at or after 0.6 is that at 1.5, and the next after 1.8 is none.
    found, _ = shown(animate(tmp_path / "film.png", "PNG"), every)
    assert [time for time, _ in found] == times


def test_a_frame_without_a_length_lasts_as_long_as_in_browsers(tmp_path):
    path = animate(tmp_path / "film.gif", "GIF", duration=[0, 10, 20, 0])
    assert [time for time, _ in shown(path)[0]] == [0, 0.1, 0.2, 0.22]


def test_the_image_for_programs_without_animations_is_no_frame(tmp_path):
    first, *others = frames()
    path = tmp_path / "film.png"
    first.save(path, save_all=True, append_images=others, default_image=True, duration=300)
    assert shown(path) == ([(0, "lime"), (0.3, "blue"), (0.6, "yellow")], 0.9)


@pytest.mark.parametrize("kind", ["GIF", "PNG"])
def test_the_frames_before_a_break_are_read_and_the_break_is_named(tmp_path, kind):
    path = animate(tmp_path / "film", kind)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 6 // 10])
    read = []
    with pytest.raises(ImageError, match=r"film: breaks at 00:00:0[01]\.500 \("):
        read.extend(Animation(path, every=0.001))
    assert 1 <= len(read) < 4


def test_the_limit_of_pixels_holds(tmp_path):
    with pytest.raises(ImageError, match="too large: 40 x 30 pixels, the limit is 1,199"):
        list(Animation(animate(tmp_path / "a.gif", "GIF"), every=1, max_pixels=1199))


def test_still_images_and_pages_are_no_animations(tmp_path):
    first, *others = frames()
    first.save(tmp_path / "still.gif")
    first.save(tmp_path / "pages.tif", save_all=True, append_images=others)
    (tmp_path / "broken.gif").write_bytes(b"GIF89a")
    for name in ("still.gif", "pages.tif", "broken.gif", "missing.gif"):
        assert not is_animation(tmp_path / name)


def test_reading_can_stop_at_any_frame(tmp_path):
    for _ in Animation(animate(tmp_path / "a.gif", "GIF"), every=0.1):
        break
