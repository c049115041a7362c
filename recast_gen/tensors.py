"""numpy arrays <-> torch tensors, bfloat16 included."""

from typing import TYPE_CHECKING, Any

import numpy as np

from .errors import SourceError
from .weights import dtype_of

if TYPE_CHECKING:
    import torch


def to_numpy(name: str, tensor: Any) -> np.ndarray:
    """One tensor as numpy, bfloat16 kept; shares memory where it can."""
    if isinstance(tensor, np.ndarray):
        return tensor
    try:
        tensor = tensor.detach().cpu()
        if str(tensor.dtype) == "torch.bfloat16":
            import torch

            return tensor.contiguous().view(torch.uint16).numpy().view(dtype_of("bfloat16"))
        return tensor.numpy()
    except (AttributeError, TypeError, RuntimeError) as error:
        raise SourceError(f"{name} is no tensor that can be read ({type(tensor).__name__}: {error}).") from error


def to_torch(array: np.ndarray) -> "torch.Tensor":
    """One array as a tensor that owns its memory, bfloat16 kept."""
    import torch

    if array.dtype == dtype_of("bfloat16"):
        return torch.from_numpy(array.view(np.uint16).copy()).view(torch.bfloat16)
    return torch.from_numpy(array.copy())
