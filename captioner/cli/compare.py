"""Compare two results files of the same images."""

from __future__ import annotations

import json
from pathlib import Path

import typer

from captioner.console import console
from captioner.data.datasets import load_references
from captioner.errors import UsageError
from captioner.metrics.scorer import Scorer, check_images
from captioner.metrics.significance import compare
from captioner.results.files import read_results


def compare_results(
    a: Path,
    b: Path,
    annotations: Path,
    *,
    split: str | None = None,
    allow_partial: bool = False,
    as_json: bool = False,
) -> None:
    """Score both files and print which is better, by how much, how sure, and on which images most.

    Args:
        a: one results file.
        b: the other.
        annotations: where the references are, for all formats that `load_references` reads.
        split: which of its splits.
        allow_partial: compare on the images that both have, though others of the annotations have no caption.
        as_json: print one object instead of a table.

    Raises:
        UsageError: a file is broken, or the results are not of these images.
    """
    captions_a, captions_b = read_results(a), read_results(b)
    references = load_references(annotations, split)
    for captions in (captions_a, captions_b):
        check_images(references, captions, allow_partial=allow_partial)
    both = {
        image: said
        for image, said in references.items()
        if image in captions_a and image in captions_b
    }
    if not both:
        raise UsageError(f"{a} and {b} have no image in common; name results of the same images")
    if missing := len(references) - len(both):
        console.print(
            f"captioner: {missing:,} of {len(references):,} images have no caption and are not compared"
        )
    scorer = Scorer(both, subset_of=len(references))
    scores_a, scores_b = (
        scorer.score({image: said[image] for image in both}) for said in (captions_a, captions_b)
    )
    comparison = compare(captions_a, scores_a, captions_b, scores_b)
    if as_json:
        typer.echo(json.dumps({"a": str(a), "b": str(b), **comparison.as_dict()}))
    else:
        typer.echo(f"a: {a}\nb: {b}\n\n{comparison.table()}")
