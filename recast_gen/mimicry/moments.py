"""Second moments of the inputs of a model's layers, from calibration images."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from ..errors import DataError, FitError, listing
from ..weights.modes import evaluating
from ..weights.qkv import whole

LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


def moments(model: nn.Module, images: Any, names: Iterable[str], batch_size: int = 32) -> dict[str, np.ndarray]:
    """Weight name -> second moment ``i i`` (float64) of its layer's inputs: mean of ``x x'`` over images and places.

    images: ``n c h w`` as the model wants them, or an iterable of such batches, with or without labels.  x is what the
    weight ``o i`` multiplies: of a convolution a patch ``(i kh kw)``, pooled over channel groups where it has several.
    The model is run once, in eval mode, and left as it was.
    Raises FitError for a weight of another module than Linear or a convolution, or of one that does not run, and
    DataError for images that the model does not take, none at all, or ones that lead to NaN.
    """
    asked = {name: whole(name) for name in names}  # q, k and v have the same inputs
    names = list(dict.fromkeys(asked.values()))
    modules = {name: _module(model, name) for name in names}
    sums: dict[str, torch.Tensor] = {}
    counts = dict.fromkeys(names, 0)

    def add(name: str, module: nn.Module, x: torch.Tensor) -> None:
        for part in x.split(batch_size):
            rows = patches(module, part).float()
            sums[name] = sums.get(name, 0) + (rows.T @ rows).double()
            counts[name] += len(rows)

    hooks = [
        module.register_forward_pre_hook(lambda module, inputs, name=name: add(name, module, inputs[0]))
        for name, module in modules.items()
    ]
    try:
        with torch.no_grad(), evaluating(model):
            for batch in images.split(batch_size) if isinstance(images, torch.Tensor) else images:
                model(batch[0] if isinstance(batch, list | tuple) else batch)
    except (RuntimeError, TypeError, ValueError, AssertionError, AttributeError) as error:
        raise DataError(
            f"The model does not take the calibration images ({error}): give n c h w, normalised."
        ) from error
    finally:
        for hook in hooks:
            hook.remove()
    if not any(counts.values()):
        raise DataError("No calibration images: give one at least, n c h w.")
    if silent := [name for name in names if not counts[name]]:
        raise FitError(f"{listing(silent, 4)} saw no input, as their modules do not run: leave out their families.")
    if bad := [name for name in names if not sums[name].isfinite().all()]:
        raise DataError(
            f"The calibration images lead to NaN or infinity before {bad[0]}: check how they are normalised."
        )
    return {name: (sums[layer] / counts[layer]).cpu().numpy() for name, layer in asked.items()}


def _module(model: nn.Module, name: str) -> nn.Module:
    path, _, leaf = name.rpartition(".")
    module = dict(model.named_modules()).get(path)
    if leaf != "weight" or not isinstance(module, LAYERS):
        raise FitError(
            f"{name} is no weight of a Linear or Conv layer of the model ({type(module).__name__}), so it has no input "
            "moments: leave out its family, or fit it without whiten."
        )
    return module


def patches(module: Any, x: torch.Tensor) -> torch.Tensor:
    """What a layer multiplies its weight ``o (i ...)`` with, one row ``i ...`` a place (and group of channels)."""
    if isinstance(module, nn.Linear):
        return x.reshape(-1, x.shape[-1])
    mode = "constant" if module.padding_mode == "zeros" else module.padding_mode
    x = F.pad(x, module._reversed_padding_repeated_twice, mode=mode)
    for axis, size in enumerate(module.kernel_size, start=2):
        dilation = module.dilation[axis - 2]
        x = x.unfold(axis, dilation * (size - 1) + 1, module.stride[axis - 2])[..., ::dilation]  # ... the window last
    dims = len(module.kernel_size)
    x = x.unflatten(1, (module.groups, -1))  # n g i places windows
    order = [0, 1, *range(3, 3 + dims), 2, *range(3 + dims, 3 + 2 * dims)]
    return x.permute(order).reshape(-1, x.shape[2] * int(np.prod(module.kernel_size)))
