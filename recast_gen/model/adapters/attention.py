"""Which layers project the queries, keys and values of attention."""

from collections.abc import Iterable

from torch import nn


def fused(module: nn.Module) -> bool:
    """Whether a linear layer has three equal parts, as q, k and v in one."""
    return isinstance(module, nn.Linear) and module.out_features == 3 * module.in_features


def projects(path: str, module: nn.Module, separate: Iterable[str]) -> bool:
    """Whether a layer is a fused `qkv`, or linear and called one of `separate`."""
    leaf = path.rpartition(".")[2]
    return (leaf == "qkv" and fused(module)) or (leaf in separate and isinstance(module, nn.Linear))


def needs(separate: Iterable[str]) -> str:
    """The layers of `projects`, for an error."""
    return f"linear layers called qkv (three equal parts), {', '.join(sorted(separate))}"
