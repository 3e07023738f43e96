"""One run of `compare.py`: train, caption dev from its features, score; the model itself is thrown away."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from statistics import median

import torch
from comparison import Job
from comparison_results import Result, save, settings_of
from experiments import log_to, machine
from torch.optim.optimizer import register_optimizer_step_post_hook

from captioner import Captioner
from captioner.captions import ImageId
from captioner.config.schema import Config
from captioner.data.datasets import Example
from captioner.data.splits import load_splits
from captioner.decoding.search import build_search
from captioner.devices import autocast
from captioner.distributed import Ranks
from captioner.metrics.diversity import bleu_by_length
from captioner.metrics.scorer import Scorer
from captioner.results.files import write_results
from captioner.text.tokenizer import detokenize, tokenize
from captioner.training.checkpoint import checkpoints
from captioner.training.loaders import LoaderFactory
from captioner.training.plots import read_log
from captioner.training.train import train

SCORES = ("Bleu_1", "Bleu_2", "Bleu_3", "Bleu_4", "CIDEr")


def carry_out(job: Job) -> Result:
    """Train and measure in the folder `config.output`, whatever an interrupted run has left there."""
    run, config = job
    shutil.rmtree(config.output, ignore_errors=True)
    with log_to(config.output / "log.txt"):
        with steps_timed() as times:
            best = train(config, device="cpu")
        alone = Ranks(0, 1, torch.device("cpu"))
        captioner = Captioner.from_pretrained(best, device="cpu")
        _, dev = load_splits(config.data, alone)
        captions, seconds = caption(captioner, config, dev, alone)
    validation = [line for line in read_log(config.output) if "dev_loss" in line][-1]
    result = Result(
        run,
        config=settings_of(config),
        scores={name: figure for name, figure in score(captions, dev).items() if name in SCORES},
        loss=validation["dev_loss"],
        free_running_loss=validation["free_running_loss"],
        parameters=sum(weight.numel() for weight in captioner.models[0].decoder.parameters()),
        training_seconds=total(times),
        captions_per_second=len(dev) / seconds,
        by_length=bleu_by_length(
            [[tokenize(said) for said in example.captions] for example in dev],
            [tokenize(captions[example.image_id]) for example in dev],
        ),
        machine=machine(),
    )
    write_results(config.output / "captions.json", captions)
    for folder in (best, *checkpoints(config.output)):
        shutil.rmtree(folder)
    save(result, config.output)
    return result


@contextmanager
def steps_timed() -> Iterator[list[float]]:
    """Note when each step of an optimiser is done, in seconds of this process' own time."""
    times: list[float] = []
    hook = register_optimizer_step_post_hook(lambda *_: times.append(time.process_time()))
    try:
        yield times
    finally:
        hook.remove()


def total(times: Sequence[float]) -> float:
    """Seconds that the steps took: what came before the first is loading and no training, but for one step."""
    if len(times) < 2:
        return 0.0
    return (times[-1] - times[0]) * len(times) / (len(times) - 1)


@torch.inference_mode()
def caption(
    captioner: Captioner, config: Config, dev: Sequence[Example], alone: Ranks
) -> tuple[dict[ImageId, str], float]:
    """Caption dev from its cached features, as the config says of decoding; also give the seconds of one core.

    They are those of the median batch, for all: the first one pays for what is set up once.
    """
    model = captioner.models[0]
    search = build_search(model.step, config.decoding, captioner.vocabulary)
    feeder = LoaderFactory(
        config, model.encoder, captioner.vocabulary, train=(), dev=dev, ranks=alone
    )
    found, times = [], [time.process_time()]
    for batch in feeder.dev_loader(config.training.phases[-1]):
        with autocast(alone.device, config.training.precision):
            found += [best.token_ids for best, *_ in search(model.init_state(batch.source), ())]
        times.append(time.process_time())
    seconds = median(end - start for start, end in pairwise(times)) * (len(times) - 1)
    texts = [detokenize(captioner.vocabulary.decode(words)) for words in found]
    return {example.image_id: text for example, text in zip(dev, texts, strict=True)}, seconds


def score(captions: dict[ImageId, str], dev: Sequence[Example]) -> dict[str, float]:
    """COCO's metrics, as fractions."""
    return Scorer({example.image_id: example.captions for example in dev}).score(captions).figures
