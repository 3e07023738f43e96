"""Count captions about men, women and people of no stated gender.

python -m experiments.gender --help

Captions are compared with the references of the same images. The words and the three groups follow
Hendricks et al. 2018, "Women also snowboard: overcoming bias in captioning models".
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated

import typer

from captioner.data.datasets import load_references
from captioner.results.files import read_results
from captioner.text.tokenizer import tokenize
from experiments.command import new_app, run_app

GROUPS = {
    "men": "man men boy boys guy guys gentleman male he him his",
    "women": "woman women girl girls lady ladies female she her hers",
    "people": "person people child children kid kids toddler baby player players",
}
BOTH = "both"  # a caption with words for men and for women
NONE = "nobody"

app = new_app()


@app.command(
    epilog="Example: python -m experiments.gender --results dev.json "
    "--annotations captions_dev.json"
)
def gender(
    results: Annotated[
        Path, typer.Option(metavar="FILE", help="COCO results.", show_default=False)
    ],
    annotations: Annotated[
        Path, typer.Option(metavar="FILE", help="References, in any format.", show_default=False)
    ],
) -> None:
    """Print whom the captions name, by whom most references of the image name."""
    references = load_references(annotations)
    table = count(
        [(caption, references[image]) for image, caption in read_results(results).items()]
    )
    columns = [*GROUPS, BOTH, NONE]
    typer.echo(f"{'references':<12}" + "".join(f"{name:>10}" for name in columns))
    for name in columns:
        row = [table[name, group] for group in columns]
        typer.echo(f"{name:<12}" + "".join(f"{number:>10}" for number in row))


def count(pairs: Iterable[tuple[str, Sequence[str]]]) -> Counter[tuple[str, str]]:
    """Count pairs of a group in the references, by majority, and the group in the caption."""
    table: Counter[tuple[str, str]] = Counter()
    for caption, references in pairs:
        votes = Counter(map(group_of, references))
        table[votes.most_common(1)[0][0], group_of(caption)] += 1
    return table


def group_of(caption: str) -> str:
    """Return the group that a caption names; a word with a gender counts before one without."""
    words = set(tokenize(caption))
    named = [name for name, group in GROUPS.items() if words & set(group.split())]
    if {"men", "women"} <= set(named):
        return BOTH
    return named[0] if named else NONE


if __name__ == "__main__":
    run_app(app, "experiments.gender")
