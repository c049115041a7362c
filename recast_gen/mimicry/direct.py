"""Neural Mimicry as published: gradient descent on templates and coefficients."""

import numpy as np
import torch
from einops import rearrange
from torch.nn.functional import cosine_similarity, l1_loss, mse_loss, smooth_l1_loss

from ..errors import FitError, check_choice
from . import factorization
from .closed_form import closed_form
from .factorization import Factorization

LOSSES = {
    "smooth_l1": smooth_l1_loss,
    "l1": l1_loss,
    "mse": mse_loss,
    "cosine": lambda found, wanted: 1 - cosine_similarity(found, wanted, dim=-1).mean(),
}
STARTS = ("svd", "random")
ELEMENTWISE = ("smooth_l1", "l1")  # not functions of inner products, so they need every number


def direct(
    stack: np.ndarray, templates: int, *, seed: int = 0, loss: str = "smooth_l1", coordinates: bool = False,
    steps: int = 1000, lr: float = 1e-2, step_size: int = 300, gamma: float = 0.5, noise: float = 0.0,
    clip: float = 1.0, start: str | None = None,
) -> Factorization:  # fmt: skip
    """Fits templates ``t ...`` and coefficients ``l t`` to a stack ``l ...`` by RMSprop.

    Problem: as in `closed_form`, with `loss` in place of the square (``smooth_l1, l1, mse, cosine``); non-convex in
    (T, C) jointly.  Optimum: the truncated SVD for ``mse``, and for SmoothL1 while errors stay below 1, where it is
    half the square; the certificate's gap shows what descent leaves.  The stack is scaled to unit root mean square, as
    rates are absolute.  The step with the least loss is returned, templates and coefficients of that same step.
    coordinates: descend in the basis of the layers' span, a step costs O(l t l) instead of O(l t d); ``mse`` and
    ``cosine`` only.  noise: standard deviation of Gaussian noise on the coefficients in each step.  clip: on the
    gradient's norm.  start: ``svd`` or ``random``; ``l1`` starts from the SVD, the others at random when not given.
    Raises FitError for another loss or start, and for coordinates with a loss that needs every number.
    Source: section 3.3 of https://arxiv.org/abs/2411.16870; deviations: the scaling, the other losses, coordinates, and
    that the clip acts on the gradients of the step it precedes.
    """  # fmt: skip
    check_choice("loss", loss, LOSSES, FitError)
    if coordinates and loss in ELEMENTWISE:
        raise FitError(f"loss {loss!r} needs every number of the layers: give coordinates=False, or loss 'mse'.")
    start = start or ("svd" if loss == "l1" else "random")
    check_choice("start", start, STARTS, FitError)
    rng = torch.Generator().manual_seed(seed)
    if coordinates:
        layers, basis, scale = factorization.coordinates(stack)
        rows = torch.from_numpy(layers.copy())
    else:
        rows = rearrange(torch.from_numpy(stack), "l ... -> l (...)")
        scale = float(rows.square().mean().sqrt().clamp_min(torch.finfo(rows.dtype).tiny))
        rows = rows / scale
    if start == "svd":
        svd = closed_form(layers.astype(np.float32) if coordinates else stack, templates)
        bank = rearrange(torch.from_numpy(svd.templates), "t ... -> t (...)").to(rows) / (1 if coordinates else scale)
        coefficients = torch.from_numpy(svd.coefficients.copy()).to(rows)
    else:
        bank = torch.randn(templates, rows.shape[1], generator=rng, dtype=rows.dtype) / templates**0.5
        coefficients = torch.randn(len(rows), templates, generator=rng, dtype=rows.dtype)
    parameters = [bank.requires_grad_(), coefficients.requires_grad_()]
    optimizer = torch.optim.RMSprop(parameters, lr=lr)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, step_size, gamma)
    best, kept, history = float("inf"), (bank, coefficients), []
    for step in range(steps):
        jitter = noise * torch.randn(coefficients.shape, generator=rng, dtype=rows.dtype)
        value = LOSSES[loss]((coefficients + jitter) @ bank, rows)
        history.append({"epoch": step, "loss": value.item()})
        if history[-1]["loss"] < best:
            best, kept = history[-1]["loss"], (bank.detach().clone(), coefficients.detach().clone())
        optimizer.zero_grad()
        value.backward()
        torch.nn.utils.clip_grad_norm_(parameters, clip)
        optimizer.step()
        schedule.step()
    if best == float("inf"):
        raise FitError("The fit diverged at its first step: give layers without infinite or undefined values.")
    fitted, base = (tensor.detach().numpy() for tensor in kept)
    mixing: tuple[np.ndarray, ...] = ()
    if coordinates:
        mixing = (scale * fitted @ basis,)
        fitted = factorization.combine(mixing[0], stack)
    else:
        fitted = (fitted * scale).reshape(templates, *stack.shape[1:])
    if loss == "cosine":  # blind to each layer's length, so give it back
        base = base * _lengths(stack, fitted, base)
    return Factorization(fitted, base.astype(np.float32), history, mixing=mixing)


def _lengths(stack: np.ndarray, templates: np.ndarray, coefficients: np.ndarray) -> np.ndarray:
    """The factor ``l 1`` that brings each layer's reconstruction nearest to it."""
    rows, rebuilt = stack.reshape(len(stack), -1), coefficients @ templates.reshape(len(templates), -1)
    return ((rows * rebuilt).sum(1) / np.square(rebuilt).sum(1).clip(min=1e-30))[:, None]
