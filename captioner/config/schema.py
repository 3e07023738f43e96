"""Every setting, with its type, default, range and help text. The command line is derived from it.

A config file holds only what differs from these defaults; `key=value` arguments override both.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationError,
    field_validator,
    model_validator,
)

from captioner.config.trunks import TrunkName
from captioner.devices import (
    BATCH_SIZE,
    LARGEST,
    BackendName,
    DeviceName,
    PrecisionName,
    check_device_name,
)

TransformName = Literal["squash", "crop"]
AugmentationName = Literal["random_crop", "mild_crop"]
CellName = Literal["lstm", "gru", "rnn"]
TokenizerName = Literal["caption", "word", "character", "subword"]
ContextName = Literal["none", "first_token", "every_step", "attention", "merge"]
ObjectiveName = Literal["teacher_forcing", "scheduled_sampling", "free_running", "self_critical"]
ScheduleName = Literal["linear", "exponential", "inverse_sigmoid"]
RewardName = Literal["CIDEr", "Bleu_4", "ROUGE_L", "METEOR"]
MEAN = "mean"  # over the dev sources, in training.select_by; so no source has this name

Count = Annotated[int, Field(ge=1, le=LARGEST)]
CountOrZero = Annotated[int, Field(ge=0, le=LARGEST)]
Seed = Annotated[int, Field(ge=-LARGEST, le=LARGEST)]
Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Share = Annotated[float, Field(ge=0, lt=1)]
RGB = tuple[float, float, float]


class Section(BaseModel):
    """A group of settings: frozen; unknown names and numbers that are not finite are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @classmethod
    def parse(cls, values: Mapping[str, object], *, source: str) -> Self:
        """Return the section that `values` describe.

        Raises:
            UsageError: lists every mistake in `source`.
        """
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            from captioner.config.loading import usage_error  # needed for errors only

            raise usage_error(cls, error, values=values, source=source) from None

    def to_json(self) -> dict[str, Any]:
        """Return the section as plain values, with the defaults written out."""
        return self.model_dump(mode="json")


class ImageEncoderConfig(Section):
    """The CNN, and how an image is resized for it."""

    kind: Annotated[Literal["image"], Field(description="What the model reads: images.")] = "image"
    trunk: Annotated[TrunkName, Field(description="The CNN.")] = "resnet50"
    weights: Annotated[
        str,
        Field(description="default (pretrained), none (random), a state dict, or a model folder."),
    ] = "default"
    batch_norm: Annotated[
        Literal["auto", "eval", "train"], Field(description="auto: train if weights is none.")
    ] = "auto"
    transform: Annotated[
        TransformName, Field(description="squash: the whole image as a square; crop: its center.")
    ] = "squash"
    image_size: Annotated[
        Count, Field(description="Side of the square, in pixels; left out: timm's for its trunks.")
    ] = 224
    mean: Annotated[RGB | None, Field(description="Of pixels 0 to 1; none: the trunk's.")] = None
    std: Annotated[
        tuple[Positive, Positive, Positive] | None, Field(description="As mean; none: the trunk's.")
    ] = None

    @property
    def train_batch_norm(self) -> bool:
        """Return whether trained stages update the statistics of their batch norms."""
        return self.batch_norm == "train" or (self.batch_norm == "auto" and self.weights == "none")


class TextEncoderConfig(Section):
    """The RNN that reads a source text."""

    kind: Annotated[Literal["text"], Field(description="What the model reads: text.")] = "text"
    cell: Annotated[CellName, Field(description="The recurrent cell.")] = "gru"
    layers: Annotated[Count, Field(description="Recurrent layers.")] = 1
    bidirectional: Annotated[bool, Field(description="Read the text in both directions.")] = True
    reverse: Annotated[bool, Field(description="Read the text from its end to its start.")] = False
    embed_size: Annotated[Count, Field(description="Size of the word embedding.")] = 256
    hidden_size: Annotated[Count, Field(description="Hidden size of each direction.")] = 256
    dropout: Annotated[Share, Field(description="Dropout rate in the encoder.")] = 0.3


def _encoder_kind(values: object) -> str:
    """Return the kind of an encoder; one without `kind` is that of images, as it always was."""
    kind = values.get("kind", "image") if isinstance(values, Mapping) else None
    return str(kind or getattr(values, "kind", "image"))


EncoderConfig = Annotated[
    Annotated[ImageEncoderConfig, Tag("image")] | Annotated[TextEncoderConfig, Tag("text")],
    Discriminator(_encoder_kind),
]
"""What the model reads: images with a CNN, or text with an RNN."""


class DecoderConfig(Section):
    """The RNN that generates the caption."""

    cell: Annotated[CellName, Field(description="The recurrent cell.")] = "lstm"
    context: Annotated[
        ContextName, Field(description="How the source reaches the decoder: see models/context.py.")
    ] = "none"
    bridge: Annotated[
        Literal["affine", "copy"],
        Field(description="Initial state: a projection, or a copy of a text encoder's last state."),
    ] = "affine"
    attention_size: Annotated[Count, Field(description="Hidden size of the attention.")] = 256
    layers: Annotated[Count, Field(description="Recurrent layers, joined by residuals.")] = 1
    embed_size: Annotated[Count, Field(description="Size of the word embedding.")] = 512
    hidden_size: Annotated[Count, Field(description="Size of the hidden state.")] = 512
    dropout: Annotated[Share, Field(description="Dropout rate in the decoder.")] = 0.5
    image_dropout: Annotated[
        Share, Field(description="Dropout rate of what the encoder returns.")
    ] = 0.0
    tie_embedding: Annotated[bool, Field(description="Share weights with the output.")] = False


class DecodingConfig(Section):
    """How captions are searched for. A model folder stores these settings as its defaults."""

    method: Annotated[
        Literal["beam", "sample"], Field(description="Sample captions instead of beam search.")
    ] = "beam"
    captions: Annotated[Count, Field(description="Maximum captions per image.")] = 1
    max_length: Annotated[
        Count, Field(description="Maximum words of a caption; for text, see length_ratio.")
    ] = 20
    length_ratio: Annotated[
        NonNegative,
        Field(description="Text: raises max_length by this for each token of the source."),
    ] = 1.5
    min_length: Annotated[CountOrZero, Field(description="Minimum words of a caption.")] = 0
    min_confidence: Annotated[Fraction, Field(description="Omit less confident captions.")] = 0.0
    # Beam search. It is widened where `captions`, `groups` or `require` need more beams.
    beam: Annotated[Count, Field(description="Number of beams; 1 is greedy.")] = 3
    length_norm: Annotated[
        Literal["none", "average", "wu"], Field(description="Length normalization of scores.")
    ] = "wu"
    length_alpha: Annotated[
        float, Field(ge=0, le=2, description="Exponent of wu: larger favors longer captions.")
    ] = 0.9
    groups: Annotated[
        int, Field(ge=1, le=100, description="Diverse beam search: number of groups.")
    ] = 1
    diversity: Annotated[
        float, Field(ge=0, le=100, description="Penalty on words that other groups use.")
    ] = 0.5
    # Sampling.
    temperature: Annotated[
        float, Field(ge=0.01, le=100, description="Sampling: below 1 sharper, above 1 flatter.")
    ] = 1.0
    top_k: Annotated[
        int | None, Field(ge=1, le=LARGEST, description="Sampling: only the k likeliest.")
    ] = None
    top_p: Annotated[
        float, Field(gt=0, le=1, description="Sampling: likeliest words, up to this probability.")
    ] = 1.0
    seed: Annotated[Seed, Field(description="Sampling: the same seed gives the same captions.")] = 0
    # Constraints, for beam search and sampling.
    prefix: Annotated[str, Field(description="Start captions with this text.")] = ""
    require: Annotated[tuple[str, ...], Field(description="Require this word.")] = ()
    forbid: Annotated[tuple[str, ...], Field(description="Forbid this word.")] = ()
    no_repeat_ngram: Annotated[
        int | None, Field(ge=1, le=LARGEST, description="Use no N words in a row twice.")
    ] = None
    no_double_words: Annotated[bool, Field(description="Use no word twice in a row.")] = False
    no_repeat_words: Annotated[
        bool, Field(description="Use no word twice, except words such as a, of and in (English).")
    ] = False

    replace_unknown: Annotated[
        bool, Field(description="Text: replace an unknown word by the source word it attends to.")
    ] = False

    @field_validator("require", "forbid", mode="before")
    @classmethod
    def _word_to_tuple(cls, value: object) -> object:
        return (value,) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _check_consistency(self) -> DecodingConfig:
        if self.min_length > self.max_length:
            raise ValueError(
                f"min_length ({self.min_length}) is above max_length ({self.max_length})"
            )
        if both := sorted(set(self.require) & set(self.forbid)):
            raise ValueError(f"'{both[0]}' is both required and forbidden")
        return self


class InferenceConfig(Section):
    """How a trained model is run; not stored with the model."""

    batch_size: Annotated[Count, Field(description="Images per batch.")] = BATCH_SIZE
    device: Annotated[DeviceName, Field(description="auto: the first of cuda, mps, cpu.")] = "auto"
    precision: Annotated[
        PrecisionName, Field(description="auto: bfloat16 where the hardware is faster with it.")
    ] = "auto"
    backend: Annotated[
        BackendName,
        Field(description="auto: onnx, which starts faster, unless something needs torch."),
    ] = "auto"

    _check_device = field_validator("device", mode="before")(check_device_name)


INFERENCE = InferenceConfig()
"""The defaults of `Captioner` and of the command line."""


class ConfidenceConfig(Section):
    """The result of calibration; see `captioner.metrics.calibration`."""

    temperature: Annotated[Positive, Field(description="Fitted on captions of new images.")]
    error: Annotated[Fraction, Field(description="Expected calibration error on other images.")]
    images: Annotated[Count, Field(description="Number of images.")]
    threshold: Annotated[Fraction | None, Field(description="Unsure captions are below it.")] = None


class ModelConfig(Section):
    """The settings that a model folder stores."""

    encoder: EncoderConfig = ImageEncoderConfig()
    decoder: DecoderConfig = DecoderConfig()
    decoding: DecodingConfig = DecodingConfig()
    confidence: ConfidenceConfig | None = None

    @model_validator(mode="after")
    def _check_decoding(self) -> ModelConfig:
        reads_text, attends = self.encoder.kind == "text", self.decoder.context == "attention"
        if self.decoding.replace_unknown and not (reads_text and attends):
            raise ValueError(
                "decoding.replace_unknown needs a text encoder and decoder.context=attention: "
                "leave it out"
            )
        if self.decoding.min_confidence and reads_text:
            raise ValueError("decoding.min_confidence is for images, not for text: leave it out")
        return self
