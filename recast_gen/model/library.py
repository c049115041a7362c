"""A folder of task files on a live model: switch, mix in one batch, come back."""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from threading import RLock
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import nn
from torch.nn.utils.parametrize import is_parametrized

from ..bank import taskfile
from ..bank.bank import TemplateBank
from ..bank.images import prepare
from ..bank.saved import loaded
from ..bank.task import backbone_of
from ..bank.taskfile import BANKS
from ..errors import AttachError, TaskError, listing, nearest
from ..weights import networks
from ..weights.qkv import joined, whole
from ..weights.tensors import to_torch
from ..weights.wrapping import unwrapped
from . import heads, mixed, sizes, switching
from .adapters import apply
from .attach import attach, attached, hosts, set_coefficients
from .mixed_templates import Shared
from .suspend import suspend

if TYPE_CHECKING:
    from PIL.Image import Image


class TaskLibrary:
    """The task files ``NAME.safetensors`` of a folder, on one model in eval mode.

    The model starts, and is after `base`, as it was without the bank.

    Args:
        folder: of the tasks.
        model: has `bank` attached or its weights; the bank's own timm model when not given.
        bank: a bank or its path; ``bank.zarr`` or the packed ``bank.safetensors`` in the folder when not given.
    Raises:
        TaskError, AttachError, StoreError: for what does not exist or does not belong together.

    The model's other weights must be the bank's; they are looked at once, here, and switching is not slowed by it.
    Every call holds `lock`, so threads may share a library; hold ``with lib.lock:`` yourself around a switch and
    forwards of your own.  A task is read and verified once, and again when its file changes; switching costs the size
    of the task, whatever else was loaded.  Tasks may differ in resolution, sets, classes and the size of their images.
    """

    @torch.inference_mode(False)  # a model that is made here can be trained on
    def __init__(
        self, folder: str | Path, model: nn.Module | None = None, bank: TemplateBank | str | Path | None = None
    ):
        self.folder, self.lock = Path(folder), RLock()
        self.current: str | None = None
        self.router: Callable[[torch.Tensor], list[str]] | None = None  # images n c h w -> the task of each
        if not self.folder.is_dir():
            raise TaskError(f"{folder} does not exist; expected a folder of task files.")
        own = next((path for path in map(self.folder.joinpath, BANKS) if path.exists()), self.folder / BANKS[0])
        self.bank = loaded(bank or own)
        self.model = (networks.rebuild(self.bank.base()) if model is None else unwrapped(model)).eval()
        if not attached(self.model):
            attach(self.model, self.bank)
        switching.check_attached(self.model, self.bank)
        differ = switching.drifted(state := switching.beneath(self.model), self.model, self.bank)
        self._size, tables = sizes.of(self.model), sizes.tables(self.model, self.bank, differ)
        self._tables = {name: state[name].clone() for name in tables}  # as the model has them without a task
        self._base = None if sizes.of_task(self.model, self.bank, tables) else self._size  # of tasks that do not say
        self._sized = bool(self._tables)  # whether the model may have to change for a task
        self._drifted = [name for name in differ if name not in tables]
        self._places = attached(self.model)
        self._cache: dict[str, Any] = {}
        self._head: dict[str, torch.Tensor] = {}
        self._host = next(iter(hosts(self.model).values()))
        self._classes = getattr(self.model, "num_classes", 0)
        self._parts = apply.take_off(self.model)
        self._resume: Callable[[], None] | None = suspend(self.model)
        self._by_image: set[tuple] = set()

    @property
    def names(self) -> list[str]:
        """The tasks in the folder, sorted; what else lies there is none of them."""
        return [path.stem for path in taskfile.in_folder(self.folder)]

    def __len__(self) -> int:
        return len(self.names)

    def task(self, name: str) -> taskfile.Task:
        """A verified task; ``.about`` holds its classes and metrics."""
        path = self.folder / f"{name}.safetensors"
        with self.lock:
            try:
                found = path.stat()
            except OSError:
                near = nearest(name.removesuffix(".safetensors"), self.names)
                raise TaskError(f"{self.folder} has no task {name!r}.{near}") from None
            version = (found.st_mtime_ns, found.st_size, found.st_ino)
            if name not in self._cache or self._cache[name][0] != version:
                task = taskfile.read(path, self.bank)
                switching.refuse_drifted(self._drifted, task, path)
                heads.check(state := switching.beneath(self.model), self.model, task, path)
                left = tuple(f"{place}." for place in heads.on(self.model).left)
                new = [tensor for tensor in task.head if tensor in state and not tensor.startswith(left)]
                self._head |= {tensor: state[tensor].clone() for tensor in new if tensor not in self._head}
                self._tables |= {name: state[name].clone() for name in task.tables.keys() - self._tables.keys()}
                self._sized |= bool(task.tables) or "size" in task.about
                self._cache[name] = version, task, {key: to_torch(array) for key, array in task.head.items()}
            return self._cache[name][1]

    def use(self, name: str) -> taskfile.Task:
        """Switches the model to a task, in place.  Raises TaskError, changing nothing."""
        with self.lock:
            task = self.task(name)
            parts = switching.parts_for(self.model, task, self.folder / f"{name}.safetensors")
            self._resize(task, self.folder / f"{name}.safetensors")
            self._attach()
            for tensor, (module, leaf, _) in self._places.items():
                set_coefficients(module, leaf, torch.from_numpy(task.coefficients[tensor]))
            head = self._cache[name][2]
            heads.switch(self.model, head, self._head, task.outputs or self._classes)
            switching.put_adapter(self.model, parts, task)
            self.current = name
            return task

    def base(self) -> nn.Module:
        """The model without the bank: plain modules with the original weights and head, bit for bit."""
        with self.lock:
            self._detach()
            self._resize()
            heads.switch(self.model, {}, self._head, self._classes)
            self.current = None
            return self.model

    @torch.no_grad()
    def __call__(self, images: torch.Tensor, tasks: list[str] | str | None = None) -> torch.Tensor:
        """Logits ``n classes`` of images ``n c h w``.

        tasks: None, the model as it is switched now, or the tasks that `router` names where it is on none; a name for
        all images, or one name an image, in one forward that leaves the model as it was.  Where tasks have fewer
        classes than others of the batch, their logits end in -inf.
        Raises TaskError for unknown names, another count than of images, images of other channels, tasks whose images
        have several sizes, and models that cannot mix (see `mixed`).
        """
        size = (self.bank.backbone.get("data_config") or {}).get("input_size")
        if size and images.shape[1:2] != (size[0],):
            raise TaskError(f"Images of shape {tuple(images.shape)}; expected n c h w with c = {size[0]}.")
        with self.lock:
            if tasks is None and self.current is None and self.router:
                tasks = self.router(images)
            if tasks is None:
                return mixed.logits_of(self.model(images))
            tasks = [tasks] * len(images) if isinstance(tasks, str) else list(tasks)
            if len(tasks) != len(images) or not tasks:
                raise TaskError(f"{len(tasks)} tasks were named for {len(images)} images: name one for each.")
            if self.model.training:
                raise TaskError("The model is in training mode, where images of a batch mix: call model.eval() first.")
            numbers = {name: number for number, name in enumerate(dict.fromkeys(tasks))}
            if adapted := [name for name in numbers if self.task(name).adapter]:
                raise TaskError(
                    f"{listing(adapted, 4)} have adapters, which a mixed batch cannot have: give each such task a "
                    "batch of its own, lib.use(NAME) and lib(images)."
                )
            found = {name: self._cache[name][2] for name in numbers}
            every = {tensor: array for head in found.values() for tensor, array in head.items()}
            if other := [name for name, head in found.items() if every.keys() - head.keys() - self._head.keys()]:
                raise TaskError(
                    f"{listing(other, 4)} lack the head of others in the batch: give them a batch of their own."
                )
            size, tables = self._one_form(numbers)
            self._detach()
            try:
                with sizes.lent(self.model, self.bank, size, tables, tasks[0]), heads.lent(self.model, every):
                    weights = self._weights([self.task(name) for name in numbers], list(found.values()))
                    return mixed.forward(self.model, weights, images, [numbers[name] for name in tasks], self._by_image)
            finally:
                if self.current is not None:
                    self._attach()

    def classes(self, task: str) -> list[str]:
        """The names of a task's classes, in the order of its logits."""
        return self.task(task).classes

    def transform(self, image: "Image | str | Path") -> torch.Tensor:
        """Pillow's image or a file -> ``c h w`` as the model, or the task in use, wants it, float32.

        It is seen as training saw it, see `bank.pixels.open_image`, which also says what is raised.
        """
        from ..bank.pixels import open_image

        with self.lock:
            task = None if self.current is None else self.task(self.current)
            return torch.from_numpy(prepare(open_image(image), backbone_of(self.bank, task).get("data_config") or {}))

    def predict(
        self, images: "Sequence[Image | str | Path] | Image | str | Path", task: str | None = None
    ) -> list[dict[str, float]]:
        """For each of Pillow's images or files, or one: class -> probability (fraction), the most likely first.

        task: what the model is switched to for as long as this takes; when not given, as it is switched now, or each
        image's own task, which `router` names, where the model is on none.
        Raises TaskError for an unknown task, and for none where the model is on none and there is no router.
        """
        from ..bank.pixels import is_one

        images = cast("Sequence[Image | str | Path]", [images] if is_one(images) else images)
        with self.lock:
            before, found = self.current, dict[int, dict[str, float]]()
            name = before if task is None else task
            if name is None and self.router is None:
                raise TaskError(
                    f"No task is in use: name one, or make a router, rg.router(lib). There are: {listing(self.names)}."
                )

            def batch(rows: Iterable[int]) -> torch.Tensor:
                """As the task in use wants them."""
                return torch.stack([self.transform(images[row]) for row in rows])

            def here(tensor: torch.Tensor) -> torch.Tensor:
                return tensor.to(next(self.model.parameters()))

            every, seen, tasks = range(len(images)), None, [name or ""] * len(images)
            try:
                if name is None and self.router:
                    tasks = self.router(here(seen := batch(every)))
                for each in dict.fromkeys(tasks):
                    rows, used = [row for row in every if tasks[row] == each], self.use(each)
                    own = batch(rows) if seen is None or used.size else seen[rows]
                    found |= zip(rows, used.ranked(self(here(own)).float().cpu().numpy()))
                return [found[row] for row in every]
            finally:
                self.use(before) if before else self.base()

    def _weights(self, tasks: list[taskfile.Task], heads: list[dict]) -> dict:
        """Tensor name -> (number of the task -> its weight)."""

        def layer(name: str, source) -> Shared:
            return Shared(source, [torch.from_numpy(task.coefficients[name]) for task in tasks])

        def kept(name: str, number: int) -> torch.Tensor:
            like = next(iter(self._places.values()))[2].templates.values
            return to_torch(self.bank.rest[name][...]).to(like)

        def own(name: str, number: int) -> torch.Tensor:
            return heads[number][name] if name in heads[number] else self._head[name]

        weights: mixed.Makers = {name: layer(name, source) for name, (_, _, source) in self._places.items()}
        weights |= {name: partial(kept, name) for name in self.bank.rest if name != whole(name)}  # q, k or v
        weights = dict(joined(weights.items(), lambda parts: lambda n: torch.cat([part(n) for part in parts])))
        tensors = {*self._head, *(name for head in heads for name in head)} & self.model.state_dict().keys()
        return weights | {name: partial(own, name) for name in sorted(tensors)}

    def _resize(self, task: taskfile.Task | None = None, path: str | Path = "the model") -> None:
        """Makes the model one for a task's images, or for those that it was opened with."""
        if self._sized:
            sizes.resize(self.model, self.bank, *self._form(task), path)

    def _form(self, task: taskfile.Task | None) -> tuple[sizes.Size | None, dict[str, torch.Tensor]]:
        if task is None:
            return self._size, self._tables
        return sizes.wanted(task, self.bank, self._base), sizes.arrays(task, self.bank, self._tables)

    def _one_form(self, names: Iterable[str]) -> tuple[sizes.Size | None, dict[str, torch.Tensor]]:
        """The size and tables of all tasks of a batch.  Raises TaskError where they differ."""
        (first, (size, tables)), *others = [(name, self._form(self.task(name))) for name in names]
        for name, (other, found) in others:
            if other != size:
                said = [each and each["img_size"] for each in (size, other)]
                raise TaskError(f"{first} is for images of {said[0]}, {name} of {said[1]}: give each size a batch.")
            if differ := [table for table, array in tables.items() if not torch.equal(array, found[table])]:
                raise TaskError(
                    f"{first} and {name} differ in {listing(differ, 4)}: give each task a batch of its own."
                )
        return size, tables

    def _attach(self) -> None:
        self._check()
        if self._resume:
            self._resume()
            apply.put_on(self.model, self._parts)
            self._resume = None

    def _detach(self) -> None:
        self._check()
        if not self._resume:
            self._parts, self._resume = apply.take_off(self.model), suspend(self.model)

    def _check(self) -> None:
        module, leaf, _ = self._host
        if is_parametrized(module, leaf) == (self._resume is not None):
            raise AttachError("A bank was put on or taken off this model outside its library: make a new TaskLibrary.")
