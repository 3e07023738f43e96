"""What a model card states: read from a model folder, the run around it, and its evaluation."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from captioner.config.schema import ModelConfig
from captioner.errors import UsageError
from captioner.hub_names import parse_hub_name
from captioner.models.folder import read_config, read_vocabularies
from captioner.results.files import SCORES, read_scores

Scores = Mapping[str, Any]
"""What `captioner evaluate` writes for one results file: `Scores.as_dict`."""

GENERATED = "<!-- written by captioner push: "
_HEADER = re.compile(r"---\n(.*?)\n---\n", re.DOTALL)
_BLOCK = re.compile(
    re.escape(GENERATED) + r"begin -->.*?" + re.escape(GENERATED) + r"end -->\n?", re.DOTALL
)


@dataclass(frozen=True)
class CardFacts:
    """What a model card is made of."""

    name: str  # owner/name
    config: ModelConfig
    words: int  # of the vocabulary
    scores: Mapping[str, Scores]  # by the name of the results file
    sources: Mapping[str, Sequence[Mapping[str, Any]]]  # of train and dev: see `splits.json`
    data_sets: Sequence[str] = ()  # names on the hub
    license: str | None = None
    written: str = ""  # the card that somebody wrote, without its header
    header: Mapping[str, Any] = field(default_factory=dict)  # of that card
    has_graphs: bool = False
    first_weights: str | None = None  # what training started from; None: not recorded

    def with_license(self, license: str | None) -> CardFacts:
        """Return the same facts with a license."""
        return replace(self, license=license)

    @property
    def is_text(self) -> bool:
        """Whether the model reads text."""
        return self.config.encoder.kind == "text"


def read_facts(
    folder: Path,
    name: str,
    *,
    scores: Path | None = None,
    license: str | None = None,
    data_sets: Sequence[str] = (),
) -> CardFacts:
    """Return what a model folder and the run around it say of the model.

    Args:
        folder: of the model; `config.yaml`, `splits.json` and `scores.json` are looked for in it
            and in the folder that holds it.
        name: owner/name on the hub.
        scores: a file of `captioner evaluate`, in place of `scores.json`.
        license: as the hub names it, such as "mit"; None: that of the card in the folder.
        data_sets: names on the hub, in addition to those of the run.

    Raises:
        UsageError: a file of scores cannot be read.
        CaptionerError: the folder is damaged.
    """
    header, written = _read_written(folder)
    sources = _read_json(folder, "splits.json")
    own = [each["dataset"] for split in sources.values() for each in split if "dataset" in each]
    return CardFacts(
        name=name,
        config=ModelConfig.parse(read_config(folder), source=str(folder)),
        words=len(read_vocabularies(folder)[0]),
        scores=_find_scores(folder, scores),
        sources=sources,
        data_sets=[*dict.fromkeys([*data_sets, *own, *header.get("datasets", ())])],
        license=license or header.get("license"),
        written=written,
        header=header,
        has_graphs=(folder / "graphs.json").is_file(),
        first_weights=_first_weights(_read_run(folder)),
    )


def _find_scores(folder: Path, scores: Path | None) -> Mapping[str, Scores]:
    if scores is not None:
        if not scores.is_file():
            raise UsageError(f"{scores}: no such file of scores: captioner evaluate writes it")
        return read_scores(scores)
    for place in (folder, folder.resolve().parent):
        if (place / SCORES).is_file():
            return read_scores(place / SCORES)
    return {}


def _read_json(folder: Path, name: str) -> dict[str, Any]:
    """Return what a file of the run holds, or nothing: a model may have lost its run."""
    for place in (folder, folder.resolve().parent):
        try:
            content = json.loads((place / name).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        if isinstance(content, dict):
            return content
    return {}


def _read_run(folder: Path) -> Mapping[str, Any]:
    """Return the config of the run, or nothing."""
    try:
        config = yaml.safe_load((folder.resolve().parent / "config.yaml").read_text("utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    return config if isinstance(config, dict) else {}


def _first_weights(run: Mapping[str, Any]) -> str | None:
    """Return what the weights of a model were before training, without paths of this machine."""
    if init := run.get("init"):
        if init == "bundled":
            return "the bundled model of captioner"
        hub = parse_hub_name(init)
        return f"the model `{hub}`" if hub else "an earlier model"
    encoder = run.get("encoder")
    if not isinstance(encoder, dict) or encoder.get("kind", "image") != "image":
        return None
    match encoder.get("weights"):
        case None:
            return None
        case "none":
            return "random weights"
        case "default":
            return f"the pretrained weights of `{encoder.get('trunk')}`, and a random decoder"
        case weights:
            return f"the CNN in `{Path(str(weights)).name}`, and a random decoder"


def is_usage_page(text: str) -> bool:
    """Return whether a README is the page that `captioner export` writes, which is no card."""
    return text.startswith("# ") and text.partition("\n")[0].endswith("with ONNX graphs")


def _read_written(folder: Path) -> tuple[dict[str, Any], str]:
    """Return the header and the text of the card that somebody wrote; none of them: nothing."""
    for name in ("MODEL_CARD.md", "README.md"):
        try:
            text = (folder / name).read_text(encoding="utf-8", errors="replace")
        except OSError:
            continue
        if is_usage_page(text):
            continue
        header: dict[str, Any] = {}
        if match := _HEADER.match(text):
            try:
                values = yaml.safe_load(match[1])
            except yaml.YAMLError as error:
                raise UsageError(
                    f"{folder / name}: its header is no YAML: {' '.join(str(error).split())[:150]}"
                ) from None
            header = values if isinstance(values, dict) else {}
            text = text[match.end() :]
        return header, _BLOCK.sub("", text).strip()
    return {}, ""
