"""One photograph gives one caption in every form, also a JPEG that could be decoded smaller."""

import io
import random

import numpy as np
import pytest
import torch
from pictures import noise
from PIL import Image

from captioner import Captioner
from captioner.data.transforms import build_transform, prefetch_images
from captioner.errors import ImageError

pytestmark = pytest.mark.row(38)


def forms_of(path):
    data = path.read_bytes()
    image = Image.open(path)
    pixels = np.asarray(Image.open(path))
    tensor = torch.from_numpy(pixels.copy()).permute(2, 0, 1)
    contents = [data, bytearray(data), memoryview(data), io.BytesIO(data), path.open("rb")]
    return [path, str(path), *contents, image, image.copy(), pixels, tensor, pixels / 255]


@pytest.mark.parametrize("name", ["squash", "crop"])
def test_a_large_jpeg_gives_the_same_input_of_the_model_in_every_form(name, tmp_path):
    noise(150, 100).resize((1500, 1000)).save(tmp_path / "a.jpg", quality=90)
    transform = build_transform(name, 224)
    forms = forms_of(tmp_path / "a.jpg")
    for order in (forms, iter(forms)):
        batches = prefetch_images(order, transform, size=len(forms))
        images = [image for batch in batches for image in batch]
        assert len(images) == len(forms)
        assert all(np.array_equal(image, images[0]) for image in images)
    assert images[0].std() > 20


def test_what_cannot_be_an_image_is_an_error_in_its_place_and_the_others_are_captioned(
    tiny_model, photo
):
    captioner = Captioner.from_pretrained(tiny_model, device="cpu")
    wrong = [torch.randn(3, 32, 32), np.full((8, 8, 3), np.nan), "https://a.b/c.jpg", None, 3.5]
    results = list(captioner.stream([photo, *wrong, photo]))
    assert [isinstance(result, ImageError) for result in results] == [False, *[True] * 5, False]
    assert results[0].text == results[-1].text == captioner.caption(photo).text
    assert all(len(str(error).splitlines()) == 1 for error in results[1:-1])


def test_a_batch_is_a_sequence_of_images_as_an_array_and_as_a_tensor(tiny_model, photo):
    captioner = Captioner.from_pretrained(tiny_model, device="cpu")
    pixels = np.stack([np.asarray(Image.open(photo).convert("RGB"))] * 2)  # (B, H, W, 3)
    expected = captioner.caption([photo, photo])
    assert captioner.caption(pixels) == expected
    assert captioner.caption(torch.from_numpy(pixels).permute(0, 3, 1, 2)) == expected
    assert captioner.caption(np.array([str(photo)] * 2)) == expected


@pytest.mark.data
@pytest.mark.timeout(1800)
def test_200_large_photographs_give_one_caption_as_path_bytes_pillow_and_numpy(
    research_data, tmp_path, capsys
):
    photos = [
        path
        for folder in ("kodak", "coco/train2017", "coco/val2017", "flickr8k/images")
        for path in sorted((research_data / folder).glob("*.jpg"))
    ][:200]
    captioner = Captioner.from_pretrained(device="cpu")
    rng, texts = random.Random(0), set()
    for start in range(0, len(photos), 20):
        paths = []
        for number, photo in enumerate(photos[start : start + 20], start):
            image = Image.open(photo).convert("RGB")
            scale = rng.uniform(1000, 1600) / min(image.size)
            size = tuple(max(1000, round(side * scale)) for side in image.size)
            paths.append(tmp_path / f"{number}.jpg")
            image.resize(size, Image.Resampling.LANCZOS).save(paths[-1], quality=90)
        forms = {
            "path": paths,
            "bytes": [path.read_bytes() for path in paths],
            "Pillow": [Image.open(path) for path in paths],
            "numpy": [np.asarray(Image.open(path)) for path in paths],
        }
        captions = {name: captioner.caption(each) for name, each in forms.items()}
        assert all(each == captions["path"] for each in captions.values())
        texts |= {caption.text for caption in captions["path"]}
    with capsys.disabled():
        print(f"\n{len(photos)} photographs, {len(texts)} captions: the same in {[*forms]}")
    assert len(photos) == 200
