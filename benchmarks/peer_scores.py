"""Score a results file with pycocoevalcap: python -m benchmarks.peer_scores REFERENCES RESULTS.

This is COCOEvalCap.evaluate without SPICE, whose Java needs half a gigabyte of models. It prints
one JSON object.
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections import defaultdict
from pathlib import Path


def score(references: Path, results: Path) -> dict[str, float]:
    """Return the metrics of a results file, tokenized by Java's PTB tokenizer."""
    from pycocoevalcap.bleu.bleu import Bleu
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.meteor.meteor import Meteor
    from pycocoevalcap.rouge.rouge import Rouge
    from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

    truth, found = defaultdict(list), defaultdict(list)
    for each in json.loads(references.read_text(encoding="utf-8"))["annotations"]:
        truth[each["image_id"]].append({"caption": each["caption"]})
    for each in json.loads(results.read_text(encoding="utf-8")):
        found[each["image_id"]].append({"caption": each["caption"]})
    tokenizer = PTBTokenizer()
    true_words, found_words = tokenizer.tokenize(truth), tokenizer.tokenize(found)
    bleu, _ = Bleu(4).compute_score(true_words, found_words)
    return {
        **{f"Bleu_{n}": value for n, value in enumerate(bleu, start=1)},
        "METEOR": Meteor().compute_score(true_words, found_words)[0],
        "ROUGE_L": float(Rouge().compute_score(true_words, found_words)[0]),
        "CIDEr": float(Cider().compute_score(true_words, found_words)[0]),
    }


if __name__ == "__main__":
    with contextlib.redirect_stdout(sys.stderr):  # the scorers print
        metrics = score(Path(sys.argv[1]), Path(sys.argv[2]))
    print(json.dumps(metrics))
