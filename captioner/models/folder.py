"""Model folders: config.json, model.safetensors and vocab.json. Loading one executes no code.

A model that reads text with another vocabulary than its own has source_vocab.json too.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from captioner.errors import CaptionerError, UsageError, parameter
from captioner.hub_names import parse_hub_name
from captioner.storage import (
    CHECKSUMS,
    atomic_folder,
    read_error,
    verify_checksums,
    written_by_library,
    written_files,
)
from captioner.text.tokenizer import Vocabulary

if TYPE_CHECKING:  # without torch, errors about a wrong folder appear at once
    from torch import Tensor

    from captioner.config.run import Config
    from captioner.config.schema import DecodingConfig, ModelConfig

BUNDLED = Path(__file__).parents[1] / "pretrained"
FORMAT_VERSION = 2
"""Version 2 changed three points of version 1.

* Each RNN layer became a module: `decoder.rnn.weight_ih_l0` of the state dict is now
  `decoder.rnn.layers.0.weight_ih_l0`. `read_model` renames it.
* Layers after the first got residual connections. Weights of several layers that were trained
  without them cannot be converted.
* `decoding.length_norm` was added. `decoding.length_alpha` then belonged to another length
  normalisation, which is gone, so its value is dropped.
"""
_CONFIG, WEIGHTS, VOCABULARY = "config.json", "model.safetensors", "vocab.json"
SOURCE_VOCABULARY = "source_vocab.json"
_FIRST_DECODING = "first_decoding.json"  # the settings before `captioner defaults` changed them
_RNN_WEIGHT_OF_VERSION_1 = re.compile(r"decoder\.rnn\.((?:weight|bias)_\w+_l0)")


def resolve(folder: str | Path | None, *, revision: str | None = None) -> Path:
    """Return the path of a model folder; for `None` and `bundled`, that of the bundled model.

    Args:
        folder: a folder; or a string that names a model of the Hugging Face hub, as
            `captioner.hub_names.parse_hub_name` says. It is downloaded if it is not in the cache.
        revision: a branch, tag or commit of the model on the hub.

    Raises:
        CaptionerError: it is not a model folder, this user cannot read it, or the hub does not
            have it.
        UsageError: `revision` is given, but `folder` is no model of the hub.
    """
    if isinstance(folder, str) and (name := parse_hub_name(folder)):  # a Path is none of the hub
        from captioner.models.hub import download_model

        if None not in (revision, name.revision) and revision != name.revision:
            raise UsageError(f"{folder} and {parameter('revision')} differ: leave out one")
        return download_model(name._replace(revision=revision or name.revision))
    if revision is not None:
        raise UsageError(
            f"{parameter('revision')} is for a model of the hub, and {folder or 'the model'} is a "
            "path: leave it out, or write hf://owner/name"
        )
    path = BUNDLED if folder is None or str(folder) == "bundled" else Path(folder)
    try:
        is_model = stat.S_ISREG(os.stat(path / _CONFIG).st_mode)
    except PermissionError as error:
        raise read_error(path, error) from None
    except (OSError, ValueError):  # a name that is too long, for example
        is_model = False
    if not is_model:
        raise CaptionerError(f"{path} is not a model folder (it has no {_CONFIG}): {_hint(path)}")
    return path


def _hint(path: Path) -> str:
    if os.path.isfile(path / "best" / _CONFIG):
        return f"did you mean {path / 'best'}?"
    if os.path.isfile(path):
        return (
            "it is a file, and pickles are never executed; train a captioner with encoder.weights "
            "set to a state dict, saved as torch.save(model.state_dict(), file)"
        )
    return "name the folder that holds it, for example runs/flickr8k/best"


def weights_digest(folder: str | Path | None) -> str:
    """Return the SHA-256 of a model's weights, as recorded when they were saved.

    Raises:
        CaptionerError: it is not a model folder, or it has no checksums.
    """
    sums = resolve(folder) / CHECKSUMS
    try:
        return str(json.loads(sums.read_text(encoding="utf-8"))[WEIGHTS])
    except PermissionError as error:
        raise read_error(sums, error) from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CaptionerError(
            f"{sums} does not name {WEIGHTS} ({error!r}): copy the whole folder again"
        ) from None


def weights_digests(models: Sequence[str | Path] | None) -> list[str]:
    """Return the digest of the weights of each model; without models, that of the bundled one.

    Raises:
        CaptionerError: as of `weights_digest`.
    """
    return [weights_digest(model) for model in models or ["bundled"]]


def write_model(
    folder: Path,
    *,
    config: ModelConfig,
    vocabulary: Vocabulary,
    source_vocabulary: Vocabulary | None = None,
    state: Mapping[str, Tensor],
    half: bool = False,
) -> None:
    """Write a model's files into an existing folder.

    Args:
        folder: it exists.
        config: of the model.
        vocabulary: of the text that the model generates.
        source_vocabulary: of the text that it reads; None or an equal one: as `vocabulary`.
        state: the state dict.
        half: store floats as float16.
    """
    import safetensors.torch

    digests = {"vocabulary": vocabulary.digest}
    vocabulary.save(folder / VOCABULARY)
    if source_vocabulary is not None and source_vocabulary != vocabulary:
        digests["source_vocabulary"] = source_vocabulary.digest
        source_vocabulary.save(folder / SOURCE_VOCABULARY)
    values = {"format_version": FORMAT_VERSION, **digests, **config.to_json()}
    (folder / _CONFIG).write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
    tensors = {name: _prepare(tensor, half=half) for name, tensor in state.items()}
    try:
        with written_by_library(folder / WEIGHTS) as file:
            safetensors.torch.save_file(tensors, file, metadata={"format": "pt"})
    except safetensors.SafetensorError as error:  # how safetensors reports a full disk, for example
        raise OSError(str(error)) from error


def _prepare(tensor: Tensor, *, half: bool) -> Tensor:
    import torch

    dtype = torch.float16 if half and tensor.is_floating_point() else tensor.dtype
    # a copy, because safetensors refuses tensors that share memory, such as tied embeddings
    return tensor.detach().to("cpu", dtype).contiguous().clone()


def write_config(folder: Path, config: ModelConfig) -> None:
    """Replace the config of a model folder and keep all its other files.

    The first change of `config.decoding` keeps the former settings, for `first_decoding`.

    Raises:
        CaptionerError: the folder is not valid or cannot be written; it is then unchanged.
    """
    folder = folder.resolve()  # replaces the target of a symbolic link, not the link
    # this checks the old checksums: new ones would hide that a file had changed
    files = read_model(folder)
    rewritten = {_CONFIG, VOCABULARY, SOURCE_VOCABULARY, WEIGHTS}
    with atomic_folder(folder) as new:  # it keeps the files that somebody added
        for name in written_files(folder) - rewritten:  # the training state of a checkpoint, too
            shutil.copy2(folder / name, new / name)
        first = new / _FIRST_DECODING
        former = files.config.decoding
        if config.decoding != former and not first.exists():
            first.write_text(json.dumps(former.to_json(), indent=2), encoding="utf-8")
        write_model(new, **files._replace(config=config)._asdict())


def first_decoding(folder: Path) -> DecodingConfig | None:
    """Return the decoding settings that a folder had before `write_config` changed them.

    None: they were not changed, or by a version of captioner that did not keep them.

    Raises:
        CaptionerError: the file that holds them is damaged.
    """
    path = folder / _FIRST_DECODING
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise CaptionerError(f"{path} cannot be read: {error}") from None
    from captioner.config.schema import DecodingConfig

    return DecodingConfig.parse(values, source=str(path))


def read_config(folder: Path) -> dict[str, Any]:
    """Read a model's config as plain values, converted from older format versions.

    Raises:
        CaptionerError: it is damaged, or of a version that this captioner cannot read.
    """
    values = _read_config(folder)
    for digest in ("vocabulary", "source_vocabulary"):
        values.pop(digest, None)
    return values


def _read_config(folder: Path) -> dict[str, Any]:
    """Return what `read_config` returns, with the digests of the vocabularies."""
    try:
        values: dict[str, Any] = json.loads((folder / _CONFIG).read_text(encoding="utf-8"))
        version = values.pop("format_version")
    except PermissionError as error:
        raise read_error(folder / _CONFIG, error) from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CaptionerError(
            f"{folder / _CONFIG} is not a captioner model config: {error!r}"
        ) from None
    return _migrate_config(values, version, folder=folder)


def load_config(
    path: str | Path, overrides: Sequence[str] = (), *, output: str | Path | None = None
) -> Config:
    """Return the settings of a run.

    Args:
        path: a YAML file, or the name of a config that comes with captioner, such as "shapes"; a
            file of that name in the current folder is used first. If `init` names a model folder,
            its architecture (trunk, cell, sizes) replaces that of the file, and the file's other
            settings replace those of the folder.
        overrides: "key=value" pairs, such as "training.batch_size=32"; the last one wins.
        output: folder of the run, in place of the file's.

    Raises:
        UsageError: the settings have mistakes; all are listed.
    """
    from captioner.config.builtin import find_config
    from captioner.config.loading import apply_overrides, merge, read_yaml
    from captioner.config.run import Config

    file_values = read_yaml(find_config(Path(path)))
    values = apply_overrides(file_values, overrides)
    if isinstance(values.get("init"), str):
        saved = read_config(resolve(values["init"]))
        _check_kind(values, saved)
        merged = merge(merge(saved, file_values), _architecture(saved))
        values = apply_overrides(merged, overrides)
    if output is not None:
        values["output"] = str(output)
    return Config.parse(values, source=str(path))


def _check_kind(values: Mapping[str, Any], saved: Mapping[str, Any]) -> None:
    """Raise a UsageError if `init` names a model that reads another kind of source."""
    encoder = values.get("encoder")
    kind = encoder.get("kind") if isinstance(encoder, dict) else None
    saved_kind = saved["encoder"].get("kind", "image")
    if kind not in (None, saved_kind):
        raise UsageError(
            f"init={values['init']} reads {saved_kind}s, but encoder.kind is {kind}: name a model "
            f"of that kind, or set init=null"
        )


def _architecture(saved: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a model folder that its weights fit, and no others."""
    encoder, decoder = (
        {key: value for key, value in saved[part].items() if "dropout" not in key}
        for part in ("encoder", "decoder")
    )
    if encoder.get("kind", "image") == "image":  # the size of its images may change
        encoder = {key: encoder[key] for key in ("trunk", "mean", "std") if key in encoder}
    return {"encoder": encoder, "decoder": decoder}


class ModelFiles(NamedTuple):
    """The content of a model folder."""

    config: ModelConfig
    vocabulary: Vocabulary
    source_vocabulary: Vocabulary  # of a text encoder; else the same as `vocabulary`
    state: dict[str, Tensor]


def read_model(folder: Path) -> ModelFiles:
    """Read a model's files, after checking that none has changed since it was saved.

    Raises:
        CaptionerError: a file is missing, has changed or does not belong to the others.
    """
    import safetensors.torch

    from captioner.config.schema import ModelConfig

    verify_checksums(folder)
    values, vocabulary, source_vocabulary = read_settings(folder)
    try:
        tensors = safetensors.torch.load_file(folder / WEIGHTS)
    except (OSError, safetensors.SafetensorError) as error:
        raise CaptionerError(f"{folder / WEIGHTS} cannot be read: {error}") from None
    state = {
        _RNN_WEIGHT_OF_VERSION_1.sub(r"decoder.rnn.layers.0.\1", name): tensor
        for name, tensor in tensors.items()
    }
    config = ModelConfig.parse(values, source=str(folder / _CONFIG))
    return ModelFiles(config, vocabulary, source_vocabulary, state)


def read_settings(folder: Path) -> tuple[dict[str, Any], Vocabulary, Vocabulary]:
    """Read a model's config as plain values, its vocabulary, and that of what it reads.

    Raises:
        CaptionerError: a file is damaged, or does not belong to the others.
    """
    values = _read_config(folder)
    vocabulary = _read_vocabulary(folder / VOCABULARY, values.pop("vocabulary", None))
    if source_digest := values.pop("source_vocabulary", None):
        return values, vocabulary, _read_vocabulary(folder / SOURCE_VOCABULARY, source_digest)
    return values, vocabulary, vocabulary


def read_vocabularies(folder: Path) -> tuple[Vocabulary, Vocabulary]:
    """Return the vocabulary of what a model generates and of what it reads, without its weights.

    Raises:
        UsageError: a vocabulary cannot be read.
    """
    vocabulary = Vocabulary.load(folder / VOCABULARY)
    source = folder / SOURCE_VOCABULARY
    return vocabulary, Vocabulary.load(source) if source.is_file() else vocabulary


def _read_vocabulary(path: Path, digest: object) -> Vocabulary:
    vocabulary = Vocabulary.load(path)
    if digest != vocabulary.digest:  # token ids would stand for other words
        raise CaptionerError(
            f"{path} ({len(vocabulary)} words, {vocabulary.digest[:12]}) is not "
            f"the one this model was trained with ({str(digest)[:12]}): copy the whole folder again"
        )
    return vocabulary


def _migrate_config(values: dict[str, Any], version: object, *, folder: Path) -> dict[str, Any]:
    """Convert a config of format version 1 to version 2; see `FORMAT_VERSION`."""
    if version == FORMAT_VERSION:
        return values
    if version != 1:
        newer = isinstance(version, int) and version > FORMAT_VERSION
        hint = "upgrade captioner" if newer else "copy the whole folder again"
        problem = f"{folder} has format version {version}"
        raise CaptionerError(f"{problem}, this captioner reads 1 to {FORMAT_VERSION}: {hint}")
    # nothing has checked the values yet: a section may be missing or no mapping
    decoder, decoding = values.get("decoder"), values.get("decoding")
    if isinstance(decoder, dict) and decoder.get("layers", 1) != 1:
        raise CaptionerError(
            f"{folder} has format version 1, whose decoders of several layers had no residual "
            "connections, so they cannot be converted: train the model again"
        )
    if isinstance(decoding, dict) and "length_norm" not in decoding:
        decoding.pop("length_alpha", None)
    return values
