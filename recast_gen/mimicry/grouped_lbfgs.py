"""L-BFGS of many small problems at once, each with its own curvature and step."""

from typing import Any

import torch

HISTORY, ITERATIONS, TRIALS = 20, 10, 20
CONVERGED = 1e-8  # fall of the loss an iteration


class GroupedLBFGS(torch.optim.Optimizer):
    """Minimises one loss a group over parameters with a leading group axis ``g ...``; groups share nothing.

    The product with the inverse Hessian is that of Byrd, Nocedal & Schnabel 1994 (equation 3.1,
    https://doi.org/10.1007/BF01582063), on all groups in a few batched products.  A group's step is halved until it has
    lowered its loss enough (Armijo); pairs without positive curvature are left out.
    """

    def __init__(self, parameters):
        super().__init__(parameters, {})

    def _flat(self, gradient: bool = False) -> torch.Tensor:
        parameters = self.param_groups[0]["params"]
        return torch.cat([(p.grad if gradient else p).detach().flatten(1) for p in parameters], 1)  # g p

    def _move(self, values: torch.Tensor) -> None:
        parameters = self.param_groups[0]["params"]
        for p, part in zip(parameters, values.split([p[0].numel() for p in parameters], 1)):
            p.detach().copy_(part.view_as(p))

    def step(self, closure: Any = None) -> Any:
        """Up to ITERATIONS iterations.  closure: sets the gradients and returns the losses ``g``, which come back."""
        state = self.state[self.param_groups[0]["params"][0]]
        loss, at, slope = closure(), self._flat(), self._flat(True)
        for name in ("steps", "bends"):
            state.setdefault(name, at.new_zeros(len(at), HISTORY, at.shape[1]))
        for _ in range(ITERATIONS):
            way = -_product(slope, **state)
            rise = (way * slope).sum(1)  # g: of the loss along it
            going, size = rise < -CONVERGED, torch.ones_like(loss)
            if not going.any():
                break
            way = way * going[:, None]
            for trial in range(TRIALS):
                self._move(at + size[:, None] * way)
                new = closure()
                missed = going & ~(new <= loss + 1e-4 * size * rise)
                if not missed.any():
                    break
                size = torch.where(missed, size * (0.5 if trial < TRIALS - 2 else 0), size)
            steps, before = self._flat() - at, slope
            loss, at, slope = new, self._flat(), self._flat(True)
            bends = slope - before
            kept = ((steps * bends).sum(1) > 1e-10 * bends.square().sum(1))[:, None, None]
            for name, pair in (("steps", steps), ("bends", bends)):
                state[name] = torch.where(kept, torch.cat([state[name][:, 1:], pair[:, None]], 1), state[name])
        return loss


def _product(slope: torch.Tensor, steps: torch.Tensor, bends: torch.Tensor) -> torch.Tensor:
    """The inverse Hessian ``g p p`` that the pairs ``g m p`` (oldest first) tell of, times slope ``g p``."""
    slope = slope[..., None]
    products, squares = steps @ bends.mT, bends @ bends.mT  # g m m
    curvature = products.diagonal(dim1=1, dim2=2)
    scale = curvature[:, -1:, None] / squares[:, -1:, -1:]
    scale = torch.where(scale.isnan(), 1 / slope.abs().sum(1, keepdim=True).clamp_min(1), scale)  # no pair: 0 / 0
    upper = products.triu() + torch.diag_embed((curvature == 0).to(products))
    along = torch.linalg.solve_triangular(upper, steps @ slope, upper=True)
    inner = (torch.diag_embed(curvature) + scale * squares) @ along - scale * (bends @ slope)
    outer = torch.linalg.solve_triangular(upper.mT, inner, upper=False)
    return (scale * slope + steps.mT @ outer - scale * (bends.mT @ along))[..., 0]
