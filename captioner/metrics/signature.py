"""The line below every score that names each choice behind it: equal signatures, comparable scores."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version

from captioner.captions import ImageId
from captioner.metrics.bleu import BLEU_VERSION
from captioner.metrics.cider import CIDER_VERSION
from captioner.metrics.java import JAVA_VERSIONS, JavaName
from captioner.metrics.meteor import METEOR_VERSION
from captioner.metrics.rouge import ROUGE_VERSION
from captioner.text.tokenizer import TOKENIZER_VERSION


def sign(
    references: Mapping[ImageId, Sequence[str]],
    *,
    of: int,
    meteor_stages: str,
    java: Sequence[JavaName] = (),
) -> str:
    """Name what was scored, with what, by which version; `of` is how many images the whole set has.

    For example images:900/1000|refs:5|split:1f0c63d85b9a|tokenizer:...: nine hundred of a thousand images, five
    references each, and the first digits of `hash_split`.
    """
    counts = sorted({len(captions) for captions in references.values()})
    parts: dict[str, object] = {
        "images": len(references) if len(references) == of else f"{len(references)}/{of}",
        "refs": counts[0] if len(counts) == 1 else f"{counts[0]}-{counts[-1]}",
        "split": hash_split(references)[:12],
        "tokenizer": TOKENIZER_VERSION,
        "Bleu": BLEU_VERSION,
        "METEOR": f"{METEOR_VERSION}({meteor_stages})",
        "ROUGE_L": ROUGE_VERSION,
        "CIDEr-D": CIDER_VERSION,
        **{name: JAVA_VERSIONS[name] for name in java},
        "captioner": own_version(),
    }
    return "|".join(f"{name}:{value}" for name, value in parts.items())


def hash_split(references: Mapping[ImageId, Sequence[str]]) -> str:
    """Give the SHA-256, in hexadecimal, of image ids with their references, whatever the order of either."""
    lines = sorted(json.dumps([image, sorted(captions)]) for image, captions in references.items())
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def own_version() -> str:
    """Give the version of captioner that is running."""
    try:
        return version("captioner")
    except PackageNotFoundError:  # run from a checkout that is not installed
        return "uninstalled"
