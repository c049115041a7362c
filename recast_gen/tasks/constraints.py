"""What coefficients that learn one step after the other keep of earlier steps: nothing, or one of two constraints."""

from collections.abc import Callable

import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import Dataset

from ..recipe.incremental import Sequential

MOST = 256  # images of a step whose slopes count


def likelihood(logits: torch.Tensor, seen: torch.Tensor, draws: torch.Generator) -> torch.Tensor:
    """Of a label that is drawn from the prediction ``1 k``, the negative logarithm."""
    label = torch.multinomial(logits[0].detach().float().softmax(0).cpu(), 1, generator=draws)
    return cross_entropy(logits, label.to(logits.device))


def direction(logits: torch.Tensor, seen: torch.Tensor, draws: torch.Generator) -> torch.Tensor:
    """What the head sees, ``1 d``, in a random direction."""
    return (seen * torch.randn(seen.shape, generator=draws).to(seen)).sum()


class Plain:
    """Nothing is kept.  Further ways are classes of this kind."""

    of: Callable | None = None  # whose slopes `learnt` wants

    def __init__(self, settings: Sequential):
        self.settings = settings
        self.kept: torch.Tensor | None = None  # of earlier steps, float32

    @property
    def nbytes(self) -> int:
        """Bytes of what is kept besides the coefficients."""
        return 0 if self.kept is None else 4 * self.kept.numel()

    def hold(self, optimizer: torch.optim.Optimizer, own: list[nn.Parameter], images: int) -> None:
        """Constrains what `optimizer` does with the parameters `own` of all that it trains, from their values now.

        images: of the step that is learnt.
        """

    def learnt(self, slopes: torch.Tensor, images: int) -> None:
        """Takes a step that has been learnt.  slopes: ``n p``, as `slopes` finds them; images: of the step."""


class Elastic(Plain):
    """Each coefficient is drawn back to where it was, the more the more earlier steps' predictions depend on it.

    The penalty's gradient is added after clipping.
    Source: EWC, Kirkpatrick et al., 2017, https://arxiv.org/abs/1612.00796, with one penalty for all earlier steps, as
    in https://arxiv.org/abs/1805.06370, and labels drawn from the predictions.
    """

    of = staticmethod(likelihood)

    def hold(self, optimizer: torch.optim.Optimizer, own: list[nn.Parameter], images: int) -> None:
        if self.kept is None:
            return
        starts = [parameter.detach().clone() for parameter in own]
        information = _shaped(self.settings.strength / images * self.kept, own)  # the loss is a mean over images

        def pull(*_) -> None:
            for parameter, start, known in zip(own, starts, information):
                back = known.to(parameter) * (parameter.detach() - start.to(parameter))
                parameter.grad = back if parameter.grad is None else parameter.grad + back

        optimizer.register_step_pre_hook(pull)

    def learnt(self, slopes: torch.Tensor, images: int) -> None:
        found = images * slopes.square().mean(0)
        self.kept = found if self.kept is None else self.kept + found


class Subspace(Plain):
    """Coefficients do not move along the principal directions in which earlier images' features depend on them.

    Source: Sculpting Subspaces, Nayak et al., 2025, https://arxiv.org/abs/2504.07097.  There the directions are the
    largest singular ones of a layer's weight; a layer's few coefficients move its weight in few directions, so that
    here they are those of slopes, as in OGD (Farajtabar et al., 2020, https://arxiv.org/abs/1910.07104): of features
    in the place of logits, since heads keep what they learnt of features.
    """

    of = staticmethod(direction)

    def hold(self, optimizer: torch.optim.Optimizer, own: list[nn.Parameter], images: int) -> None:
        if self.kept is None:
            return
        basis = self.kept
        starts = [parameter.detach().clone() for parameter in own]

        @torch.no_grad()
        def project(*_) -> None:
            known = basis.to(own[0])
            moved = torch.cat([(one - start.to(one)).reshape(-1) for one, start in zip(own, starts)])
            moved -= known @ (known.T @ moved)
            for one, start, step in zip(own, starts, _shaped(moved, own)):
                one.copy_(start.to(one) + step)

        optimizer.register_step_post_hook(project)

    def learnt(self, slopes: torch.Tensor, images: int) -> None:
        """Adds as few directions as have, with those that are kept, the share `keep` of the slopes' energy."""
        slopes = slopes.double()
        basis = slopes.new_zeros(slopes.shape[1], 0) if self.kept is None else self.kept.double()
        rest = slopes - slopes @ basis @ basis.T
        sizes, directions = torch.linalg.svd(rest, full_matrices=False)[1:]
        total, left = slopes.square().sum(), rest.square().sum()
        lacking = self.settings.keep * total - (total - left)
        before = sizes.square().cumsum(0) - sizes.square()  # energy of larger ones
        count = int((before < lacking).sum())
        self.kept = torch.linalg.qr(torch.cat([basis, directions[:count].T], 1))[0].float()


WAYS: dict[str, type[Plain]] = {"plain": Plain, "ewc": Elastic, "subspace": Subspace}


def learning(model: nn.Module, head: str) -> dict[str, nn.Parameter]:
    """What of a model learns besides its head, by name."""
    named = model.named_parameters()
    return {name: one for name, one in named if one.requires_grad and not name.startswith(f"{head}.")}


def slopes(
    of: Callable, model: nn.Module, head: nn.Module, own: list[nn.Parameter], images: Dataset, seed: int,
    device: torch.device,
) -> torch.Tensor:  # fmt: skip
    """Slopes ``n p`` in `own` of a number `of` single images, `likelihood` or `direction`.

    Args:
        images: at most `MOST` of them count, which the seed draws as it does what `of` draws.
    """
    draws = torch.Generator().manual_seed(seed)
    count: int = len(images)  # type: ignore[arg-type]
    found, seen = [], list[torch.Tensor]()
    model.to(device).eval()
    hook = head.register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    for row in torch.randperm(count, generator=draws)[:MOST].tolist():
        seen.clear()
        logits = model(images[row][0][None].to(device))
        each = torch.autograd.grad(of(logits, seen[0], draws), own, materialize_grads=True)
        found.append(torch.cat([slope.reshape(-1) for slope in each]).float().cpu())
    hook.remove()
    model.cpu()
    return torch.stack(found)


def _shaped(values: torch.Tensor, own: list[nn.Parameter]) -> list[torch.Tensor]:
    parts = values.split([parameter.numel() for parameter in own])
    return [part.reshape(parameter.shape) for part, parameter in zip(parts, own)]
