"""Named tensors in memory and the backbone they belong to."""

import hashlib
import json
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from ..errors import SourceError
from .families import Families, families
from .qkv import joined, parts, rows, whole

Shapes = Mapping[str, tuple[tuple[int, ...], str]]  # name -> (shape, dtype name)


def digest(*parts: Any) -> str:
    """128-bit hexadecimal SHA-256 of arrays (dtype, shape, bytes) and of anything that JSON can write."""
    sha = hashlib.sha256()
    for part in parts:
        if isinstance(part, np.ndarray):
            sha.update(f"{part.dtype.name}{part.shape}".encode())
            sha.update(np.ascontiguousarray(part).reshape(-1).view(np.uint8).data)
        else:
            sha.update(json.dumps(part, sort_keys=True).encode())
    return sha.hexdigest()[:32]


class LazyTensors(Mapping[str, np.ndarray]):
    """Arrays by name, each read when it is asked for, always the same, and not kept."""

    def __init__(self, readers: Mapping[str, Callable[[], np.ndarray]]) -> None:
        self.readers = readers

    def __getitem__(self, name: str) -> np.ndarray:
        return self.readers[name]()

    def __iter__(self) -> Iterator[str]:
        return iter(self.readers)

    def __len__(self) -> int:
        return len(self.readers)


class Weights(Mapping[str, np.ndarray]):
    """A network's tensors by name, in its own order.

    tensors: name -> array in its own dtype.  backbone: what is known about the network, as JSON:
    ``timm_model``, ``timm_kwargs``, ``data_config`` (`described.DATA`), ``head``, ``classes`` (names of its outputs),
    ``ties`` (other names of a tensor -> its first name), ``hub`` (``id``, ``commit``).
    shapes: name -> (shape, dtype name), where they are known without reading the tensors.
    """

    def __init__(
        self, tensors: Mapping[str, np.ndarray], backbone: dict[str, Any] | None = None, shapes: Shapes | None = None
    ) -> None:
        self.tensors, self.backbone, self._shapes = tensors, backbone or {}, shapes

    def __getitem__(self, name: str) -> np.ndarray:
        return self.tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.tensors)

    def __len__(self) -> int:
        return len(self.tensors)

    @property
    def shapes(self) -> Shapes:
        """Name -> (shape, dtype name) of every tensor."""
        if self._shapes is None:
            self._shapes = {name: (tensor.shape, tensor.dtype.name) for name, tensor in self.items()}
        return self._shapes

    @property
    def lazy(self) -> bool:
        """Whether tensors are read when they are asked for, so that nothing need be kept."""
        return isinstance(self.tensors, LazyTensors)

    def families(self, by: str = "index") -> Families:
        """Every tensor in exactly one family; see `recast_gen.weights.families.families`."""
        return families(self.shapes, by)

    def others(self, names: Container[str]) -> list[str]:
        """The names of all tensors but these; a qkv of which no part is among these goes by its own."""
        return [name for name, _ in joined(((name, None) for name in self if name not in names), lambda _: None)]

    def stack(self, names: Iterable[str]) -> np.ndarray:
        """The named layers as one float32 stack ``l ...``.  Raises SourceError for NaN or infinity."""
        names = list(names)
        stack = np.empty((len(names), *self.shapes[names[0]][0]), np.float32)
        for layer, name in zip(stack, names):
            layer[...] = self[name]
            refuse_nonfinite(name, layer)
        return stack


class SplitQkv(Weights):
    """A network's tensors with its q, k and v (`weights.qkv`) in place of a fused qkv, which it still finds."""

    def __init__(self, weights: Weights) -> None:
        shapes = {
            part: (size, dtype)
            for name, (shape, dtype) in weights.shapes.items()
            for part, size in parts(name, shape).items()
        }
        super().__init__(weights.tensors, weights.backbone, shapes)

    def __getitem__(self, name: str) -> np.ndarray:
        return np.asarray(rows(super().__getitem__(whole(name)), name))

    def __iter__(self) -> Iterator[str]:
        return iter(self.shapes)

    def __len__(self) -> int:
        return len(self.shapes)


def refuse_nonfinite(name: str, tensor: np.ndarray) -> None:
    """Raises SourceError when a floating-point tensor holds NaN or infinity."""
    if np.issubdtype(tensor.dtype, np.integer) or tensor.dtype == bool:
        return
    if tensor.ndim == 0 and not np.isnan(tensor):
        return  # a limit, such as an activation's, may be infinite
    finite = np.isfinite(tensor)
    if not finite.all():
        bad = tensor.size - int(finite.sum())
        raise SourceError(f"{name} holds {bad} values that are NaN or infinite: repair or replace the checkpoint.")
