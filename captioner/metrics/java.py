"""The metrics that want Java, where it is: METEOR 1.5 with its paraphrases, and SPICE (Anderson et al. 2016).

The programs are those that pycocoevalcap brings (`pip install "captioner[java]"`). Each runs once for all captions and
ends: nothing waits for an answer that does not come, and no process stays behind.
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
from captioner.metrics.meteor import DELTA, EXACT, STEM, SYNONYM, meteor

JAVA_METEOR_VERSION = "java-1.5"
SPICE_VERSION = "java-1.0"
PARAPHRASE = 0.6
"""What a match of the stage that only Java's METEOR has is worth."""

_MODELS = ("lib/stanford-corenlp-3.6.0.jar", "lib/stanford-corenlp-3.6.0-models.jar")


class JavaMeteor:
    """METEOR 1.5 as COCO's tool runs it: what papers print. Takes half a minute for 5,000 captions."""

    def __init__(self, references: Sequence[Sequence[Sequence[str]]]) -> None:
        """Take the tokenised references of each image: images x references x words. Each image has at least one.

        Raises UsageError where Java or pycocoevalcap is missing.
        """
        program = _program("METEOR", "meteor/meteor-1.5.jar")
        self._command = ["-Xmx2G", "-jar", program, "-", "-", "-stdio", "-l", "en", "-norm"]
        self._references = [" ||| ".join(map(_text, captions)) for captions in references]

    def score(self, candidates: Sequence[Sequence[str]]) -> tuple[float, list[float]]:
        """Give the METEOR of the set (0 to 1) and that of each image, for one tokenised caption per image, in order."""
        rows = self.statistics(candidates)
        return meteor([sum(column) for column in zip(*rows, strict=True)] or [0.0] * 6), [
            meteor(row) for row in rows
        ]

    def statistics(self, candidates: Sequence[Sequence[str]]) -> list[tuple[float, ...]]:
        """Give the rows of `Meteor.statistics`, as Java's METEOR matches and aligns the words."""
        pairs = zip(self._references, map(_text, candidates), strict=True)
        answers = _run_java(
            "METEOR", self._command, "".join(f"SCORE ||| {its} ||| {mine}\n" for its, mine in pairs)
        )
        rows = [
            _row([float(number) for number in line.split()])
            for line in answers.splitlines()
            if line.strip()
        ]
        if len(rows) != len(candidates):
            raise UsageError(
                f"METEOR answered {len(rows)} of {len(candidates)} captions; run it again"
            )
        return rows


class Spice:
    """Scores what a caption says, as things, attributes and relations, against one set of references."""

    def __init__(self, references: Sequence[Sequence[Sequence[str]]]) -> None:
        """Take the tokenised references of each image: images x references x words. Each image has at least one.

        Raises UsageError where Java, pycocoevalcap or the models of Stanford's CoreNLP are missing.
        """
        self._program = _program("SPICE", "spice/spice-1.0.jar")
        if missing := [
            name for name in _MODELS if not (Path(self._program).parent / name).is_file()
        ]:
            raise UsageError(
                f"SPICE needs Stanford's CoreNLP 3.6.0, and {Path(self._program).parent / missing[0]} is not there; "
                'download it, once (0.4 GB): python -c "from pycocoevalcap.spice.spice import Spice; Spice()"'
            )
        self._references = [[" ".join(words) for words in captions] for captions in references]

    def score(self, candidates: Sequence[Sequence[str]]) -> tuple[float, list[float]]:
        """Give the mean SPICE (0 to 1) and that of each image, for one tokenised caption per image, in order."""
        entries = [
            {"image_id": image, "test": " ".join(words), "refs": references}
            for image, (words, references) in enumerate(
                zip(candidates, self._references, strict=True)
            )
        ]
        with TemporaryDirectory() as folder:
            given, found = Path(folder, "captions.json"), Path(folder, "scores.json")
            given.write_text(json.dumps(entries), encoding="utf-8")
            _run_java(
                "SPICE",
                [
                    "-Xmx8G",
                    "-jar",
                    self._program,
                    str(given),
                    "-out",
                    str(found),
                    "-subset",
                    "-silent",
                ],
            )
            answers = {
                entry["image_id"]: entry["scores"]["All"]["f"]
                for entry in json.loads(found.read_bytes())
            }
        scores = [_number(answers[image]) for image in range(len(entries))]
        return sum(scores) / max(1, len(scores)), scores

    def statistics(self, candidates: Sequence[Sequence[str]]) -> list[tuple[float, ...]]:
        """Give the SPICE of each image, as a row of one number."""
        return [(score,) for score in self.score(candidates)[1]]


JavaName = Literal["METEOR_java", "SPICE"]
JAVA: dict[JavaName, type[JavaMeteor] | type[Spice]] = {"METEOR_java": JavaMeteor, "SPICE": Spice}
JAVA_VERSIONS: dict[JavaName, str] = {"METEOR_java": JAVA_METEOR_VERSION, "SPICE": SPICE_VERSION}


def check_java(names: Sequence[JavaName]) -> None:
    """Make sure, before any captioning is done, that what these metrics need is there. Raises UsageError."""
    for name in names:
        JAVA[name]([])


def _program(metric: str, path: str) -> str:
    """Find a program of pycocoevalcap, and Java to run it."""
    package = importlib.util.find_spec("pycocoevalcap")
    if package is None or not package.submodule_search_locations:
        raise UsageError(
            f'{metric} needs pycocoevalcap, which is not installed; pip install "captioner[java]"'
        )
    if shutil.which("java") is None:
        raise UsageError(
            f"{metric} needs Java, and there is no command java; install a Java runtime, 8 or newer"
        )
    return str(Path(package.submodule_search_locations[0], path))


def _run_java(metric: str, arguments: Sequence[str], text: str = "") -> str:
    """Run a program from beginning to end. Raises UsageError with the reason it gives where it fails."""
    command = ["java", "-Dfile.encoding=UTF-8", *arguments]
    done = subprocess.run(
        command, input=text, capture_output=True, encoding="utf-8", errors="replace", check=False
    )
    if done.returncode:
        lines = (done.stderr.strip() or done.stdout.strip() or "nothing").splitlines()
        reason = next(
            (line for line in reversed(lines) if "Exception" in line or "Error" in line), lines[-1]
        )
        raise UsageError(
            f"{metric} stopped with {reason.strip()}; it was written for Java 8, which is the one to try"
        )
    return done.stdout


def _text(words: Sequence[str]) -> str:
    """Write a caption for METEOR, to which "|||" means the end of it."""
    return " ".join(words).replace("|||", " ")


def _row(numbers: Sequence[float]) -> tuple[float, ...]:
    """Weigh METEOR's counts: lengths, function words, four numbers for each stage, chunks, matched words."""
    (
        length,
        reference_length,
        function_words,
        reference_function_words,
        *stages,
        chunks,
        matches,
        its_matches,
    ) = numbers
    mine = its = 0.0
    for n, worth in enumerate((EXACT, STEM, SYNONYM, PARAPHRASE)):
        content, its_content, function, its_function = stages[4 * n : 4 * n + 4]
        mine += worth * (DELTA * content + (1 - DELTA) * function)
        its += worth * (DELTA * its_content + (1 - DELTA) * its_function)
    if chunks == 1 and matches == length and its_matches == reference_length:
        chunks = 0  # as in `Meteor`: nothing is missing or moved
    weight = DELTA * (length - function_words) + (1 - DELTA) * function_words
    reference_weight = (
        DELTA * (reference_length - reference_function_words)
        + (1 - DELTA) * reference_function_words
    )
    return mine, its, weight, reference_weight, (matches + its_matches) / 2, chunks


def _number(score: float | None) -> float:
    """Count 0 where SPICE finds nothing to compare."""
    return 0.0 if score is None or math.isnan(score) else score
