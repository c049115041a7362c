"""Which task an image belongs to: a head over the tasks of a library, asked where no task is named."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Self

import torch

from ..bank.taskfile import ROUTER
from ..errors import StoreError, TaskError, listing, nearest
from ..model.heads import own
from ..model.library import TaskLibrary
from ..weights.files import read_tensors
from . import heads
from .stages import further, seen_by


class Router:
    """A head whose classes are tasks, on the features of a library's backbone without any task.

    Args:
        library: whose `router` it becomes: ``library(images)`` without names asks it where no task is in use.
        make: numbers of features -> a head that has learnt nothing.
        stages: of the network that the head sees.
    """

    def __init__(self, library: TaskLibrary, make: Callable[[int], heads.Head], stages: int = 1):
        self.library, self.make, self.stages = library, make, stages
        self.head: heads.Head | None = None  # its labels are places in `tasks`
        self.tasks: list[str] = []
        library.router = self

    def add(self, task: str, images: torch.Tensor) -> Self:
        """Learns one task more from images ``n c h w`` as the model takes them, and saves the router beside the tasks.

        Images of a task that it knows are added to those before.

        Raises:
            TaskError: the library has no such task; or no features can be seen in its network.
        """
        if task not in (names := self.library.names):
            raise TaskError(f"{self.library.folder} has no task {task!r}.{nearest(task, names)}")
        tasks = self.tasks if task in self.tasks else [*self.tasks, task]
        features = features_of(self.library, task, images, self.stages)
        head = self.head or self.make(features.shape[1])
        head.fit(features, torch.full((len(features),), tasks.index(task)))
        self.head, self.tasks = head, tasks
        said = {"bank": self.library.bank.hash, "tasks": json.dumps(tasks), "stages": str(self.stages)}
        head.save(self.library.folder / ROUTER, **said)
        return self

    def __call__(self, images: torch.Tensor) -> list[str]:
        """The task of each image ``n c h w``.  Raises TaskError where it has learnt none."""
        if self.head is None:
            raise TaskError("The router has learnt no task: call add(task, images) first.")
        features = features_of(self.library, self.tasks[0], images, self.stages)
        return [self.tasks[place] for place in self.head.predict(features).tolist()]


def router(library: TaskLibrary, head: str | None = None, seed: int = 0, stages: int = 1, **options) -> Router:
    """A library's router: a new one of this head, or the one that is saved beside the tasks.

    It learns with `Router.add`, one task after the other, and ``library(images)`` asks it.

    Args:
        library: whose tasks it is to name.
        head: one of `tasks.heads.HEADS`, such as ``ridge`` or ``means``, which end alike in any order of tasks, or
            ``statistics``.  The saved router when not given.
        seed: of what the head draws.
        stages: of the network that the head sees: what the network's own head sees, and the means of the stages before
            the last, see `tasks.stages`.
        options: the head's own.
    Returns:
        The router.
    Raises:
        TaskError: for a head that there is not, or settings without a head; for a saved router that belongs to another
            bank or knows tasks that the folder has no longer.
        DataError: the network has fewer stages.
        StoreError: there is no saved router, or it is damaged.
    """
    if head is not None:
        heads.make(head, 1, seed, **options)  # what cannot be made is refused now
        further(library.model, stages)
        return Router(library, lambda width: heads.make(head, width, seed, **options), stages)
    if options or (seed, stages) != (0, 1):
        raise TaskError("Seed, stages and options are of a new router: name its head, or leave them out.")
    if not (path := library.folder / ROUTER).exists():
        raise StoreError(f"{library.folder} has no router: make one of a head, rg.router(lib, 'ridge').")
    found, (bank, tasks, stages) = heads.load(path), _about(path)
    if bank != library.bank.hash:
        raise TaskError(f"{path} belongs to bank {bank}; this library has {library.bank.hash}: make a new router.")
    there = set(library.names)
    if lost := [name for name in tasks if name not in there]:
        raise TaskError(f"{path} knows {listing(lost)}, which the folder has no longer: make a new router.")
    known = Router(library, lambda width: found, stages)
    known.head, known.tasks = found, tasks
    return known


def _about(path: Path) -> tuple[str, list[str], int]:
    """The bank's hash, the tasks and the stages of a saved router."""
    about = read_tensors(path)[1]
    if not {"bank", "tasks", "stages"} <= about.keys():
        raise TaskError(f"{path} is a head, and no router: it does not say of which bank and tasks.")
    return about["bank"], json.loads(about["tasks"]), int(about["stages"])


def features_of(library: TaskLibrary, task: str, images: torch.Tensor, stages: int = 1) -> torch.Tensor:
    """What the head of the library's network sees of images without any task, with further stages, ``n d``.

    Args:
        task: whose head says where the network's is, if neither bank nor timm does.

    Raises:
        TaskError: it is not one row an image.
    """
    with library.lock:
        before = library.current
        names = library.task(task).head
        model = library.base()
        place, modules = own(model, bank=library.bank), dict(model.named_modules())
        place = next((of for of in [place, *(name.rpartition(".")[0] for name in names)] if of in modules), place)
        try:
            if place not in modules:
                raise TaskError(f"The model has no module {place!r}, whose input a router would learn from.")
            seen = seen_by(model, place, images, stages)
        finally:
            if before is not None:
                library.use(before)
    if seen is None:
        raise TaskError(f"The module {place!r} does not see one row of features an image, so no router can learn.")
    return seen.cpu()
