"""One run of the ablation: train, caption dev from its features, score. The model is removed."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from statistics import median

import torch
from torch.optim.optimizer import register_optimizer_step_post_hook

from captioner import Captioner
from captioner.captions import ImageId
from captioner.config.run import Config
from captioner.data.splits import ExampleSet, Splits, load_splits
from captioner.decoding.search import build_search
from captioner.devices import autocast
from captioner.distributed import Ranks
from captioner.errors import UsageError
from captioner.metrics.scorer import Scorer
from captioner.results.files import write_results
from captioner.text.tokenizer import tokenize
from captioner.training.checkpoint import checkpoints
from captioner.training.loaders import ImageLoaders
from captioner.training.recorder import read_log
from captioner.training.train import train
from experiments.ablation.by_length import bleu_by_length
from experiments.ablation.grid import Job
from experiments.ablation.results import Result, run_settings, save
from experiments.pool import log_to
from experiments.reporting import machine_name

METRICS = ("Bleu_1", "Bleu_2", "Bleu_3", "Bleu_4", "CIDEr")


def train_and_score(job: Job) -> Result:
    """Train in the folder `config.output`, which is emptied first, and store the result there."""
    run, config = job
    shutil.rmtree(config.output, ignore_errors=True)
    with log_to(config.output / "log.txt"):
        with time_steps() as times:
            best = train(config, device="cpu")
        ranks = Ranks(0, 1, torch.device("cpu"))
        captioner = Captioner.from_pretrained(best, device="cpu")
        source = _only_dev(config, ranks)
        dev = source.examples
        captions, seconds = caption(captioner, config, source, ranks)
    validation = [line for line in read_log(config.output) if "dev_loss" in line][-1]
    metrics = Scorer({one.image_id: one.captions for one in dev}).score(captions).metrics
    result = Result(
        run,
        config=run_settings(config),
        scores={name: metrics[name] for name in METRICS},
        loss=validation["dev_loss"],
        free_running_loss=validation["free_running_loss"],
        parameters=sum(weight.numel() for weight in captioner.models[0].decoder.parameters()),
        training_seconds=training_seconds(times),
        captions_per_second=len(dev) / seconds,
        by_length=bleu_by_length(
            [[tokenize(reference) for reference in example.captions] for example in dev],
            [tokenize(captions[example.image_id]) for example in dev],
        ),
        machine=machine_name(),
    )
    write_results(config.output / "captions.json", captions)
    for folder in (best, *checkpoints(config.output)):
        shutil.rmtree(folder)
    save(result, config.output)
    return result


def _only_dev(config: Config, ranks: Ranks) -> ExampleSet:
    dev = load_splits(config.data, ranks).dev
    if len(dev) > 1:
        raise UsageError(f"the ablation scores one source of dev, not {len(dev)}: name one")
    return dev[0]


@contextmanager
def time_steps() -> Iterator[list[float]]:
    """Record the CPU time of this process, in seconds, after each step of an optimizer."""
    times: list[float] = []
    hook = register_optimizer_step_post_hook(lambda *_: times.append(time.process_time()))
    try:
        yield times
    finally:
        hook.remove()


def training_seconds(times: Sequence[float]) -> float:
    """Return the seconds of all steps. The first, which includes loading, counts as the average."""
    if len(times) < 2:
        return 0.0
    return (times[-1] - times[0]) * len(times) / (len(times) - 1)


@torch.inference_mode()
def caption(
    captioner: Captioner, config: Config, dev: ExampleSet, ranks: Ranks
) -> tuple[dict[ImageId, str], float]:
    """Caption dev from its cached features; return also the CPU seconds of all batches.

    Each batch counts as the median one, since the first also pays for set-up.
    """
    model = captioner.models[0]
    search = build_search(model.step, config.decoding, captioner.vocabulary)
    splits = Splits(train=(), dev=[dev])
    loaders = ImageLoaders(config, model.encoder, captioner.vocabulary, splits, ranks=ranks)
    token_ids, times = [], [time.process_time()]
    for batch in loaders.dev_loader(config.training.phases[-1]):
        with autocast(ranks.device, config.training.precision):
            token_ids += [best.token_ids for best, *_ in search(model.init_state(batch.source), ())]
        times.append(time.process_time())
    seconds = median(end - start for start, end in pairwise(times)) * (len(times) - 1)
    detokenize = captioner.vocabulary.tokenizer.detokenize
    texts = [detokenize(captioner.vocabulary.decode(ids)) for ids in token_ids]
    return {
        example.image_id: text for example, text in zip(dev.examples, texts, strict=True)
    }, seconds
