"""What a frozen prefix of a network computes, kept: training then starts at the first module that changes."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from .threads import flops

WORTHWHILE = 0.8  # share of a forward's operations that may be left, for the prefix to be kept
MOST = 2**30  # bytes of what is kept of all images


class Shortcut(nn.Module):
    """A model in eval mode that takes what goes into its module `entry` in the place of images.

    Modules of `before` are not run: each gives, for every image, what it once gave for another.  That nothing but the
    entry's input reaches what comes after is for `shortcut` to check.

    Args:
        before: path of a module -> its output for one image.
        image: one, ``1 c h w``.
    """

    def __init__(self, model: nn.Module, entry: str, before: dict[str, torch.Tensor], image: torch.Tensor):
        super().__init__()
        self.model, self.entry, self.before, self.image = model, entry, before, image
        self.inputs: Any = None

    def of(self, model: nn.Module) -> "Shortcut":
        """The same shortcut in another model of the same frozen prefix."""
        return Shortcut(model, self.entry, self.before, self.image)

    @contextmanager
    def on(self) -> Iterator["Shortcut"]:
        """Inside it the model takes the shortcut, and is as it was before afterwards."""
        modules = {path: self.model.get_submodule(path) for path in self.before}
        entry = self.model.get_submodule(self.entry)
        hook = entry.register_forward_pre_hook(lambda _, given: (self.inputs, *given[1:]))
        for path, module in modules.items():
            module.forward = lambda *_, output=self.before[path], **__: output.to(self.inputs.device).expand(
                len(self.inputs), *output.shape[1:]
            )
        try:
            yield self
        finally:
            hook.remove()
            for module in modules.values():
                del module.forward

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """The entry's inputs ``n ...`` -> logits ``n classes``."""
        self.inputs = inputs
        return self.model(self.image.to(inputs.device).expand(len(inputs), *self.image.shape[1:]))


@torch.no_grad()
def shortcut(model: nn.Module, images: torch.Tensor, count: int) -> Shortcut | None:
    """The shortcut to the first module that changes the same logits of `images`, and saves enough; None without one.

    Args:
        model: what changes of it requires a gradient; it is left in eval mode.
        images: three or more, ``n c h w``, all different.
        count: of all images whose inputs would be kept.
    """
    calls = _Calls(model.eval())
    logits = calls.record(images)
    whole = flops(model, images)
    for entry in calls.candidates():
        inputs, before = calls.inputs[entry], calls.before(entry)
        if inputs is None or inputs[0].nbytes * count > MOST:
            continue
        found = Shortcut(model, entry, before, images[:1])
        with found.on():
            try:
                if flops(found, inputs) > WORTHWHILE * whole:
                    return None  # the outer ones save less
                same = torch.allclose(found(inputs), logits, rtol=1e-4, atol=1e-5 * float(logits.abs().max()))
            except (RuntimeError, TypeError, ValueError):
                continue
        if same:
            return found
    return None


class _Calls:
    """One forward of a model: which modules it calls within which, with what."""

    def __init__(self, model: nn.Module):
        self.model, self.stack = model, [""]
        self.paths = {module: path for path, module in model.named_modules()}
        self.inputs: dict[str, torch.Tensor | None] = {}
        self.within: dict[str, str] = {}  # path of a called module -> of the one that calls it
        self.outputs: dict[str, torch.Tensor | None] = {}  # in the order in which they end
        self.done: dict[str, list[str]] = {}  # path -> what had ended when it was called
        self.repeated: set[str] = set()

    def record(self, images: torch.Tensor) -> torch.Tensor:
        count = len(images)

        def batch(value) -> torch.Tensor | None:
            return value if isinstance(value, torch.Tensor) and value.ndim and len(value) == count else None

        def enter(module: nn.Module, given: tuple) -> None:
            path = self.paths[module]
            if path in self.inputs:
                self.repeated.add(path)
            self.inputs[path], self.within[path] = batch(given[0]) if given else None, self.stack[-1]
            self.done[path] = list(self.outputs)
            self.stack.append(path)

        def leave(module: nn.Module, given: tuple, output) -> None:
            self.outputs[self.stack.pop()] = batch(output)

        hooks = [
            hook for module in self.paths
            for hook in (module.register_forward_pre_hook(enter), module.register_forward_hook(leave))
        ]  # fmt: skip
        try:
            return self.model(images)
        finally:
            for hook in hooks:
                hook.remove()

    def candidates(self) -> list[str]:
        """The first module called that has a trained parameter of its own, and those that call it; innermost first."""
        changed = (name for name, tensor in self.model.named_parameters() if tensor.requires_grad)
        trained = {re.sub(r"\.(parametrizations\..*|[^.]+)$", "", f".{name}")[1:] for name in changed}
        found = [next((path for path in self.inputs if path in trained), "")]
        while found[-1]:
            found.append(self.within[found[-1]])
        return [path for path in found[:-1] if path not in self.repeated]

    def before(self, entry: str) -> dict[str, torch.Tensor]:
        """The outermost modules that end before `entry` is called, and their outputs for the first image."""
        around, path = {""}, entry
        while path:
            around.add(path := self.within[path])
        return {
            path: output[:1] for path in self.done[entry]
            if (output := self.outputs[path]) is not None and self.within[path] in around and path not in self.repeated
        }  # fmt: skip
