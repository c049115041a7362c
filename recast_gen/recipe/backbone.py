"""The backbone: where its weights come from and how it wants images."""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from .fields import PLACE, Count, Positive, Section
from .images import Data
from .training import Training


class Pretrain(Training):
    """Trains the backbone here instead of downloading it."""

    data: Data  # its images
    lr: Positive = 2e-3  # learning rate


class DataConfig(Section):
    """How a network wants its images; what is not given is timm's."""

    input_size: Annotated[list[Count], Field(min_length=3, max_length=3)] | None = None  # channels, height, width
    mean: list[float] | None = None  # per channel, of pixels from 0 to 1
    std: list[Positive] | None = None  # per channel, of pixels from 0 to 1
    crop_pct: Positive | None = None  # share of the height and width that is kept
    # resized to cover the input, to its shape, or within it on a border
    crop_mode: Literal["center", "squash", "border"] | None = None
    # how images are resized
    interpolation: Literal["nearest", "bilinear", "bicubic", "box", "hamming", "lanczos", "random"] | None = None


class Model(Section):
    name: Annotated[str | None, PLACE] = None  # timm's, or package.module:callable; none for a checkpoint alone
    kwargs: dict[str, Any] = {}  # arguments of timm.create_model, or of the callable
    pretrained: bool = True  # weights from timm's hub
    revision: str | None = None  # of the hub: a branch, tag or commit; its newest when not given
    checkpoint: Annotated[str | None, PLACE] = None  # a file of weights instead
    weights: str | None = None  # of a checkpoint with several sets: raw, ema, or its name; timm's choice when not given
    data_config: DataConfig = DataConfig()  # how it wants its images; timm's own when not given
    head: str | None = None  # the head's module; timm's own when not given
    pretrain: Pretrain | None = None  # train the backbone here, on these images, instead of downloading it
    # many networks instead of one: a glob of their files, or how many to train here, each from a seed of its own
    population: str | Annotated[int, Field(ge=2)] | None = None

    @model_validator(mode="after")
    def something(self) -> Self:
        if isinstance(self.population, int) and not self.pretrain:
            raise ValueError("`population` as a count trains its networks here: give `pretrain`, or a glob of files")
        if self.population and (self.checkpoint or self.pretrained):
            raise ValueError("a `population` is not pretrained and no `checkpoint`: say `pretrained: false`")
        if not (self.name or self.checkpoint or self.population):
            raise ValueError("a model needs `name`, or `checkpoint` alone for its weights without a task")
        if self.pretrain and not self.name:
            raise ValueError("`pretrain` needs `name`")
        if self.revision and (self.checkpoint or not self.pretrained):
            raise ValueError("`revision` is of the hub's weights, which this model does not take")
        return self
