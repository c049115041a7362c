"""A bank's coefficients as the parameters of an ordinary model (torch.nn.utils.parametrize)."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from torch.nn.utils import parametrize

from ..bank.bank import TemplateBank
from ..errors import AttachError, listing, nearest
from ..weights.families import CACHED
from ..weights.qkv import PARTS, place, rows, whole
from ..weights.wrapping import unwrapped, wrapped_inside
from .parametrizations import FromBank, Joined, OwnTemplates, Templates, steps_on, tensor_name
from .resolution import Resolution, blocks

TOLERANCE = 5e-3  # relative; bfloat16 rounds a weight by up to 4e-3


def attached(model: nn.Module) -> dict[str, tuple[nn.Module, str, FromBank]]:
    """Tensor name -> (module, leaf name, FromBank) of every weight that comes from a bank, in the model's order.

    The module of q, k and v of a split qkv is its `Joined`.
    """
    return {
        name: (module, leaf, source)
        for name, (module, leaf, source) in _put_on(model).items()
        if isinstance(source, FromBank)
    }


def hosts(model: nn.Module) -> dict[str, tuple[nn.Module, str, FromBank | Joined]]:
    """As `attached`, of the model's own weights: a split qkv is one."""
    return {name: found for name, found in _put_on(model).items() if not isinstance(found[0], Joined)}


def _put_on(model: nn.Module) -> dict[str, tuple[nn.Module, str, FromBank | Joined]]:
    return {
        tensor_name(f"{path}.{leaf}" if path else leaf): (module, leaf, steps[0])
        for path, module in unwrapped(model).named_modules()
        if parametrize.is_parametrized(module)
        for leaf, steps in module.parametrizations.items()
        if isinstance(steps[0], FromBank | Joined)
    }


@dataclass
class Planned:
    """A tensor that is to come from a bank.

    module, leaf: of the model, of a part of a qkv those of the whole.  blocks: with coefficients of their own.
    base: the bank's own coefficients ``s b t``, at its resolution.  templates, own: as `FromBank` takes them.
    """

    module: nn.Module
    leaf: str
    blocks: int
    base: np.ndarray
    templates: Templates
    own: OwnTemplates | None

    def source(self, weight: nn.Parameter, order: tuple[str, ...] = ()) -> FromBank:
        """What makes the weight; `order` as it takes it."""
        return FromBank(self.templates, self.blocks, weight, order, self.own)

    @property
    def coefficients(self) -> torch.Tensor:
        """Those that it starts from, ``s b t``."""
        return torch.from_numpy(self.base).repeat_interleave(self.blocks // self.base.shape[1], dim=1)


def checked(model: nn.Module, bank: TemplateBank, resolution: Resolution) -> dict[str, Planned]:
    """What `attach` would do, by tensor name; raises as `attach`, and leaves the model as it is."""
    if not isinstance(bank, TemplateBank):
        raise AttachError(f"{bank!r} is no bank of templates: give what rg.mimic or rg.load_bank(PATH) returned.")
    for group in bank.groups.values():
        if group.layout:
            raise AttachError(
                f"Family {group.family!r} has the layout {group.layout.pattern!r}, with about as many coefficients as "
                "weights: load rg.generate(bank) into the model, fit a bank of whole layers (layout='layer') to that, "
                "and attach it."
            )
    if wrapped := wrapped_inside(model):
        raise AttachError(
            f"{listing(wrapped, 4)} wrap parts of the model: attach to the plain model, then compile or shard it as a "
            "whole (a part can be compiled in place, part.compile())."
        )
    places = {name: _place(model, whole(name)) for name in bank.layers}
    if cached := [name for name in bank.layers if name.endswith(CACHED)]:
        raise AttachError(
            f"The model keeps what it looked up in {listing(cached, 4)} in eval mode, and would not notice a change: "
            "fit the bank without that family."
        )
    owners: dict[int, str] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        first = owners.setdefault(id(parameter), name)
        alone = first == name or not {name, first} & bank.made
        if not alone and (name in bank.made or _place(model, name) != _place(model, first)):
            raise AttachError(
                f"{name} and {first} are one tensor, which cannot have coefficients of its own twice: "
                "fit the bank without that family."
            )
    found, counts = {}, blocks(model, bank, resolution)
    for group in bank.groups.values():
        templates = group.templates[...]
        like = getattr(*places[group.names[0]]).detach()
        shared = Templates(torch.from_numpy(templates).to(like), bank.hash)
        for name, base in group:
            _check(name, rows(getattr(*places[name]), name), group.mixed(name, base, templates), group)
            own = OwnTemplates(group.factors(name, templates), like) if group.own else None
            found[name] = Planned(*places[name], counts[name], base, shared, own)
    return found


@torch.inference_mode(False)  # what is made there cannot be trained
def attach(model: nn.Module, bank: TemplateBank, resolution: Resolution = 1) -> nn.Module:
    """Makes the bank's layers of `model` functions of coefficients, in place; they start at the bank's base.

    The forward is unchanged where the fit is exact.  Make optimizers afterwards.

    Args:
        model: has the weights that the bank was fitted to.
        bank: of whole layers; other layouts compress a network, with about as many coefficients as weights.
        resolution: output blocks with coefficients of their own (count), for all layers or by glob over families; or
            ``head`` or ``channel``.  1 is the paper's.
    Returns:
        The model.
    Raises:
        AttachError: with nothing changed, for a layer that is missing, has another shape or other weights, is tied to
            another or cached by its module, for a bank that is attached already, and for a resolution that does not
            divide a layer's outputs.
    """
    given, model = model, unwrapped(model)
    if attached(model):
        raise AttachError("This model has a bank attached already: detach or bake it first.")
    planned = checked(model, bank, resolution)
    places = {n: (p.module, p.leaf) if n == whole(n) else _part(p.module, p.leaf, n) for n, p in planned.items()}
    for name, (module, leaf) in places.items():
        source = planned[name].source(getattr(module, leaf), tuple(module._parameters))
        parametrize.register_parametrization(module, leaf, source, unsafe=True)
        set_coefficients(module, leaf, planned[name].coefficients)
    for _, _, host in hosts(model).values():
        for part in host.parameters(recurse=False):  # the bank has not this one, and detach needs its original
            part.data = part.data.clone()
    return given


def _part(module: nn.Module, leaf: str, name: str) -> tuple[Joined, str]:
    """Where a part of a weight is, which is split now if it is not yet."""
    if not parametrize.is_parametrized(module, leaf):
        source = Joined(getattr(module, leaf), tuple(module._parameters))
        parametrize.register_parametrization(module, leaf, source, unsafe=True)
    return steps_on(module, leaf)[0], PARTS[place(name)]


def _place(model: nn.Module, name: str) -> tuple[nn.Module, str]:
    path, _, leaf = name.rpartition(".")
    try:
        module = model.get_submodule(path)
    except AttributeError:
        module = None
    if module is not None and parametrize.is_parametrized(module, leaf):
        kinds = listing(type(step).__name__.strip("_") for step in steps_on(module, leaf))
        raise AttachError(
            f"{name} is parametrized already ({kinds}): take that off first (an adapter: rg.remove_adapter(model); "
            "another: torch.nn.utils.parametrize.remove_parametrizations), then attach."
        )
    if module is None or not isinstance(getattr(module, leaf, None), nn.Parameter):
        known = [parameter for parameter, _ in model.named_parameters()]
        raise AttachError(f"The model has no parameter {name!r}, which the bank generates.{nearest(name, known)}")
    return module, leaf


def _check(name: str, weight: torch.Tensor, rebuilt, group) -> None:
    if tuple(weight.shape) != rebuilt.shape:
        raise AttachError(f"{name} is {tuple(weight.shape)} in the model; the bank was fitted to {rebuilt.shape}.")
    if weight.is_meta:
        raise AttachError(f"{name} is on the meta device, without values: give the model its weights, then attach.")
    if weight.is_inference():
        raise AttachError(f"{name} was made under torch.inference_mode: make the model outside of it, then attach.")
    here = weight.detach().float().cpu()
    error = float((here - torch.from_numpy(rebuilt)).norm() / here.norm().clamp_min(1e-30))
    certified = group.certificate["layer_error"][group.names.index(name)]
    if not (error <= TOLERANCE or abs(error - certified) <= TOLERANCE):  # the bank's own, or what it was fitted to
        raise AttachError(
            f"{name} is not the weight that the bank was fitted to (it is {error:.2g} away from the bank's, relative; "
            f"the fit was {certified:.2g}). Load the bank's own backbone into the model (rg.generate(bank)), or fit a "
            "bank to this model."
        )


def set_coefficients(module: nn.Module, leaf: str, coefficients: torch.Tensor) -> None:
    """Puts coefficients ``s b t`` in place, whatever resolution and sets were there before."""
    steps = steps_on(module, leaf)
    put(steps.original, coefficients)
    steps[0].resolution = coefficients.shape[1]


@torch.inference_mode(False)
def put(tensor: torch.Tensor, value: torch.Tensor) -> None:
    """Fills a parameter or buffer with a copy of `value`: the same memory where the shape stays, so that compiled
    models notice nothing."""
    if tensor.shape == value.shape:
        tensor.data.copy_(value)
    else:
        tensor.data = value.detach().clone().to(tensor)


def put_in(model: nn.Module, tensors: Mapping[str, torch.Tensor]) -> None:
    """Fills a model's parameters and buffers by name, as `put`."""
    for name, tensor in tensors.items():
        path, _, leaf = name.rpartition(".")
        put(getattr(model.get_submodule(path), leaf), tensor)


def coefficients(model: nn.Module) -> list[nn.Parameter]:
    """The coefficients of every layer that comes from a bank.

    Args:
        model: has a bank attached.
    Returns:
        Parameters ``s b t`` (float32), in the order of the model's layers.
    Raises:
        AttachError: no layer comes from a bank.
    """
    found = [steps_on(module, leaf).original for module, leaf, _ in attached(model).values()]
    if not found:
        raise AttachError("This model has no bank attached: call rg.attach(model, bank) first.")
    return found
