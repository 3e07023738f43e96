"""The page that captions images in the browser, as a folder for any static file server."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from importlib.resources import as_file, files
from pathlib import Path

from captioner.errors import CaptionerError, UsageError
from captioner.models.folder import read_settings
from captioner.runtime.graphs import read_graphs_json
from captioner.runtime.settings import check_supported
from captioner.storage import CHECKSUMS, atomic_folder

ORT_PACKAGE, ORT_VERSION = "onnxruntime-web", "1.30.0"
"""The package of npm that runs the graphs. Any 1.30 is taken."""

_CONTENT = "site.json"  # what the page reads first
_ORT_WASM = "ort-wasm-simd-threaded.wasm"
_ORT_FILES = ("ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", _ORT_WASM)  # the CPU's alone
_MODEL_FILES = (
    *("config.json", "vocab.json", "graphs.json", "encoder.onnx", "step.onnx", "model.safetensors"),
)
_EXAMPLE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif")  # all browsers read these


def build_site(model: Path, site: Path, ort: Path, *, examples: Path | None = None) -> None:
    """Write the page, a model and what runs it to a folder; nothing remains of a failed attempt.

    Args:
        model: a folder with graphs, as `captioner export` writes it.
        site: the folder to write. A site that is there already is replaced.
        ort: a folder in which npm has installed onnxruntime-web, or that package itself.
        examples: a folder of images that the page offers to caption.

    Raises:
        UsageError: `ort` does not hold onnxruntime-web 1.30, the page cannot run this kind of
            model, or `site` holds other files.
        CaptionerError: `model` has no graphs or a damaged file, or the disk is full.
    """
    package = find_package(ort)
    images = check_site(model, site, examples)
    read_graphs_json(model)  # its files are intact
    with atomic_folder(site) as new, as_file(files("captioner") / "web") as page:
        for file in page.iterdir():
            if file.is_file():
                shutil.copy(file, new)
        _copy(model, _MODEL_FILES, new / "model")
        _copy(package / "dist", _ORT_FILES, new / "ort")
        shutil.copy(Path(__file__).with_name("onnxruntime_license.txt"), new / "ort" / "LICENSE")
        for image in images:
            (new / "examples").mkdir(exist_ok=True)
            shutil.copy(image, new / "examples")
        downloads = [*(new / "model" / name for name in _MODEL_FILES), new / "ort" / _ORT_WASM]
        content = {
            "engine": "browser",  # of the page: see web/engine.js
            # The sizes in bytes: a server may compress files, so the page cannot know them.
            "files": {file.relative_to(new).as_posix(): file.stat().st_size for file in downloads},
            "examples": [image.name for image in images],
        }
        (new / _CONTENT).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def find_package(ort: Path) -> Path:
    """Return the folder of onnxruntime-web in `ort`: itself, unpacked, or installed by npm."""
    install = f'npm install --prefix "{ort}" {ORT_PACKAGE}@{ORT_VERSION}'
    for folder in (
        *(ort, ort / "package", ort / "node_modules" / ORT_PACKAGE),
        *(ort / ORT_PACKAGE, ort.parent),  # of node_modules, and of dist
    ):
        try:
            manifest = json.loads((folder / "package.json").read_text(encoding="utf-8"))
            name, version = manifest["name"], str(manifest["version"])
        except (OSError, ValueError, KeyError, TypeError):
            continue
        if name != ORT_PACKAGE:
            continue
        if version.split(".")[:2] != ORT_VERSION.split(".")[:2]:
            raise UsageError(
                f"{folder} is {ORT_PACKAGE} {version}, but the page needs {ORT_VERSION}: {install}"
            )
        for file in _ORT_FILES:
            if not (folder / "dist" / file).is_file():
                raise UsageError(f"{folder} lacks dist/{file}: {install}")
        return folder
    raise UsageError(f"{ort} holds no {ORT_PACKAGE}: {install}")


def check_site(model: Path, site: Path, examples: Path | None) -> list[Path]:
    """Return the example images, or raise before anything is computed if no site can be built.

    Raises:
        UsageError: the page cannot run this kind of model, `site` is something else than a site,
            or `examples` holds no images.
    """
    if (site / CHECKSUMS).is_file() and not (site / _CONTENT).is_file():
        raise UsageError(f"{site} is a folder of captioner, but no site: name another folder")
    config, vocabulary, _ = read_settings(model)
    if config["encoder"].get("kind", "image") != "image":
        raise UsageError(f"{model} reads text, but the page captions images: name another model")
    if vocabulary.tokenizer.kind != "caption":
        raise UsageError(
            f"{model} divides text by the tokenizer '{vocabulary.tokenizer.kind}', but the page "
            "joins words as 'caption' does: name another model"
        )
    check_supported(config["decoding"])
    return _example_images(examples)


def _example_images(examples: Path | None) -> list[Path]:
    if examples is None:
        return []
    try:
        found = [file for file in examples.iterdir() if file.suffix.lower() in _EXAMPLE_SUFFIXES]
    except OSError as error:
        raise UsageError(
            f"{examples} cannot be read: {error.strerror or error}: name another folder"
        ) from None
    if not found:
        raise UsageError(
            f"{examples} holds no images (*{', *'.join(_EXAMPLE_SUFFIXES)}): name another folder"
        )
    return sorted(found)


def _copy(folder: Path, names: Sequence[str], to: Path) -> None:
    to.mkdir()
    for name in names:
        try:
            shutil.copy(folder / name, to)
        except FileNotFoundError:
            raise CaptionerError(
                f"{folder / name} is missing: run captioner export --model {folder} "
                "--output FOLDER, and name that folder"
            ) from None
