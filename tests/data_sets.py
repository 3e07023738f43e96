"""A small valid data set, made by code, to put errors into."""

import io
import json
import random
import struct
import zlib

import yaml
from PIL import Image


def picture(seed, size=(96, 72)):
    """Draw coloured clouds, different ones for each seed."""
    return Image.frombytes("RGB", (6, 5), random.Random(seed).randbytes(90)).resize(
        size, Image.Resampling.BICUBIC
    )


def encoded(image, kind="JPEG", **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def huge_png():
    """Return a PNG whose header claims 100 megapixels, with hardly any data."""
    header = struct.pack(">IIBBBBB", 10_000, 10_000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(100)))


def chunk(name, data):
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


class DataSet:
    """COCO files for train and dev with a folder of images, to put errors into."""

    def __init__(self, folder):
        self.folder = folder
        self.content = {split: {"images": [], "annotations": []} for split in ("train", "dev")}
        (folder / "images").mkdir(parents=True)
        for number in range(1, 9):
            self.image("train" if number < 5 else "dev", number)

    def image(self, split, number, name=None, data=None, captions=("a dog runs",)):
        """Add an image; with no bytes as `data`, one whose file is missing."""
        name = name or f"{number}.jpg"
        data = encoded(picture(number)) if data is None else data
        if data:
            (self.folder / "images" / name).write_bytes(data)
        self.content[split]["images"].append({"id": number, "file_name": name})
        for caption in captions:
            self.caption(split, number, caption)

    def caption(self, split, number, caption):
        """Add a caption, of whatever type."""
        annotations = self.content[split]["annotations"]
        annotations.append({"id": len(annotations), "image_id": number, "caption": caption})

    def file(self, number):
        """Return the bytes of an image file."""
        return (self.folder / "images" / f"{number}.jpg").read_bytes()

    def write(self):
        """Write the annotation files and a config that names them; return its path."""
        data = {"min_count": 1}  # there are four captions to train on
        for split, content in self.content.items():
            path = self.folder / f"{split}.json"
            path.write_text(json.dumps(content))
            data[split] = {"annotations": str(path)}
        config = self.folder / "config.yaml"
        config.write_text(yaml.safe_dump({"data": data}))
        return config
