"""How many output blocks of each layer have coefficients of their own: from 24 coefficients to thousands."""

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING

from ..bank.bank import TemplateBank
from ..errors import AttachError, check_count, nearest
from ..weights.families import Families
from ..weights.qkv import whole
from ..weights.selection import whole_families

if TYPE_CHECKING:
    from torch import nn

WORDS = ("head", "channel")
Resolution = int | str | Mapping[str, int | str]


def blocks(model: "nn.Module", bank: TemplateBank, resolution: Resolution) -> dict[str, int]:
    """Tensor name -> its number of blocks, equal within a family; at least those that its base has.

    resolution and what it raises: as `divided`.
    """
    least = {name: group.coefficients.shape[2] for group in bank.groups.values() for name in group.names}
    return divided(model, bank.families, resolution, least)


def divided(
    model: "nn.Module | None", found: Families, resolution: Resolution,
    least: Mapping[str, int] = MappingProxyType({}),
) -> dict[str, int]:  # fmt: skip
    """Tensor name -> its number of blocks, a multiple of the `least` (one when not given), equal within a family.

    model: may be None where no resolution is ``head``.
    resolution: for matrices and kernels, a count, ``head`` (blocks of an attention head's width, so that a fused qkv
    has 3 x heads) or ``channel`` (a block an output); or a mapping of globs over family names to these, of which the
    last that names a family counts.  Without a glob of its own a family has the least.
    Raises FamilyError for a glob that names no family, AttachError for a resolution that does not divide a
    layer's outputs and for ``head`` where there are no heads.
    """
    chosen: dict[str, int | str] = dict.fromkeys(found, 1)
    for glob, value in (resolution if isinstance(resolution, Mapping) else {"*": resolution}).items():
        if isinstance(value, str) and value not in WORDS:
            raise AttachError(
                f"No resolution {value!r}.{nearest(value, WORDS)} There are: a count, {', '.join(WORDS)}."
            )
        if not isinstance(value, str):
            check_count("resolution", value, AttachError)
        chosen |= dict.fromkeys(whole_families(found, glob), value)
    counts = {}
    for family in found.values():
        value, rows = chosen[family.name], family.shape[0]
        for name in family.names:
            wanted = value
            if isinstance(wanted, str):
                wanted = rows if wanted == "channel" else _heads(model, name, rows)
            counts[name] = math.lcm(wanted, least.get(name, 1))
            if rows % counts[name]:
                raise AttachError(
                    f"resolution={wanted} does not divide the {rows} outputs of {name}: give a divisor, or one for "
                    f"this family alone, resolution={{{family.name.removesuffix('.weight')!r}: ...}}."
                )
    for name, family in found.items():
        if len({counts[layer] for layer in family.names}) > 1:
            raise AttachError(f"The layers of {name} differ in their number of heads: give a count for that family.")
    return counts


def _heads(model: "nn.Module | None", name: str, rows: int) -> int:
    """Blocks of one attention head's width in the outputs of a layer, by the attention module that it belongs to."""
    assert model is not None
    path, _, leaf = whole(name).rpartition(".")
    for owner in (path, path.rpartition(".")[0]):
        attention = model.get_submodule(owner)
        if isinstance(heads := getattr(attention, "num_heads", None), int):
            weight = getattr(model.get_submodule(path), leaf)
            width = getattr(attention, "head_dim", None) or weight.shape[-1] // heads
            if width and rows % width == 0:
                return rows // width
    raise AttachError(
        f"{name} belongs to no attention module with heads (`num_heads`): name the families that do, such as "
        "resolution={'*.qkv': 'head'}, or give a count or 'channel'."
    )
