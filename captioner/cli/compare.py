"""`captioner compare`: compare two results files of the same images, or of the same texts."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache, partial
from pathlib import Path
from typing import Annotated

import typer

from captioner.cli.options import (
    AnnotationsOption,
    JsonOption,
    PartialOption,
    ReferencesOption,
    SplitOption,
    refuse_options,
)
from captioner.cli.text_files import check_kind, read_outputs, read_text_set
from captioner.data.datasets import load_references
from captioner.data.image_ids import load_image_ids
from captioner.errors import UsageError
from captioner.inference.evaluate import fit_to_references, scorer_of_captioned
from captioner.inference.evaluate_text import build_text_scorer
from captioner.metrics.significance import PairedComparison
from captioner.metrics.significance import compare as compare_scores
from captioner.metrics.translation import compare_translations
from captioner.results.files import read_results

EXAMPLE = "captioner compare greedy.json beam.json --annotations captions_val2017.json"


def compare(
    a: Annotated[Path, typer.Argument(metavar="A", help="One results file.", show_default=False)],
    b: Annotated[
        Path,
        typer.Argument(metavar="B", help="Another, of the same inputs.", show_default=False),
    ],
    annotations: AnnotationsOption = None,
    references: ReferencesOption = None,
    split: SplitOption = None,
    allow_partial: PartialOption = False,
    as_json: JsonOption = False,
) -> None:
    """Compare two results files: of images, or of texts, one a line.

    Prints which is better, by how much, whether that is significant, and the images or texts on
    which they differ most.
    """
    check_kind(annotations, references or [])
    if annotations is None:
        of_images = {"split": split, "allow_partial": allow_partial}
        refuse_options(of_images, reads="text", because="--references")
        comparison = _compare_texts(a, b, references or [])
    else:
        comparison = _compare_captions(a, b, annotations, split, allow_partial=allow_partial)
    if as_json:
        typer.echo(json.dumps({"a": str(a), "b": str(b), **comparison.as_dict()}))
    else:
        typer.echo(f"a: {a}\nb: {b}\n\n{comparison.table()}")


def _compare_captions(
    a: Path, b: Path, annotations: Path, split: str | None, *, allow_partial: bool
) -> PairedComparison:
    read = read_results(a), read_results(b)
    references = load_references(annotations, split)
    load_ids = cache(partial(load_image_ids, annotations, split))  # reads the file once
    captions_a, captions_b = (
        fit_to_references(captions, references, load_ids=load_ids, allow_partial=allow_partial)
        for captions in read
    )
    compared = captions_a.keys() & captions_b.keys()
    if not compared:
        raise UsageError(f"{a} and {b} have no image in common; name results of the same images")
    scorer = scorer_of_captioned(references, captions_a, captions_b, doing="compared")
    scores_a, scores_b = (
        scorer.score({image: captions[image] for image in compared})
        for captions in (captions_a, captions_b)
    )
    return compare_scores(captions_a, scores_a, captions_b, scores_b)


def _compare_texts(a: Path, b: Path, references: Sequence[Path]) -> PairedComparison:
    texts = read_text_set(None, references)
    scorer = build_text_scorer(texts.references)
    evaluation_a, evaluation_b = (
        scorer.evaluate(dict(enumerate(read_outputs(path, texts), 1))) for path in (a, b)
    )
    return compare_translations(evaluation_a, evaluation_b)
