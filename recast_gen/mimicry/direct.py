"""Neural Mimicry as published: gradient descent on templates and coefficients."""

import numpy as np
import torch
from torch.nn.functional import smooth_l1_loss

from .factorization import Factorization


def direct(
    stack: np.ndarray, templates: int, *, seed: int = 0, steps: int = 1000, lr: float = 1e-2, step_size: int = 300,
    gamma: float = 0.5, noise: float = 0.0, clip: float = 1.0,
) -> Factorization:  # fmt: skip
    """Fits templates ``t ...`` and coefficients ``l t`` to a stack ``l ...`` by RMSprop on SmoothL1.

    Problem: as in `closed_form`, with SmoothL1 in place of the square; non-convex in (T, C) jointly, and below an error
    of 1 SmoothL1 is half the square, so the truncated SVD is its optimum too and the certificate's gap shows what
    descent leaves.  The stack is scaled to unit root mean square, as rates are absolute.  The step with the least loss
    is returned, templates and coefficients of that same step.
    noise: standard deviation of Gaussian noise on the coefficients in each step.  clip: on the gradient's norm.
    Source: section 3.3 of https://arxiv.org/abs/2411.16870; deviations: the scaling, and that the clip acts on the
    gradients of the step it precedes.
    """  # fmt: skip
    rng = torch.Generator().manual_seed(seed)
    rows = torch.from_numpy(stack.reshape(len(stack), -1))
    scale = rows.square().mean().sqrt().clamp_min(torch.finfo(rows.dtype).tiny)
    rows = rows / scale
    bank = (torch.randn(templates, rows.shape[1], generator=rng) / templates**0.5).requires_grad_()
    coefficients = torch.randn(len(rows), templates, generator=rng).requires_grad_()
    optimizer = torch.optim.RMSprop([bank, coefficients], lr=lr)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, step_size, gamma)
    best, kept, history = float("inf"), None, []
    for step in range(steps):
        jitter = noise * torch.randn(coefficients.shape, generator=rng)
        loss = smooth_l1_loss((coefficients + jitter) @ bank, rows)
        history.append({"epoch": step, "loss": loss.item()})
        if history[-1]["loss"] < best:
            best, kept = history[-1]["loss"], (bank.detach().clone(), coefficients.detach().clone())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_([bank, coefficients], clip)
        optimizer.step()
        schedule.step()
    fitted, base = kept
    return Factorization((fitted * scale).reshape(templates, *stack.shape[1:]).numpy(), base.numpy(), history)
