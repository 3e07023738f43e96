"""The settings of a training run: its data, and the model and training of `config/schema.py`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from captioner.config.schema import MEAN, Count, ModelConfig, Section, Share, TrainingConfig

CaptionCount = Count | Literal["all"]
DEFAULT_SHARE = 0.5  # of the only text source
_OF_IMAGES = ("images", "split", "restval", "repeat", "captions_per_image")


class SourceConfig(Section):
    """One data set: images with captions (`annotations`), or captions without images (`text`)."""

    annotations: Annotated[
        Path | None, Field(description="COCO, Karpathy, Flickr8k, JSONL or CSV file.")
    ] = None
    text: Annotated[
        Path | None,
        Field(description="Captions without images: one a line (.txt), or as in `annotations`."),
    ] = None
    name: Annotated[
        str | None, Field(min_length=1, description="In logs; none: derived from the path.")
    ] = None
    images: Annotated[Path | None, Field(description="Folder; none: the usual ones.")] = None
    split: Annotated[
        str | None, Field(description="Karpathy: train, val, test; else a file of image names.")
    ] = None
    restval: Annotated[bool, Field(description="Karpathy: add `restval` to `train`.")] = False
    repeat: Annotated[Count, Field(description="How often an epoch visits each image.")] = 1
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

    @property
    def path(self) -> Path:
        """The file of its captions."""
        path = self.annotations or self.text
        assert path is not None  # checked when the config is read
        return path

    @model_validator(mode="after")
    def _check_kind(self) -> SourceConfig:
        if (self.annotations is None) == (self.text is None):
            given = "both are" if self.text else "neither is"
            raise ValueError(f"{given} given: name one of annotations (with images) and text")
        if self.name == MEAN:
            raise ValueError(f"name is {MEAN}, which stands for all sources: choose another")
        if self.text is None:
            if self.share is not None:
                raise ValueError("share is for text: set repeat, or leave it out")
            return self
        fields = type(self).model_fields
        if extra := [name for name in _OF_IMAGES if getattr(self, name) != fields[name].default]:
            raise ValueError(f"text has no images: leave out {', '.join(extra)}")
        return self


class ShapesConfig(Section):
    """A small data set of drawings that the project generates itself."""

    folder: Annotated[Path, Field(description="Where the drawings are, or will be, stored.")]
    train: Annotated[Count, Field(description="Images to train on.")] = 1000
    dev: Annotated[Count, Field(description="Images to validate on.")] = 200


class DataConfig(Section):
    """Images with reference captions, and captions without images."""

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
    hint: Annotated[
        str, Field(exclude=True, description="How to get the data, shown if it is missing.")
    ] = ""  # not a setting of the run: it is not stored with it
    min_count: Annotated[Count, Field(description="Rarer words become <unk>.")] = 5
    max_length: Annotated[Count, Field(description="Cut longer captions to this many words.")] = 30
    captions_per_image: Annotated[
        CaptionCount, Field(description="Per epoch; drawn at random if there are more.")
    ] = 5
    on_bad_image: Annotated[
        Literal["error", "skip"], Field(description="skip: train without unreadable images.")
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
        if any(source.text for source in self.dev):
            raise ValueError("dev has text, which has no images to caption: name annotations")
        if any(source.repeat > 1 for source in self.dev):
            raise ValueError("dev has repeat, but validates each image once: leave it out")
        text = [source for source in self.train if source.text]
        if text and len(text) == len(self.train):
            raise ValueError("train has text only: add a source with images (annotations)")
        if len(text) > 1 and any(source.share is None for source in text):
            raise ValueError("train has several texts: set the share of each")
        if sum(self.share_of(source) for source in text) >= 1:
            raise ValueError("the shares of text in train sum to 1 or more: lower them")
        return self

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

    @property
    def model(self) -> ModelConfig:
        """Return the settings to store with the model; they do not depend on initial weights."""
        batch_norm = "train" if self.encoder.train_batch_norm else "eval"
        encoder = self.encoder.model_copy(update={"weights": "none", "batch_norm": batch_norm})
        # A new model has no confidence until it is calibrated.
        decoding = self.decoding.model_copy(update={"min_confidence": 0.0})
        return ModelConfig(encoder=encoder, decoder=self.decoder, decoding=decoding)


def source_names(sources: Sequence[SourceConfig]) -> list[str]:
    """Return a name for each source, all different: `name`, or one from its path and split.

    The name of the file is used, after that of its folder where files of several folders share it,
    or where the file is called `MEAN`.
    """
    short = [source.name or source.path.stem for source in sources]
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
