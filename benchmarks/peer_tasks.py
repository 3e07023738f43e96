"""The tasks of benchmarks.peers: what a user would run in place of captioner, and captioner."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from shutil import which
from typing import Any

import torch
from PIL import Image

from benchmarks.synthetic import Setup
from benchmarks.workloads import train_cached, train_jpeg
from captioner.captions import Caption
from captioner.inference.captioner import Captioner

CAPTION_TOKENS = 12
"""Every caption has this length on both sides: random weights never end a caption by themselves."""
SCORED_IMAGES = 5_000
DROPPED = 0.2  # share of a reference's words that its candidate lacks


@dataclass(frozen=True)
class Task:
    """One thing that users do, with captioner and with a peer."""

    name: str
    unit: str
    items: int  # of one call
    peer: str
    run_peer: Callable[[], object]
    ours: str
    run_ours: Callable[[], object]


@dataclass(frozen=True)
class Skipped:
    """A task that cannot be measured here."""

    name: str
    reason: str


def caption_tasks(setup: Setup) -> list[Task | Skipped]:
    """From JPEG files to sentences: a ViT and GPT-2 of Hugging Face against two of our models.

    The model of `setup` has random weights, as the peer has.
    """
    if find_spec("transformers") is None:
        return [Skipped("caption", "transformers is not installed: pip install transformers")]
    files = setup.write_jpegs()
    peer = hugging_face(files)
    resnet = Captioner(
        [setup.build_model().eval()], setup.vocabulary, setup.config, device="cpu", precision="fp32"
    )
    bundled = Captioner.from_pretrained()
    models = {
        "ResNet-50 and LSTM of 512, beam 3": caption_ours(resnet, files),
        "bundled model, beam 3": caption_ours(bundled, files),
    }
    return [
        Task(
            "caption",
            "images",
            len(files),
            "ViT-B/16 and GPT-2, beam 4",
            peer,
            name,
            run,
        )
        for name, run in models.items()
    ]


def hugging_face(files: Sequence[Path], config: Any = None) -> Callable[[], list[list[int]]]:
    """Return a function that captions files with VisionEncoderDecoder, in one batch, beam 4."""
    from transformers import (
        GPT2Config,
        VisionEncoderDecoderConfig,
        VisionEncoderDecoderModel,
        ViTConfig,
        ViTImageProcessor,
    )

    if config is None:
        config = VisionEncoderDecoderConfig.from_encoder_decoder_configs(ViTConfig(), GPT2Config())
    torch.manual_seed(0)
    model = VisionEncoderDecoderModel(config=config).eval()
    processor = ViTImageProcessor(size={"height": 224, "width": 224})
    end = config.decoder.eos_token_id

    @torch.inference_mode()
    def caption() -> list[list[int]]:
        images = [Image.open(file).convert("RGB") for file in files]
        pixels = processor(images, return_tensors="pt")["pixel_values"]  # (N, 3, 224, 224)
        token_ids = model.generate(
            pixels,
            num_beams=4,
            min_new_tokens=CAPTION_TOKENS,
            max_new_tokens=CAPTION_TOKENS,
            decoder_start_token_id=end,
            pad_token_id=0,  # no caption ends early, so nothing is padded
        )  # (N, 1 + 12): after the start token
        return [caption[1:] for caption in token_ids.tolist()]

    return caption


def caption_ours(captioner: Captioner, files: Sequence[Path]) -> Callable[[], list[Caption]]:
    """Return a function that captions files with captioner, in one batch, beam 3."""
    decoding = {"beam": 3, "min_length": CAPTION_TOKENS, "max_length": CAPTION_TOKENS}

    def caption() -> list[Caption]:
        found = captioner.stream(files, batch_size=len(files), decoding=decoding)
        return [each for each in found if isinstance(each, Caption)]

    return caption


def metric_tasks(folder: Path) -> list[Task | Skipped]:
    """BLEU, METEOR, ROUGE-L and CIDEr of a results file: whole processes, from file to table.

    The references are COCO's val2017 where the research data is, else random words.
    """
    missing = [
        *(["java"] if which("java") is None else []),
        *(["pycocoevalcap"] if find_spec("pycocoevalcap") is None else []),
    ]
    if missing:
        return [Skipped("score", f"{' and '.join(missing)} is not installed")]
    annotations, results = write_results(folder, SCORED_IMAGES)
    peer = [sys.executable, "-m", "benchmarks.peer_scores", str(annotations), str(results)]
    ours = [sys.executable, "-m", "captioner", "evaluate"]
    ours += ["--annotations", str(annotations), "--results", str(results), "--json"]
    return [
        Task(
            "score",
            "captions",
            SCORED_IMAGES,
            "pycocoevalcap with Java, without SPICE",
            lambda: run_json(peer),
            "captioner evaluate, with intervals",
            lambda: run_json(ours),
        )
    ]


def run_json(command: Sequence[str]) -> dict[str, Any]:
    """Run a command in the top folder of the repository, and return the JSON that it prints."""
    root = Path(__file__).parents[1]
    run = subprocess.run(command, cwd=root, check=True, capture_output=True, text=True)
    values: dict[str, Any] = json.loads(run.stdout.splitlines()[-1])
    return values


def write_results(folder: Path, images: int) -> tuple[Path, Path]:
    """Write references of five captions an image, and a results file of damaged references."""
    data = os.environ.get("CAPTIONER_DATA")
    coco = Path(data or "", "coco", "captions_val2017.json")
    if data and coco.exists():
        content = json.loads(coco.read_text(encoding="utf-8"))
        kept = {image["id"] for image in content["images"][:images]}
        captions = [each for each in content["annotations"] if each["image_id"] in kept]
    else:
        setup = Setup(folder, vocab_size=5_000)
        words = setup.vocabulary.words
        texts = [
            (image_id, " ".join(words[token_id] for token_id in caption[1:-1]))
            for image_id, group in enumerate(setup.random_captions(images))
            for caption in group
        ]
        captions = [
            {"id": number, "image_id": image_id, "caption": text}
            for number, (image_id, text) in enumerate(texts)
        ]
    rng = random.Random(0)
    results: dict[int, str] = {}
    for each in captions:
        words = each["caption"].split()
        shorter = [word for word in words if rng.random() > DROPPED] or words
        results.setdefault(each["image_id"], " ".join(shorter))  # of the first reference
    annotations, found = folder / "references.json", folder / "results.json"
    listed = [{"id": image_id, "file_name": f"{image_id}.jpg"} for image_id in results]
    annotations.write_text(json.dumps({"images": listed, "annotations": captions}))
    found.write_text(
        json.dumps([{"image_id": key, "caption": text} for key, text in results.items()])
    )
    return annotations, found


def training_tasks(setup: Setup) -> list[Task]:
    """One training step of a captioner: examples/minimal.py against captioner, same weights."""
    return [
        Task(
            f"train, {source}",
            work.unit,
            work.items,
            "examples/minimal.py",
            work.baseline,
            "captioner.training",
            work.ours,
        )
        for source, work in (
            ("JPEG files", train_jpeg(setup)),
            ("cached features", train_cached(setup)),
        )
    ]
