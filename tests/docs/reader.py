"""The folder that a reader of the pages would have: a clone, photographs, data sets and models.

All of it is drawn, made up or shipped. It is made once, and copied for each page.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterable, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image
from snippets import ROOT

from captioner.data.shapes import draw_shapes

SHORT = Path(__file__).parent / "short"  # its sitecustomize makes trainings short
CLONE = ("captioner", "configs", "examples", "scripts", "benchmarks", "experiments", "docs")
LEFT_OUT = shutil.ignore_patterns("pretrained", "*.png", "*.ipynb")

IMAGE_MODELS = ("own", "flickr8k", "shapes", "first", "coco", "x", "a", "b")
TEXT_MODELS = ("multi30k", "seed0", "seed1")
LARGE = 1_000_000  # bytes of a file that is linked, not copied

NOUNS = {"dog": "Hund", "man": "Mann", "horse": "Pferd", "boat": "Boot", "child": "Kind"}
VERBS = {"runs": "rennt", "sleeps": "schläft", "stands": "steht", "waits": "wartet"}
PLACES = {"on the beach": "am Strand", "in the snow": "im Schnee", "in a park": "in einem Park"}
ENGLISH = [f"A {noun} {verb} {place}." for noun in NOUNS for verb in VERBS for place in PLACES]
GERMAN = [
    f"Ein {noun} {verb} {place}."
    for noun in NOUNS.values()
    for verb in VERBS.values()
    for place in PLACES.values()
]


def environment(folder: Path) -> dict[str, str]:
    """Return the variables of a process of a page that runs in `folder`."""
    variables = {name: text for name, text in os.environ.items() if name != "CAPTIONER_DATA"}
    return variables | {
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), variables.get("PATH", "")]),
        "PYTHONPATH": os.pathsep.join([str(SHORT), str(folder)]),
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
        "CAPTIONER_METEOR": "off",  # its table takes seconds to read
        "CAPTIONER_CACHE": str(folder / ".cache"),
        "HF_HOME": str(folder / ".cache/huggingface"),
        "HF_HUB_DISABLE_XET": "1",
        "NO_COLOR": "1",
        "RAY_DISABLE_DASHBOARD": "1",
    }


def copy_folder(made: Path, folder: Path) -> None:
    """Give a page its own folder."""

    def copy(source: str, target: str) -> str:
        if os.path.getsize(source) > LARGE:  # weights, which are replaced and never changed
            os.link(source, target)
            return target
        return shutil.copy2(source, target)

    shutil.copytree(made, folder, symlinks=True, copy_function=copy)


def make_folder(folder: Path) -> None:
    """Make all that the pages mention."""
    folder.mkdir(parents=True)
    for name in CLONE:
        shutil.copytree(ROOT / name, folder / name, ignore=LEFT_OUT)
    for file in ROOT.iterdir():
        if file.is_file():
            shutil.copy2(file, folder)
    (folder / "captioner/pretrained").symlink_to(ROOT / "captioner/pretrained")
    draw_shapes(folder / "data/shapes", train=60, dev=8)  # as short/sitecustomize.py says
    _photographs(folder)
    _photograph_of_a_phone(folder)
    _data_sets(folder)
    _own_data(folder)
    _shards(folder)
    _texts(folder)
    _films(folder)
    _models(folder)


def _photographs(folder: Path) -> None:
    examples = sorted((ROOT / "examples").glob("*.jpg"))
    for name in ("photo.jpg", "cat.jpg"):
        shutil.copy(ROOT / "examples/cat.jpg", folder / name)
    for name, photographs in (("holiday", examples[:3]), ("new-photos", examples[3:5])):
        (folder / name).mkdir()
        for number, photograph in enumerate(photographs, start=1):
            shutil.copy(photograph, folder / name / f"{number}.jpg")
    (folder / "dogs/sub").mkdir(parents=True)
    shutil.copy(examples[0], folder / "dogs/1.jpg")
    shutil.copy(examples[1], folder / "dogs/sub/2.jpg")
    (folder / "archive").mkdir()
    for number, photograph in enumerate(examples[5:7], start=1):
        Image.open(photograph).resize((96, 64)).save(folder / f"archive/{number}.png")
    frames = [Image.open(photograph).convert("P").resize((96, 64)) for photograph in examples[:3]]
    frames[0].save(folder / "cat.gif", save_all=True, append_images=frames[1:], duration=500)
    names = [f"examples/{photograph.name}" for photograph in examples[:4]]
    (folder / "list.txt").write_text("".join(f"{name}\n" for name in names))
    (folder / "list.csv").write_text("".join(f"{name}\n" for name in ["image", *names]))


def _photograph_of_a_phone(folder: Path) -> None:
    if importlib.util.find_spec("pillow_heif") is None:
        return
    import pillow_heif

    pillow_heif.from_pillow(Image.open(folder / "photo.jpg")).save(folder / "IMG_0001.HEIC")


def _data_sets(folder: Path) -> None:
    """Flickr8k, COCO, its validation set and Karpathy's split, made of drawn shapes."""
    shapes = folder / "data/shapes"
    for split in ("train", "dev"):
        captions = json.loads((shapes / f"captions_{split}.json").read_text())
        for name, images in (("flickr8k", "images"), ("general", ".")):
            _copy_images(shapes / split, folder / "data" / name / images, prefix=split)
            renamed = [
                {**image, "file_name": split + image["file_name"]} for image in captions["images"]
            ]
            file = folder / "data" / name / f"captions_{split}.json"
            file.write_text(json.dumps({**captions, "images": renamed}))
    texts = [each["caption"] for each in captions["annotations"]]
    for name in ("captions_val2017.json", "flickr.json"):
        shutil.copy(shapes / "captions_dev.json", folder / name)
    beside = [{**image, "file_name": f"dev/{image['file_name']}"} for image in captions["images"]]
    (folder / "dev.json").write_text(json.dumps({**captions, "images": beside}))
    shutil.copy(shapes / "captions_train.json", folder / "captions_train.json")
    for name in ("val2017", "dev", "flickr"):
        _copy_images(shapes / "dev", folder / name)
    names = {"images": captions["images"], "categories": []}
    (folder / "image_info_val2017.json").write_text(json.dumps(names))
    results = [
        {"image_id": image["id"], "caption": texts[number]}
        for number, image in enumerate(captions["images"])
    ]
    for name in ("results.json", "beam1.json", "beam3.json"):
        (folder / name).write_text(json.dumps(results))
    _karpathy(folder)


def _captions_of(image: dict[str, Any], captions: dict[str, Any]) -> list[str]:
    """Return the captions of an image of a file in COCO's format."""
    return [each["caption"] for each in captions["annotations"] if each["image_id"] == image["id"]]


def _copy_images(source: Path, target: Path, prefix: str = "") -> None:
    target.mkdir(parents=True, exist_ok=True)
    for image in source.iterdir():
        shutil.copy(image, target / f"{prefix}{image.name}")


def _karpathy(folder: Path) -> None:
    shapes, images = folder / "data/shapes", []
    for split, of_karpathy in (("train", "train"), ("dev", "val")):
        captions = json.loads((shapes / f"captions_{split}.json").read_text())
        year = f"{of_karpathy}2014"
        for place in ("data/coco", "coco"):
            _copy_images(shapes / split, folder / place / year)
        for image in captions["images"]:
            texts = [
                {"raw": text, "tokens": text.split()} for text in _captions_of(image, captions)
            ]
            number = len(images)
            images.append(
                {"filename": image["file_name"], "filepath": year, "split": of_karpathy}
                | {"imgid": number, "cocoid": number, "sentences": texts}
            )
    for split, image in (("test", images[-1]), ("restval", images[-2])):
        number = len(images)
        images.append({**image, "split": split, "imgid": number, "cocoid": number})
    text = json.dumps({"dataset": "coco", "images": images})
    for file in ("data/coco/dataset_coco.json", "dataset_coco.json"):
        (folder / file).write_text(text)
    (folder / "data/coco/annotations").mkdir()
    shutil.copy(folder / "captions_val2017.json", folder / "data/coco/annotations")


def _own_data(folder: Path) -> None:
    """A folder of photographs with captions in JSON lines."""
    captions = json.loads((folder / "captions_train.json").read_text())
    rows = [
        {
            "image": f"images/{image['file_name']}",
            "captions": _captions_of(image, captions),
        }
        for image in captions["images"]
    ]
    for name in ("photos", "own"):
        _copy_images(folder / "data/shapes/train", folder / name / "images")
    _write_rows(folder / "photos/captions.jsonl", rows[:40])
    _write_rows(folder / "photos/dev.jsonl", rows[40:])
    _write_rows(folder / "own.jsonl", rows[:20])
    texts = [caption for row in rows[:20] for caption in row["captions"]]
    (folder / "data/text").mkdir()
    for name in (
        *("photos/more_captions.txt", "captions.txt", "more_captions.txt"),
        "data/text/captions_coco.txt",
    ):
        (folder / name).write_text("".join(f"{text}\n" for text in texts))


def _write_rows(file: Path, rows: Iterable[object]) -> None:
    file.write_text("".join(f"{json.dumps(row)}\n" for row in rows))


def _shards(folder: Path) -> None:
    """Tars of one image each, with its captions."""
    captions = json.loads((folder / "captions_train.json").read_text())
    (folder / "tars").mkdir()
    for number, image in enumerate(captions["images"][:12]):
        texts = _captions_of(image, captions)
        members = {
            "000000.png": (folder / "data/shapes/train" / image["file_name"]).read_bytes(),
            "000000.json": json.dumps({"captions": texts}).encode(),
        }
        with tarfile.open(folder / f"tars/{number:05}.tar", "w") as tar:
            for name, content in members.items():
                member = tarfile.TarInfo(name)
                member.size = len(content)
                tar.addfile(member, BytesIO(content))
    for number in range(2):
        shutil.copy(folder / f"tars/{number:05}.tar", folder / "dev")


def _texts(folder: Path) -> None:
    data = folder / "data/multi30k"
    data.mkdir()
    sides: Sequence[tuple[str, list[str]]] = (("en", ENGLISH), ("de", GERMAN))
    for language, lines in sides:
        for name, part in (
            (f"data/multi30k/train.{language}", lines),
            (f"data/multi30k/val.{language}", lines[:6]),
            (f"my.{language}", lines),
            (f"val.{language}", lines[:6]),
        ):
            (folder / name).write_text("".join(f"{line}\n" for line in part), encoding="utf-8")
    for name in ("new.en", "test.en"):
        (folder / name).write_text("".join(f"{line}\n" for line in ENGLISH[:6]))
    for name in ("greedy.out", "beam5.out"):
        shutil.copy(folder / "val.de", folder / name)


def _films(folder: Path) -> None:
    if importlib.util.find_spec("av") is None:
        return
    from films import write_film

    for name in ("film.mp4", "holiday/beach.mp4"):
        write_film(folder / name, seconds=6)


def _models(folder: Path) -> None:
    _train(folder, "shapes", "made")
    _train(folder, "multi30k", "made_text")
    for made, names in (("made", IMAGE_MODELS), ("made_text", TEXT_MODELS)):
        for name in names:
            shutil.copytree(folder / made / "best", folder / "runs" / name / "best")
    for step in (100, 200):
        shutil.copytree(folder / "made/best", folder / f"runs/x/checkpoint-{step}")
    shutil.rmtree(folder / "made")
    shutil.rmtree(folder / "made_text")
    _weights_of_timm(folder)


def _weights_of_timm(folder: Path) -> None:
    """A file of weights of one of timm's trunks."""
    if importlib.util.find_spec("timm") is None:
        return
    import timm
    from safetensors.torch import save_file

    save_file(
        timm.create_model("vit_tiny_patch16_224").state_dict(), folder / "vit_tiny.safetensors"
    )


def _train(folder: Path, config: str, output: str) -> None:
    command = ["train", f"configs/{config}.yaml", "--output", output]
    done = subprocess.run(
        [sys.executable, "-m", "captioner", *command],
        cwd=folder,
        env=environment(folder),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
