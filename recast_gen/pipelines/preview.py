"""What a recipe will do, before it computes anything: model, families, images, disk space, runs, time."""

import shutil
import time
from collections.abc import Callable, Iterator
from copy import deepcopy
from functools import partial
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import DataError, FitError, RecastError, StoreError, listing, takes_images
from ..recipe.images import Data, Task
from ..recipe.reading import Recipe, load
from ..tasks.readers import READERS
from ..tasks.readers.raw import PARTS, Raw
from ..tasks.readers.vision import NotDownloaded, torchvision
from ..weights.named import SplitQkv, Weights
from ..weights.selection import select, split
from .folder import STORE

if TYPE_CHECKING:
    from torch import nn

GROWTH = 1.05  # of a store on disk over the bytes of its tensors
TRIED = 64  # images of the step that is timed, at most
ENOUGH = 0.3  # seconds of a forward from which more images time no better


def preview(recipe_path: str | Path) -> Iterator[tuple[str, str, bool]]:
    """(what, in words, whether it is well) of each thing that a recipe needs, one after the other.

    Every image is read.  Nothing is downloaded and nothing written.
    Raises RecipeError for a recipe that cannot be read.
    """
    seen = _Preview(load(recipe_path), Path(recipe_path))
    for what, find in seen.steps():
        try:
            yield what, find(), True
        except RecastError as error:
            yield what, str(error), False


class _Preview:
    """What is known of a recipe so far."""

    def __init__(self, recipe: Recipe, path: Path):
        self.recipe, self.path = recipe, path
        trained = recipe.model.population
        self.networks = trained if isinstance(trained, int) else 0  # of a population
        self.model: nn.Module | None = None
        self.head: str | None = None
        self.config: dict = {}
        self.shapes: dict[str, tuple[tuple[int, ...], str]] = {}
        self.images: dict[str, dict[str, int]] = {}  # task -> part -> count
        self.classes: dict[str, list[str]] = {}  # of a task
        self.sizes: dict[str, list[int]] = {}  # task -> height and width of its images
        self.made: dict[tuple[int, ...], nn.Module] = {}  # such a size -> the model made for it

    def steps(self) -> list[tuple[str, Callable[[], str]]]:
        if self.recipe.model.population:
            return [("model", self.network), ("population", self.population), ("disk", self.disk)]
        steps: list[tuple[str, Callable[[], str]]] = [("model", self.network), ("families", self.families)]
        steps += [("adapter", self.adapter)] * (self.recipe.train.adapter != "none")
        steps += [(f"task {task.name}", partial(self.task, task)) for task in self.recipe.tasks]
        steps += [("incremental", self.incremental)] * (self.recipe.incremental is not None)
        return [*steps, ("disk", self.disk), ("runs", self.runs)]

    def network(self) -> str:
        from ..weights import checkpoints
        from ..weights.networks import create, head_of
        from ..weights.sources import describe

        asked = self.recipe.model
        weights = checkpoints.read(asked.checkpoint) if asked.checkpoint else Weights({}, shapes={})
        about, self.shapes = weights.backbone, dict(weights.shapes)
        if asked.name:
            self.model = create(asked.name, asked.kwargs)
            about = describe(self.model) | about
            state = self.model.state_dict().items()
            self.shapes = {name: (tuple(each.shape), str(each.dtype).removeprefix("torch.")) for name, each in state}
        self.config = about.get("data_config", {}) | asked.data_config.model_dump(exclude_none=True)
        size, self.head = self.config.get("input_size"), asked.head or about.get("head")
        self.head = self.head or (head_of(asked.name) if asked.name and ":" not in asked.name else None)
        where = asked.checkpoint or "timm's hub" * asked.pretrained or "random weights"
        return (
            f"{asked.name or asked.checkpoint}, {self._count():,} parameters "
            f"({'trained here' if asked.pretrain else where}); images "
            f"{'x'.join(map(str, size)) if size else 'of a size that nothing says'}; head {self.head or 'not known'}"
        )

    def population(self) -> str:
        from .population_stages import files

        asked = self.recipe.model
        if isinstance(asked.population, int):
            return f"{asked.population} networks, each trained from a seed of its own"
        self.networks = len(files(self.recipe, self.path))
        return f"{self.networks} files"

    def _count(self) -> int:
        return sum(prod(shape) for shape, _ in self.shapes.values())

    def families(self) -> str:
        from ..model.resolution import divided

        if not self.shapes:
            raise FitError("not known without the model.")
        weights, section = Weights({}, shapes=self.shapes), self.recipe.mimic
        found = (SplitQkv(weights) if self.recipe.split_qkv else weights).families(self.recipe.by)
        chosen, coefficients = select(found, self.recipe.families), 0
        asked = 1 if self.model is None or self.recipe.tune.resolutions else self.recipe.train.resolution
        blocks = divided(self.model, chosen, asked)
        for family in chosen.values():
            for names in split(family, section.groups, section.group_size):
                count = len(names) if section.templates == "full" else min(section.templates, len(names))
                coefficients += count * sum(blocks[name] for name in names)
        layers = sum(family.layers for family in chosen.values())
        return f"{listing(chosen, 6)}: {layers} layers, {coefficients:,} coefficients a task at resolution {asked}"

    def adapter(self) -> str:
        from ..model.adapters.apply import make

        if self.model is None or self.head is None:
            raise FitError("not known without the model and its head.")
        name, options = self.recipe.train.adapter, dict[str, Any](self.recipe.train.adapter_options)
        return f"{name}, on {len(make(self.model, name, self.head, **options))} modules of the model"

    def incremental(self) -> str:
        from ..tasks.classes import named
        from ..tasks.incremental import check_heads
        from ..tasks.steps import own_orders

        section, classes, said = self.recipe.incremental, self.classes, ""
        assert section
        check_heads(section)
        if section.data:
            said, parts, names = self._read(section.data)
            classes = {"incremental": names} if parts else {}
        if len(classes) == (1 if section.data else len(self.recipe.tasks)):
            own_orders(named(classes), section)
        return f"heads {listing(section.heads)}" + f"; {said}" * bool(said)

    def task(self, task: Task) -> str:
        said, parts, classes = self._read(task.data)
        if not parts:
            return said
        size = self._sized(task)
        self.images[task.name] = {part: len(parts[part].labels) for part in PARTS}
        self.classes[task.name] = classes
        return said + size

    def _read(self, data: Data) -> tuple[str, dict[str, Raw], list[str]]:
        """In words what a source holds; its parts, none where it is not downloaded; its classes."""
        from ..tasks.data import parted

        own = data.source == "torchvision"
        try:
            found = (partial(torchvision, download=False) if own else READERS[data.source])(data)
        except NotDownloaded as absent:
            return str(absent), {}, []
        parts, classes, _, skipped = parted(found, data, self.recipe.seed)
        each = np.bincount(np.concatenate([raw.labels for raw in parts.values()]))
        left = f"; {len(skipped)} that cannot be read are left out" if skipped else ""
        counts = ", ".join(f"{part} {len(parts[part].labels)}" for part in PARTS)
        said = f"{len(classes)} classes; images: {counts}; fewest of {classes[each.argmin()]!r}, {each.min()}{left}"
        return said, parts, classes

    def _sized(self, task: Task) -> str:
        """In words, the size of a task's images where it has one of its own, which the model takes."""
        if not task.size:
            return ""
        self.sizes[task.name] = task.size
        if self.model is not None:
            self._of(self.model, task.size)
        return f"; of {task.size[0]}x{task.size[1]} pixels"

    def _of(self, model: "nn.Module", size: list[int]) -> None:
        """Makes the model one for images of a size (h, w), kept in `made`.  Raises AttachError or DataError."""
        import torch

        from ..model.sizes import make
        from ..weights.modes import evaluating

        model, channels = deepcopy(model), (self.config.get("input_size") or [3])[0]
        make(model, size)
        with torch.no_grad(), evaluating(model), takes_images(f"size {size}", DataError, "give another `img_size`."):
            model(torch.zeros(1, channels, *size))
        self.made[tuple(size)] = model

    def disk(self) -> str:
        """Layers, three banks, and the generated weights of every task."""
        size = sum(prod(shape) * np.dtype(dtype).itemsize if dtype != "bfloat16" else 2 * prod(shape)
                   for shape, dtype in self.shapes.values())  # fmt: skip
        needed = int(GROWTH * size * (2 * self.networks if self.networks else 4 + len(self.recipe.tasks)))
        place = next(path for path in (STORE, *STORE.absolute().parents) if path.exists())
        free = shutil.disk_usage(place).free
        said = f"{STORE} takes about {needed / 1e6:,.0f} MB; {free / 1e6:,.0f} MB are free"
        if needed > free:
            raise StoreError(f"{said}: make room, or link {STORE} to another disk.")
        return said

    def runs(self) -> str:
        train, tasks = self.recipe.train, len(self.recipe.tasks)
        full = tasks * (len(train.seeds) + train.orders)
        heads = tasks * len(train.seeds) * len(train.probe_lrs or [1])  # these learn on features that are kept
        said = f"{full} of {train.epochs} epochs on images, {heads} of heads alone on features"
        if self.model is None or not self.config.get("input_size") or len(self.images) < tasks:
            return said
        channels, *usual = self.config["input_size"]
        of_size: dict[tuple[int, ...], tuple[float, float]] = {}
        seconds = 0.0
        for name, count in self.images.items():
            size = self.sizes.get(name, usual)
            if tuple(size) not in of_size:
                if tuple(size) not in self.made:
                    self._of(self.model, size)
                of_size[tuple(size)] = _seconds(self.made[tuple(size)], [channels, *size], train.batch_size)
            forward, step = of_size[tuple(size)]
            each = count["train"] * step + count["validation"] * forward
            seconds += sum(count.values()) * forward + full / tasks * train.epochs * each
        return f"{said}; at most about {in_words(seconds)} on this machine, as busy as it is now"


def _seconds(model: "nn.Module", size: list[int], batch: int) -> tuple[float, float]:
    """Of an image: in a forward, and in a step of training."""
    import torch

    def timed(count: int, backward: bool) -> float:
        begun = time.perf_counter()
        with torch.set_grad_enabled(backward):
            logits = model(images[:count])
        if backward:
            logits.square().mean().backward()
        return (time.perf_counter() - begun) / count

    images = torch.zeros(min(batch, TRIED), *size)
    model.requires_grad_(True).eval()
    timed(2, False)  # warms up
    count = 8 if 8 * timed(8, False) > ENOUGH else len(images)
    return timed(count, False), timed(count, True)


def in_words(seconds: float) -> str:
    """A duration as people say it."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
