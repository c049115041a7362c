"""How networks and tasks are trained."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from ..errors import listing, repeated
from .fields import Count, NotNegative, Positive, Resolution, Section, Seed

HOW = {"workers", "processes"}  # fields that say how runs are made; no result depends on them


class Training(Section):
    epochs: Count = 100  # passes over the training images
    batch_size: Count = 128  # images a step and device
    optimizer: Literal["adamw", "adam", "sgd", "lamb"] = "adamw"  # timm's by this name; a linear probe has AdamW always
    weight_decay: NotNegative = 1e-6  # the optimizer's
    schedule: Literal["step", "onecycle"] = "step"  # of the learning rate: decays, or one cycle up and down
    step_size: Count = 33  # epochs between decays of the step schedule
    gamma: Positive = 0.1  # factor of each decay
    clip: NotNegative = 1.0  # on the gradient's norm; 0 for none
    patience: Count | None = None  # stop after so many epochs without a better validation; onecycle then ends early
    accumulate: Count = 1  # batches whose gradients are one step; an epoch's last step may have fewer and weighs less
    augment: Literal["none", "timm"] = "none"  # of training images: timm's, or none
    workers: Annotated[int, Field(ge=0)] = 0  # processes that read images which do not fit in memory
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = "32-true"  # Lightning's
    accelerator: Literal["auto", "cpu", "gpu", "mps"] = "auto"  # Lightning's
    devices: Count = 1  # Lightning's count of them


class Train(Training):
    resolution: Resolution = 1  # of all families, or by glob over their names
    lr: Positive | None = None  # learning rate of coefficients; in proportion to each layer when not given
    relative_lr: Positive | None = None  # without `lr`: share of its norm that a step moves a layer, instead of 0.05
    head_lr: Positive | None = None  # learning rate of the head; `lr` when not given, else what keeps a ridge start
    # the linear probe's learning rates: the best on validation counts
    probe_lrs: Annotated[list[Positive], Field(min_length=1)] | None = None
    head_start: Literal["ridge", "random"] = "ridge"  # of a linear head: ridge regression on its features, or at random
    # trained: by gradient. solved: by ridge or logistic regression after every epoch, and on half of each batch for the
    # other half
    head: Literal["trained", "solved"] = "trained"
    # coefficients that are one number: those at one place of a group's layers, a family's or all; or so many in all
    tie: Literal["none", "group", "family", "model"] | Count = "none"
    coefficients: bool = True  # False: an adapter alone
    # what trains beside coefficients
    adapter: Literal["none", "piggyback", "clr", "melo", "adaptformer", "contracon", "codyra", "prompts"] = "none"
    adapter_options: dict[str, int | float] = {}  # such as `rank: 4` of melo, `bottleneck: 64` of adaptformer
    adapter_lr: Positive | None = None  # learning rate of the adapter; what suits it when not given
    # bits of each number of the head in the task file; auto: the fewest within `tolerance`, in folds
    head_bits: Literal["auto", 32, 16, 8, 4, 3, 2, 1] = "auto"
    coefficient_bits: Literal["auto", 32, 16, 8, 4] = "auto"  # of each coefficient there; auto: the same
    tolerance: NotNegative = 0.5  # points of validation accuracy that bits that are `auto` may cost
    max_bytes: Count | None = None  # of the whole task file: the most accurate one within them, on validation
    probe_epochs: Count | None = None  # of the linear probe; `epochs` when not given
    processes: Count = 1  # of this machine that make runs beside each other, with the same results
    seeds: Annotated[list[Seed], Field(min_length=1)] = [42, 1998, 3142592]  # one run each
    orders: Annotated[int, Field(ge=0)] = 0  # random orders of the tasks in which all is learnt again, with one seed

    @property
    def head_rate(self) -> float:
        """The head's learning rate."""
        return self.head_lr or self.lr or 5e-3

    @model_validator(mode="after")
    def something_to_train(self) -> Self:
        if twice := repeated(self.seeds):
            raise ValueError(f"`seeds` lists a seed twice: {listing(twice)}")
        if self.tie != "none" and not self.coefficients:
            raise ValueError("`tie` is of `coefficients`, which are off: leave it out")
        if self.adapter == "none" and not self.coefficients:
            raise ValueError("without `coefficients` there is nothing to train but the head: give an `adapter`")
        if self.head == "solved" and self.head_start == "random":
            raise ValueError("`head: solved` starts from a solved head: leave out `head_start: random`")
        if self.lr and self.relative_lr:
            raise ValueError("give `lr` or `relative_lr`, not both")
        if self.adapter == "none" and (self.adapter_options or self.adapter_lr):
            raise ValueError("`adapter_options` and `adapter_lr` need an `adapter`")
        return self
