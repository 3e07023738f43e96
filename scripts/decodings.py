"""Score one model with many ways of decoding: python scripts/decodings.py --help.

Every image goes through the CNN once, whatever the number of ways. Scores are those of `captioner evaluate`.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from command import new_app, run_app

from captioner.config.loading import apply_overrides
from captioner.config.schema import DecodingConfig
from captioner.console import console, track
from captioner.data.datasets import Example, load_examples
from captioner.errors import ImageError
from captioner.metrics.scorer import Scorer
from captioner.text.tokenizer import detokenize

if TYPE_CHECKING:
    from captioner import Captioner
    from captioner.types import State

WAYS = (
    *("beam=1", "beam=2", "beam=4", "beam=8"),
    *("length_norm=none", "length_norm=average", "length_alpha=0.5", "length_alpha=1.5"),
    *(
        "no_repeat_ngram=2",
        "captions=5 beam=5",
        "captions=5 beam=5 groups=5",
        "captions=5 beam=10 groups=5 diversity=1",
    ),
    *(
        "captions=5 method=sample",
        "captions=5 method=sample temperature=0.5",
        "captions=5 method=sample top_p=0.9",
    ),
)
BATCH = 32  # images
COLUMNS = ("Bleu_4", "METEOR", "ROUGE_L", "CIDEr")

Seen = list[tuple["State", list[int]]]
"""Of each batch of images: the states before the first word, and the images' keys for sampling."""

app = new_app()


@app.command(
    epilog="Example: python scripts/decodings.py --annotations captions_dev.json beam=1 'beam=5 length_alpha=0.7'"
)
def decodings(
    annotations: Annotated[
        Path, typer.Option(metavar="FILE", help="References, in any format.", show_default=False)
    ],
    ways: Annotated[
        list[str] | None, typer.Argument(metavar="[WAY]...", help="Settings of decoding.")
    ] = None,
    images: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Where the images are.")
    ] = None,
    model: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Model folder; the bundled one if none.")
    ] = None,
) -> None:
    """Print a table of BLEU-4, METEOR, ROUGE-L and CIDEr-D, and how long and varied the captions are.

    With several captions of each image, "best of them" is the CIDEr-D of those that score best.
    """
    examples = load_examples(annotations, images)
    from captioner import Captioner  # imports torch, which a wrong path should not wait for

    captioner = Captioner.from_pretrained(*([model] if model else []))
    settings = {
        way: captioner.decoding(apply_overrides({}, shlex.split(way))) for way in ways or WAYS
    }
    seen, examples = look(captioner, examples)
    scorer = Scorer({example.image_id: example.captions for example in examples})
    typer.echo(
        "| decoding | BLEU-4 | METEOR | ROUGE-L | CIDEr-D | best of them | words | different | distinct |"
    )
    typer.echo("|---|---:|---:|---:|---:|---:|---:|---:|---:|")
    for way, asked in settings.items():
        typer.echo(f"| {way} | {' | '.join(row(captioner, seen, examples, scorer, asked))} |")


def look(captioner: Captioner, examples: Sequence[Example]) -> tuple[Seen, list[Example]]:
    """Look at every image that can be read; give also the examples they are of."""
    import torch

    from captioner.data.loading import read_ahead
    from captioner.decoding.search import key_of

    seen: Seen = []
    good: list[Example] = []
    batches = read_ahead((example.path for example in examples), captioner.transform, size=BATCH)
    left = iter(examples)
    for batch in track(batches, total=-(-len(examples) // BATCH), doing="looking", unit="batches"):
        images = []
        for image, example in zip(batch, left, strict=False):  # `left` goes on where it stopped
            if isinstance(image, ImageError):
                console.print(f"decodings: {image}", markup=False)
            else:
                images.append(image)
                good.append(example)
        if images:
            with torch.inference_mode():
                state = captioner.step_model.init_state(torch.stack(images).to(captioner.device))
            seen.append((state, [key_of(image) for image in images]))
    return seen, good


def row(
    captioner: Captioner,
    seen: Seen,
    examples: Sequence[Example],
    scorer: Scorer,
    asked: DecodingConfig,
) -> list[str]:
    """Decode in one way, and give the cells of its line of the table."""
    import torch

    from captioner.decoding.search import build_search

    search = build_search(captioner.step_model.step, asked, captioner.vocabulary)
    found = []
    with torch.inference_mode():
        for state, keys in seen:
            found += search(state, keys)
    texts = [
        [detokenize(captioner.vocabulary.decode(one.token_ids)) for one in captions]
        for captions in found
    ]
    ranks = [
        scorer.score(
            {
                one.image_id: said[min(rank, len(said) - 1)]
                for one, said in zip(examples, texts, strict=True)
            }
        )
        for rank in range(asked.captions)
    ]
    best = ""
    if asked.captions > 1:
        each = [
            max(scores.per_image["CIDEr"][example.image_id] for scores in ranks)
            for example in examples
        ]
        best = f"{100 * sum(each) / len(each):.1f}"
    figures = [f"{100 * ranks[0].figures[metric]:.1f}" for metric in COLUMNS]
    varied = ranks[0].diversity
    return [
        *figures,
        best,
        f"{varied.mean_length:.1f}",
        f"{varied.vocabulary:,}",
        f"{varied.distinct:.0%}",
    ]


if __name__ == "__main__":
    run_app(app)
