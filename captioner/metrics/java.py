"""The metrics that need Java: METEOR 1.5 with paraphrases, and SPICE (Anderson et al. 2016).

The Java programs are those of pycocoevalcap (`pip install pycocoevalcap`). Each runs once for
all captions and then exits, so no process is left behind and no call waits forever.
"""

from __future__ import annotations

import importlib.util
import json
import math
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

from captioner.errors import UsageError
from captioner.metrics.meteor import DELTA, EXACT, PARAPHRASE, STEM, SYNONYM, corpus_meteor

_CORENLP_FILES = ("lib/stanford-corenlp-3.6.0.jar", "lib/stanford-corenlp-3.6.0-models.jar")


class JavaMeteor:
    """METEOR 1.5 as COCO's tool runs it and papers report it; 5,000 captions take 30 seconds."""

    def __init__(self, references: Sequence[Sequence[Sequence[str]]]) -> None:
        """Store tokenized references: images x references x words, at least one for each image.

        Raises:
            UsageError: Java or pycocoevalcap is not installed.
        """
        program = _find_program("METEOR", "meteor/meteor-1.5.jar")
        self._command = ["-Xmx2G", "-jar", program, "-", "-", "-stdio", "-l", "en", "-norm"]
        self._references = [" ||| ".join(map(_escape, captions)) for captions in references]

    def score(self, candidates: Sequence[Sequence[str]]) -> tuple[float, list[float]]:
        """Return the METEOR (0 to 1) of the set, and that of each image: see `Meteor.score`."""
        return corpus_meteor(self.statistics(candidates))

    def statistics(self, candidates: Sequence[Sequence[str]]) -> list[tuple[float, ...]]:
        """Return the columns of `Meteor.statistics`, from the matches of the Java program."""
        pairs = zip(self._references, map(_escape, candidates), strict=True)
        requests = "".join(f"SCORE ||| {refs} ||| {candidate}\n" for refs, candidate in pairs)
        lines = _run_java("METEOR", self._command, requests).splitlines()
        rows = [
            _weigh([float(number) for number in line.split()]) for line in lines if line.strip()
        ]
        if len(rows) != len(candidates):
            raise UsageError(
                f"METEOR scored {len(rows)} of {len(candidates)} captions: run it again"
            )
        return rows


class Spice:
    """SPICE against one set of references: the objects, attributes and relations of a caption."""

    def __init__(self, references: Sequence[Sequence[Sequence[str]]]) -> None:
        """Store tokenized references: images x references x words, at least one for each image.

        Raises:
            UsageError: Java, pycocoevalcap or Stanford's CoreNLP models are not installed.
        """
        self._program = _find_program("SPICE", "spice/spice-1.0.jar")
        files = (Path(self._program).parent / name for name in _CORENLP_FILES)
        if missing := [file for file in files if not file.is_file()]:
            raise UsageError(
                f"SPICE needs Stanford's CoreNLP 3.6.0, and {missing[0]} does not exist: download "
                'it once (0.4 GB): python -c "from pycocoevalcap.spice.spice import Spice; Spice()"'
            )
        self._references = [[" ".join(words) for words in captions] for captions in references]

    def score(self, candidates: Sequence[Sequence[str]]) -> tuple[float, list[float]]:
        """Return the mean SPICE (0 to 1), and that of each image.

        `candidates` has one tokenized caption for each image, in the order of the references.
        """
        entries = [
            {"image_id": image, "test": " ".join(words), "refs": references}
            for image, (words, references) in enumerate(
                zip(candidates, self._references, strict=True)
            )
        ]
        with TemporaryDirectory() as folder:  # the program reads and writes files only
            source, target = Path(folder, "captions.json"), Path(folder, "scores.json")
            source.write_text(json.dumps(entries), encoding="utf-8")
            command = ["-Xmx8G", "-jar", self._program, str(source), "-out", str(target)]
            _run_java("SPICE", [*command, "-subset", "-silent"])
            results = json.loads(target.read_bytes())
        f_scores = {entry["image_id"]: entry["scores"]["All"]["f"] for entry in results}
        scores = [_zero_if_undefined(f_scores[image]) for image in range(len(entries))]
        return sum(scores) / max(1, len(scores)), scores

    def statistics(self, candidates: Sequence[Sequence[str]]) -> list[tuple[float, ...]]:
        """Return the SPICE of each image, as rows with one column."""
        return [(score,) for score in self.score(candidates)[1]]


JavaMetricName = Literal["METEOR_java", "SPICE"]
JAVA_METRICS: dict[JavaMetricName, type[JavaMeteor] | type[Spice]] = {
    "METEOR_java": JavaMeteor,
    "SPICE": Spice,
}
JAVA_VERSIONS: dict[JavaMetricName, str] = {
    "METEOR_java": "java-1.5",
    "SPICE": "java-1.0",
}


def check_java_metrics(names: Sequence[JavaMetricName]) -> None:
    """Raise an error if a metric cannot run, before any image is captioned.

    Raises:
        UsageError: something that a metric needs is not installed.
    """
    for name in names:
        JAVA_METRICS[name]([])


def _find_program(metric: str, path: str) -> str:
    """Return the path of a Java program of pycocoevalcap."""
    package = importlib.util.find_spec("pycocoevalcap")
    if package is None or not package.submodule_search_locations:
        raise UsageError(
            f"{metric} needs pycocoevalcap, which is not installed: pip install pycocoevalcap"
        )
    if shutil.which("java") is None:
        raise UsageError(
            f"{metric} needs Java, and there is no command java: "
            "install a Java runtime, version 8 or newer"
        )
    return str(Path(package.submodule_search_locations[0], path))


def _run_java(metric: str, arguments: Sequence[str], text: str = "") -> str:
    """Run a Java program with `text` as its input, and return its output.

    Raises:
        UsageError: the program failed; the message has its reason.
    """
    command = ["java", "-Dfile.encoding=UTF-8", *arguments]
    result = subprocess.run(
        command, input=text, capture_output=True, encoding="utf-8", errors="replace", check=False
    )
    if result.returncode:
        lines = (result.stderr.strip() or result.stdout.strip() or "no message").splitlines()
        errors = [line for line in lines if "Exception" in line or "Error" in line]
        raise UsageError(
            f"{metric} failed: {(errors or lines)[-1].strip()}; "
            "the program was written for Java 8: try that version"
        )
    return result.stdout


def _escape(words: Sequence[str]) -> str:
    """Return the caption as text without "|||", which separates captions in METEOR's input."""
    return " ".join(words).replace("|||", " ")


def _weigh(numbers: list[float]) -> tuple[float, ...]:
    """Return a row of `Meteor.statistics` from a line that METEOR printed.

    It has the lengths and the function words of candidate and reference; for each matcher the
    matched content words, then function words, of both; the chunks; and the matched words of both.
    """
    lengths, function_words, matchers = numbers[0:2], numbers[2:4], numbers[4:-3]
    chunks, *matches = numbers[-3:]
    matched, reference_matched = 0.0, 0.0
    for n, weight in enumerate((EXACT, STEM, SYNONYM, PARAPHRASE)):
        content, reference_content, function, reference_function = matchers[4 * n : 4 * n + 4]
        matched += weight * _weighted_count(content, function)
        reference_matched += weight * _weighted_count(reference_content, reference_function)
    if chunks == 1 and matches == lengths:
        chunks = 0  # as in `Meteor`: all words match in the same order
    weights = [
        _weighted_count(length - function, function)
        for length, function in zip(lengths, function_words, strict=True)
    ]
    return matched, reference_matched, *weights, sum(matches) / 2, chunks


def _weighted_count(content: float, function: float) -> float:
    return DELTA * content + (1 - DELTA) * function


def _zero_if_undefined(score: float | None) -> float:
    """Return 0 if SPICE found nothing to compare."""
    return 0.0 if score is None or math.isnan(score) else score
