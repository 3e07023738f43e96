"""The settings of a training run: its data, and the model and training of `config/schema.py`."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from captioner.config.schema import (
    MEAN,
    Count,
    ImageEncoderConfig,
    ModelConfig,
    Section,
    Share,
    TokenizerName,
)
from captioner.config.training import TrainingConfig

CaptionCount = Count | Literal["all"]
DEFAULT_SHARE = 0.5  # of the only text source
_KINDS = ("annotations", "shards", "dataset", "text", "source")
_OF_IMAGES = ("images", "split", "restval")
_OF_DATASETS = ("subset", "image", "caption")
_OF_PAIRS = ("repeat", "captions_per_image")


class SourceConfig(Section):
    """One data set: images with captions, captions without images, or texts with their targets.

    Exactly one of `annotations`, `shards`, `dataset`, `text` and `source` is set.
    """

    annotations: Annotated[
        Path | None, Field(description="COCO, Karpathy, Flickr8k, JSONL or CSV file.")
    ] = None
    shards: Annotated[
        tuple[str, ...],
        Field(
            description="Tars of images with captions, as img2dataset writes them: a folder, a "
            "path with {00000..00999} or *, s3://..., or a list."
        ),
    ] = ()
    dataset: Annotated[
        str | None,
        Field(
            min_length=1,
            description="Data set of the library `datasets`: owner/name on the hub, or a folder.",
        ),
    ] = None
    subset: Annotated[
        str | None, Field(description="dataset: its configuration, if it has several.")
    ] = None
    image: Annotated[str, Field(description="dataset: the column of images.")] = "image"
    caption: Annotated[
        tuple[str, ...],
        Field(description="dataset: the column of captions, or several; none: the usual ones."),
    ] = ()
    text: Annotated[
        Path | None,
        Field(description="Captions without images: one a line (.txt), or as in `annotations`."),
    ] = None
    source: Annotated[
        Path | None,
        Field(description="Texts to translate, one a line; or both sides in one TSV or JSONL."),
    ] = None
    target: Annotated[
        Path | None, Field(description="The translation of each line of `source`.")
    ] = None
    name: Annotated[
        str | None, Field(min_length=1, description="In logs; none: derived from the path.")
    ] = None
    images: Annotated[Path | None, Field(description="Folder; none: the usual ones.")] = None
    split: Annotated[
        str | None,
        Field(description="Karpathy: train, val, test; of a dataset; else a file of image names."),
    ] = None
    restval: Annotated[bool, Field(description="Karpathy: add `restval` to `train`.")] = False
    repeat: Annotated[Count, Field(description="How often an epoch visits each example.")] = 1
    captions_per_image: Annotated[
        CaptionCount | None, Field(description="Per visit; none: data.captions_per_image.")
    ] = None
    share: Annotated[
        float | None,
        Field(
            gt=0,
            lt=1,
            description="Text: its share of an epoch's captions; none: 0.5, if it is the only one.",
        ),
    ] = None

    @field_validator("caption", "shards", mode="before")
    @classmethod
    def _text_to_tuple(cls, value: object) -> object:
        return (value,) if isinstance(value, str) else value or ()

    @model_validator(mode="before")
    @classmethod
    def _refuse_streaming(cls, values: object) -> object:
        if isinstance(values, Mapping) and values.get("dataset") and "streaming" in values:
            raise ValueError(
                "streaming: a run reads each image in each epoch, in a new order, and continues in "
                "the middle of one, for which a stream has no place: leave it out (the data set is "
                "stored once, and never in memory), or write shards with captioner shard"
            )
        return values

    @property
    def path(self) -> Path:
        """The file of its captions, or of its source texts."""
        path = self.annotations or self.text or self.source
        if self.dataset or self.shards:
            path = Path(self.dataset or self.shards[0])
        assert path is not None  # checked when the config is read
        return path

    @model_validator(mode="after")
    def _check_kind(self) -> SourceConfig:
        kinds = [name for name in _KINDS if getattr(self, name)]
        if len(kinds) != 1:
            given = f"{' and '.join(kinds)} are given" if kinds else "no file is given"
            raise ValueError(
                f"{given}: name one of annotations (with images), shards (tars of both), "
                "dataset (of the library datasets), text (captions alone) and source (texts to "
                "translate)"
            )
        if self.name == MEAN:
            raise ValueError(f"name is {MEAN}, which stands for all sources: choose another")
        if self.share is not None and not self.text:
            raise ValueError("share is for text: set repeat, or leave it out")
        if self.target and not self.source:
            raise ValueError("target belongs to source, the texts to translate: name source too")
        if self.shards:
            self._refuse("have their images and captions inside", *_OF_IMAGES)
        if self.dataset:
            self._refuse("has its images in a column", "images", "restval")
        else:
            self._refuse("has no columns", *_OF_DATASETS)
        if self.text or self.source:
            self._refuse("has no images" if self.source else "is captions alone", *_OF_IMAGES)
        if self.text:
            self._refuse("is captions alone", *_OF_PAIRS)
        return self

    def _refuse(self, reason: str, *names: str) -> None:
        """Raise an error if a setting that does not apply is set."""
        fields = type(self).model_fields
        if extra := [name for name in names if getattr(self, name) != fields[name].default]:
            kind = next(name for name in _KINDS if getattr(self, name))
            raise ValueError(f"{kind} {reason}: leave out {', '.join(extra)}")


class GeneratedConfig(Section):
    """A small data set of text that the project generates itself."""

    task: Annotated[
        Literal["addition", "dialogue", "summary"],
        Field(description="Sums such as 57+5 -> 62, questions with answers, or reports."),
    ]
    folder: Annotated[Path, Field(description="Where the files are, or will be, stored.")]
    train: Annotated[Count, Field(description="Examples to train on.")] = 45_000
    dev: Annotated[Count, Field(description="Examples to validate on.")] = 1_000


class TokenizerConfig(Section):
    """How text is divided into tokens. The vocabulary of a model stores it."""

    kind: Annotated[
        TokenizerName | None,
        Field(description="None: caption (words as COCO counts them) for images, word for text."),
    ] = None
    fold_case: Annotated[
        bool, Field(description="word: read lower case, and restore the usual case in the output.")
    ] = False
    subwords: Annotated[Count, Field(description="subword: size of its vocabulary.")] = 8000

    @model_validator(mode="after")
    def _check_case(self) -> TokenizerConfig:
        if self.fold_case and self.kind not in (None, "word"):
            raise ValueError(f"fold_case is for words, not for kind={self.kind}: leave it out")
        return self


class ShapesConfig(Section):
    """A small data set of drawings that the project generates itself."""

    folder: Annotated[Path, Field(description="Where the drawings are, or will be, stored.")]
    train: Annotated[Count, Field(description="Images to train on.")] = 1000
    dev: Annotated[Count, Field(description="Images to validate on.")] = 200


class DataConfig(Section):
    """Images with reference captions and captions without images; or texts with their targets."""

    train: Annotated[
        tuple[SourceConfig, ...], Field(description="What to learn from: a source, or a list.")
    ] = ()
    dev: Annotated[
        tuple[SourceConfig, ...],
        Field(description="What to validate on: a source, or a list; none: held out from train."),
    ] = ()
    holdout: Annotated[
        float, Field(gt=0, lt=1, description="Share of each train source held out as dev.")
    ] = 0.1
    shapes: Annotated[ShapesConfig | None, Field(description="Instead of train and dev.")] = None
    generated: Annotated[
        GeneratedConfig | None, Field(description="Text, instead of train and dev.")
    ] = None
    tokenizer: TokenizerConfig = TokenizerConfig()
    share_vocabulary: Annotated[
        bool, Field(description="Text: one vocabulary for source and target.")
    ] = False
    hint: Annotated[
        str, Field(exclude=True, description="How to get the data, shown if it is missing.")
    ] = ""  # not a setting of the run: it is not stored with it
    min_count: Annotated[Count, Field(description="Rarer words become <unk>; subwords stay.")] = 5
    max_length: Annotated[Count, Field(description="Cut longer texts to this many tokens.")] = 30
    captions_per_image: Annotated[
        CaptionCount, Field(description="Per epoch; drawn at random if there are more.")
    ] = 5
    on_bad_image: Annotated[
        Literal["error", "skip"],
        Field(description="skip: leave out unreadable and missing images."),
    ] = "error"
    bad_images: Annotated[Share, Field(description="Largest share of a split to skip.")] = 0.01

    @field_validator("train", "dev", mode="before")
    @classmethod
    def _source_to_tuple(cls, value: object) -> object:
        if value is None:
            return ()
        return (value,) if isinstance(value, Mapping | SourceConfig) else value

    @field_validator("train", "dev")
    @classmethod
    def _check_names(cls, sources: tuple[SourceConfig, ...]) -> tuple[SourceConfig, ...]:
        counts = Counter(source.name for source in sources if source.name)
        if repeated := [name for name, count in counts.items() if count > 1]:
            raise ValueError(f"two sources have the name {repeated[0]!r}: choose another")
        return sources

    @model_validator(mode="after")
    def _check_sources(self) -> DataConfig:
        given = [
            name
            for name, value in (
                ("train", self.train or self.dev),
                ("shapes", self.shapes),
                ("generated", self.generated),
            )
            if value
        ]
        if len(given) > 1:
            raise ValueError(
                f"{' and '.join(given)} are given: name one, and set data.{given[-1]}=null"
            )
        if any(source.text for source in self.dev):
            raise ValueError("dev has text, which has no images to caption: name annotations")
        if any(source.repeat > 1 for source in self.dev):
            raise ValueError("dev has repeat, but validates each example once: leave it out")
        every = (*self.train, *self.dev)
        if any(each.source for each in every) and not all(each.source for each in every):
            raise ValueError(
                "some sources are texts to translate and others are not: name one kind"
            )
        text = [source for source in self.train if source.text]
        if text and len(text) == len(self.train):
            raise ValueError("train has text only: add a source with images (annotations)")
        if len(text) > 1 and any(source.share is None for source in text):
            raise ValueError("train has several texts: set the share of each")
        if sum(self.share_of(source) for source in text) >= 1:
            raise ValueError("the shares of text in train sum to 1 or more: lower them")
        return self

    @property
    def is_text(self) -> bool:
        """Whether the examples are texts with their targets, and not images."""
        return self.generated is not None or any(each.source for each in self.train)

    @staticmethod
    def share_of(text: SourceConfig) -> float:
        """Return the share of an epoch's captions that come from a text source."""
        return DEFAULT_SHARE if text.share is None else text.share


class Config(ModelConfig):
    """All settings of a training run."""

    data: DataConfig
    training: TrainingConfig = TrainingConfig()
    init: Annotated[str | None, Field(description="Model folder to start from.")] = None
    output: Annotated[Path, Field(description="Folder of the run.")] = Path("runs/captioner")

    @model_validator(mode="after")
    def _check_kind(self) -> Config:
        if self.data.is_text and self.encoder.kind == "image":
            raise ValueError("data has texts, but the encoder reads images: set encoder.kind=text")
        if self.encoder.kind == "image":
            if self.data.tokenizer.fold_case and self.data.tokenizer.kind is None:
                raise ValueError(
                    "data.tokenizer.fold_case is for words, but captions of images have the "
                    "tokenizer caption: set data.tokenizer.kind=word, or leave it out"
                )
            return self
        if not self.data.is_text and (self.data.train or self.data.shapes):
            raise ValueError(
                "the encoder reads text, but data has images: name data.train.source and "
                "data.train.target, or set encoder.kind=image"
            )
        phases = self.training.phases
        of_images = {
            "training.phases.finetune_from": any(phase.finetune_from for phase in phases),
            "training.phases.augmentation": any(phase.augmentation for phase in phases),
            "training.cached_crops": self.training.cached_crops > 0,
            "data.on_bad_image": self.data.on_bad_image != "error",
        }
        if given := [name for name, is_set in of_images.items() if is_set]:
            raise ValueError(f"{given[0]} is for images, but the encoder reads text: leave it out")
        return self

    @property
    def model(self) -> ModelConfig:
        """Return the settings to store with the model; they do not depend on initial weights."""
        encoder = self.encoder
        if isinstance(encoder, ImageEncoderConfig):
            batch_norm = "train" if encoder.train_batch_norm else "eval"
            encoder = encoder.model_copy(update={"weights": "none", "batch_norm": batch_norm})
        # A new model has no confidence until it is calibrated.
        decoding = self.decoding.model_copy(update={"min_confidence": 0.0})
        return ModelConfig(encoder=encoder, decoder=self.decoder, decoding=decoding)


def source_names(sources: Sequence[SourceConfig]) -> list[str]:
    """Return a name for each source, all different: `name`, or one from its path and split.

    The name of the file is used, after that of its folder where files of several folders share it,
    or where the file is called `MEAN`.
    """
    short = [source.name or _short_name(source) for source in sources]
    names: list[str] = []
    for source, base in zip(sources, short, strict=True):
        if (short.count(base) == 1 and base != MEAN) or source.name:
            names.append(base)
            continue
        parts = (source.path.resolve().parent.name, base, Path(source.split or "").stem)
        longer = name = "-".join(part for part in parts if part)
        taken = {*short, *names}
        number = 1
        while name in taken:
            number += 1
            name = f"{longer}-{number}"
        names.append(name)
    return names


def _short_name(source: SourceConfig) -> str:
    """Return the name of a file; of shards without their numbers, or else that of their folder."""
    if not source.shards:
        return source.path.stem
    path = source.path
    text = re.sub(r"\{.*?\}|\[.*?\]|[*?]+", "", path.name).removesuffix(".tar").strip("-_. ")
    return text or path.parent.name or "shards"
