"""Scores of translations and other generated texts: sacreBLEU, chrF, BLEU and exact match.

sacreBLEU (Post 2018) reads plain text and splits it by its own rules. Its scores are therefore
comparable with those of other systems and papers. The project's own BLEU reads the tokens of a
given tokenizer. It needs no library, and chooses the best model in training.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, zip_longest
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from captioner.console import one_line
from captioner.errors import UsageError, summarize
from captioner.metrics.bleu import BLEU_VERSION, Bleu, bleu
from captioner.metrics.chrf import BETA, MAX_LENGTH, chrf, chrf_statistics
from captioner.metrics.scorer import (
    METRIC_LABELS,
    metric_rows,
    percentile_interval,
    resample_sums,
)
from captioner.metrics.signature import captioner_version, hash_split
from captioner.metrics.significance import PairedComparison, largest_leads, measure_differences

if TYPE_CHECKING:
    from sacrebleu.metrics.bleu import BLEU

TextId = int | str
"""What identifies a source text: its position, or a name."""

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class TranslationScores:
    """The metrics that need no library: "Bleu_1" to "Bleu_4" and "exact", from 0 to 1."""

    statistics: Floats  # (I, 12) the columns that `_own_metrics` describes, of I texts

    @cached_property
    def metrics(self) -> dict[str, float]:
        """The value of each metric on the whole set, not rounded."""
        sums = self.statistics.sum(axis=0)[:, None]  # (12, 1)
        return {name: value.item() for name, value in _own_metrics(sums).items()}


@dataclass(frozen=True, eq=False)
class TranslationEvaluation:
    """All metrics of one set of outputs, and what you need to compare it with another set.

    The metrics range from 0 to 1: "BLEU" and "BLEU_lc" (sacreBLEU, cased and in lower case),
    "chrF", "Bleu_1" to "Bleu_4" (the project's own, over tokens), and "exact".
    """

    references: Mapping[TextId, Sequence[str]]  # of I texts
    outputs: Mapping[TextId, str]
    statistics: Floats  # (I, 50) the columns that `_all_metrics` describes
    metrics: Mapping[str, float]  # on the whole set, not rounded
    signatures: Mapping[str, str]  # of "BLEU", "BLEU_lc", "chrF" as sacreBLEU prints it; of "Bleu"

    @cached_property
    def intervals(self) -> dict[str, tuple[float, float]]:
        """The 95 % bootstrap interval of each metric; with under 30 texts it is too narrow."""
        samples = _all_metrics(resample_sums(self.statistics))
        return {name: percentile_interval(values) for name, values in samples.items()}

    @property
    def sentence_chrf(self) -> list[float]:
        """The chrF of each text alone, in the order of the references."""
        scores: list[float] = chrf(self.statistics[:, 32:].T).tolist()
        return scores

    @property
    def signature_lines(self) -> str:
        """The signatures as lines of text, each after the name of its metric."""
        return "\n".join(
            f"{METRIC_LABELS.get(name, 'BLEU-1 to 4')}: {line}"
            for name, line in self.signatures.items()
        )

    def as_dict(self) -> dict[str, object]:
        """Return the metrics, intervals and signatures, ready for JSON."""
        signatures = dict(self.signatures)
        return {**self.metrics, "intervals": self.intervals, "signatures": signatures}

    def table(self) -> str:
        """Return a text table: metrics and intervals times 100, and the signatures."""
        return "\n".join([*metric_rows(self.metrics, self.intervals), "", self.signature_lines])


class TextPair(NamedTuple):
    """The two outputs for one text, its first reference, and the chrF of both."""

    text_id: TextId
    reference: str
    a: str
    b: str
    score_a: float
    score_b: float

    def lines(self) -> list[str]:
        """Return the text, its reference, and the outputs with their scores times 100."""
        return [
            f"{one_line(self.text_id)}: {one_line(self.reference)}",
            f"  a {100 * self.score_a:>6.1f}  {one_line(self.a)}",
            f"  b {100 * self.score_b:>6.1f}  {one_line(self.b)}",
        ]


class TranslationScorer:
    """Scores outputs against one set of references, whose tokens are counted once."""

    def __init__(
        self,
        references: Mapping[TextId, Sequence[str]],
        tokenize: Callable[[str], list[str]],
        *,
        tokenizer_name: str = "custom",
    ) -> None:
        """Tokenize the references and count their n-grams.

        Args:
            references: the raw references of each source text, at least one for each.
            tokenize: returns the tokens of a text for the project's own BLEU.
            tokenizer_name: names `tokenize` in the signature.

        Raises:
            UsageError: there are no references, or a text has none.
        """
        if not references:
            raise UsageError("there are no references: pass at least one text that has some")
        if bare := [repr(text) for text, each in references.items() if not each]:
            raise UsageError(f"{summarize(bare, 'text')} without a reference: leave these out")
        self._references, self._tokenize = references, tokenize
        self._tokenizer_name = tokenizer_name
        self._bleu = Bleu([[tokenize(one) for one in each] for each in references.values()])
        self._accepted = [{_normalized(one) for one in each} for each in references.values()]

    def score(self, outputs: Mapping[TextId, str]) -> TranslationScores:
        """Return the metrics that need no library, of one output for each text.

        Raises:
            UsageError: a text has no output, or an output belongs to an unknown text.
        """
        _check_texts(self._references, outputs)
        texts = [outputs[text] for text in self._references]
        exact = [
            _normalized(text) in accepted
            for text, accepted in zip(texts, self._accepted, strict=True)
        ]
        counts = self._bleu.statistics([self._tokenize(text) for text in texts])
        return TranslationScores(np.column_stack([np.ones(len(texts)), exact, counts]))

    def evaluate(self, outputs: Mapping[TextId, str]) -> TranslationEvaluation:
        """Return all metrics of one detokenized output for each text; sacreBLEU computes its own.

        Raises:
            UsageError: a text has no output, or an output belongs to an unknown text.
        """
        # Imported here only, because training does without it.
        from sacrebleu.metrics.bleu import BLEU
        from sacrebleu.metrics.chrf import CHRF

        own = self.score(outputs)
        texts = [outputs[text] for text in self._references]
        references = [list(each) for each in self._references.values()]
        # sacreBLEU takes one list of I texts for each reference, and None where a text has fewer.
        streams = [list(stream) for stream in zip_longest(*references)]
        tokens = _sacrebleu_tokenizer(chain.from_iterable(references))
        cased = BLEU(tokenize=tokens, smooth_method="exp")
        # `force` only turns off a warning about tokenized outputs, which `cased` has given.
        folded = BLEU(tokenize=tokens, smooth_method="exp", lowercase=True, force=True)
        characters = CHRF(char_order=MAX_LENGTH, beta=BETA)
        scorers = {"BLEU": cased, "BLEU_lc": folded, "chrF": characters}
        metrics, signatures = {}, {}
        for name, scorer in scorers.items():
            metrics[name] = scorer.corpus_score(texts, streams).score / 100
            signatures[name] = str(scorer.get_signature())
        counts = [
            [
                *_bleu_row(cased, text, each),
                *_bleu_row(folded, text, each),
                *chrf_statistics(text, each),
            ]
            for text, each in zip(texts, references, strict=True)
        ]
        return TranslationEvaluation(
            references=self._references,
            outputs=outputs,
            statistics=np.hstack([own.statistics, np.array(counts, dtype=np.float64)]),
            metrics=metrics | own.metrics,
            signatures=signatures | {"Bleu": self._signature},
        )

    @property
    def _signature(self) -> str:
        """What the project's own BLEU depends on, in the manner of sacreBLEU."""
        numbers = {len(each) for each in self._references.values()}
        return (
            f"texts:{len(self._references)}|nrefs:{numbers.pop() if len(numbers) == 1 else 'var'}"
            f"|split:{hash_split(self._references)[:12]}|tok:{self._tokenizer_name}"
            f"|Bleu:{BLEU_VERSION}|captioner:{captioner_version()}"
        )


def _sacrebleu_tokenizer(references: Iterable[str]) -> str:
    """Return sacreBLEU's tokenizer for a language; for "13a", a Thai sentence is one word."""
    from captioner.text.scripts import script_without_spaces

    return {"": "13a", "han": "zh", "other": "char"}[script_without_spaces(references)]


def compare_translations(a: TranslationEvaluation, b: TranslationEvaluation) -> PairedComparison:
    """Return the comparison of two sets of outputs, both evaluated by one scorer.

    The resamples of the texts are the same for both sets and all metrics (Koehn 2004). sacreBLEU's
    cased BLEU decides; the texts are ranked by chrF, because few have a 4-gram in common with
    their reference.

    Raises:
        UsageError: the outputs are not of the same texts.
    """
    _check_texts(a.references, b.outputs)
    sums = resample_sums(np.hstack([a.statistics, b.statistics]))  # (2 C, RESAMPLES)
    samples_a, samples_b = (_all_metrics(part) for part in np.split(sums, 2))
    pairs = [
        TextPair(text, references[0], a.outputs[text], b.outputs[text], score_a, score_b)
        for (text, references), score_a, score_b in zip(
            a.references.items(), a.sentence_chrf, b.sentence_chrf, strict=True
        )
    ]
    return PairedComparison(
        len(pairs),
        measure_differences(a.metrics, b.metrics, samples_a, samples_b),
        *largest_leads(pairs),
        signature=a.signature_lines,
        unit="texts",
        decided_by="BLEU",
        ranked_by="chrF",
    )


def _own_metrics(sums: Floats) -> dict[str, Floats]:
    """Return each metric (S,) of S samples of texts, from (12, S) sums over the texts of each.

    The columns are: 1 for each text, 1 for an exact match, and ten of `Bleu.statistics`.
    """
    texts, exact, *counts = sums
    bleus = {f"Bleu_{n}": score for n, score in enumerate(bleu(counts), start=1)}
    return bleus | {"exact": exact / texts}


def _all_metrics(sums: Floats) -> dict[str, Floats]:
    """Return each metric (S,) of S samples of texts, from (50, S) sums over the texts of each.

    The columns are: 12 of `_own_metrics`; ten of sacreBLEU, cased; ten in lower case; 18 of chrF.
    """
    own, cased, folded, characters = np.split(sums, [12, 22, 32])
    sacre = {"BLEU": _sacrebleu(cased), "BLEU_lc": _sacrebleu(folded), "chrF": chrf(characters)}
    return sacre | _own_metrics(own)


def _bleu_row(scorer: BLEU, output: str, references: Sequence[str]) -> list[int]:
    """Return sacreBLEU's ten counts of one text, in the order of `Bleu.statistics`."""
    score = scorer.corpus_score([output], [[reference] for reference in references])
    return [score.sys_len, score.ref_len, *score.counts, *score.totals]


def _sacrebleu(sums: Floats) -> Floats:
    """Return sacreBLEU's BLEU (S,) from the sums (10, S) of its ten counts."""
    from sacrebleu.metrics.bleu import BLEU

    rows = sums.T.astype(np.int64).tolist()  # the sums are whole numbers
    scores = [
        BLEU.compute_bleu(row[2:6], row[6:], row[0], row[1], smooth_method="exp").score
        for row in rows
    ]
    return np.array(scores) / 100


def _normalized(text: str) -> str:
    """Return the text in Unicode's NFC form, with single spaces: what an exact match compares."""
    return " ".join(unicodedata.normalize("NFC", text).split())


def _check_texts(references: Mapping[TextId, Sequence[str]], outputs: Mapping[TextId, str]) -> None:
    """Raise an error if the outputs do not belong to the texts of the references."""
    problems = []
    if missing := [repr(text) for text in references if text not in outputs]:
        problems.append(f"no output for {summarize(missing, 'text')}")
    if unknown := [repr(text) for text in outputs if text not in references]:
        problems.append(f"{summarize(unknown, 'text')} not in the references")
    if problems:
        raise UsageError(
            f"the outputs do not fit the references: {', '.join(problems)}: "
            "pass exactly one output for each text"
        )
