"""numpy arrays <-> torch tensors, bfloat16 and float8 included."""

from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import SourceError
from .dtypes import EXTRA, KNOWN, bits_of, dtype_of

if TYPE_CHECKING:
    import torch


def to_numpy(name: str, tensor: Any) -> np.ndarray:
    """One tensor as numpy, in its own dtype and this machine's byte order; shares memory where it can.

    Raises SourceError for what is no tensor of numbers, and for one of torch's quantized dtypes.
    """
    if isinstance(tensor, np.ndarray):
        if tensor.dtype.name not in KNOWN:
            raise SourceError(f"{name} is an array of {tensor.dtype}, which no file here can hold: convert it first.")
        return tensor.astype(tensor.dtype.newbyteorder("="), copy=False)
    if getattr(tensor, "is_quantized", False):
        raise SourceError(
            f"{name} is a quantized tensor of torch ({str(tensor.dtype)[6:]}), which is integers and a scale in one: "
            "store its int_repr() and scale as tensors, which pass through untouched, or its dequantize()."
        )
    try:
        tensor = tensor.detach().cpu().resolve_conj().resolve_neg()
        if (dtype := str(tensor.dtype).removeprefix("torch.")) in EXTRA:
            import torch

            bits = getattr(torch, bits_of(dtype_of(dtype)).name)
            return np.asarray(tensor.contiguous().view(bits).numpy().view(dtype_of(dtype)))
        return np.asarray(tensor.numpy())
    except (AttributeError, TypeError, RuntimeError) as error:
        raise SourceError(f"{name} is no tensor that can be read ({type(tensor).__name__}: {error}).") from error


def to_torch(array: np.ndarray) -> "torch.Tensor":
    """One array as a tensor that owns its memory, in its own dtype."""
    import torch

    if array.dtype.name in EXTRA:
        return torch.from_numpy(array.view(bits_of(array.dtype)).copy()).view(getattr(torch, array.dtype.name))
    return torch.from_numpy(array.copy())
