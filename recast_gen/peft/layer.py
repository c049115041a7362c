"""A layer whose tensors come from coefficients, one set of them an adapter, as PEFT wraps layers."""

from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer, check_adapters_to_merge
from torch import nn
from torch.func import functional_call

from ..errors import TaskError, listing
from ..model.attach import Planned
from ..weights.qkv import PARTS, place, rows, whole


class RecastLayer(nn.Module, BaseTunerLayer):
    """A module with tensors of a bank, by adapter.

    One active adapter gives its weights.  Of several, what each adds to the base is added up.
    """

    adapter_layer_names = ("recast_coefficients",)
    other_param_names = ("recast_sources",)

    def __init__(self, base_layer: nn.Module):
        super().__init__()
        self.base_layer: Any = base_layer
        self.recast_coefficients: Any = nn.ModuleDict()  # adapter -> key -> coefficients ``s b t``
        self.recast_sources: Any = nn.ModuleDict()  # adapter -> key -> `FromBank`
        self._disable_adapters, self.merged_adapters = False, []
        self._unmerged: dict[str, torch.Tensor] = {}

    def add(self, adapter: str, planned: dict[str, Planned]) -> None:
        """Adds an adapter that starts at the bank's base; planned: by tensor name."""
        coefficients, sources = nn.ParameterDict(), nn.ModuleDict()
        for name, plan in planned.items():
            own = getattr(self.base_layer, plan.leaf)
            sources[key(name)] = plan.source(rows(own, name))
            coefficients[key(name)] = nn.Parameter(plan.coefficients.to(own.device, own.dtype).clone())
        self.recast_coefficients[adapter], self.recast_sources[adapter] = coefficients, sources

    def _made(self, adapter: str, base: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The tensors of the module under one adapter, by their leaf names."""
        made: dict[str, Any] = {}
        for name, source in self.recast_sources[adapter].items():
            coefficients, values = self.recast_coefficients[adapter][name], source.templates.values
            if coefficients.dtype != values.dtype:  # PEFT trains half precision's in float32
                coefficients = coefficients.to(values.dtype)
            tensor, (leaf, part) = source(coefficients), split(name)
            if part is None:
                made[leaf] = tensor
            else:
                made.setdefault(leaf, list(base[leaf].chunk(len(PARTS))))[part] = tensor
        joined = {leaf: torch.cat(found) if isinstance(found, list) else found for leaf, found in made.items()}
        return {leaf: tensor.reshape(base[leaf].shape) for leaf, tensor in joined.items()}

    def weights(self, adapters: list[str]) -> dict[str, torch.Tensor]:
        """The tensors of the module under these adapters; of those that it has not, the base's."""
        base = dict(self.base_layer.named_parameters(recurse=False)) | self._unmerged
        found = [self._made(adapter, base) for adapter in adapters if adapter in self.recast_sources]
        if len(found) < 2:
            return found[0] if found else {}
        leaves = dict.fromkeys(leaf for made in found for leaf in made)
        return {
            leaf: base[leaf] + sum(made[leaf] - base[leaf] for made in found if leaf in made) for leaf in leaves
        }  # fmt: skip

    def forward(self, *args, **kwargs):
        if self.disable_adapters and self.merged:
            self.unmerge()
        made = {} if self.disable_adapters or self.merged else self.weights(self.active_adapters)
        return functional_call(self.base_layer, made, args, kwargs) if made else self.base_layer(*args, **kwargs)

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Puts the adapters' weights into the module.  Raises TaskError, if `safe_merge`, for NaN and infinity."""
        new = [name for name in check_adapters_to_merge(self, adapter_names) if name in self.recast_sources]
        if not new:
            return
        with torch.no_grad():
            made = self.weights([*self.merged_adapters, *new])
        if safe_merge and (bad := [leaf for leaf, tensor in made.items() if not torch.isfinite(tensor).all()]):
            raise TaskError(f"Adapter {listing(new)} makes NaN or infinity of {listing(bad)}: train it again.")
        for leaf, tensor in made.items():
            parameter = getattr(self.base_layer, leaf)
            self._unmerged.setdefault(leaf, parameter.data)
            parameter.data = tensor.detach().clone()
        self.merged_adapters += new

    def unmerge(self) -> None:
        """Gives the module its own tensors back, bit for bit."""
        for leaf, tensor in self._unmerged.items():
            parameter = getattr(self.base_layer, leaf)
            parameter.data = tensor.to(parameter)
        self._unmerged, self.merged_adapters = {}, []

    def _current(self, leaf: str):
        """What other modules see that read a tensor of this one instead of calling it."""
        if not (self.disable_adapters or self.merged):
            made = self.weights(self.active_adapters)
            if leaf in made:
                return made[leaf]
        return getattr(self.base_layer, leaf)

    @property
    def weight(self):
        return self._current("weight")

    @property
    def bias(self):
        return self._current("bias")

    def __getattr__(self, name: str):
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name == "base_layer":
                raise
            return getattr(self.base_layer, name)


def key(name: str) -> str:
    """Of a tensor's name what a module calls it, without dots: ``weight``, of a split qkv ``q_weight``."""
    leaf = name.rpartition(".")[2]
    return leaf if name == whole(name) else f"{PARTS[place(name)]}_{leaf}"


def split(found: str) -> tuple[str, int | None]:
    """Leaf name, and which part of it, of a `key`."""
    part, _, leaf = found.partition("_")
    return (leaf, PARTS.index(part)) if leaf and part in PARTS else (found, None)
