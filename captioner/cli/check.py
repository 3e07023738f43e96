"""`captioner check`: find the mistakes of a data set before training, and describe it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from captioner.checkup.check import NOTHING, Known, check_splits
from captioner.checkup.output import to_json, to_text, write_page
from captioner.checkup.pairs import Tokenizers
from captioner.checkup.statistics import Split, captions_of
from captioner.cli.options import ImagesOption, SettingsArgument
from captioner.config.builtin import is_config
from captioner.config.run import Config, DataConfig, SourceConfig
from captioner.console import console, print_results
from captioner.data.datasets import AnyExample, train_dev_split
from captioner.data.formats import UnsupportedFormatError, split_names
from captioner.data.generated import generate
from captioner.data.learnable import too_few_to_hold_out
from captioner.data.parallel import is_parallel, load_pairs, pair_problems
from captioner.data.plain_text import is_plain_text, load_text
from captioner.data.problems import Problems
from captioner.data.shapes import draw_shapes
from captioner.data.splits import find_sources, load_image_source
from captioner.errors import UsageError
from captioner.models.folder import load_config, read_vocabularies, resolve
from captioner.report.build import check_report
from captioner.text.scripts import suitable_kind_hint

EXAMPLE = "captioner check photos/captions.jsonl --html checkup.html"


def check(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="CONFIG|ANNOTATIONS|TEXT",
            help="A config, as for `captioner train`: check and compare train and dev; "
            "or annotations of any format; or texts, one a line, with --target; "
            "or both sides in one .tsv or .jsonl file.",
            show_default=False,
        ),
    ],
    settings: SettingsArgument = None,
    images: ImagesOption = None,
    target: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="The translation of each line of TEXT.", show_default=False
        ),
    ] = None,
    html: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.html", help="Also write a page with histograms.", show_default=False
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Check a data set.

    Prints errors in annotations, texts and images, what splits share, and statistics. Every image
    is read completely. Exits with 0 if nothing is wrong, with 3 if something is.
    """
    if html:
        check_report(html)
    if is_config(source):
        if images:
            raise UsageError(
                "the config names the folder of the images: "
                "set data.train.images=FOLDER instead of --images"
            )
        if target:
            raise UsageError(
                f"the config names both sides: set data.train.target={target} instead of --target"
            )
        config = load_config(source, settings or [])
        splits, data = _read_config(config), config.data
        known, generated = _known_words(config.init), config.decoding.max_length
    else:
        if settings:
            raise UsageError(
                f"{source} is not a config and has no settings: leave out {' '.join(settings)}"
            )
        # No minimum count is set: the statistics tell the words of several.
        splits, data = _read_file(source, images, target), DataConfig(min_count=1)
        known, generated = NOTHING, None
    subwords = data.tokenizer.kind == "subword"
    result = check_splits(
        splits,
        max_length=data.max_length,
        tokenizer=data.tokenizer,
        min_count=1 if subwords else data.min_count,
        generated=generated,
        known=known,
    )
    uses_default = data.tokenizer.kind is None and known.tokenizers is None
    if uses_default and (hint := suitable_kind_hint(captions_of(splits))):
        console.print(f"captioner: {hint}", markup=False)
    with print_results(files=html is not None) as print_line:
        print_line(json.dumps(to_json(result)) if as_json else to_text(result))
        if html:
            write_page(html, result, title=str(source))
    if result.num_problems:
        raise typer.Exit(3)


def _known_words(init: str | None) -> Known:
    """Return the words of the model that training starts from; none without one."""
    if init is None:
        return NOTHING
    target, source = read_vocabularies(resolve(init))
    tokenizers = Tokenizers(source.tokenizer, target.tokenizer)
    return Known(frozenset(target.words), frozenset(source.words), tokenizers)


def _read_config(config: Config) -> list[Split]:
    """Read train and dev as training does: data is made, and dev is held out from train."""
    if shapes := config.data.shapes:
        draw_shapes(shapes.folder, train=shapes.train, dev=shapes.dev)
    if made := config.data.generated:
        generate(made.task, made.folder, train=made.train, dev=made.dev)
    sources = find_sources(config.data)
    groups = {"train": sources.train, "dev": sources.dev}
    splits = []
    files: dict[Path, Problems] = {}
    skip_missing = config.data.on_bad_image == "skip"
    for group, named in groups.items():
        # The only source of a group has its name.
        keys = [group] if len(named) == 1 else [f"{group} {name}" for name in named]
        named_splits = dict(zip(keys, named.values(), strict=True))
        read = _read(named_splits, files, skip_missing=skip_missing)
        splits += [split._replace(group=group) for split in read]
    return splits if sources.dev else _hold_out(splits, config.data.holdout)


def _hold_out(splits: list[Split], share: float) -> list[Split]:
    """Divide each split with images, or with pairs, into train and dev."""
    train, dev = [], []
    for split in splits:
        if split.text:
            train.append(split)
            continue
        held_out = split._replace(name=split.name.replace("train", "dev", 1), group="dev")
        if split.pairs is not None:
            pairs, held_out_pairs = _held_out(split, split.pairs, share, "text")
            train.append(split._replace(pairs=pairs))
            dev.append(held_out._replace(pairs=held_out_pairs))
        else:
            examples, held_out_examples = _held_out(split, split.examples, share, "image")
            train.append(split._replace(examples=examples))
            dev.append(held_out._replace(examples=held_out_examples))
    return [*train, *dev]


def _held_out(
    split: Split, examples: Sequence[AnyExample], share: float, noun: str
) -> tuple[list[AnyExample], list[AnyExample]]:
    """Divide examples into train and dev as training does; if there is one, record an error."""
    kept, held_out = train_dev_split(examples, share)
    if kept:
        return kept, held_out
    name = split.name.removeprefix("train ")
    split.problems.add_error("no images or texts for dev", [too_few_to_hold_out(name, noun)])
    return held_out, []


def _read_file(path: Path, images: Path | None, target: Path | None) -> list[Split]:
    """Read a file, or two with parallel text, as one split, or as the splits that it names."""
    if target or is_parallel(path):
        if images:
            raise UsageError(f"{path} is text and has no images: leave out --images")
        return _read({path.name: SourceConfig(source=path, target=target)}, {})
    if is_plain_text(path):
        return _read({path.name: SourceConfig(text=path)}, {})
    splits = {
        name or path.name: SourceConfig(annotations=path, images=images, split=name)
        for name in split_names(path)
    }
    try:
        return _read(splits, {})
    except UnsupportedFormatError as error:
        hint = "If it is text with a translation of each line, add --target FILE"
        raise UsageError(f"{error.marked_message}\n{hint}") from error


def _read(
    sources: dict[str, SourceConfig], files: dict[Path, Problems], *, skip_missing: bool = False
) -> list[Split]:
    """Read the splits. Those of the same file share its problems, which are kept in `files`."""
    splits = []
    for name, source in sources.items():
        if source.source:
            problems = pair_problems(source.source, source.target)
            pairs = load_pairs(source.source, source.target, problems)
            splits.append(Split(name, (), (), problems, pairs=pairs))
            continue
        shared = files.setdefault(source.path, Problems(source.path))
        if source.text:
            splits.append(Split(name, (), (), shared, load_text(source.path, shared)))
            continue
        loaded = load_image_source(source, shared, skip_missing=skip_missing)
        split = Split(name, loaded.examples, loaded.missing, shared)
        splits.append(split._replace(skips_bad_images=skip_missing))
    return splits
