"""What training puts around weights: several sets in one file, and wrappers' prefixes before names."""

import re
import warnings
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import SourceError, listing
from .named import LazyTensors, Weights

if TYPE_CHECKING:
    from torch import nn

PLAIN = ("state_dict", "model", "model_state_dict", "model_state", "net", "network", "module", "params")
AVERAGED = {"ema", "swa", "averaged", "average", "avg", "shadow"}  # words in the names of sets
TIMM = ("state_dict_ema", "model_ema", "state_dict", "model")  # the sets that timm knows, in its order
WRAPPERS = {
    "DataParallel", "DistributedDataParallel", "FullyShardedDataParallel", "AveragedModel", "ModelEmaV2", "ModelEmaV3",
}  # fmt: skip
# wherever in a name they stand
INSIDE = ("_orig_mod.", "_forward_module.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.")


def chosen(path: Path, found: Mapping[str, Any], wanted: str | None = None) -> tuple[Mapping[str, Any], bool]:
    """The weights in what a training script saved, and whether they are a Lightning module's.

    wanted: ``raw``, ``ema`` or the name of a set.  When not given, of raw and averaged weights timm's choice, the
    average, which is said in a warning; other sets than timm knows are for the user to choose from.
    Raises SourceError for those, and for a set that is not there.
    """
    lightning, used = False, wanted in (None, "raw")
    while sets := _sets(found):
        lightning |= "pytorch-lightning_version" in found
        key = wanted if wanted and isinstance(found.get(wanted), Mapping) else _pick(path, sets, wanted)
        used |= key == wanted or (wanted == "ema" and _averaged(key))
        found = found[key]
    if not used:
        raise SourceError(f"{path} has no weights {wanted!r} among {listing(found, 4)}: leave `weights` out.")
    return found, lightning


def _pick(path: Path, sets: list[str], wanted: str | None) -> str:
    averaged = [key for key in sets if _averaged(key)]
    plain = [key for key in sets if key not in averaged]
    asked = {"ema": averaged or plain, "raw": plain}.get(wanted or "", sets)
    if len(asked) == 1:
        return asked[0]
    if not asked or not set(asked) <= set(TIMM):
        names = ", ".join(map(repr, sets))
        raise SourceError(f"{path} holds several sets of weights: choose one, `weights: NAME` of {names}.")
    key = next(key for key in TIMM if key in asked)
    if wanted is None and averaged:
        warnings.warn(
            f"{path}: {key} is read, of {listing(sets)}, as timm does; weights='raw' is another.", stacklevel=2
        )
    return key


def _sets(found: Mapping[str, Any]) -> list[str]:
    """The keys of the sets of weights in a mapping; none where it is one."""
    inner = [key for key, value in found.items() if isinstance(value, Mapping) and isinstance(key, str)]
    known = [key for key in inner if (key in PLAIN or _averaged(key)) and (_tensors(found[key]) or _sets(found[key]))]
    if not set(known).isdisjoint(PLAIN) or (known and _tensors(found)):
        return known + [
            key for key in inner if key not in known and any(_same(found[key], found[one]) for one in known)
        ]
    return [] if _tensors(found) else list(dict.fromkeys([*(key for key in inner if _tensors(found[key])), *known]))


def _tensors(found: Mapping[str, Any]) -> bool:
    return any(hasattr(value, "shape") for value in found.values())


def _same(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two sets are weights of one network: they name the same tensors."""
    return _tensors(one) and {name for name in one if hasattr(one[name], "shape")} == {
        name for name in other if hasattr(other[name], "shape")
    }


def _averaged(key: str) -> bool:
    return not AVERAGED.isdisjoint(re.split(r"[\W_]+", key.lower()))


def unwrapped(model: "nn.Module") -> "nn.Module":
    """The network in a live model that torch.compile, DataParallel, DDP, FSDP, Lightning or an average has wrapped."""
    while True:
        inner = model._modules.get("_orig_mod") or model._modules.get("_forward_module")
        inner = inner or (model._modules.get("module") if _wraps(model) else None)
        if inner is None and any(kind.__name__ == "LightningModule" for kind in type(model).__mro__):
            alone = all(name.startswith("model.") for name in model.state_dict())
            inner = model._modules.get("model") if alone else None
        if inner is None:
            return model
        model = inner


def wrapped_inside(model: "nn.Module") -> list[str]:
    """The modules of a network that are wrapped on their own, so that their tensors have other names."""
    return [name for name, _ in model.named_modules() if f"{name.rpartition('.')[2]}." in INSIDE]


def _wraps(model: "nn.Module") -> bool:
    return any(kind.__name__ in WRAPPERS for kind in type(model).__mro__)


def plain(weights: Weights, lightning: bool = False) -> Weights:
    """The same weights by their `plain_names`, still read when they are asked for."""
    own = plain_names(weights, lightning)
    shapes = weights._shapes and {name: weights._shapes[before] for name, before in own.items()}
    readers = {name: partial(weights.__getitem__, before) for name, before in own.items()}
    return Weights(LazyTensors(readers), weights.backbone, shapes)


def plain_names(names: Iterable[str], lightning: bool = False) -> dict[str, str]:
    """Name without what wrappers put there -> the name in the file; `n_averaged` of an average is left out.

    A prefix goes where all names share it: ``module.`` of DataParallel, DistributedDataParallel and averaged models,
    and ``model.`` of a Lightning module; the parts of torch.compile and FSDP go wherever they stand.
    """
    names = list(names)
    if any(name.startswith("module.") for name in names):
        names = [name for name in names if name != "n_averaged"]
    found = dict(zip((inside(name) for name in names), names))
    prefixes = ("module.", "model.") if lightning else ("module.",)
    while shared := next((prefix for prefix in prefixes if found and all(n.startswith(prefix) for n in found)), None):
        found = {name.removeprefix(shared): own for name, own in found.items()}
    return found if len(found) == len(names) else dict(zip(names, names))


def inside(name: str) -> str:
    """A tensor's name without what wraps parts of a network."""
    for part in INSIDE:
        name = name.replace(part, "")
    return name
