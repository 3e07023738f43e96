"""`captioner push`: upload a model folder to the Hugging Face hub, with its model card."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from captioner.console import console
from captioner.errors import UsageError
from captioner.hub_names import HubName, parse_hub_name
from captioner.models.folder import resolve

EXAMPLE = "captioner push runs/first/best owner/name --license mit --private"


def push(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="The model folder to upload.")],
    repository: Annotated[
        str, typer.Argument(metavar="OWNER/NAME", help="Its name on the hub; it is made if needed.")
    ],
    private: Annotated[
        bool, typer.Option("--private", help="Only you may see a repository that is made.")
    ] = False,
    revision: Annotated[
        str | None,
        typer.Option(metavar="BRANCH", help="The branch to commit to.", show_default="main"),
    ] = None,
    message: Annotated[
        str | None, typer.Option(metavar="TEXT", help="Message of the commit.", show_default=False)
    ] = None,
    license: Annotated[
        str | None,
        typer.Option(
            metavar="ID",
            help="License of the model as the hub names it, such as mit; asked for on a terminal.",
            show_default="that of the card in the folder",
        ),
    ] = None,
    scores: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Scores of captioner evaluate, for the card.",
            show_default="scores.json of the model or of its run",
        ),
    ] = None,
    dataset: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="A data set of the hub, for the card; repeatable.",
            show_default=False,
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the model card, and upload nothing.")
    ] = False,
) -> None:
    """Upload a model folder to the Hugging Face hub in one commit, with its model card.

    The card has the data, the license, scores with intervals, how to use the model and what it is
    bad at. The text of a MODEL_CARD.md or README.md in the folder is kept. The token is that of
    `hf auth login`, or of HF_TOKEN.
    """
    target = _parse(repository, revision)
    source = resolve(folder)
    from captioner.models.card import build_card
    from captioner.models.card_facts import is_usage_page, read_facts
    from captioner.models.hub import CARD, USAGE, upload_model

    facts = read_facts(source, target.name, scores=scores, license=license, data_sets=dataset or ())
    if facts.license is None and not dry_run:
        facts = facts.with_license(_ask_license())
    card = build_card(facts)
    if dry_run:
        typer.echo(card, nl=False)
        return
    files = {CARD: card}
    readme = source / CARD
    if readme.is_file() and is_usage_page(text := readme.read_text(encoding="utf-8")):
        files[USAGE] = text
    typer.echo(upload_model(source, target, files=files, private=private, message=message))


def _parse(repository: str, branch: str | None) -> HubName:
    """Return the repository to push to; a folder of the same name here does not matter."""
    text = repository if repository.startswith("hf:") else f"hf://{repository}"
    try:
        target = parse_hub_name(text)
    except UsageError:
        raise UsageError(f"{repository} is no name on the hub: write owner/name") from None
    assert target is not None  # else an error was raised
    if target.revision is not None:
        raise UsageError(f"{repository}: name the branch with --revision {target.revision}")
    return target._replace(revision=branch)


def _ask_license() -> str | None:
    """Return the license that the user names on a terminal, or None, which is told."""
    answer = ""
    if sys.stdin is not None and sys.stdin.isatty():
        answer = typer.prompt(
            "License, such as mit or cc-by-4.0 (empty: state none)", default="", err=True
        )
    if not answer.strip():
        console.print("captioner: the card states no license: add --license ID", markup=False)
    return answer.strip() or None
