"""What can be set, with every default, in one place. A typo is an error that says what was meant.

A config file holds only what differs from these defaults; `key=value` pairs on the command line come last and win.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from captioner.errors import UsageError

TrunkName = Literal[
    "resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "mobilenet_v2", "small_cnn"
]
TransformName = Literal["squash", "crop"]
AugmentationName = Literal["random_crop", "mild_crop"]
PrecisionName = Literal["auto", "fp32", "bf16"]
DeviceName = Literal["auto", "cpu", "cuda", "mps"]
CellName = Literal["lstm", "gru", "rnn"]
ContextName = Literal["none", "first_token", "every_step", "attention", "merge"]
ObjectiveName = Literal["teacher_forcing", "scheduled_sampling", "free_running", "self_critical"]
ScheduleName = Literal["linear", "exponential", "inverse_sigmoid"]
RewardName = Literal["CIDEr", "Bleu_4", "ROUGE_L", "METEOR"]

Count = Annotated[int, Field(gt=0)]
Share = Annotated[float, Field(ge=0, lt=1)]
Rate = Annotated[float, Field(gt=0)]
Whole = Annotated[int, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]


class Section(BaseModel):
    """Frozen, and strict about names."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class EncoderConfig(Section):
    """The CNN, and how a picture is laid before it."""

    trunk: TrunkName = "resnet50"
    weights: str = "default"  # default: torchvision's ImageNet weights · none: start from nothing · a state dict file
    batch_norm: Literal["auto", "eval", "train"] = (
        "auto"  # auto: train where the trunk starts from nothing
    )
    transform: TransformName = (
        "squash"  # squash: the whole picture, as a square · crop: the middle of it
    )
    image_size: Count = 224

    @property
    def train_batch_norm(self) -> bool:
        """Whether the batch norms of stages that learn gather statistics of their own."""
        return self.batch_norm == "train" or (self.batch_norm == "auto" and self.weights == "none")


class DecoderConfig(Section):
    """The recurrent network that writes the caption."""

    cell: CellName = "lstm"
    context: ContextName = "none"  # how the image reaches it: see captioner.models.context
    attention_size: Count = 256  # of the space in which attention compares state and places
    layers: Count = 1  # each beyond the first adds its input to its output
    embed_size: Count = 512
    hidden_size: Count = 512
    dropout: Share = 0.5
    image_dropout: Share = 0.0  # of the encoder's features, before the decoder sees them
    tie_embedding: bool = (
        False  # one matrix for reading and saying words; needs embed_size = hidden_size
    )


class DecodingConfig(Section):
    """How captions are found; kept in the model folder as its defaults."""

    method: Literal["beam", "sample"] = "beam"
    captions: Count = 1  # of each image at most: the best first, or in the order drawn
    max_length: Count = 20  # words
    min_length: Whole = 0
    min_confidence: Fraction = 0.0  # stay silent below it
    # beam search
    beam: Count = 3  # 1: greedy; widened where `captions`, `groups` or `require` ask for more
    length_norm: Literal["none", "average", "wu"] = (
        "wu"  # rank by probability, by its mean per word, or between the two
    )
    length_alpha: Annotated[float, Field(ge=0, le=2)] = (
        0.9  # of wu: 0 is none, larger favours longer captions
    )
    groups: Annotated[int, Field(gt=0, le=100)] = (
        1  # diverse beam search: each avoids the words of those before
    )
    diversity: Annotated[float, Field(ge=0, le=100)] = 0.5  # by so much log-probability
    # sampling
    temperature: Annotated[float, Field(ge=0.01, le=100)] = 1.0  # below 1 sharper, above 1 flatter
    top_k: Count | None = None  # draw from so many of the likeliest words
    top_p: Annotated[float, Field(gt=0, le=1)] = (
        1.0  # draw from the fewest words that together have this probability
    )
    seed: int = 0
    # rules, obeyed by beam search and sampling alike
    prefix: str = ""  # captions start with this
    require: tuple[str, ...] = ()  # words that every caption holds
    forbid: tuple[str, ...] = ()  # words that none holds
    no_repeat_ngram: Count | None = None  # no run of so many words twice
    no_double_words: bool = False  # no word twice in a row

    @field_validator("require", "forbid", mode="before")
    @classmethod
    def _one_word_is_a_list(cls, value: object) -> object:
        return (value,) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _fits_together(self) -> DecodingConfig:
        if self.min_length > self.max_length:
            raise ValueError(
                f"min_length ({self.min_length}) is above max_length ({self.max_length})"
            )
        if both := sorted(set(self.require) & set(self.forbid)):
            raise ValueError(f"'{both[0]}' is both required and forbidden")
        return self


class ConfidenceConfig(Section):
    """What `captioner calibrate` found out: a word of probability p is right with confidence p ** (1 / temperature)."""

    temperature: Rate
    error: Fraction  # expected calibration error of captions, on images that the temperature was not fitted on
    images: Count


class SourceConfig(Section):
    """One split: an annotation file of any format that is read, and where its images are."""

    annotations: Path
    images: Path | None = None  # found beside the annotations where they lie as usual
    split: str | None = (
        None  # Karpathy: train, val, test · token and CSV files: a file that lists image names
    )
    restval: bool = False  # Karpathy: let `restval` join `train`


class ShapesConfig(Section):
    """A small data set that the project draws itself, where it is not there yet."""

    folder: Path
    train: Count = 1000
    dev: Count = 200


class DataConfig(Section):
    """Photographs and what people said of them."""

    train: SourceConfig | None = None
    dev: SourceConfig | None = None  # without one, a share of train is held out
    holdout: Annotated[float, Field(gt=0, lt=1)] = 0.1
    shapes: ShapesConfig | None = None  # instead of train and dev
    min_count: Count = 5  # a word seen less often is <unk>
    max_length: Count = 30  # words; longer captions are cut for training
    captions_per_image: Count | Literal["all"] = (
        5  # in an epoch, drawn anew for each where there are more
    )
    on_bad_image: Literal["error", "skip"] = (
        "error"  # skip: train without the images that cannot be read
    )
    bad_images: Share = 0.01  # the largest share of a split that may be skipped

    def sources(self) -> dict[str, SourceConfig]:
        """Return where `train` is, and `dev` unless it is held out from train.

        Raises:
            UsageError: train is not given.
        """
        if self.shapes:
            folder = self.shapes.folder
            return {
                split: SourceConfig(
                    annotations=folder / f"captions_{split}.json", images=folder / split
                )
                for split in ("train", "dev")
            }
        if self.train is None:
            raise UsageError(
                "data.train is missing: name its annotations, as in data.train.annotations=captions.jsonl"
            )
        return {"train": self.train, **({"dev": self.dev} if self.dev else {})}


class ScheduledSamplingConfig(Section):
    """How often the decoder reads its own word instead of the true one."""

    schedule: ScheduleName = "linear"  # how that share grows over the phase
    share: Fraction = 0.25  # of own words at the end of the phase


class SelfCriticalConfig(Section):
    """Which captions of its own the model learns from, and how they are rewarded."""

    candidates: Literal["beam", "sample"] = "beam"  # found by beam search, or drawn
    samples: Count = 5  # captions of each image
    baseline: Literal["mean", "greedy"] = (
        "mean"  # what a caption must be better than: the others, or greedy's
    )
    reward: dict[RewardName, Annotated[float, Field(ge=0)]] = {"CIDEr": 1.0}  # metric → weight

    @model_validator(mode="after")
    def _can_be_computed(self) -> SelfCriticalConfig:
        if self.baseline == "mean" and self.samples < 2:
            raise ValueError("the mean of the other samples needs others: set samples to 2 or more")
        if not any(self.reward.values()):
            raise ValueError("no metric has a weight: set reward to {CIDEr: 1}, for example")
        return self


class PhaseConfig(Section):
    """A stretch of training with one objective, one way of treating the trunk, and one learning rate schedule."""

    objective: ObjectiveName = "teacher_forcing"  # see captioner.training.objectives
    scheduled_sampling: ScheduledSamplingConfig = ScheduledSamplingConfig()
    self_critical: SelfCriticalConfig = SelfCriticalConfig()
    epochs: Count = 10
    learning_rate: Rate = 1e-3  # at its peak: warm-up, then a cosine to zero
    warmup: Share = 0.1  # share of the phase's steps
    finetune_from: str | None = (
        None  # the first stage of the trunk that learns (stem: all); none: frozen
    )
    trunk_learning_rate: Rate = 1e-4
    augmentation: AugmentationName | None = None


class TrainingConfig(Section):
    """How the model is taught."""

    phases: tuple[PhaseConfig, ...] = (PhaseConfig(),)
    batch_size: Count = 64  # images, each with its captions, over all ranks
    accumulate: Count | Literal["auto"] = (
        1  # parts of a batch, one at a time; auto: as few as find room
    )
    max_steps: Count | None = None  # stop here, whatever the phases say
    validate_every: Count | None = None  # steps; none: each epoch
    checkpoint_every: Count | None = None  # steps; none: at each validation
    keep_checkpoints: Count = 2
    early_stopping: Count | None = None  # validations without a better CIDEr-D
    validation_beam: Count = 1
    label_smoothing: Share = 0.0
    word_dropout: Share = 0.0  # share of the words read that become <unk>
    attention_penalty: Annotated[float, Field(ge=0)] = (
        1.0  # on places that attention looks at too rarely or too often
    )
    ema: Share = 0.0  # decay of the moving average of the weights, which is what is validated and kept; 0: none
    glove: Path | None = None  # a text file of word vectors that embeddings start from
    weight_decay: Annotated[float, Field(ge=0)] = 1e-4
    gradient_clip: Rate = 5.0  # largest norm
    cache_features: bool = True  # where the trunk is frozen and nothing is augmented
    precision: PrecisionName = "auto"
    workers: Whole | None = None  # that read images; none: as many as there are cores
    worker_timeout: Annotated[float, Field(ge=0)] = (
        45.0  # seconds to wait for a batch of theirs; 0: for ever
    )
    seed: int = 0

    @field_validator("batch_size", mode="before")
    @classmethod
    def _is_what_is_kept(cls, value: object) -> object:
        if value == "auto":
            raise ValueError(
                "give the number that each step learns from; accumulate=auto finds how many fit at a time"
            )
        return value


class ModelConfig(Section):
    """What a model folder needs in order to be built again."""

    encoder: EncoderConfig = EncoderConfig()
    decoder: DecoderConfig = DecoderConfig()
    decoding: DecodingConfig = DecodingConfig()
    confidence: ConfidenceConfig | None = None


class Config(ModelConfig):
    """A training run."""

    data: DataConfig
    training: TrainingConfig = TrainingConfig()
    init: str | None = None  # a model folder to start from, or `bundled`
    output: Path = Path("runs/captioner")

    @property
    def model(self) -> ModelConfig:
        """The part that is stored with the model, which no longer needs the weights it started from."""
        trained = {
            "weights": "none",
            "batch_norm": "train" if self.encoder.train_batch_norm else "eval",
        }
        encoder = self.encoder.model_copy(update=trained)
        decoding = self.decoding.model_copy(
            update={"min_confidence": 0.0}
        )  # until it is calibrated anew
        return ModelConfig(encoder=encoder, decoder=self.decoder, decoding=decoding)
