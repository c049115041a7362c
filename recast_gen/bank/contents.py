"""What a bank has on disk: stacks by name, and attributes."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..weights import store
from .low_bit import LowBit

if TYPE_CHECKING:
    from .bank import TemplateBank

ROW = 2**18  # values in a row of what lies flat in a bank: what is read and verified at once


def contents(bank: "TemplateBank") -> tuple[dict[str, store.Rows], dict[str, Any]]:
    """Stacks by name and attributes, as `store.save` takes them."""
    arrays, described = {}, []
    for family in dict.fromkeys(family for family, _ in bank.groups):
        members = [group for group in bank.groups.values() if group.family == family]
        if isinstance(members[0].templates, LowBit):
            parts = [group.templates for group in members]
            arrays[f"levels.{family}"] = _one_after_the_other([part.codes for part in parts])
            arrays[f"scales.{family}"] = _one_after_the_other([part.scales for part in parts])
        elif not members[0].layout:
            kept = [len(group.templates) - group.random for group in members]
            arrays[f"templates.{family}"] = _one_after_the_other([group.templates for group in members], kept)
        described += [
            {
                "family": family, "names": group.names, "dtype": group.dtype, "certificate": group.certificate,
                "coefficients": group.coefficients.shape, "random": group.random, "seed": group.seed,
                "scale": float(np.abs(group.templates[-1:]).flat[0]) if group.random else 0.0,
                "posterior": group.posterior is not None,
                **({"layout": group.layout.about()} if group.layout else {}),
                **({"own": group.own.about()} if group.own else {}),
                **({"bits": group.templates.bits, "shape": group.shape} if isinstance(group.templates, LowBit) else {}),
            }
            for group in members
        ]  # fmt: skip
    arrays["coefficients"] = _flat([group.coefficients for group in bank.groups.values()])
    if laid := [group.templates for group in bank.groups.values() if group.layout]:
        arrays["templates"] = _flat(laid)
    posteriors = [group.posterior for group in bank.groups.values() if group.posterior is not None]
    if posteriors:
        arrays["posterior"] = _flat(posteriors)
    index = [[name, tensor.dtype.name, tensor.shape] for name, tensor in bank.rest.items()]
    for dtype in sorted({tensor.dtype.name for tensor in bank.rest.values()}):
        arrays[f"rest.{dtype}"] = _flat([tensor for tensor in bank.rest.values() if tensor.dtype.name == dtype])
    return arrays, {"backbone": bank.backbone, "fit": bank.fit, "groups": described, "rest": index}


def _one_after_the_other(groups: Sequence[Any], kept: Sequence[int] | None = None) -> store.Rows:
    """Arrays ``t o ...`` of a family's groups as ``(group t) o ...``, the first so many of each; one is held."""
    kept = kept or [len(group) for group in groups]

    def rows() -> Iterator[np.ndarray]:
        for group, count in zip(groups, kept):
            yield from group[:count]

    return store.Rows((sum(kept), *groups[0].shape[1:]), groups[0].dtype.name, rows)


def _flat(arrays: list[np.ndarray]) -> store.Rows:
    """All values of arrays of one dtype as rows ``r n`` of about ROW numbers, zeros after the last."""
    total = sum(int(np.prod(array.shape, dtype=np.int64)) for array in arrays)
    dtype = arrays[0].dtype if arrays else np.dtype(np.float32)  # of no group
    count = max(1, -(-total // ROW))
    width = max(1, -(-total // count))

    def rows() -> Iterator[np.ndarray]:
        row, filled, made = np.zeros(width, dtype), 0, 0
        for array in arrays:
            flat = array[...].reshape(-1)
            while len(flat):
                part, flat = flat[: width - filled], flat[width - filled :]
                row[filled : filled + len(part)] = part
                filled += len(part)
                if filled == width:
                    yield row
                    row, filled, made = np.zeros(width, dtype), 0, made + 1
        if made < count:
            yield row

    return store.Rows((count, width), dtype.name, rows)
