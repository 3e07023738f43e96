"""`captioner evaluate`: score the captions or texts of a model, or of a results file."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer

from captioner.cli.options import (
    AnnotationsOption,
    ExplainOption,
    ImagesOption,
    JsonOption,
    ModelsOption,
    PartialOption,
    ReferencesOption,
    ReportOption,
    SplitOption,
    check_distinct,
    check_outputs,
    load_captioner,
    load_translator,
    refuse_options,
    with_options,
)
from captioner.cli.text_files import check_kind, read_outputs, read_text_set
from captioner.config.schema import InferenceConfig
from captioner.console import print_results
from captioner.data.datasets import load_examples, load_references
from captioner.errors import UsageError
from captioner.inference.evaluate import evaluate as evaluate_captions
from captioner.inference.evaluate import evaluate_model
from captioner.inference.evaluate_text import evaluate_text, score_text
from captioner.metrics.java import JAVA_METRICS, check_java_metrics
from captioner.metrics.scorer import Scores
from captioner.metrics.translation import TranslationEvaluation
from captioner.report.build import report_evaluation
from captioner.results.files import STDIN, check_scores_file, write_scores
from captioner.storage import check_new, is_special

EXAMPLE = "captioner evaluate --annotations captions_val2017.json --images val2017"

ResultsOption = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Write captions here, or texts, one a line; without --model and --images: score "
        "these.",
        show_default=False,
    ),
]
SourceOption = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Texts to translate, one a line; or with their references in a .tsv or .jsonl file.",
        show_default=False,
    ),
]
SeenOption = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE", help="Training annotations, to count unseen captions.", show_default=False
    ),
]
SeenSplitOption = Annotated[str | None, typer.Option(help="Split of --seen.", show_default=False)]


def _java_metric(name: str) -> str:
    """Return the name of a Java metric. typer cannot parse a list of choices by itself."""
    if name not in JAVA_METRICS:
        raise typer.BadParameter(f"'{name}' is not one of {', '.join(JAVA_METRICS)}.")
    return name


JavaOption = Annotated[
    list[str] | None,
    typer.Option(
        metavar="|".join(JAVA_METRICS),
        parser=_java_metric,
        help="Also compute this metric, with Java; repeatable.",
        show_default=False,
    ),
]


@with_options
def evaluate(
    decoding: dict[str, object],
    inference: InferenceConfig,
    annotations: AnnotationsOption = None,
    model: ModelsOption = None,
    images: ImagesOption = None,
    source: SourceOption = None,
    references: ReferencesOption = None,
    results: ResultsOption = None,
    split: SplitOption = None,
    allow_partial: PartialOption = False,
    seen: SeenOption = None,
    seen_split: SeenSplitOption = None,
    java: JavaOption = None,
    report: ReportOption = None,
    explain: ExplainOption = False,
    as_json: JsonOption = False,
) -> None:
    """Score captions with COCO's metrics, or texts with sacreBLEU, chrF and BLEU.

    The captions or texts are a model's, or those of a results file. The scores are also stored in
    scores.json beside the results. Settings you leave out keep the model folder's defaults.
    """
    check_kind(annotations, [*([source] if source else []), *(references or [])])
    if annotations is None:
        of_images = {
            **{"images": images, "split": split, "allow_partial": allow_partial, "seen": seen},
            **{"seen_split": seen_split, "java": java, "explain": explain},
        }
        named = "--references" if references else "--source"
        refuse_options(decoding | of_images, reads="text", because=named)
        files = _TextFiles(source, references or [], results, report)
        _evaluate_text(files, model, decoding, inference, as_json=as_json)
        return
    refuse_options(decoding, reads="image", because="--annotations")
    java_metrics = [name for name in JAVA_METRICS if name in (java or [])]
    scoring: dict[str, Any] = {
        "training_captions": _load_captions(seen, seen_split),
        "java": java_metrics,
    }
    if results and model is None and images is None:
        _check_results(results, needs_model=bool(report or explain or decoding))
        scores = evaluate_captions(
            annotations, results=results, split=split, allow_partial=allow_partial, **scoring
        )
        with print_results(files=True) as print_line:
            _print(scores, results, print_line, as_json=as_json)
        return
    if explain and not report:
        raise UsageError("--explain has no effect without --report: add it")
    if results:
        _check_unclear(results, model)
        check_scores_file(results)
    check_distinct(results=results, report=report)
    check_outputs(results, report)
    check_java_metrics(java_metrics)
    examples = load_examples(annotations, images, split)
    captioner = load_captioner(model, inference)
    settings = captioner.decoding_config(decoding)
    scoring |= {"explain": explain, "batch_size": inference.batch_size, "results": results}
    captioned, scores = evaluate_model(captioner, examples, settings, **scoring)
    with print_results(files=bool(results or report)) as print_line:
        _print(scores, results, print_line, as_json=as_json)
        if report:
            report_evaluation(
                report,
                examples,
                captioned,
                scores,
                annotations=annotations,
                models=model or [],
                decoding=settings,
                cropped=captioner.crops,
            )
    if len(captioned) < len(examples):
        raise typer.Exit(3)


class _TextFiles(NamedTuple):
    """The files that are named for the evaluation of text."""

    source: Path | None
    references: Sequence[Path]
    results: Path | None
    report: Path | None


def _evaluate_text(
    files: _TextFiles,
    models: Sequence[str | Path] | None,
    decoding: dict[str, object],
    inference: InferenceConfig,
    *,
    as_json: bool,
) -> None:
    """Score the texts of a results file, or of a model."""
    source, references, results, report = files
    if not models:
        if results is None:
            raise UsageError("there is nothing to score: add --model FOLDER or --results FILE")
        _check_results(results, needs_model=bool(report or decoding))
        texts = read_text_set(source, references)
        evaluation = score_text(read_outputs(results, texts), texts.references)
        with print_results(files=True) as print_line:
            _print(evaluation, results, print_line, as_json=as_json)
        return
    if source is None:
        raise UsageError("--model needs texts to translate: add --source FILE")
    if results:
        check_scores_file(results)
        check_new(results)
    check_distinct(results=results, report=report)
    check_outputs(None, report)
    texts = read_text_set(source, references)
    translator = load_translator(models, inference)
    settings = translator.decoding_config(decoding)
    translations, scores = evaluate_text(
        translator,
        texts.sources,
        texts.references,
        settings,
        align=report is not None and translator.has_attention,
        batch_size=inference.batch_size,
        results=results,
    )
    with print_results(files=bool(results or report)) as print_line:
        _print(scores, results, print_line, as_json=as_json)
        if report:
            from captioner.report.alignment import report_text_evaluation

            report_text_evaluation(
                report,
                texts.sources,
                translations,
                scores,
                models=models,
                decoding=settings,
                name=texts.name,
            )


def _check_results(results: Path, *, needs_model: bool) -> None:
    """Raise an error, before anything is read, if the results cannot be scored."""
    if needs_model:
        raise UsageError(
            f"{results} is scored as it is: to generate it, or for a report, "
            "add --model or --images"
        )
    if str(results) != STDIN:
        try:
            results.stat()
        except FileNotFoundError:
            raise UsageError(
                f"{results}: no such results; to generate them, add --model FOLDER or `bundled`"
            ) from None
        except OSError as error:
            raise UsageError(f"{results} cannot be read: {error.strerror or error}") from None
    check_scores_file(results)


def _check_unclear(results: Path, models: Sequence[str | Path] | None) -> None:
    """Raise an error if existing results could be meant to be scored, or to be replaced."""
    if str(results) == STDIN or is_special(results):
        raise UsageError(
            f"{results} is read, to score it: leave out --model and --images, "
            "or name a file to write"
        )
    if models is None and os.path.exists(results):
        raise UsageError(
            f"{results} exists already: to score it, leave out --images; to replace it, "
            "name the model with --model FOLDER or `bundled`"
        )


def _load_captions(annotations: Path | None, split: str | None) -> list[str] | None:
    if annotations is None:
        return None
    return [
        caption for captions in load_references(annotations, split).values() for caption in captions
    ]


def _print(
    scores: Scores | TranslationEvaluation,
    results: Path | None,
    print_line: Callable[[str], None],
    *,
    as_json: bool,
) -> None:
    """Print the scores, then store them beside the results: if that fails, they are not lost."""
    print_line(json.dumps(scores.as_dict()) if as_json else scores.table())
    if results:
        write_scores(results, scores)
