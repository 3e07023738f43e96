"""Photographs in, captions out, whatever form they come in."""

import pytest
import torch
from PIL import Image

from captioner import Caption, Captioner
from captioner.errors import CaptionerError, ImageError


@pytest.fixture(scope="module")
def captioner(tiny_model):
    return Captioner.from_pretrained(tiny_model, device="cpu")


@pytest.fixture
def photo(shapes):
    return sorted((shapes / "dev").iterdir())[0]


def test_one_image_gives_a_caption_and_many_give_a_list(captioner, photo):
    caption = captioner.caption(photo)
    assert isinstance(caption, Caption)
    assert caption.text
    assert caption.log_prob < 0
    assert captioner.caption([photo, photo]) == [caption, caption]
    assert captioner.caption([]) == []


def test_path_text_bytes_pillow_and_tensor_of_one_image_give_one_caption(captioner, photo):
    image = Image.open(photo).convert("RGB")
    pixels = torch.tensor(list(image.tobytes()), dtype=torch.uint8).view(image.height, image.width, 3).permute(2, 0, 1)
    forms = [photo, str(photo), photo.read_bytes(), image, pixels, pixels / 255]
    assert len({captioner.caption(form) for form in forms}) == 1
    assert captioner.caption(torch.stack([pixels, pixels])) == captioner.caption([photo, photo])


def test_captions_do_not_depend_on_the_batch_size(captioner, shapes):
    photos = sorted((shapes / "train").iterdir())[:7]
    for beam in (1, 3):
        one, many = (captioner.caption(photos, beam=beam, batch_size=size) for size in (1, 4))
        assert [caption.text for caption in one] == [caption.text for caption in many]
        torch.testing.assert_close(*([caption.log_prob for caption in captions] for captions in (one, many)))


def test_a_broken_image_costs_only_itself(captioner, photo):
    first, broken, last = captioner.stream([photo, b"<html>", photo])
    assert first == last == captioner.caption(photo)
    assert isinstance(broken, ImageError)
    with pytest.raises(ImageError):
        captioner.caption([photo, b"<html>"])


def test_images_are_read_no_further_ahead_than_a_batch(captioner, photo):
    asked = []

    def endless():
        while True:
            asked.append(photo)
            yield photo

    next(captioner.stream(endless(), batch_size=2))
    assert len(asked) <= 4


def test_a_saved_model_captions_as_before(captioner, photo, tmp_path):
    captioner.save_pretrained(tmp_path / "copy")
    again = Captioner.from_pretrained(tmp_path / "copy", device="cpu")
    assert again.caption(photo) == captioner.caption(photo)
    assert {file.name for file in (tmp_path / "copy").iterdir()} == {
        "config.json",
        "model.safetensors",
        "vocab.json",
        "checksums.json",
    }


def test_half_precision_halves_the_file_and_hardly_changes_the_probability(captioner, photo, tmp_path):
    captioner.save_pretrained(tmp_path / "single")
    captioner.save_pretrained(tmp_path / "half", half=True)
    single, half = ((tmp_path / name / "model.safetensors").stat().st_size for name in ("single", "half"))
    assert half < 0.51 * single
    near = Captioner.from_pretrained(tmp_path / "half", device="cpu").caption(photo)
    assert near.log_prob == pytest.approx(captioner.caption(photo).log_prob, rel=1e-2)


def test_a_wrong_tensor_is_named(captioner):
    with pytest.raises(ImageError, match=r"has shape \(1, 4, 4\)"):
        captioner.caption(torch.zeros(1, 4, 4))


def test_a_folder_that_is_no_model_is_named_with_a_hint(tmp_path, tiny_model):
    with pytest.raises(CaptionerError, match="is not a model folder"):
        Captioner.from_pretrained(tmp_path)
    with pytest.raises(CaptionerError, match="did you mean"):
        Captioner.from_pretrained(tiny_model.parent)


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        ("vocab.json", b'"a"', b'"b0"', "corrupt"),
        ("config.json", b'"gru"', b'"rnn"', "corrupt"),
        ("model.safetensors", b"", b"x", "corrupt"),
    ],
)
def test_a_changed_model_file_is_named(tiny_model, tmp_path, file, old, new, message):
    for source in tiny_model.iterdir():
        (tmp_path / source.name).write_bytes(source.read_bytes())
    content = (tmp_path / file).read_bytes()
    (tmp_path / file).write_bytes(content.replace(old, new, 1) if old in content and old else content + b"x")
    with pytest.raises(CaptionerError, match=message):
        Captioner.from_pretrained(tmp_path)
