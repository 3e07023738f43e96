"""The two ONNX graphs of a model folder: the encoder, and one step of the decoder."""

from __future__ import annotations

import ctypes
import json
import os
import weakref
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np

from captioner.errors import CaptionerError
from captioner.models.folder import weights_digest
from captioner.storage import read_error, verify_checksums

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

ENCODER, STEP, GRAPHS = "encoder.onnx", "step.onnx", "graphs.json"
FORMAT = 1  # of graphs.json

# Images that the encoder computes at a time, so that their activations stay in the caches: in one
# thread, an EfficientNet-Lite2 needs a quarter less time an image, and half of the memory, than
# with 16. A ResNet-18 gains memory only. Texts are small, and padded to one length: not split.
IMAGES_PER_THREAD = 2

State = tuple[np.ndarray, ...]
"""The decoder state: arrays (N, ...) whose rows belong to the captions, as in `captioner.types`."""


class _Sessions(NamedTuple):
    encoder: InferenceSession
    step: InferenceSession


class Graphs:
    """The graphs of a model folder, run on the CPU by onnxruntime.

    A forked child opens them anew, for computing in one thread: the threads of its parent's
    sessions do not live on in it.
    """

    def __init__(self, folder: Path) -> None:
        """Open the graphs in a model folder.

        Raises:
            CaptionerError: it has no graphs, or none of these weights, or a file has changed.
        """
        self.folder = folder
        self.description = read_graphs_json(folder)
        self.threads = usable_threads()
        self._inherited = False  # whether a child has not yet opened sessions of its own
        self._sessions = self._open()
        self._check_names()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=partial(_after_fork, weakref.ref(self)))

    def __reduce__(self) -> tuple[type[Graphs], tuple[Path]]:
        """Return the folder: another process opens the graphs there."""
        return Graphs, (self.folder,)

    def init_state(self, source: np.ndarray) -> State:
        """Return the initial decoder state of images (B, 3, S, S), uint8, or of texts (B, P)."""
        encoder = self._of_this_process().encoder
        name = encoder.get_inputs()[0].name  # pixels, or source
        size = IMAGES_PER_THREAD * self.threads if name == "pixels" else len(source)
        parts = [
            encoder.run(None, {name: source[first : first + size]})
            for first in range(0, len(source), size)
        ]
        return tuple(np.concatenate(part) for part in zip(*parts, strict=True))

    def step(self, token_ids: np.ndarray, state: State) -> tuple[np.ndarray, State]:
        """Return log-probabilities (N, V) of the token after `token_ids` (N,), and the state."""
        inputs = {"token_ids": np.ascontiguousarray(token_ids)}
        inputs |= {f"state_{index}": part for index, part in enumerate(state)}
        log_probs, *updated = self._of_this_process().step.run(None, inputs)
        return log_probs, (*updated, *state[len(updated) :])  # a context never changes its parts

    def _check_names(self) -> None:
        """Raise a CaptionerError if the two graphs are not of one model."""
        encoder, step = self._sessions
        state = [part.name for part in encoder.get_outputs()]
        updated = [f"next_{index}" for index in range(self.description["updated_parts"])]
        inputs = [part.name for part in step.get_inputs()]
        outputs = [part.name for part in step.get_outputs()]
        if inputs != ["token_ids", *state] or outputs != ["log_probs", *updated]:
            raise CaptionerError(
                f"{self.folder / ENCODER} and {self.folder / STEP} are not of one model: run "
                "captioner export again"
            )

    def _of_this_process(self) -> _Sessions:
        if self._inherited:
            self._sessions, self._inherited = self._open(), False
        return self._sessions

    def leave_to_parent(self) -> None:
        """Let this process, a forked child, open sessions of its own when it needs them."""
        # A session that is freed waits for its threads, which the child lacks: it would wait for
        # ever, at its end at the latest. One more reference, which nobody drops, prevents that.
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(self._sessions))
        self.threads, self._inherited = 1, True

    def _open(self) -> _Sessions:
        return _Sessions(*(_open(self.folder / name, self.threads) for name in (ENCODER, STEP)))


def _after_fork(graphs: weakref.ref[Graphs]) -> None:
    if (still_used := graphs()) is not None:
        still_used.leave_to_parent()


def read_graphs_json(folder: Path) -> dict[str, Any]:
    """Return what graphs.json says of the graphs in a model folder whose files are intact.

    Raises:
        CaptionerError: there are no graphs, or none of these weights, or a file has changed.
    """
    file, again = folder / GRAPHS, f"run captioner export --model {folder} --output FOLDER"
    verify_checksums(folder)
    try:
        description: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        version, weights = description["format"], description["weights"]
        if version == FORMAT:
            _check_types(description)
    except FileNotFoundError:
        raise CaptionerError(
            f"{folder} has no {GRAPHS}, which onnxruntime needs: {again}, or use the backend "
            "'torch'"
        ) from None
    except OSError as error:
        raise read_error(file, error) from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CaptionerError(f"{file} does not describe graphs ({error!r}): {again}") from None
    if version != FORMAT:
        raise CaptionerError(
            f"{file} has format {version!r}, this captioner reads format {FORMAT}: {again}"
        )
    if weights != weights_digest(folder):
        raise CaptionerError(f"{file} belongs to other weights than those in {folder}: {again}")
    return description


def _check_types(description: dict[str, Any]) -> None:
    """Raise an error of several types if a value is missing or of another type."""
    tokens = [*description["function_words"], *description["unspaced"]]
    if not all(isinstance(each, int) for each in (description["updated_parts"], *tokens)):
        raise TypeError("an integer is expected")
    if not all("default" in settings for settings in description["decoding"].values()):
        raise KeyError("default")


def usable_threads() -> int:
    """Return the number of threads that compute: OMP_NUM_THREADS, or the cores of this process."""
    wanted = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()  # of the outer level
    if wanted.isdecimal() and int(wanted):
        return int(wanted)
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def import_onnxruntime() -> ModuleType:
    """Import onnxruntime so that it sends nothing to anybody.

    Since version 1.29 its packages report every session to Microsoft, from a thread that starts
    with the import; a forked child would wait for that thread at its end, for ever.
    """
    for variable in ("ORT_DISABLE_TELEMETRY", "ORT_TELEMETRY_DISABLED"):  # since 1.32; before
        os.environ.setdefault(variable, "1")
    import onnxruntime

    onnxruntime.disable_telemetry_events()  # on Windows, where the variables have no effect
    return cast(ModuleType, onnxruntime)


def _open(file: Path, threads: int) -> InferenceSession:
    """Open a graph, and fold what it computes from weights alone.

    Raises:
        CaptionerError: onnxruntime cannot read it.
    """
    onnxruntime = import_onnxruntime()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1  # the operators of these graphs come one after the other
    # Idle threads that spin would take the CPU from those that read the next images.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3  # errors
    try:
        return onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime has a class for each of its codes, without a base
        reason = " ".join(str(error).split())[:300]
        raise CaptionerError(
            f"{file} cannot be opened by onnxruntime {onnxruntime.__version__} ({reason}): "
            "export the model again, or upgrade onnxruntime"
        ) from None
