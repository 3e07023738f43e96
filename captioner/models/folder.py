"""A model on disk: config.json, model.safetensors, vocab.json, and nothing that runs code when loaded."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from captioner.config.loading import parse, to_json
from captioner.config.schema import ModelConfig
from captioner.errors import CaptionerError
from captioner.storage import CHECKSUMS, new_folder, verify
from captioner.text.vocabulary import Vocabulary

if TYPE_CHECKING:  # torch is imported where tensors are, so that a wrong folder is named at once
    from torch import Tensor
if TYPE_CHECKING:
    from torch import Tensor

BUNDLED = Path(__file__).parents[1] / "pretrained"
_CONFIG, _WEIGHTS, _VOCABULARY = "config.json", "model.safetensors", "vocab.json"


def resolve(folder: str | Path | None) -> Path:
    """Find a model folder; `None` and `bundled` are the one that comes with the package.

    Raises:
        CaptionerError: there is no model there.
    """
    path = BUNDLED if folder is None or str(folder) == "bundled" else Path(folder)
    if not os.path.isfile(
        path / _CONFIG
    ):  # of any text: `Path.is_file` throws on names that are too long
        hint = "name the folder that holds it, for example runs/flickr8k/best"
        if os.path.isfile(path):
            hint = (
                "it is a file, and pickles are never executed; train a captioner with encoder.weights set to a state "
                "dict, saved as torch.save(model.state_dict(), file)"
            )
        if os.path.isfile(path / "best" / _CONFIG):
            hint = f"did you mean {path / 'best'}?"
        raise CaptionerError(f"{path} is not a model folder (it has no {_CONFIG}): {hint}")
    return path


def weights_digest(folder: str | Path | None) -> str:
    """Tell a model from others by the SHA-256 of its weights, as it was noted when they were saved.

    Raises:
        CaptionerError: there is no model there, or it has no checksums.
    """
    sums = resolve(folder) / CHECKSUMS
    try:
        return str(json.loads(sums.read_text(encoding="utf-8"))[_WEIGHTS])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CaptionerError(
            f"{sums} does not name {_WEIGHTS} ({error!r}): copy the whole folder again"
        ) from None


def write_model(
    folder: Path,
    *,
    config: ModelConfig,
    vocabulary: Vocabulary,
    state: Mapping[str, Tensor],
    half: bool = False,
) -> None:
    """Write a model's files into an existing folder; `half` stores its weights in half precision."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    about = {"format_version": FORMAT_VERSION, "vocabulary": vocabulary.digest, **to_json(config)}
    (folder / _CONFIG).write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
    vocabulary.save(folder / _VOCABULARY)
    tensors = {name: _stored(tensor, half=half) for name, tensor in state.items()}
    try:
        save_file(tensors, folder / _WEIGHTS, metadata={"format": "pt"})
    except SafetensorError as error:  # its name for what the disk says
        raise OSError(str(error)) from error


def write_config(folder: Path, config: ModelConfig) -> None:
    """Change the settings of a model folder: its weights, its vocabulary and whatever else lies there are kept.

    Raises:
        CaptionerError: the folder cannot be written; it is then as it was.
    """
    folder = folder.resolve()  # where a link leads: the link itself stays
    _, vocabulary, state = read_model(
        folder
    )  # checked, or new checksums would bless what has changed
    with new_folder(folder) as place:
        anew = {_CONFIG, _VOCABULARY, _WEIGHTS}
        shutil.copytree(
            folder,
            place,
            dirs_exist_ok=True,
            ignore=lambda at, _: anew if Path(at) == folder else set(),
        )
        write_model(place, config=config, vocabulary=vocabulary, state=state)


def _stored(tensor: Tensor, *, half: bool) -> Tensor:
    import torch

    wanted = torch.float16 if half and tensor.is_floating_point() else tensor.dtype
    return (
        tensor.detach().to("cpu", wanted).contiguous().clone()
    )  # safetensors refuses tensors that share memory


def read_config(folder: Path) -> dict[str, Any]:
    """Read a model's config as plain values, those that a folder of its kind would hold today.

    Raises:
        CaptionerError: it is broken, or of a version that this program cannot read.
    """
    try:
        values: dict[str, Any] = json.loads((folder / _CONFIG).read_text(encoding="utf-8"))
        version = values.pop("format_version")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CaptionerError(
            f"{folder / _CONFIG} is not a captioner model config: {error!r}"
        ) from None
    return migrate_config(values, version, source=folder)


def read_model(folder: Path) -> tuple[ModelConfig, Vocabulary, dict[str, Tensor]]:
    """Read a model's files, after checking that none has changed since it was saved.

    Raises:
        CaptionerError: names the file that is missing, has changed or does not belong to the others.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    verify(folder)
    values = read_config(folder)
    digest = values.pop("vocabulary", None)
    vocabulary = Vocabulary.load(folder / _VOCABULARY)
    if digest != vocabulary.digest:
        raise CaptionerError(
            f"{folder / _VOCABULARY} ({len(vocabulary)} words, {vocabulary.digest[:12]}) is not the one this model "
            f"was trained with ({str(digest)[:12]}): copy the whole folder again"
        )
    try:
        state = migrate_weights(load_file(folder / _WEIGHTS))
    except (OSError, SafetensorError) as error:
        raise CaptionerError(f"{folder / _WEIGHTS} cannot be read: {error}") from None
    return parse(ModelConfig, values, source=str(folder / _CONFIG)), vocabulary, state


FORMAT_VERSION = 2
_ONE_MODULE = re.compile(r"decoder\.rnn\.((?:weight|bias)_\w+_l0)")


def migrate_config(values: dict[str, Any], version: object, *, source: object) -> dict[str, Any]:
    """Give the config of a folder of any version.

    Raises:
        CaptionerError: it is of a version that this program does not know, or has no counterpart in the present one.
    """
    if version == FORMAT_VERSION:
        return values
    told = f"{source} has format version {version}, this captioner reads 1 to {FORMAT_VERSION}"
    if version != 1:
        newer = isinstance(version, int) and version > FORMAT_VERSION
        raise CaptionerError(
            f"{told}: {'upgrade captioner' if newer else 'copy the whole folder again'}"
        )
    decoder, decoding = values.get("decoder"), values.get("decoding")
    if isinstance(decoder, dict) and decoder.get("layers", 1) != 1:
        raise CaptionerError(
            f"{told}, but not its decoder of several layers, which worked otherwise: train it anew"
        )
    if (
        isinstance(decoding, dict) and "length_norm" not in decoding
    ):  # the rule it ranked by is no more
        decoding.pop("length_alpha", None)
    return values


def migrate_weights(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Give the weights their present names; those that have them already keep them."""
    return {
        _ONE_MODULE.sub(r"decoder.rnn.layers.0.\1", name): tensor for name, tensor in state.items()
    }
