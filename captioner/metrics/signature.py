"""The line that names what scores were computed from: images, references, versions of metrics."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version

from captioner.captions import ImageId
from captioner.metrics.bleu import BLEU_VERSION
from captioner.metrics.cider import CIDER_VERSION
from captioner.metrics.java import JAVA_VERSIONS, JavaMetricName
from captioner.metrics.meteor import METEOR_VERSION, meteor_name
from captioner.metrics.rouge import ROUGE_VERSION
from captioner.text.tokenizer import TOKENIZER_VERSION


def build_signature(
    references: Mapping[ImageId, Sequence[str]],
    *,
    set_size: int,
    meteor_stages: str,
    java: Sequence[JavaMetricName] = (),
) -> str:
    """Return a line that names the scored images, the references, and the version of each metric.

    For example, images:900/1000|refs:5|split:1f0c63d85b9a|tokenizer:... means 900 of 1,000 images
    with five references each; the split is identified by the first digits of `hash_split`.

    Args:
        references: the raw references of each scored image.
        set_size: the images of the whole set.
        meteor_stages: the matchers of METEOR: see `captioner.metrics.meteor.Lexicon`.
        java: the metrics computed by Java.
    """
    counts = sorted({len(captions) for captions in references.values()})
    parts: dict[str, object] = {
        "images": len(references)
        if len(references) == set_size
        else f"{len(references)}/{set_size}",
        "refs": counts[0] if len(counts) == 1 else f"{counts[0]}-{counts[-1]}",
        "split": hash_split(references)[:12],
        "tokenizer": TOKENIZER_VERSION,
        "Bleu": BLEU_VERSION,
        meteor_name(meteor_stages): f"{METEOR_VERSION}({meteor_stages})",
        "ROUGE_L": ROUGE_VERSION,
        "CIDEr-D": CIDER_VERSION,
        **{name: JAVA_VERSIONS[name] for name in java},
        "captioner": captioner_version(),
    }
    return "|".join(f"{name}:{value}" for name, value in parts.items())


def hash_split(references: Mapping[ImageId, Sequence[str]]) -> str:
    """Return the SHA-256, in hexadecimal, of the image ids and references, in any order."""
    lines = sorted(json.dumps([image, sorted(captions)]) for image, captions in references.items())
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def captioner_version() -> str:
    """Return the version of the installed captioner package, or "uninstalled"."""
    try:
        return version("captioner")
    except PackageNotFoundError:  # run from a checkout that is not installed
        return "uninstalled"
