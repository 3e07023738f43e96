"""The model card of a model on the Hugging Face hub, filled in from its run and its evaluation.

It states what is known, and says what is not: no licence, score or data set is made up. A card that
somebody wrote (MODEL_CARD.md or README.md of the folder) is kept, and its sections win.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from captioner.config.schema import ImageEncoderConfig
from captioner.config.trunks import TIMM
from captioner.metrics.scorer import METRIC_LABELS, MIN_IMAGES
from captioner.models.card_facts import GENERATED, CardFacts, Scores

_HEADING = re.compile(r"^#+ *(.+)$", re.MULTILINE)
# Of the metrics that the hub has names for: its name.
_HUB_METRICS = {
    **{
        "Bleu_4": "bleu",
        "METEOR": "meteor",
        "ROUGE_L": "rouge",
        "CIDEr": "cider",
        "SPICE": "spice",
    },
    **{"BLEU": "sacrebleu", "chrF": "chrf", "exact": "exact_match"},
}


def build_card(facts: CardFacts) -> str:
    """Return the text of a model card: a header in YAML, and sections in Markdown."""
    taken = " | ".join(_HEADING.findall(facts.written)).lower()
    sections = [
        f"# {facts.name.partition('/')[2]}\n\n{_describe(facts)}",
        *(
            f"## {title}\n\n{text}"
            for title, text in _sections(facts)
            if _key(title) not in taken  # somebody has written this section
        ),
    ]
    body = "\n\n".join(sections)
    written = f"\n{facts.written}\n" if facts.written else ""
    block = f"{GENERATED}begin -->\n\n{body}\n\n{GENERATED}end -->\n"
    return f"---\n{_header(facts)}---\n\n{block}{written}"


def _key(title: str) -> str:
    """Return the words that a heading of the same subject has, in lower case."""
    return title.lower().removeprefix("what it is ")


def _header(facts: CardFacts) -> str:
    """Return the header that the hub reads, as YAML. What is not known is left out."""
    encoder = facts.config.encoder
    kind = encoder.trunk if isinstance(encoder, ImageEncoderConfig) else encoder.cell
    task = "translation" if facts.is_text else "image-captioning"
    tags = ["captioner", task, kind, facts.config.decoder.cell, *["onnx"] * facts.has_graphs]
    values = {
        **facts.header,
        "library_name": "captioner",
        "pipeline_tag": "translation" if facts.is_text else "image-to-text",
        "tags": [*dict.fromkeys([*facts.header.get("tags", ()), *tags])],
    }
    values.pop("model-index", None)  # of other weights, perhaps
    if facts.license:
        values["license"] = facts.license
    if facts.data_sets:
        values["datasets"] = [*facts.data_sets]
    if facts.scores:
        values["model-index"] = [
            {
                "name": facts.name.partition("/")[2],
                "results": [_result(facts, name, each) for name, each in facts.scores.items()],
            }
        ]
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True)


def _result(facts: CardFacts, name: str, scores: Scores) -> dict[str, Any]:
    task = "translation" if facts.is_text else "image-to-text"
    data_set = Path(name).stem
    return {
        "task": {"type": task},
        "dataset": {"name": data_set, "type": re.sub(r"[^\w-]+", "-", data_set).lower()},
        "metrics": [
            {"type": _HUB_METRICS[metric], "name": METRIC_LABELS[metric], "value": round(value, 4)}
            for metric, value in _metrics(scores).items()
            if metric in _HUB_METRICS
        ],
    }


def _metrics(scores: Scores) -> dict[str, float]:
    return {name: float(scores[name]) for name in METRIC_LABELS if name in scores}


def _describe(facts: CardFacts) -> str:
    encoder, decoder = facts.config.encoder, facts.config.decoder
    if isinstance(encoder, ImageEncoderConfig):
        size = encoder.image_size
        reads = f"an image ({size} x {size} pixels) with the CNN `{encoder.trunk}`"
        does = "A model that captions images."
    else:
        reads = f"a text with an RNN (`{encoder.cell}`)"
        does = "A model that generates a text from a text."
    return (
        f"{does} It reads {reads}, and writes with a recurrent decoder (`{decoder.cell}`, "
        f"{decoder.hidden_size} units, context `{decoder.context}`) of {facts.words:,} tokens."
    )


def _sections(facts: CardFacts) -> Iterator[tuple[str, str]]:
    """Yield the heading and the text of each section."""
    yield "How to use", _usage(facts)
    yield "Training data", _training_data(facts)
    yield "Evaluation", "\n\n".join(_evaluation(facts))
    yield "What it is bad at", "\n".join(f"* {line}" for line in _weaknesses(facts))
    if facts.license:
        text = f"`{facts.license}`, as its publisher states. The training data has its own terms."
    else:
        text = "Its publisher states none. Ask before you use it; the data has its own terms too."
    yield "License", text


def _usage(facts: CardFacts) -> str:
    if facts.is_text:
        command = f"captioner translate --model {facts.name} text.txt"
        name, call = "Translator", 'translate("A dog runs.")'
    else:
        command = f"captioner caption --model {facts.name} photo.jpg"
        name, call = "Captioner", 'caption("photo.jpg")'
    encoder = facts.config.encoder
    is_timm = isinstance(encoder, ImageEncoderConfig) and encoder.trunk.startswith(TIMM)
    extras = "hub,timm" if is_timm and not facts.has_graphs else "hub"
    graphs = ""
    if facts.has_graphs:
        graphs = "\n\nIt has ONNX graphs, which need no PyTorch: `encoder.onnx` and `step.onnx`."
    return (
        f'```sh\npip install "captioner[{extras}]"\n{command}\n```\n\n'
        f"```python\nfrom captioner import {name}\n\n"
        f'print({name}.from_pretrained("{facts.name}").{call}.text)\n```{graphs}'
    )


def _training_data(facts: CardFacts) -> str:
    started = f"Training started from {facts.first_weights}." if facts.first_weights else ""
    if not facts.sources:
        return f"Not recorded with this model: ask its publisher. {started}".rstrip()
    rows = ["| split | source | examples | captions |", "|---|---|---:|---:|"]
    for split, sources in facts.sources.items():
        for each in sources:
            name = f"`{each['dataset']}`" if "dataset" in each else str(each["name"])
            repeat = int(each.get("repeat", 1))
            times = f", {repeat} times an epoch" if repeat > 1 else ""
            rows.append(
                f"| {split} | {name}{times} | {each['examples']:,} | {each['captions']:,} |"
            )
    return "\n".join([*rows, "", started] if started else rows)


def _evaluation(facts: CardFacts) -> Iterator[str]:
    if not facts.scores:
        yield "It was not evaluated with `captioner evaluate`."
        return
    yield "Scores are times 100, with 95 % bootstrap intervals, from `captioner evaluate`."
    for name, scores in facts.scores.items():
        rows = [f"| {Path(name).stem} | score | 95 % interval |", "|---|---:|---:|"]
        for metric, value in _metrics(scores).items():
            low, high = (100 * bound for bound in scores["intervals"][metric])
            rows.append(
                f"| {METRIC_LABELS[metric]} | {100 * value:.2f} | {low:.2f} to {high:.2f} |"
            )
        yield "\n".join(rows)
        lines = [scores["signature"]] if "signature" in scores else []
        lines += [f"{key}: {line}" for key, line in scores.get("signatures", {}).items()]
        yield "```text\n" + "\n".join(lines) + "\n```"


def _weaknesses(facts: CardFacts) -> Iterator[str]:
    """Yield what the evaluation and the model itself say, a line each."""
    if not facts.scores:
        yield "It was not evaluated, so this is not known. Look at its output before you use it."
    for name, scores in facts.scores.items():
        if "diversity" in scores:
            yield from _diversity(Path(name).stem, scores["diversity"], scores["people"])
        yield from scores.get("warnings", ())
    if confidence := facts.config.confidence:
        few = " (few)" if confidence.images < MIN_IMAGES else ""
        yield (
            f"Its confidences are off by {confidence.error:.3f} on average (expected calibration "
            f"error, {confidence.images:,} images{few})."
        )
    elif not facts.is_text:
        yield "Its confidences are not calibrated: a low one is no warning."
    encoder = facts.config.encoder
    if isinstance(encoder, ImageEncoderConfig) and encoder.transform == "squash":
        yield "Images are resized to a square; their aspect ratio is lost."
    yield f"It writes no words but the {facts.words:,} tokens of its vocabulary."
    yield "Do not use it where a wrong text does harm."


def _diversity(name: str, own: Mapping[str, Any], people: Mapping[str, Any]) -> Iterator[str]:
    yield (
        f"Few words ({name}): {own['vocabulary']:,} different ones; the first references, written "
        f"by people, have {people['vocabulary']:,}."
    )
    yield (
        f"The same captions ({name}): {own['distinct']:.1%} are distinct; of the references, "
        f"{people['distinct']:.1%}."
    )
    yield f"Repeated words ({name}): in {own['repetitive']:.1%} of the captions."
