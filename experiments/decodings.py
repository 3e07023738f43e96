"""Score one model with many decoding settings: python -m experiments.decodings --help.

Each image passes the CNN once. The metrics are those of `captioner evaluate`.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from captioner.config.loading import apply_overrides
from captioner.config.schema import DecodingConfig
from captioner.console import console
from captioner.data.datasets import Example, load_examples
from captioner.errors import ImageError
from captioner.metrics.scorer import METRIC_LABELS, Scorer
from captioner.progress import track
from experiments.command import new_app, run_app

if TYPE_CHECKING:
    from captioner import Captioner
    from captioner.types import State

DEFAULTS = (
    *("beam=1", "beam=2", "beam=4", "beam=8"),
    *("length_norm=none", "length_norm=average", "length_alpha=0.5", "length_alpha=1.5"),
    *("no_repeat_words=false", "no_repeat_ngram=2"),
    *("captions=5 beam=5", "captions=5 beam=5 groups=5"),
    "captions=5 beam=10 groups=5 diversity=1",
    *("captions=5 method=sample", "captions=5 method=sample temperature=0.5"),
    "captions=5 method=sample top_p=0.9",
)
BATCH_SIZE = 32

EncodedBatch = tuple["State", list[int]]
"""The initial states of a batch of images, and the keys of the images for sampling."""

app = new_app()


@app.command(
    epilog="Example: python -m experiments.decodings --annotations captions_dev.json "
    "beam=1 'beam=5 length_alpha=0.7'"
)
def decodings(
    annotations: Annotated[
        Path, typer.Option(metavar="FILE", help="References, in any format.", show_default=False)
    ],
    settings: Annotated[
        list[str] | None,
        typer.Argument(metavar="[SETTINGS]...", help="Decoding settings of each row."),
    ] = None,
    images: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Folder of the images.")
    ] = None,
    model: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Model folder.", show_default="the bundled model"),
    ] = None,
) -> None:
    """Print a table of metrics, and of the length and diversity of the captions.

    With several captions for each image, "best of all" is the CIDEr-D of the best one.
    """
    examples = load_examples(annotations, images)
    from captioner import Captioner  # imports torch, which errors above need not wait for

    captioner = Captioner.from_pretrained(*([model] if model else []))
    rows = {
        text: captioner.decoding_config(apply_overrides({}, shlex.split(text)))
        for text in settings or DEFAULTS
    }
    batches, examples = encode(captioner, examples)
    scorer = Scorer({example.image_id: example.captions for example in examples})
    labels = (METRIC_LABELS[name] for name in _columns(scorer))
    head = ["decoding", *labels, "best of all", "words", "vocabulary", "unique"]
    typer.echo(f"| {' | '.join(head)} |\n|---{'|---:' * (len(head) - 1)}|")
    for text, config in rows.items():
        cells = [text, *row(captioner, batches, examples, scorer, config)]
        typer.echo(f"| {' | '.join(cells)} |")


def _columns(scorer: Scorer) -> tuple[str, ...]:
    """Return the names of the metrics of the table."""
    return "Bleu_4", scorer.meteor_name, "ROUGE_L", "CIDEr"


def encode(
    captioner: Captioner, examples: Sequence[Example]
) -> tuple[list[EncodedBatch], list[Example]]:
    """Encode all images that can be read; return also their examples. Report the others."""
    import torch

    from captioner.data.transforms import prefetch_images
    from captioner.decoding.search import source_key

    encoded: list[EncodedBatch] = []
    readable: list[Example] = []
    paths = [example.path for example in examples]
    batches = prefetch_images(paths, captioner.transform, size=BATCH_SIZE)
    remaining = iter(examples)
    total = -(-len(examples) // BATCH_SIZE)
    for batch in track(batches, total=total, doing="encoding images", unit="batches"):
        images = []
        # zip stops at the end of the batch, before it takes another of the remaining examples.
        for image, example in zip(batch, remaining, strict=False):
            if isinstance(image, ImageError):
                console.print(f"decodings: {image}", markup=False)
            else:
                images.append(torch.from_numpy(image))
                readable.append(example)
        if images:
            with torch.inference_mode():
                state = captioner.step_model.init_state(torch.stack(images).to(captioner.device))
            encoded.append((state, [source_key(image) for image in images]))
    return encoded, readable


def row(
    captioner: Captioner,
    batches: Sequence[EncodedBatch],
    examples: Sequence[Example],
    scorer: Scorer,
    config: DecodingConfig,
) -> list[str]:
    """Decode with a config and return its row of the table."""
    captions = decode(captioner, batches, config)
    # One set of scores for each rank; an image with fewer captions repeats its last one.
    ranks = [
        scorer.score(
            {
                example.image_id: texts[min(rank, len(texts) - 1)]
                for example, texts in zip(examples, captions, strict=True)
            }
        )
        for rank in range(config.captions)
    ]
    best = ""
    if config.captions > 1:
        ciders = [
            max(scores.per_image["CIDEr"][example.image_id] for scores in ranks)
            for example in examples
        ]
        best = f"{100 * sum(ciders) / len(ciders):.1f}"
    diversity = ranks[0].diversity
    return [
        *(f"{100 * ranks[0].metrics[name]:.1f}" for name in _columns(scorer)),
        best,
        f"{diversity.mean_length:.1f}",
        f"{diversity.vocabulary:,}",
        f"{diversity.distinct:.0%}",
    ]


def decode(
    captioner: Captioner, batches: Sequence[EncodedBatch], config: DecodingConfig
) -> list[list[str]]:
    """Return the captions of each image, best first."""
    import torch

    from captioner.decoding.search import build_search

    search = build_search(captioner.step_model.step, config, captioner.vocabulary)
    with torch.inference_mode():
        results = [hypotheses for state, keys in batches for hypotheses in search(state, keys)]
    detokenize = captioner.vocabulary.tokenizer.detokenize
    return [
        [detokenize(captioner.vocabulary.decode(one.token_ids)) for one in hypotheses]
        for hypotheses in results
    ]


if __name__ == "__main__":
    run_app(app, "experiments.decodings")
