"""Flickr8k as downloaded is what configs/flickr8k.yaml trains on."""

import io

import download_flickr8k
import pytest
from file_server import Site, serve, zipped
from PIL import Image

from captioner.config.loading import read_yaml
from captioner.data.datasets import load_examples

IMAGES = {"train": ["a.jpg", "b.jpg"], "dev": ["c.jpg"], "test": ["d.jpg"]}
UNUSED = "e.jpg"  # in the archives, but in no split


def caption_of(name, number):
    return f"caption {number} of {name}"


def jpeg(colour):
    file = io.BytesIO()
    Image.new("RGB", (8, 8), colour).save(file, "JPEG")
    return file.getvalue()


@pytest.fixture
def site():
    names = [*(name for split in IMAGES.values() for name in split), UNUSED]
    lines = [
        f"{name}#{number}\t{caption_of(name, number)}" for name in names for number in range(5)
    ]
    texts = {"Flickr8k.token.txt": "\n".join(lines).encode()}
    for split, images in IMAGES.items():
        texts[f"Flickr_8k.{split}Images.txt"] = "\n".join(images).encode()
    photographs = {f"Flicker8k_Dataset/{name}": jpeg((9 * n, 9, 9)) for n, name in enumerate(names)}
    site = Site()
    site.files["/Flickr8k_text.zip"] = zipped(texts)
    site.files["/Flickr8k_Dataset.zip"] = zipped(photographs)
    with serve(site):
        yield site


def download(site, folder):
    with pytest.raises(SystemExit) as end:
        download_flickr8k.main(["--folder", str(folder), "--base-url", site.url])
    return end.value.code


def test_every_split_has_its_images_and_captions_and_ids_of_its_own(site, tmp_path):
    assert download(site, tmp_path / "flickr8k") == 0
    ids = []
    for split, names in IMAGES.items():
        examples = load_examples(tmp_path / "flickr8k" / f"captions_{split}.json")
        ids += [example.image_id for example in examples]
        assert sorted(example.path.name for example in examples) == names
        for example in examples:
            expected = [caption_of(example.path.name, number) for number in range(5)]
            assert list(example.captions) == expected
    assert len(set(ids)) == 4
    assert not (tmp_path / "flickr8k" / "images" / UNUSED).exists()


def test_a_second_run_downloads_nothing(site, tmp_path):
    download(site, tmp_path)
    site.asked.clear()
    assert download(site, tmp_path) == 0
    assert site.asked == []


def test_the_config_reads_what_the_script_writes():
    data = read_yaml(download_flickr8k.Path("configs/flickr8k.yaml"))["data"]
    assert data["train"]["annotations"] == "data/flickr8k/captions_train.json"
    assert data["dev"]["annotations"] == "data/flickr8k/captions_dev.json"
    assert "scripts/download_flickr8k.py" in data["hint"]
