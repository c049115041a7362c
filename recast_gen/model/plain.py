"""Whether a module computes with its weight what its class of torch does: asked of the module."""

import torch
from torch import nn
from torch.nn.functional import conv2d, linear

SIDE = 5  # pixels of the image that a convolution is tried on, and a kernel more


@torch.no_grad()
def computes(module: nn.Linear | nn.Conv2d) -> bool:
    """Whether a linear layer or convolution is a plain one.

    One whose class has a forward of its own is tried on random numbers: timm's ``Conv2dSame`` pads otherwise, others
    standardise their weights or hold them transposed.
    """
    kind = nn.Linear if isinstance(module, nn.Linear) else nn.Conv2d
    if type(module).forward is kind.forward:
        return True
    weight, bias = module.weight, module.bias
    generator = torch.Generator().manual_seed(0)
    try:
        if isinstance(module, nn.Linear):
            given = torch.randn(2, module.in_features, generator=generator).to(weight)
            return bool(torch.allclose(module(given), linear(given, weight, bias), rtol=1e-3, atol=1e-4))
        size = [SIDE + side * step for side, step in zip(module.kernel_size, module.dilation)]
        given = torch.randn(2, module.in_channels, *size, generator=generator).to(weight)
        usual = conv2d(given, weight, bias, module.stride, module.padding, module.dilation, module.groups)
        found = module(given)
        return found.shape == usual.shape and bool(torch.allclose(found, usual, rtol=1e-3, atol=1e-4))
    except Exception:  # a forward of its own may want anything
        return False
