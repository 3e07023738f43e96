"""`captioner compare`: compare two results files of the same images."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from captioner.cli.options import JsonOption, PartialOption, ReferencesOption, SplitOption
from captioner.data.datasets import load_references
from captioner.errors import UsageError
from captioner.inference.evaluate import scorer_of_captioned
from captioner.metrics.scorer import check_images
from captioner.metrics.significance import compare as compare_scores
from captioner.results.files import read_results

EXAMPLE = "captioner compare greedy.json beam.json --annotations captions_val2017.json"


def compare(
    a: Annotated[
        Path, typer.Argument(metavar="A.json", help="One results file.", show_default=False)
    ],
    b: Annotated[
        Path,
        typer.Argument(metavar="B.json", help="Another, of the same images.", show_default=False),
    ],
    annotations: ReferencesOption,
    split: SplitOption = None,
    allow_partial: PartialOption = False,
    as_json: JsonOption = False,
) -> None:
    """Compare two results files.

    Prints which is better, by how much, whether that is significant, and the images on which they
    differ most.
    """
    captions_a, captions_b = read_results(a), read_results(b)
    references = load_references(annotations, split)
    for captions in (captions_a, captions_b):
        check_images(references, captions, allow_partial=allow_partial)
    compared = captions_a.keys() & captions_b.keys()
    if not compared:
        raise UsageError(f"{a} and {b} have no image in common; name results of the same images")
    scorer = scorer_of_captioned(references, captions_a, captions_b, doing="compared")
    scores_a, scores_b = (
        scorer.score({image: captions[image] for image in compared})
        for captions in (captions_a, captions_b)
    )
    comparison = compare_scores(captions_a, scores_a, captions_b, scores_b)
    if as_json:
        typer.echo(json.dumps({"a": str(a), "b": str(b), **comparison.as_dict()}))
    else:
        typer.echo(f"a: {a}\nb: {b}\n\n{comparison.table()}")
