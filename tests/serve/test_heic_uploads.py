"""HEIC uploads: captioned where pillow-heif is installed, and named where it is not."""

from io import BytesIO

import pytest
from pictures import scene

from captioner.data import heic


@pytest.fixture
def upload():
    """The bytes of a HEIC photograph of a given size."""
    pillow_heif = pytest.importorskip("pillow_heif")

    def make(width, height):
        target = BytesIO()
        pillow_heif.from_pillow(scene(width, height)).save(target, quality=50)
        return target.getvalue()

    return make


def test_a_heic_photo_is_captioned_within_the_limit_of_pixels(service, errors, upload):
    answer = service.post("/v1/caption", content=upload(64, 48))
    assert answer.status_code == 200
    assert answer.json()["results"][0]["caption"] is not None
    large = service.post("/v1/caption", content=upload(400, 300))
    assert errors(large) == (413, "too_many_pixels")
    assert "400 x 300 pixels" in large.json()["error"]["message"]


def test_a_broken_heic_photo_is_an_image_that_cannot_be_read(service, errors, upload):
    assert errors(service.post("/v1/caption", content=upload(64, 48)[:-20])) == (
        422,
        "broken_image",
    )


def test_without_pillow_heif_it_is_no_image_that_can_be_read(service, errors, monkeypatch):
    monkeypatch.setattr(heic, "find_spec", lambda name: None)
    answer = service.post("/v1/caption", content=b"\0\0\0\x18ftypheic\0\0\0\0mif1heic")
    assert errors(answer) == (415, "not_an_image")
    assert "a HEIC photo: pip install pillow-heif" in answer.json()["error"]["message"]
