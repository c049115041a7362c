"""What a weight comes from: coefficients on templates, or q, k and v."""

import re
from contextlib import nullcontext
from typing import Any

import torch
from torch import nn
from torch.nn.utils import parametrize

from ..bank.own import Factors
from ..bank.templates import mix, project
from ..errors import AttachError
from ..weights.qkv import PARTS
from .kept import Kept, keeps


class Templates(nn.Module):
    """The frozen templates ``t o ...`` of one group: one module in all its layers.

    bank: the hash of the bank they come from, whose memory they share with it and with other models.  Hence they are no
    buffer, which whoever goes through `model.buffers()` might write to.
    """

    def __init__(self, templates: torch.Tensor, bank: str):
        super().__init__()
        self.bank, self.values = bank, templates

    def _apply(self, fn, recurse=True):
        """Moves them with the model, flat: a memory format of images fits no templates of kernels, of one axis more."""
        self.values = fn(self.values.flatten(1)).reshape(self.values.shape)
        return super()._apply(fn, recurse)


class OwnTemplates(nn.Module):
    """The frozen templates of one layer alone, of rank 1; no buffers, as `Templates`."""

    def __init__(self, factors: Factors, like: torch.Tensor):
        super().__init__()
        self.left, self.right = (torch.from_numpy(array).to(like) for array in (factors.left, factors.right))
        self.pairs = factors.pairs

    def _apply(self, fn, recurse=True):
        self.left, self.right = fn(self.left), fn(self.right)
        return super()._apply(fn, recurse)

    def on(self, device: torch.device) -> Factors:
        return Factors(self.left.to(device), self.right.to(device), self.pairs)


class FromBank(nn.Module):
    """Parametrizes a weight ``o ...`` by coefficients ``s b t`` on shared templates.

    own: templates that only this layer has, after those.
    original: the weight that was there, kept for `detach` and never part of a state dict.  order: of the names of the
    parameters of its module.
    """

    def __init__(
        self, templates: Templates, resolution: int, original: nn.Parameter, order: tuple[str, ...],
        own: OwnTemplates | None = None,
    ):  # fmt: skip
        super().__init__()
        self.own = own
        self.templates, self.resolution, self.order = templates, resolution, order
        self.original, self.trainable = original.detach(), original.requires_grad
        self.kept = Kept()

    def forward(self, coefficients: torch.Tensor) -> torch.Tensor:
        if keeps(coefficients):
            return self.kept.weight(coefficients, self.templates.values, self.mixed)
        self.kept.forget()
        device = coefficients.device.type
        with nullcontext() if device == "meta" else torch.autocast(device, enabled=False):  # keeps the weight's dtype
            return self.mixed(coefficients)

    def mixed(self, coefficients: torch.Tensor) -> torch.Tensor:
        """Weight ``o ...`` of coefficients ``s b t``."""
        templates = self.templates.values.to(coefficients.device)  # of a replica on another device
        if self.own is None:
            return mix(coefficients, templates)
        shared, last = coefficients.split([len(templates), coefficients.shape[2] - len(templates)], 2)
        weight = mix(shared, templates)
        return weight + self.own.on(coefficients.device).mixed(last.mean(0)).reshape(weight.shape)

    def _save_to_state_dict(self, destination, prefix, keep_vars):
        """A state dict tells the bank beside its tensors, as torch does a module's version."""
        super()._save_to_state_dict(destination, prefix, keep_vars)
        getattr(destination, "_metadata", {}).setdefault(prefix[:-1], {})["bank"] = self.templates.bank

    def _load_from_state_dict(self, state_dict, prefix, local_metadata, *rest):
        bank = local_metadata.get("bank", self.templates.bank)  # older ones do not tell
        if bank != self.templates.bank:
            raise AttachError(f"{prefix[:-1]}: coefficients of bank {bank}, but this is bank {self.templates.bank}.")
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *rest)

    def right_inverse(self, weight: torch.Tensor) -> torch.Tensor:
        """Weight -> coefficients ``1 b t``, least squares onto the templates."""
        layer, templates = (tensor.detach().float().cpu().numpy() for tensor in (weight, self.templates.values))
        found = torch.from_numpy(project(layer, templates, self.resolution)).to(weight)
        return found if self.own is None else nn.functional.pad(found, (0, self.own.on(weight.device).count))


class Joined(nn.Module):
    """Parametrizes a qkv weight ``(3 o) ...`` by tensors ``o ...`` of its own, which a bank may parametrize in turn.

    original, order: as in `FromBank`.
    """

    def __init__(self, original: nn.Parameter, order: tuple[str, ...]):
        super().__init__()
        self.order, self.original, self.trainable = order, original.detach(), original.requires_grad
        self.kept = Kept()

    def forward(self) -> torch.Tensor:
        parts = [getattr(self, part) for part in PARTS]
        if torch.compiler.is_compiling() or not all(self._keeps(*pair) for pair in zip(PARTS, parts)):
            self.kept.forget()
            return torch.cat(parts)
        return self.kept.joined(parts)

    def _keeps(self, part: str, weight: torch.Tensor) -> bool:
        """Whether this is a part's weight that is kept."""
        steps = steps_on(self, part) if parametrize.is_parametrized(self, part) else None
        return steps is not None and steps[0].kept.is_last(weight)

    def right_inverse(self, weight: torch.Tensor) -> tuple:
        """Weight -> its parts, which are the parameters of this module; torch's own list of originals is empty."""
        for part, tensor in zip(PARTS, weight.detach().chunk(len(PARTS))):
            own = parametrize.is_parametrized(self, part)
            setattr(self, part, tensor if own else nn.Parameter(tensor, requires_grad=self.trainable))
        return ()


def steps_on(module: nn.Module, leaf: str) -> Any:
    """The parametrizations of one tensor of a module, with its ``original``: torch gives them no type."""
    return module.parametrizations[leaf]  # type: ignore[index]


def tensor_name(name: str) -> str:
    """The bank's name of a model's tensor: of a `Joined` one's part, the part's."""
    return re.sub(r"\.parametrizations\.weight\.0\.([qkv])$", r"#\1.weight", name)
