"""Train a captioner from a config."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from captioner.config.schema import INFERENCE, Config, ModelConfig
from captioner.console import console, quiet_console
from captioner.data.datasets import Example
from captioner.data.splits import drop_unreadable_images, load_splits
from captioner.data.transforms import build_transform
from captioner.devices import DeviceName, pick_device
from captioner.distributed import Ranks, process_group
from captioner.errors import UsageError
from captioner.models.build import build_model, load_weights
from captioner.models.encoder_decoder import EncoderDecoder
from captioner.models.folder import read_model, resolve
from captioner.storage import recover_from_crash
from captioner.text.tokenizer import SPECIALS, Vocabulary, tokenize
from captioner.training.checkpoint import checkpoints, find_checkpoint
from captioner.training.failures import explain_failures
from captioner.training.trainer import Trainer


def train(
    config: Config, *, device: DeviceName = INFERENCE.device, resume: str | None = None
) -> Path:
    """Run the training that a config describes, and return the folder of the best model.

    Args:
        config: all settings of the run; see `captioner.config.schema`.
        device: where to compute; under torchrun, each rank takes a GPU of its own.
        resume: `auto` for the newest sound checkpoint of `config.output`, if there is one, or the
            path of a checkpoint. None starts a new run.

    Raises:
        CaptionerError: the training cannot be run or was stopped by a failure.
        Interrupted: Ctrl-C or SIGTERM stopped it, after a checkpoint was saved.
    """
    with (
        process_group(pick_device(device)) as ranks,
        quiet_console(quiet=not ranks.is_first),
        explain_failures(config.output, config.training),
    ):
        checkpoint = _find_start(config.output, resume, ranks)
        train_split, dev_split = _read_splits(config, ranks, resumed=checkpoint is not None)
        torch.manual_seed(config.training.seed)  # the same initial weights on every rank
        model, vocabulary = start_model(config, train_split, checkpoint)
        trainer = Trainer(config, model, vocabulary, train=train_split, dev=dev_split, ranks=ranks)
        trainer.run(checkpoint)
    return config.output / "best"


def _find_start(output: Path, resume: str | None, ranks: Ranks) -> Path | None:
    """Return the checkpoint to start from, or None.

    Raises:
        UsageError: the folder contains a run, and `resume` is None.
    """
    if ranks.is_first:
        recover_from_crash(output)
    ranks.wait()
    if resume is not None:
        return find_checkpoint(output, resume, console.print)
    if checkpoints(output):
        raise UsageError(
            f"{output} already contains a run: continue it with resume='auto', or choose another "
            "output folder",
            parameters=["resume"],
        )
    return None


def _read_splits(
    config: Config, ranks: Ranks, *, resumed: bool
) -> tuple[Sequence[Example], Sequence[Example]]:
    """Return the examples of train and dev, without unreadable images if the config skips them."""
    train_split, dev_split = load_splits(config.data, ranks)
    if ranks.is_first:
        config.output.mkdir(parents=True, exist_ok=True)
    ranks.wait()
    if config.data.on_bad_image == "error":
        return train_split, dev_split
    transform = build_transform(config.encoder.transform, config.encoder.image_size)
    splits = drop_unreadable_images(
        {"train": train_split, "dev": dev_split},
        skipped_file=config.output / "skipped.json",
        min_side=transform.min_side,
        max_share=config.data.bad_images,
        ranks=ranks,
        resumed=resumed,
    )
    return splits["train"], splits["dev"]


def start_model(
    config: Config, examples: Sequence[Example], checkpoint: Path | None
) -> tuple[EncoderDecoder, Vocabulary]:
    """Build the model that training starts from, and its vocabulary.

    Its weights come from a checkpoint, or else from another model folder (`config.init`), or else
    they are random, but for a pretrained trunk and GloVe embeddings where the config asks for them.

    Raises:
        CaptionerError: the weights do not fit the config.
        UsageError: both `config.init` and `config.training.glove` are set.
    """
    if checkpoint is not None:
        return _load_checkpoint(config, checkpoint)
    captions = [tokenize(caption) for example in examples for caption in example.captions]
    if config.init is None:
        return _new_model(config, captions)
    if config.training.glove:
        raise UsageError("training.glove and init both set the first embeddings: leave one out")
    return _continue_model(config, captions, resolve(config.init))


def _load_checkpoint(config: ModelConfig, folder: Path) -> tuple[EncoderDecoder, Vocabulary]:
    _, vocabulary, state = read_model(folder)
    model = build_model(config, vocab_size=len(vocabulary))
    load_weights(model, state, source=str(folder))
    return model, vocabulary


def _new_model(config: Config, captions: list[list[str]]) -> tuple[EncoderDecoder, Vocabulary]:
    vocabulary = Vocabulary.from_captions(captions, min_count=config.data.min_count)
    model = build_model(config, vocab_size=len(vocabulary))
    model.encoder.load_trunk(config.encoder.weights)
    if config.training.glove:
        _load_embeddings(model, vocabulary, config.training.glove)
    return model, vocabulary


def _continue_model(
    config: Config, captions: list[list[str]], folder: Path
) -> tuple[EncoderDecoder, Vocabulary]:
    """Copy the weights of a model folder, and extend its vocabulary by the words of `captions`."""
    trained, known = _load_checkpoint(config, folder)
    vocabulary = known.extended(captions, min_count=config.data.min_count)
    model = build_model(config, vocab_size=len(vocabulary))  # new words have random weights
    model.encoder = trained.encoder  # does not depend on the vocabulary
    model.decoder.copy_weights(trained.decoder)
    return model, vocabulary


@torch.no_grad()
def _load_embeddings(model: EncoderDecoder, vocabulary: Vocabulary, path: Path) -> None:
    """Set the embeddings of words that a GloVe file has; other words keep their random ones."""
    from captioner.text.glove import read_glove

    embedding = model.decoder.embedding
    vectors = read_glove(path, vocabulary, size=embedding.embedding_dim)
    for word, vector in vectors.items():
        embedding.weight[vocabulary.id_of(word)] = torch.tensor(vector)
    words = len(vocabulary) - len(SPECIALS)
    console.print(f"{len(vectors)} of {words} words start from their vectors in {path}")
