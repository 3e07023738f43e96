"""Rules of decoding over arrays: those of `captioner.decoding.constraints` that need no torch.

A rule sets the log-probabilities of tokens that may not come next to -inf. Those of the other
tokens are not renormalised: they stay the model's own.

Shape letters: N captions, t tokens so far without <bos>, V vocabulary size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

Rule = Callable[[np.ndarray, np.ndarray], None]
"""(tokens so far (N, t), log-probabilities (N, V) of the next token, which it changes in place)."""


def combine(rules: Sequence[Rule], *, eos: int, prefix: Sequence[int] = ()) -> Rule:
    """Return the rule that applies `rules` in order.

    Every caption starts with `prefix`, to which no rule applies. A caption for which the rules
    leave no token ends with <eos>.
    """

    def rule(history: np.ndarray, log_probs: np.ndarray) -> None:
        position = history.shape[1]  # of the next token
        if position < len(prefix):
            only = log_probs[:, prefix[position]].copy()  # (N,)
            log_probs[:] = -np.inf
            log_probs[:, prefix[position]] = only
            return
        eos_log_prob = log_probs[:, eos].copy()  # (N,)
        for each in rules:
            each(history, log_probs)
        no_token_left = log_probs.max(axis=1) == -np.inf  # (N,)
        log_probs[no_token_left, eos] = eos_log_prob[no_token_left]

    return rule


def forbid(token_ids: Sequence[int]) -> Rule:
    """Return a rule that forbids these tokens."""
    tokens = list(token_ids)

    def rule(history: np.ndarray, log_probs: np.ndarray) -> None:
        log_probs[:, tokens] = -np.inf

    return rule


def min_length(length: int, *, eos: int) -> Rule:
    """Return a rule that forbids <eos> before `length` tokens."""

    def rule(history: np.ndarray, log_probs: np.ndarray) -> None:
        if history.shape[1] < length:
            log_probs[:, eos] = -np.inf

    return rule


def no_double_words(exempt: Sequence[int] = ()) -> Rule:
    """Return a rule that forbids the last token as the next one, unless it is in `exempt`."""
    may_repeat = np.array(exempt, dtype=np.int64)

    def rule(history: np.ndarray, log_probs: np.ndarray) -> None:
        _forbid_again(history[:, -1:], log_probs, may_repeat)

    return rule


def no_repeat_words(exempt: Sequence[int]) -> Rule:
    """Return a rule that forbids a second occurrence of any token that is not in `exempt`."""
    may_repeat = np.array(exempt, dtype=np.int64)

    def rule(history: np.ndarray, log_probs: np.ndarray) -> None:
        _forbid_again(history, log_probs, may_repeat)

    return rule


def no_repeat_ngram(n: int) -> Rule:
    """Return a rule that forbids a second occurrence of any `n` tokens in a row."""

    def rule(history: np.ndarray, log_probs: np.ndarray) -> None:
        if history.shape[1] < n:
            return
        ngrams = np.lib.stride_tricks.sliding_window_view(history, n, axis=1)  # (N, t-n+1, n)
        # The next token completes an n-gram with the last n-1: compare them with earlier n-grams.
        last = history[:, history.shape[1] - n + 1 :]  # (N, n-1)
        matches = (ngrams[..., :-1] == last[:, None]).all(axis=2)  # (N, t-n+1)
        row, start = matches.nonzero()
        log_probs[row, ngrams[row, start, -1]] = -np.inf

    return rule


def _forbid_again(tokens: np.ndarray, log_probs: np.ndarray, may_repeat: np.ndarray) -> None:
    """Forbid tokens (N, t) of each caption as its next one, unless they are in `may_repeat`."""
    row, column = (~np.isin(tokens, may_repeat)).nonzero()
    log_probs[row, tokens[row, column]] = -np.inf
