"""Train a model from a config: read the splits, build the model, and run the trainer."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, cast

import torch

from captioner.config.run import Config, DataConfig
from captioner.config.schema import INFERENCE, ImageEncoderConfig, TokenizerName
from captioner.config.trunks import TIMM
from captioner.console import console, quiet_console
from captioner.data.batching import default_num_workers
from captioner.data.datasets import Example
from captioner.data.images import read_image
from captioner.data.learnable import (
    Side,
    count_tokens,
    refuse_poor_data,
    warn_of_unknown_dev,
)
from captioner.data.parallel import Pair
from captioner.data.plain_text import TextExample
from captioner.data.splits import ExampleSet, SourceExample, Splits, load_splits
from captioner.data.streaming import map_ahead
from captioner.devices import DeviceName, pick_device
from captioner.distributed import Ranks, process_group
from captioner.errors import CaptionerError, ImageError, UsageError, first_few, parameter
from captioner.locking import Lock
from captioner.models.build import build_model, load_model
from captioner.models.encoder_decoder import EncoderDecoder
from captioner.models.folder import resolve
from captioner.progress import track
from captioner.storage import atomic_file, recover_from_crash
from captioner.text.tokenizer import SPECIALS, Vocabulary
from captioner.training.checkpoint import checkpoints, find_checkpoint
from captioner.training.failures import explain_failures
from captioner.training.trainer import Trainer

if TYPE_CHECKING:
    from captioner.models.encoder import ImageEncoder
    from captioner.models.text_encoder import TextEncoder


def train(
    config: Config, *, device: DeviceName = INFERENCE.device, resume: str | None = None
) -> Path:
    """Run the training that a config describes, and return the folder of the best model.

    Args:
        config: all settings of the run; see `captioner.config.schema`.
        device: where to compute; under torchrun, each rank takes a GPU of its own.
        resume: `auto` for the newest intact checkpoint of `config.output`, if there is one, or the
            path of a checkpoint. None starts a new run.

    Raises:
        CaptionerError: the training cannot be run or was stopped by a failure.
        Interrupted: Ctrl-C or SIGTERM stopped it, after a checkpoint was saved.
    """
    with (
        process_group(pick_device(device)) as ranks,
        quiet_console(quiet=not ranks.is_first),
        explain_failures(config.output, config.training, is_first=ranks.is_first),
        _lock(config.output, ranks),
    ):
        config = _with_pixels(config)
        checkpoint = _find_start(config.output, resume, ranks)
        splits = _read_splits(config, ranks, resumed=checkpoint is not None)
        torch.manual_seed(config.training.seed)  # the same initial weights on every rank
        start = start_model(config, splits.train_examples, checkpoint)
        if checkpoint is None:
            dev = [example for source in splits.dev for example in source.examples]
            warn_of_unknown_dev(dev, start.vocabulary)
        trainer = Trainer(
            config,
            start.model,
            start.vocabulary,
            splits,
            source_vocabulary=start.source_vocabulary,
            ranks=ranks,
        )
        trainer.run(checkpoint)
    return config.output / "best"


def _with_pixels(config: Config) -> Config:
    """Return the settings with the pixels that a trunk of timm was trained with, and print them."""
    encoder = config.encoder
    if not isinstance(encoder, ImageEncoderConfig) or not encoder.trunk.startswith(TIMM):
        return config
    from captioner.models.timm_trunk import read_pixels, with_pixels

    encoder, own = with_pixels(encoder), read_pixels(encoder.trunk).size
    other = f", but it was trained with {own}" if encoder.image_size != own else ""
    console.print(f"{encoder.trunk} gets images of {encoder.image_size} pixels a side{other}")
    return config.model_copy(update={"encoder": encoder})


def _lock(output: Path, ranks: Ranks) -> AbstractContextManager[object]:
    """Return a lock that keeps other runs out of the output folder; the first rank holds it."""
    return Lock(output / ".lock", what=str(output)) if ranks.is_first else nullcontext()


def _find_start(output: Path, resume: str | None, ranks: Ranks) -> Path | None:
    """Return the checkpoint to start from, or None, after the traces of a crash are removed.

    Raises:
        UsageError: the folder contains a run, and `resume` names none or that of another folder.
    """
    is_elsewhere = resume not in (None, "auto") and not _is_of_run(Path(resume), output)
    if resume is None or is_elsewhere:
        _refuse_run(output)  # before any change to its folder: the run may be alive
    if ranks.is_first:
        recover_from_crash(output)
    ranks.wait()
    if resume is not None:
        return find_checkpoint(output, resume, console.print)
    _refuse_run(output)  # a crash may have left its only checkpoint under another name
    return None


def _is_of_run(checkpoint: Path, output: Path) -> bool:
    return checkpoint.resolve().parent == output.resolve()


def _refuse_run(output: Path) -> None:
    if checkpoints(output):
        raise UsageError(
            f"{output} already contains a run: set {parameter('resume')} to 'auto' to continue it, "
            "or choose another output folder"
        )


def _read_splits(config: Config, ranks: Ranks, *, resumed: bool) -> Splits:
    """Return the examples of train and dev, without unreadable images if the config skips them."""
    splits = load_splits(config.data, ranks)
    config.output.mkdir(parents=True, exist_ok=True)
    if config.data.on_bad_image == "error" or config.encoder.kind != "image":
        return splits
    sources = {
        split: {split if len(images) == 1 else f"{split}/{each.name}": each for each in images}
        for split, images in (("train", splits.train), ("dev", splits.dev))
    }
    by_name = {
        name: cast(Sequence[Example], each.examples)
        for named in sources.values()
        for name, each in named.items()
    }
    skipped = _find_skipped(config, by_name, ranks, resumed=resumed)
    train, dev = (
        [_without(source, name, skipped[name], config) for name, source in named.items()]
        for named in sources.values()
    )
    return splits._replace(train=train, dev=dev)


def _without(
    source: ExampleSet, name: str, skipped: Sequence[Mapping[str, int | str]], config: Config
) -> ExampleSet:
    """Return the source without its skipped images, and print their number."""
    ids = {record["image_id"] for record in skipped}
    if ids:
        console.print(
            f"{len(ids)} of {len(source.examples)} images of {name} cannot be read and are "
            f"skipped: see {config.output / 'skipped.json'}"
        )
    examples = cast(Sequence[Example], source.examples)
    kept = [example for example in examples if example.image_id not in ids]
    return source._replace(examples=kept)


def _find_skipped(
    config: Config,
    splits: Mapping[str, Sequence[Example]],
    ranks: Ranks,
    *,
    resumed: bool,
) -> dict[str, list[dict[str, int | str]]]:
    """Return a record of each image of each split that cannot be read; write them to skipped.json.

    A resumed run reads the file instead, even if the images can be read by now: its batches are
    then those of the run that it resumes.
    """
    file = config.output / "skipped.json"
    skipped = _read_skipped(file, splits) if resumed else {}
    missing = {name: split for name, split in splits.items() if name not in skipped}
    if not missing:
        return skipped
    skipped |= {
        name: _find_unreadable(split, ranks, max_share=config.data.bad_images)
        for name, split in missing.items()
    }
    if ranks.is_first:
        with atomic_file(file) as stream:
            json.dump(skipped, stream, indent=1)
    return skipped


def _read_skipped(file: Path, splits: Iterable[str]) -> dict[str, list[dict[str, int | str]]]:
    """Return the records of these splits in skipped.json; none of a split that it does not have."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return {name: content[name] for name in splits if name in content}


def _find_unreadable(
    split: Sequence[Example], ranks: Ranks, *, max_share: float
) -> list[dict[str, int | str]]:
    """Read all images of a split, each rank its share, and return a record for each failure."""
    shard, threads = ranks.shard(split), default_num_workers()
    # Pillow decodes without holding Python's global lock.
    failures = map_ahead(_failure_of, shard, threads=threads)
    tracked = track(failures, total=len(shard), doing="reading images", unit="images")
    failed = [failure for failure in tracked if failure]
    records = [record for rank_records in ranks.gather(failed) for record in rank_records]
    if len(records) > max_share * len(split):
        first = first_few([f"{record['file']} ({record['reason']})" for record in records])
        raise CaptionerError(
            f"{len(records)} of {len(split)} images cannot be read, more than data.bad_images="
            f"{max_share:g} of them: {first}; fix them, or raise data.bad_images"
        )
    return records


def _failure_of(example: Example) -> dict[str, int | str] | None:
    """Return a record of the reason why training cannot read an image, or None if it can."""
    try:
        read_image(example.path)
    except ImageError as error:
        return {"image_id": example.image_id, "file": str(example.path), "reason": error.reason}
    return None


class StartModel(NamedTuple):
    """The model that training starts from, and its vocabularies."""

    model: EncoderDecoder
    vocabulary: Vocabulary  # of the text that the model generates
    source_vocabulary: Vocabulary  # of the text that it reads; for images the same


def start_model(
    config: Config, examples: Sequence[SourceExample | TextExample], checkpoint: Path | None
) -> StartModel:
    """Build the model that training starts from, and its vocabularies.

    Its weights come from the checkpoint, else from the model folder `config.init`, else they are
    random, except a pretrained trunk and GloVe embeddings if the config names them.

    Raises:
        CaptionerError: the weights do not fit the config.
        UsageError: both `config.init` and `config.training.glove` are set.
    """
    if checkpoint is not None:
        saved = load_model(checkpoint, config)
        return StartModel(saved.model, saved.vocabulary, saved.source_vocabulary)
    if config.init is None:
        return _new_model(config, examples)
    return _continue_model(config, examples, resolve(config.init))


def _new_model(config: Config, examples: Sequence[SourceExample | TextExample]) -> StartModel:
    empty = _new_vocabularies(config, examples)
    vocabulary, source_vocabulary = _learn_words(config, examples, *empty)
    model = _build(config, vocabulary, source_vocabulary)
    if isinstance(config.encoder, ImageEncoderConfig):
        cast("ImageEncoder", model.encoder).load_trunk(config.encoder.weights)
    if config.training.glove:
        _load_embeddings(model, vocabulary, config.training.glove)
    return StartModel(model, vocabulary, source_vocabulary)


def _new_vocabularies(
    config: Config, examples: Sequence[SourceExample | TextExample]
) -> tuple[Vocabulary, Vocabulary]:
    """Return vocabularies without words of the captions and of the texts that the model reads.

    Their tokenizers are those of the config. A vocabulary of both is returned twice.
    """
    data = config.data
    targets, sources = _texts(examples)
    if config.encoder.kind == "image":
        if data.tokenizer.kind is None:
            _advise_kind(targets)
        vocabulary = _new_vocabulary(data, "caption", targets)
        return vocabulary, vocabulary
    if not data.share_vocabulary:
        return _new_vocabulary(data, "word", targets), _new_vocabulary(data, "word", sources)
    # the usual case and spacing of words are learnt from what is generated
    learns_from = [*targets, *sources] if data.tokenizer.kind == "subword" else targets
    vocabulary = _new_vocabulary(data, "word", learns_from)
    return vocabulary, vocabulary


def _learn_words(
    config: Config,
    examples: Sequence[SourceExample | TextExample],
    vocabulary: Vocabulary,
    source_vocabulary: Vocabulary,
) -> tuple[Vocabulary, Vocabulary]:
    """Extend vocabularies, which may be one, with the words of examples to learn from.

    Raises:
        UsageError: the model can learn nothing from the examples.
    """
    targets, sources = _texts(examples)
    counts = count_tokens(targets, vocabulary.tokenizer)
    source_counts = count_tokens(sources, source_vocabulary.tokenizer)
    if source_vocabulary is vocabulary:
        own = read = _extended(vocabulary, counts.tokens + source_counts.tokens, config.data)
    else:
        own = _extended(vocabulary, counts.tokens, config.data)
        read = _extended(source_vocabulary, source_counts.tokens, config.data)
    refuse_poor_data(examples, Side(counts, own), Side(source_counts, read), config)
    return own, read


def _extended(vocabulary: Vocabulary, counts: Counter[str], data: DataConfig) -> Vocabulary:
    # learning subwords has chosen them already
    min_count = 1 if vocabulary.tokenizer.kind == "subword" else data.min_count
    return vocabulary.with_counted(counts, min_count)


def _advise_kind(captions: Sequence[str]) -> None:
    """Print a line if the tokenizer that was not chosen does not suit the captions."""
    from captioner.text.scripts import suitable_kind_hint

    if hint := suitable_kind_hint(captions):
        console.print(f"captioner: {hint}", markup=False)


def _texts(examples: Sequence[SourceExample | TextExample]) -> tuple[list[str], list[str]]:
    """Return the captions of examples, and the source texts of those that have one."""
    captions = [caption for example in examples for caption in example.captions]
    return captions, [example.source for example in examples if isinstance(example, Pair)]


def _new_vocabulary(
    data: DataConfig, default: TokenizerName, learns_from: Sequence[str]
) -> Vocabulary:
    """Return a vocabulary without words; its tokenizer may learn from texts."""
    settings = data.tokenizer
    kind = settings.kind or default
    if kind == "caption":
        return Vocabulary(SPECIALS)
    from captioner.text.multilingual import build_tokenizer

    tokenizer = build_tokenizer(
        kind, texts=learns_from, fold_case=settings.fold_case, subwords=settings.subwords
    )
    return Vocabulary(SPECIALS, tokenizer)


def _build(config: Config, vocabulary: Vocabulary, source: Vocabulary) -> EncoderDecoder:
    return build_model(config, vocab_size=len(vocabulary), source_vocab_size=len(source))


def _continue_model(
    config: Config, examples: Sequence[SourceExample | TextExample], folder: Path
) -> StartModel:
    """Copy the weights of a model folder; new words of `examples` extend its vocabularies."""
    if config.training.glove:
        raise UsageError("training.glove and init both set the first embeddings: leave one out")
    trained = load_model(folder, config)
    is_shared = trained.source_vocabulary == trained.vocabulary
    _check_tokenizer(config, trained.vocabulary, is_shared=is_shared)
    known_source = trained.vocabulary if is_shared else trained.source_vocabulary
    vocabulary, source = _learn_words(config, examples, trained.vocabulary, known_source)
    model = _build(config, vocabulary, source)  # new words have random weights
    model.decoder.copy_weights(trained.model.decoder)
    if config.encoder.kind == "text":
        cast("TextEncoder", model.encoder).copy_weights(cast("TextEncoder", trained.model.encoder))
    else:
        model.encoder = trained.model.encoder  # does not depend on the vocabulary
    return StartModel(model, vocabulary, source)


def _check_tokenizer(config: Config, vocabulary: Vocabulary, *, is_shared: bool) -> None:
    """Raise a UsageError if the data is to be tokenized as the model of `init` does not."""
    wanted, own = config.data.tokenizer, vocabulary.tokenizer.to_json()
    differing = [
        name
        for name, differs in (
            ("tokenizer.kind", wanted.kind not in (None, own["kind"])),
            ("tokenizer.fold_case", wanted.fold_case and not own.get("fold_case")),
            ("share_vocabulary", config.data.share_vocabulary and not is_shared),
        )
        if differs
    ]
    if differing:
        raise UsageError(
            f"data.{differing[0]} differs from that of init={config.init}, whose vocabulary "
            f"({own['kind']}) is kept: leave it out"
        )


@torch.no_grad()
def _load_embeddings(model: EncoderDecoder, vocabulary: Vocabulary, path: Path) -> None:
    """Set the embeddings of words that a GloVe file has; other words keep their random ones."""
    from captioner.text.glove import read_glove

    embedding = model.decoder.embedding
    words = vocabulary.words[len(SPECIALS) :]
    folded = {word: word.lower() for word in words}  # most files have words in lower case
    vectors = read_glove(path, {*words, *folded.values()}, size=embedding.embedding_dim)
    found = 0
    for word in words:
        if vector := vectors.get(word) or vectors.get(folded[word]):
            embedding.weight[vocabulary.id_of(word)] = torch.tensor(vector)
            found += 1
    console.print(f"{found} of {len(words)} words start from their vectors in {path}")
