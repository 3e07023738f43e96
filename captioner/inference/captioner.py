"""The `Captioner`: captions images and scores captions, with onnxruntime or with torch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self, Unpack

from captioner.captions import Caption
from captioner.config.schema import INFERENCE, DecodingConfig, ModelConfig
from captioner.data.images import MAX_PIXELS, ReadableImage
from captioner.devices import (
    BATCH_SIZE,
    BackendName,
    DeviceName,
    PrecisionName,
    check_backend,
    check_device_name,
    check_precision,
    has_nvidia_gpu,
)
from captioner.errors import ImageError, UsageError, parameter
from captioner.inference.settings import parse_decoding
from captioner.models.folder import resolve
from captioner.requirements import check_torch
from captioner.runtime.base import BaseCaptioner, Calibration, Decoding
from captioner.runtime.captioner import OnnxCaptioner
from captioner.runtime.graphs import GRAPHS
from captioner.runtime.settings import torch_only
from captioner.text.tokenizer import Vocabulary

if TYPE_CHECKING:  # onnxruntime captions without torch
    import numpy as np
    import torch

    from captioner.inference.pipeline import PipelineOptions
    from captioner.inference.torch_captioner import TorchCaptioner
    from captioner.models.encoder_decoder import EncoderDecoder
    from captioner.types import StepModel


class Captioner(BaseCaptioner):
    """A trained model, or an ensemble of several, that captions images.

    >>> Captioner.from_pretrained().caption("photo.jpg").text  # doctest: +SKIP
    'a dog is running through the grass'

    Two backends give the same captions. onnxruntime starts in a moment, on the CPU; PyTorch is
    loaded when something needs it. `config` is that of the first model.
    """

    def __init__(
        self,
        models: Sequence[EncoderDecoder],
        vocabulary: Vocabulary,
        config: ModelConfig,
        **options: Unpack[PipelineOptions],
    ) -> None:
        """Caption with models in memory, which torch runs: see `TorchCaptioner`."""
        from captioner.inference.torch_captioner import TorchCaptioner

        self._init(TorchCaptioner(models, vocabulary, config, **options))

    def _init(
        self,
        first: TorchCaptioner | OnnxCaptioner,
        load_torch: _TorchLoader | None = None,
    ) -> None:
        """Caption with `first`; where that is onnxruntime, `load_torch` is for what needs torch."""
        self._onnx: OnnxCaptioner | None = None
        self._torch: TorchCaptioner | None = None
        self._load_torch = load_torch
        if isinstance(first, OnnxCaptioner):
            self._onnx = first
            self.config = ModelConfig.parse(first.config, source=str(first.graphs.folder))
        else:
            self._torch = first
            self.config = first.config
        self.vocabulary, self.transform = first.vocabulary, first.transform
        self.crops = first.crops

    @classmethod
    def from_pretrained(
        cls,
        *folders: str | Path,
        revision: str | None = None,
        device: DeviceName = INFERENCE.device,
        precision: PrecisionName = INFERENCE.precision,
        backend: BackendName = INFERENCE.backend,
    ) -> Self:
        """Load a model folder, or an ensemble of several; without a folder, the bundled model.

        An ensemble averages the probabilities of its models at every token. Its decoding defaults
        are those of the first folder, but it has no calibrated confidence.

        Args:
            folders: model folders, or names of models on the Hugging Face hub, as "owner/name";
                a folder that exists wins.
            revision: a branch, tag or commit of the models of the hub.
            device: where torch computes; onnxruntime computes on the CPU.
            precision: with which precision torch computes; onnxruntime computes in float32.
            backend: `auto` is onnxruntime if the folder has graphs, unless an argument needs torch
                or there is an NVIDIA GPU. Then, torch is loaded when a later call needs it.

        Raises:
            CaptionerError: a folder is not a model folder, a file of it is missing or corrupt, or
                the hub does not have it.
            UsageError: the vocabularies or the preprocessing differ, the model reads another kind
                of source, `device` is not available, or `backend` is onnx and cannot do this.
        """
        device = check_device_name(device)  # a wrong name is an error before a model is read
        check_precision(precision)
        check_backend(backend)
        paths = [resolve(folder, revision=revision) for folder in folders or (None,)]

        load_torch = _TorchLoader(paths, device, precision)
        need = _need_of_torch(paths, device, precision)
        if backend == "onnx" and need:
            raise UsageError(
                f"{need.what} needs torch, but {parameter('backend')} is 'onnx': {need.way_out}, "
                "or use 'auto'"
            )
        on_gpu = backend == "auto" and device == "auto" and _has_gpu_for_torch()
        captioner = cls.__new__(cls)
        if need or on_gpu or backend == "torch":
            captioner._init(load_torch(need or _Need(f"{parameter('backend')} 'torch'")))
        else:
            captioner._init(
                OnnxCaptioner.from_pretrained(paths[0]), load_torch if backend == "auto" else None
            )
        return captioner

    def _backend(
        self, settings: DecodingConfig, *, explain: bool = False
    ) -> TorchCaptioner | OnnxCaptioner:
        """Return what captions with these settings: onnxruntime if it is loaded and can."""
        if self._onnx is None:
            return self._with_torch("captioning")
        needs = ["explain"] if explain else torch_only(vars(settings))
        if self._load_torch is None or not needs:
            return self._onnx
        stored = self._changes(settings) is None and not explain
        way_out = "change it with captioner defaults --model FOLDER" if stored else "leave it out"
        return self._with_torch(parameter(needs[0]), way_out)

    def _with_torch(self, what: str, way_out: str = "leave it out") -> TorchCaptioner:
        """Load torch, unless it is loaded, for `what` needs it."""
        if self._torch is None:
            if self._load_torch is None:
                raise UsageError(
                    f"{what} needs torch, but {parameter('backend')} is 'onnx': use 'auto' or "
                    "'torch'"
                )
            self._torch = self._load_torch(_Need(what, way_out))
        return self._torch

    @property
    def calibration(self) -> Calibration | None:
        """How confidences follow from probabilities; None: there are none."""
        return self.config.confidence

    @property
    def models(self) -> list[EncoderDecoder]:
        """The trained models. Loads torch, as do the properties and `save_pretrained` below."""
        return self._with_torch("Captioner.models").models

    @property
    def step_model(self) -> StepModel:
        """What torch decodes with: the model or the ensemble, with folded batch norms."""
        return self._with_torch("Captioner.step_model").step_model

    @property
    def device(self) -> torch.device:
        """Where torch computes."""
        return self._with_torch("Captioner.device").device

    def save_pretrained(self, folder: str | Path, *, half: bool = False) -> None:
        """Write a model folder for `from_pretrained`; `half` stores the weights in half precision.

        It has no graphs: `captioner export` adds them.

        Raises:
            UsageError: it is an ensemble.
            CaptionerError: the folder cannot be written; an existing one is kept.
        """
        self._with_torch("save_pretrained").save_pretrained(folder, half=half)

    def decoding_config(self, changes: Decoding | None = None) -> DecodingConfig:
        """Return the model folder's decoding settings with `changes`; a whole config replaces them.

        Raises:
            UsageError: lists everything that is not valid.
        """
        return parse_decoding(self.config, changes)

    def build_search(
        self, decoding: Decoding | None, batch_size: int, sources: object = None
    ) -> tuple[Any, Any]:
        """Return all decoding settings, and the search that they describe.

        Raises:
            UsageError: a setting is not valid, or does not fit this model or the memory.
        """
        settings = self.decoding_config(decoding)
        return self._backend(settings).build_search(self._changes(settings), batch_size, sources)

    def stream(
        self,
        images: Iterable[ReadableImage],
        *,
        decoding: Decoding | None = None,
        explain: bool = False,
        batch_size: int = BATCH_SIZE,
    ) -> Iterator[Caption | ImageError]:
        """Yield a caption for each image: see `BaseCaptioner.stream`."""
        settings = self.decoding_config(decoding)
        return self._backend(settings, explain=explain).stream(
            images, decoding=self._changes(settings), explain=explain, batch_size=batch_size
        )

    def score(
        self,
        images: Sequence[ReadableImage],
        captions: Sequence[Sequence[str]],
        *,
        batch_size: int = BATCH_SIZE,
    ) -> Iterator[list[Caption] | ImageError]:
        """Yield given captions with their log-probabilities: see `BaseCaptioner.score`."""
        captioner = self._onnx or self._with_torch("score")
        return captioner.score(images, captions, batch_size=batch_size)

    def prepare(self, image: ReadableImage, *, max_pixels: int = MAX_PIXELS) -> np.ndarray:
        """Read an image as the model sees it (3, size, size), uint8, for `caption_pixels`.

        For callers that read images in threads of their own. May be called in several threads.

        Raises:
            ImageError: it cannot be read, or has more than `max_pixels`.
        """
        return (self._onnx or self._with_torch("prepare")).prepare(image, max_pixels=max_pixels)

    def caption_pixels(
        self, pixels: np.ndarray, *, decoding: Decoding | None = None, explain: bool = False
    ) -> list[Caption]:
        """Return a caption for each image of a batch (B, 3, size, size) of `prepare`, at once.

        Raises:
            UsageError: `decoding` is not valid, or does not fit this model or the memory.
        """
        settings = self.decoding_config(decoding)
        return self._backend(settings, explain=explain).caption_pixels(
            pixels, decoding=self._changes(settings), explain=explain
        )

    def score_pixels(
        self, pixels: np.ndarray, captions: Sequence[Sequence[str]]
    ) -> list[list[Caption]]:
        """Return given captions of each image of a batch (B, 3, size, size) of `prepare`."""
        return (self._onnx or self._with_torch("score")).score_pixels(pixels, captions)

    def _changes(self, settings: DecodingConfig) -> DecodingConfig | None:
        """Return None for the folder's own settings: an error says then that it stores them."""
        return None if settings == self.config.decoding else settings


class _TorchLoader(NamedTuple):
    """Loads the folders of a captioner with torch; unlike a closure, it can be pickled."""

    folders: Sequence[Path]
    device: DeviceName
    precision: PrecisionName

    def __call__(self, need: _Need) -> TorchCaptioner:
        """Load torch; `need` is for the error if it is not installed."""
        check_torch(need.what, way_out=need.way_out)
        from captioner.inference.torch_captioner import TorchCaptioner

        return TorchCaptioner.from_pretrained(
            *self.folders, device=self.device, precision=self.precision
        )


class _Need(NamedTuple):
    """What needs torch, and how to do without it, for messages."""

    what: str
    way_out: str = "leave it out"


def _need_of_torch(
    folders: Sequence[Path], device: DeviceName, precision: PrecisionName
) -> _Need | None:
    """Return what needs torch from the beginning, or None."""
    if len(folders) > 1:
        return _Need("an ensemble", "name one model")
    if device not in ("auto", "cpu"):
        return _Need(f"{parameter('device')} '{device}'")
    if precision == "bf16":
        return _Need(f"{parameter('precision')} 'bf16'")
    if not (folders[0] / GRAPHS).is_file():
        export = f"where torch is installed, captioner export --model {folders[0]} --output FOLDER"
        return _Need(f"{folders[0]}, which has no graphs,", f"run, {export}")
    return None


def _has_gpu_for_torch() -> bool:
    return has_nvidia_gpu() and find_spec("torch") is not None
