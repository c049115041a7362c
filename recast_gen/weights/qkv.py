"""A fused qkv as three tensors: rows of ``x.qkv.weight`` by the names ``x.qkv#q.weight``, ``#k`` and ``#v``.

`rows` cuts a tensor, `joined` puts it back.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any

PARTS = "qkv"
_MARK = re.compile(r"(?<=qkv)#([qkv])(?=\.weight$)")


def parts(name: str, shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    """Name -> shape of the parts of a matrix or kernel ``(3 o) ...`` called qkv; of any other tensor, itself alone.

    q, k and v are thirds of the rows, in this order, as timm's `Attention` has them; where a network has another order
    the parts are other rows, and as exact.
    """
    if len(shape) < 2 or shape[0] % len(PARTS) or not re.search(r"(^|\.)qkv\.weight$", name):
        return {name: shape}
    size = shape[0] // len(PARTS)
    return {f"{name.removesuffix('.weight')}#{part}.weight": (size, *shape[1:]) for part in PARTS}


def whole(name: str) -> str:
    """The tensor that a part is of; any other tensor itself."""
    return _MARK.sub("", name)


def owner(name: str) -> str:
    """The path of the module that has a tensor, of a part the whole's."""
    return whole(name).rpartition(".")[0]


def place(name: str) -> int:
    """Which part it is, from 0."""
    found = _MARK.search(name)
    if not found:
        raise ValueError(f"{name} is no part")
    return PARTS.index(found[1])


def rows(tensor: Any, name: str) -> Any:
    """What a tensor of this name has of its whole: of a part's ``(3 o) ...`` a third, else all."""
    if name == whole(name):
        return tensor
    size = len(tensor) // len(PARTS)
    return tensor[place(name) * size :][:size]


def joined(
    pairs: Iterable[tuple[str, Any]], join: Callable[[list[Any]], Any] | None = None
) -> Iterator[tuple[str, Any]]:  # fmt: skip
    """(name, value) pairs with a whole in place of its parts, when the last of them has come.

    join: the values of q, k and v -> the whole's; of arrays when not given.  Parts that lack another stay what they
    are, and come last.
    """
    if join is None:
        from numpy import concatenate  # names and shapes alone need no numpy

        join = concatenate
    waiting: dict[str, dict[str, Any]] = {}
    for name, value in pairs:
        if name == whole(name):
            yield name, value
            continue
        found = waiting.setdefault(whole(name), {})
        found[name] = value
        if len(found) == len(PARTS):
            del waiting[whole(name)]
            yield whole(name), join([found[part] for part in sorted(found, key=place)])
    for found in waiting.values():
        yield from found.items()
