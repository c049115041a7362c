"""How a bank is fitted: Neural Mimicry and the VAE template generator."""

from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from ..errors import listing
from .fields import Count, Gauge, NotNegative, Positive, Section
from .images import Data

CUT = {"groups", "group_size", "group_by", "templates"}
OF_MANY = {"decoder", "prior"}  # of a population alone


def _templates(value: Any) -> Any:
    if value != "full" and not (isinstance(value, int) and value >= 1):
        raise ValueError("expected a count of 1 or more, or 'full'")
    return value


def _groups(value: Any) -> Any:
    lists = isinstance(value, list) and value and all(isinstance(group, list) and group for group in value)
    numbers = [place for group in value for place in group] if lists else [1 if value is None else value]
    if not all(type(number) is int and number >= (not lists) for number in numbers):
        raise ValueError("expected a count of 1 or more, or lists of positions along depth from 0: [[0, 1], [2, 3]]")
    return value


class Groups(Section):
    """How families are cut into groups, and how many templates a group has at most; neither: one group a family.

    A count is at most: a family of fewer layers has one group a layer, a group of fewer layers one template a layer.
    groups: a count, or lists of positions along depth, from 0; layers in no list keep the backbone's weights.
    """

    groups: Annotated[Any, BeforeValidator(_groups)] = None  # a count a family, or lists of positions along depth
    group_by: Literal["consecutive", "similarity"] = "consecutive"  # similarity: layers that are most alike
    group_size: Count | None = None  # layers a group, instead of `groups`
    templates: Annotated[Any, BeforeValidator(_templates)] = "full"  # a group, at most; full: one a layer, exact

    @model_validator(mode="after")
    def one_of_them(self) -> Self:
        if self.groups and self.group_size:
            raise ValueError("give `groups` or `group_size`, not both")
        if self.group_by == "similarity" and not isinstance(self.groups, int):
            raise ValueError("`group_by: similarity` needs `groups`, the number of groups")
        return self

    def cut(self) -> dict[str, Any]:
        return self.model_dump(include=CUT)


class Direct(Section):
    """The paper's gradient loop."""

    loss: Literal["smooth_l1", "l1", "mse", "cosine"] = "smooth_l1"  # between a layer and its reconstruction
    coordinates: bool = False  # descend in the span of the layers; mse and cosine only
    start: Literal["svd", "random"] | None = None  # svd for l1 and random for the others when not given
    steps: Count = 1000  # of the optimizer, a group
    lr: Positive = 1e-2  # learning rate
    step_size: Count = 300  # steps between decays of the learning rate
    gamma: Positive = 0.5  # factor of each decay
    noise: NotNegative = 0.0  # standard deviation of what is added to the start
    clip: Positive = 1.0  # on the gradient's norm


class Mimic(Groups):
    """Neural Mimicry.  `layout`, `budget`, `whiten` and `bits` compress the network; the study is of whole layers in
    floats always."""

    gauge: Gauge = "svd"  # basis of the template space
    solver: Literal["closed_form", "direct"] = "closed_form"  # direct: the paper's gradient loop
    sets: Count = 1  # coefficient sets a layer, the paper's K; more add parameters and no function
    direct: Direct = Direct()  # settings of the gradient loop
    layout: str = "layer"  # what a template is: layer, row, column, tile, an einops pattern, or auto for the best
    axes: dict[str, Count] | None = None  # sizes of the layout's axes, such as {p: 8, q: 8}
    budget: Annotated[float, Field(gt=0, le=1)] | None = None  # share of parameters to store, in place of `templates`
    whiten: bool = False  # weigh errors by the layers' inputs on calibration images
    calibration: Data | None = None  # these images; what the backbone was trained on here when not given
    images: Count = 256  # calibration images, at most
    bits: Literal[8, 4, "ternary"] | None = None  # of templates, one scale a row; floats when not given

    @model_validator(mode="after")
    def closed(self) -> Self:
        if self.budget is not None and self.templates != "full":
            raise ValueError("give `templates` or `budget`, not both")
        if self.bits and self.layout != "layer":
            raise ValueError("`bits` are of whole layers: leave out `layout`")
        if self.layout != "layer" or self.axes or self.budget is not None or self.whiten:
            wrong = [key for key in ("gauge", "solver", "sets") if key in self.model_fields_set]
            if wrong:
                raise ValueError(f"`layout`, `budget` and `whiten` have a closed form: leave out {listing(wrong)}")
        return self

    def compression(self) -> dict[str, Any]:
        """What makes a bank smaller than the network."""
        return self.model_dump(include={"layout", "axes", "budget"})

    def options(self) -> dict[str, Any]:
        """What a fit needs besides how families are cut."""
        chosen = self.model_dump(include={"gauge", "solver", "sets"})
        return chosen | (self.direct.model_dump() if self.solver == "direct" else {})


def _one_or_more(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


class MimicVae(Groups):
    solver: Literal["vae", "ppca"] = "vae"  # ppca: the linear VAE's optimum in closed form, for beta 1
    beta: NotNegative = 1.0  # weight of the KL
    noise: Positive | None = 0.01  # variance of the observations, of the layers' mean square; null: learned
    noise_floor: Positive = 1e-3  # of learned noise
    epochs: Count = 60  # passes over the layers
    hidden: Annotated[int, Field(ge=0)] = 32  # width of the encoder's hidden layer; 0: a linear encoder
    warmup: Annotated[int, Field(ge=0)] = 0  # epochs until the KL has its weight
    free_bits: NotNegative = 0.0  # nats of KL a latent that cost nothing
    variational: bool = True  # false: the plain autoencoder
    decoder: Literal["linear", "mlp"] = "linear"  # of a population; mlp: with a hidden layer, for solver vae
    prior: Literal["normal", "flow"] = "normal"  # of a population's codes; flow: fitted to them
    tokens: Annotated[
        list[Literal["neuron", "head", "tile"]], BeforeValidator(_one_or_more)
    ] = []  # token banks to fit as well

    def options(self) -> dict[str, Any]:
        """What a fit needs besides how families are cut."""
        exact = {"solver", "beta", "noise", "noise_floor"}
        return self.model_dump(include=exact if self.solver == "ppca" else None, exclude=CUT | OF_MANY | {"tokens"})

    def population_options(self) -> dict[str, Any]:
        """What the fit of many networks needs; its solver is ``ppca`` where none is given."""
        solver = self.solver if "solver" in self.model_fields_set else "ppca"
        options = self.options() if solver == "vae" else self.model_dump(include={"noise", "noise_floor"})
        return options | self.model_dump(include=OF_MANY | {"templates"}) | {"solver": solver}

    def token_options(self) -> dict[str, Any]:
        """What the fit of a token bank needs."""
        return self.model_dump(include={"tokens", "beta", "noise", "noise_floor", "warmup", "free_bits"})
