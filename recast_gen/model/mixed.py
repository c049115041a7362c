"""One forward in which every image has weights of its own task."""

from collections.abc import Callable
from typing import Any, NoReturn

import torch
from torch import nn
from torch.func import functional_call
from torch.nn import functional as F

from ..errors import TaskError, listing
from .mixed_templates import Shared

BY_IMAGE = {F.linear, F.conv1d, F.conv2d, F.conv3d, F.batch_norm, F.layer_norm, F.group_norm}  # input first, n ...
BY_IMAGE |= {torch.addmm, F.scaled_dot_product_attention, torch.add, torch.Tensor.add, torch.Tensor.__add__}
FORM = {getattr(torch.Tensor, name) for name in ("view", "reshape", "permute", "transpose", "contiguous", "unsqueeze")}
FORM |= {torch.Tensor.__getitem__, torch.permute, torch.transpose, torch.unsqueeze}  # of a table of weights, as Swin's
ABOUT = {getattr(torch.Tensor, name).__get__ for name in ("shape", "dtype", "device", "ndim", "requires_grad")}
ABOUT |= {torch.Tensor.size, torch.Tensor.dim}
Makers = dict[str, Callable[[int], torch.Tensor]]  # tensor name -> (number of the task -> its weight)


class PerTask(torch.Tensor):
    """A weight that differs among the tasks of a batch, each made when its turn comes and then let go.

    like: the weight it stands for (shape, dtype, device).  make: number of the task -> its weight.
    counts: images of each task; the batch is sorted by task.  lengths: takes those of all inputs.
    A function of `BY_IMAGE` runs on each task's images; results with fewer channels than others (a head of fewer
    classes) are filled with -inf.  One of `FORM` gives a weight that differs, too.  Raises TaskError for any other
    function of a weight.
    """

    @staticmethod
    def __new__(cls, like: torch.Tensor, make: Callable[[int], torch.Tensor], counts: list[int], lengths: list[int]):
        return torch.Tensor._make_wrapper_subclass(cls, like.shape, dtype=like.dtype, device=like.device)

    def __init__(self, like: torch.Tensor, make: Callable[[int], torch.Tensor], counts: list[int], lengths: list[int]):
        self.like, self.make, self.counts, self.lengths = like, make, counts, lengths

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        if func in ABOUT:
            return super().__torch_function__(func, types, args, kwargs)
        args, kwargs = list(args), dict(kwargs or {})
        own = next(value for value in [*args, *kwargs.values()] if isinstance(value, PerTask))
        if func in FORM and args[0] is own:
            like, make = func(own.like, *args[1:], **kwargs), own.make
            return PerTask(like, lambda task: func(make(task), *args[1:], **kwargs), own.counts, own.lengths)
        first = 1 if func is torch.addmm else 0  # after the bias
        images = kwargs.get("input") if "input" in kwargs else args[first]
        if func not in BY_IMAGE or not _batched(images, own.counts):
            _refuse(func.__name__)
        own.lengths.append(len(images))
        rows = len(images) // sum(own.counts)  # windows of one image are neighbours
        ends = torch.tensor([0, *own.counts]).cumsum(0).mul(rows).tolist()
        along = func is F.scaled_dot_product_attention  # keys and values are of the images, too

        def of(value, task: int):
            if isinstance(value, PerTask):
                return value.make(task).to(value.like)
            alike = along and isinstance(value, torch.Tensor) and len(value) == len(images)
            return value[ends[task] : ends[task + 1]] if value is images or alike else value

        shared = own.make if isinstance(own.make, Shared) and len(args) > 1 and args[1] is own else None
        if shared and shared.pays(func, images, len(own.counts)):
            owners = torch.arange(len(own.counts)).repeat_interleave(torch.tensor(own.counts) * rows)
            bias = args[2] if len(args) > 2 else kwargs.pop("bias", None)
            if isinstance(bias, PerTask):
                bias = torch.stack([of(bias, task) for task in range(len(own.counts))])[owners]
            return shared.outputs(func, images, owners, own.like, bias, *args[3:], **kwargs)
        made = [
            func(*[of(value, task) for value in args], **{key: of(value, task) for key, value in kwargs.items()})
            for task in range(len(own.counts))
        ]
        sizes = [max(size) for size in zip(*(part.shape[1:] for part in made))]
        return torch.cat([_padded(part, sizes) for part in made])

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        _refuse(getattr(func, "__name__", str(func)))


def _refuse(what: str, how: str = "of a layer's weight, or not image by image") -> NoReturn:
    raise TaskError(
        f"This model computes {what} {how}, which a mixed batch cannot follow: give each task a batch of its own, "
        "lib.use(NAME) and lib(images)."
    )


def _batched(images, counts: list[int]) -> bool:
    plain = isinstance(images, torch.Tensor) and not isinstance(images, PerTask)
    return plain and images.ndim > 0 and len(images) % sum(counts) == 0


def logits_of(output) -> torch.Tensor:
    """What a model returns, or the ``logits`` of it.  Raises TaskError where there are none."""
    found = output if isinstance(output, torch.Tensor) else getattr(output, "logits", None)
    if not isinstance(found, torch.Tensor):
        raise TaskError(
            f"The model returns {type(output).__name__}, without logits: wrap it in a module that returns its logits."
        )
    return found


def _padded(part: torch.Tensor, sizes: list[int]) -> torch.Tensor:
    missing = [pad for size, want in zip(part.shape[:0:-1], sizes[::-1]) for pad in (0, want - size)]
    return F.pad(part, missing, value=-torch.inf) if any(missing) else part


def forward(
    model: nn.Module, weights: Makers, images: torch.Tensor, tasks: list[int], known: set[tuple]
) -> torch.Tensor:
    """Logits ``n classes`` of images ``n ...``, image k under the weights of task ``tasks[k]``.

    model: a plain one, images along the first axis of every layer.
    A loop over the tasks runs in the layers that `weights` names, and nowhere else; one weight at a time is in memory.
    Where images are few a task, they pass the templates that all tasks share instead (see `mixed_templates`).
    known: what has run image by image already; anything else runs once more, with one image, to see that it does.
    Raises TaskError for a model that computes something else with such a weight than `BY_IMAGE`, or of a table.
    """
    other = [name for name, module in model.named_modules() if getattr(module, "batch_first", True) is False]
    if other:
        raise TaskError(f"{listing(other, 4)} take images along the second axis: make them with batch_first=True.")
    of = torch.tensor(tasks)
    order = of.argsort(stable=True)
    counts = of.bincount().tolist()
    logits, lengths = _run(model, weights, images[order.to(images.device)], counts)
    if (key := (images.shape[1:], *weights)) not in known and len(images) > 1:
        if lengths != [len(images) * alone for alone in _run(model, weights, images[:1], [1])[1]]:
            _refuse("a layer", "not image by image")
        known.add(key)
    return logits[order.argsort().to(logits.device)]


def _run(model: nn.Module, weights: Makers, images: torch.Tensor, counts: list[int]) -> tuple[torch.Tensor, list[int]]:
    """Logits of images that are sorted by task, and the lengths of what went into the layers."""
    lengths: list[int] = []
    paths = {path for path, _ in model.named_modules()}  # each module once, whatever other names it has
    tensors = dict(model.named_parameters(remove_duplicate=False)) | dict(model.named_buffers(remove_duplicate=False))
    made = {id(tensors[name]): PerTask(tensors[name], make, counts, lengths) for name, make in weights.items()}
    places = {name: id(tensor) for name, tensor in tensors.items() if name.rpartition(".")[0] in paths}
    stand_ins: dict[str, Any] = {name: made[key] for name, key in places.items() if key in made}
    return logits_of(functional_call(model, stand_ins, (images,), tie_weights=False)), lengths
