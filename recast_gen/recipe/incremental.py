"""Classes that arrive one after the other, to be told apart without knowing a task."""

from typing import Annotated, Literal, Self, get_args

from pydantic import Field, model_validator

from ..errors import listing, nearest, repeated
from .fields import Count, Positive, Section, Share, Word
from .images import Data

HeadName = Literal[
    "means", "ridge", "random_ridge", "statistics", "translated", "weight_aligning", "key_value", "language", "frozen",
    "l2_to_start", "ewc", "subspace",
]  # fmt: skip
HEADS: tuple[str, ...] = get_args(HeadName)


class Blurry(Section):
    classes: Annotated[float, Field(gt=0, le=1)] = 0.5  # share of the classes that come in other steps too
    images: Share = 0.1  # share of such a class's training images that do, each in a random step


class Sequential(Section):
    # plain: nothing holds the coefficients. ewc: each is drawn back, the more the more earlier steps depend on it.
    # subspace: they do not move in the principal directions of what earlier steps depend on
    ways: Annotated[list[Literal["plain", "ewc", "subspace"]], Field(min_length=1)] = ["plain", "ewc", "subspace"]
    epochs: Count | None = None  # of each step; those of `train` when not given
    strength: Positive = 1.0  # of the penalty of ewc; 1 is that of Laplace's approximation
    keep: Share = 0.9  # of subspace: the share of what earlier steps depend on that stays


class Incremental(Section):
    heads: Annotated[list[HeadName], Field(min_length=1)] = ["means", "ridge", "random_ridge"]  # that are compared
    options: dict[str, dict[str, bool | int | float | str]] = {}  # of heads, such as `random_ridge: {width: 2048}`
    data: Data | None = None  # the images; those of all tasks when not given, whose classes are then all different
    classes_per_step: Count | None = None  # that a step adds; a step is a task when not given
    orders: Count = 3  # random orders of the classes, or of the tasks where a step is a task
    # orders of one's own in their place, each with every class once, or with every coarsest name of `hierarchy`
    class_orders: list[list[Word]] | None = None
    # a class or coarser name -> the coarser name under which a part of its images comes first; coarsest names are in
    # the place of classes in orders and steps, then all steps come again with the next finer names
    hierarchy: dict[Word, Word] = {}
    stages: Count = 1  # of the network that heads see: what its head sees, and the means of the stages before the last
    # coefficients, as section `train` has them, learn the first step's classes and are frozen then: true, or its epochs
    first_session: bool | Count = False
    # coefficients, as section `train` has them, go on learning with every step; heads see the network of that time
    sequential: Sequential | None = None
    # that a head keeps at the end: random_ridge has the largest width within them, others that keep more are left out
    max_bytes: Count | None = None
    blurry: Blurry | None = None  # some images of some classes come in other steps
    shots: Count | None = None  # training images of each class from the second step on; all when not given

    @model_validator(mode="after")
    def goes_together(self) -> Self:
        if twice := repeated(self.heads):
            raise ValueError(f"`heads` lists a head twice: {listing(twice)}")
        if lost := [name for name in self.options if name not in self.heads]:
            raise ValueError(
                f"`options` are of heads that `heads` does not list: {listing(lost)}.{nearest(lost[0], self.heads)}"
            )
        if (self.data or self.class_orders or self.hierarchy) and not self.classes_per_step:
            raise ValueError(
                "`data`, `class_orders` and `hierarchy` need `classes_per_step`: without it a step is a task"
            )
        single = self.classes_per_step == 1 and not self.hierarchy and not self.blurry
        if single and (trained := "first_session" if self.first_session else "sequential" if self.sequential else None):
            raise ValueError(f"`{trained}` trains on the classes of a step: give two or more `classes_per_step`")
        if self.sequential and self.max_bytes:
            raise ValueError("`max_bytes` and `sequential` do not go together: what `sequential` keeps grows")
        if self.hierarchy and self.blurry:
            raise ValueError("`hierarchy` and `blurry` do not go together: leave out one of them")
        if self.sequential and (twice := repeated(self.sequential.ways)):
            raise ValueError(f"`sequential.ways` lists a way twice: {listing(twice)}")
        for name in self.hierarchy:
            path_of(name, self.hierarchy)
        for order in self.class_orders or []:
            if twice := repeated(order):
                raise ValueError(f"`class_orders` has a class that comes back: {listing(twice)}; name each once")
        return self


def path_of(name: str, coarser: dict[str, str]) -> list[str]:
    """From the coarsest name to `name`.

    Args:
        coarser: a name -> the next coarser one.

    Raises:
        ValueError: a name is coarser than itself.
    """
    path = [name]
    while path[0] in coarser:
        if coarser[path[0]] in path:
            raise ValueError(f"`hierarchy` goes round in a circle: {' < '.join([*path[::-1], coarser[path[0]]])}")
        path.insert(0, coarser[path[0]])
    return path
