"""numpy arrays <-> torch tensors, bfloat16 and float8 included."""

from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import SourceError
from .named import DTYPES, bits_of, dtype_of

if TYPE_CHECKING:
    import torch


def to_numpy(name: str, tensor: Any) -> np.ndarray:
    """One tensor as numpy, in its own dtype; shares memory where it can.

    Raises SourceError for what is no tensor, and for one of torch's quantized dtypes, which nothing else has.
    """
    if isinstance(tensor, np.ndarray):
        return tensor
    if getattr(tensor, "is_quantized", False):
        raise SourceError(
            f"{name} is a quantized tensor of torch ({str(tensor.dtype)[6:]}), which is numbers and a scale in one: "
            "store its int_repr() and scale as tensors, which pass through untouched, or its dequantize()."
        )
    try:
        tensor = tensor.detach().cpu()
        if (dtype := str(tensor.dtype).removeprefix("torch.")) in DTYPES:
            import torch

            bits = getattr(torch, bits_of(dtype_of(dtype)).name)
            return tensor.contiguous().view(bits).numpy().view(dtype_of(dtype))
        return tensor.numpy()
    except (AttributeError, TypeError, RuntimeError) as error:
        raise SourceError(f"{name} is no tensor that can be read ({type(tensor).__name__}: {error}).") from error


def to_torch(array: np.ndarray) -> "torch.Tensor":
    """One array as a tensor that owns its memory, in its own dtype."""
    import torch

    if array.dtype.name in DTYPES:
        return torch.from_numpy(array.view(bits_of(array.dtype)).copy()).view(getattr(torch, array.dtype.name))
    return torch.from_numpy(array.copy())
