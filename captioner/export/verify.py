"""Compare the graphs of a model folder with its PyTorch model, before anybody uses them.

A graph can be wrong without an error: an operator that means something else, a size that is a
constant, or one tensor given as two inputs, such as zeros as the hidden and the cell state of an
LSTM. So the same sources are encoded and captioned by both.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from captioner.captions import Hypothesis
from captioner.config.schema import DecodingConfig
from captioner.decoding.search import build_search
from captioner.errors import CaptionerError
from captioner.export.onnx import example_source
from captioner.models.build import LoadedModel
from captioner.models.encoder_decoder import EncoderDecoder
from captioner.runtime.graphs import Graphs
from captioner.runtime.rules import combine, forbid
from captioner.runtime.search import beam_search, length_norm
from captioner.text.tokenizer import BOS, EOS, SUPPRESSED
from captioner.types import State

TOLERANCE = 1e-4  # of a log-probability
BATCH_SIZES = (1, 3, 16)
_SOURCES = 16
_SEARCH = DecodingConfig(beam=3, captions=2)


class Comparison(NamedTuple):
    """How near the graphs are to PyTorch."""

    captions: int  # that were compared
    difference: float  # the largest between two log-probabilities
    ties: int  # captions that differ, but whose scores differ by less than the tolerance


def compare_backends(folder: Path, loaded: LoadedModel) -> Comparison:
    """Caption the same random sources with the graphs in `folder` and with the model.

    Raises:
        CaptionerError: a log-probability differs by more than 1e-4, or a caption differs.
    """
    graphs, model = Graphs(folder), loaded.model.eval()
    source = example_source(loaded, _SOURCES, seed=1)
    captions = ties = 0
    differences = []
    for size in BATCH_SIZES:
        for batch in torch.split(source, size):
            ours, theirs = _caption_torch(model, loaded, batch), _caption_onnx(graphs, batch)
            best = [ranked[0] for ranked in ours]
            differences.append(_log_prob_difference(model, graphs, batch, best))
            if not differences[-1] <= TOLERANCE:  # also if it is no number
                raise CaptionerError(
                    f"the graphs differ from PyTorch: a log-probability by {differences[-1]:.2g} "
                    f"at batch size {len(batch)}, and {TOLERANCE:g} is allowed: nothing was written"
                )
            for expected, found in zip(ours, theirs, strict=True):
                captions += len(expected)
                ties += _count_ties(expected, found, size=len(batch))
    return Comparison(captions, max(differences), ties)


def _count_ties(expected: Sequence[Hypothesis], found: Sequence[Hypothesis], *, size: int) -> int:
    """Return how many captions of a source differ with equal scores.

    Raises:
        CaptionerError: one differs with another score.
    """
    norm = length_norm(_SEARCH)
    ties = 0
    for one, other in zip(expected, found, strict=True):
        scores = [each.log_prob / norm(len(each.token_ids) + 1) for each in (one, other)]
        # sums of as many log-probabilities as there are tokens, each within the tolerance
        if abs(scores[0] - scores[1]) > TOLERANCE * (len(one.token_ids) + 1):
            raise CaptionerError(
                "the graphs differ from PyTorch: a caption has the tokens "
                f"{other.token_ids} instead of {one.token_ids} at batch size {size}: nothing was "
                "written"
            )
        ties += one.token_ids != other.token_ids
    return ties


@torch.inference_mode()
def _caption_torch(
    model: EncoderDecoder, loaded: LoadedModel, source: Tensor
) -> list[list[Hypothesis]]:
    search = build_search(model.step, _SEARCH, loaded.vocabulary)
    return search(model.init_state(source), [])


def _caption_onnx(graphs: Graphs, source: Tensor) -> list[list[Hypothesis]]:
    return beam_search(
        graphs.step,
        graphs.init_state(source.numpy()),
        combine([forbid(SUPPRESSED)], eos=EOS),
        bos=BOS,
        eos=EOS,
        max_length=_SEARCH.max_length,
        num_beams=_SEARCH.beam,
        num_captions=_SEARCH.captions,
        norm=length_norm(_SEARCH),
    )


@torch.inference_mode()
def _log_prob_difference(
    model: EncoderDecoder, graphs: Graphs, source: Tensor, captions: Sequence[Hypothesis]
) -> float:
    """Return the largest difference of any log-probability while both read the same captions."""
    longest = max(len(caption.token_ids) for caption in captions)
    tokens = torch.full((len(captions), longest + 1), EOS)  # (B, T), filled with <eos>
    tokens[:, 0] = BOS
    for row, caption in enumerate(captions):
        tokens[row, 1 : len(caption.token_ids) + 1] = torch.tensor(caption.token_ids)
    state: State = model.init_state(source)
    other_state = graphs.init_state(source.numpy())
    largest = np.float32(0)
    for token_ids in tokens.unbind(dim=1):  # (B,)
        log_probs, state = model.step(token_ids, state)  # (B, V)
        others, other_state = graphs.step(token_ids.numpy(), other_state)
        largest = np.maximum(largest, np.abs(log_probs.numpy() - others).max())  # keeps NaN
    return float(largest)
