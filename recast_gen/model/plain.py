"""Whether a module computes with its weight what its class of torch does: asked of the module."""

import inspect

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


@torch.no_grad()
def called(parent: nn.Module, name: str) -> bool:
    """Whether a module calls its layer of that name, and does not only read its weight.

    Attention of timm's BEiT, EVA and Swin v2 hands the weight of ``qkv`` and a bias of its own to ``linear``, unless it
    has no such bias.  A forward that mentions the weight is tried on zeros; what else it wants comes after.
    """
    try:
        mentions = f"self.{name}.weight" in inspect.getsource(type(parent).forward)
    except (OSError, TypeError):  # no source to read
        return True
    layer = getattr(parent, name)
    if not (mentions and isinstance(layer, nn.Linear)):
        return True
    weight, calls = layer.weight, []
    hook = layer.register_forward_hook(lambda *_: calls.append(True))
    try:
        with torch.random.fork_rng([weight.device] if weight.is_cuda else []):
            parent(torch.zeros(1, 1, layer.in_features).to(weight))
    except Exception:  # such as a number of tokens; the layer was called by then, or not
        pass
    finally:
        hook.remove()
    return bool(calls)
