"""The method written out slowly, in the words of its sources: what every solver is held against."""

import numpy as np
import torch


def svd(stack: np.ndarray, templates: int) -> tuple[np.ndarray, np.ndarray]:
    """Templates ``t d`` and coefficients ``l t`` of the truncated SVD (Eckart & Young 1936)."""
    left, singular, right = np.linalg.svd(stack.reshape(len(stack), -1).astype(np.float64), full_matrices=False)
    left = np.pad(left, [(0, 0), (0, max(0, templates - len(singular)))])  # more templates than numbers in a layer
    right = np.pad(singular[:, None] * right, [(0, max(0, templates - len(singular))), (0, 0)])
    return right[:templates], left[:, :templates]


def rebuild(templates: np.ndarray, coefficients: np.ndarray) -> list[np.ndarray]:
    """Every layer, the sum of its coefficients times the templates, one after the other."""
    return [
        sum(float(number) * template.astype(np.float64) for number, template in zip(row, templates))
        for row in coefficients
    ]


def error(stack: np.ndarray, templates: np.ndarray, coefficients: np.ndarray) -> float:
    """The root of the sum of all squared differences."""
    rebuilt = rebuild(templates, coefficients)
    return float(np.sqrt(sum(np.square(layer.astype(np.float64) - mine).sum() for layer, mine in zip(stack, rebuilt))))


def certificate(stack: np.ndarray, templates: np.ndarray, coefficients: np.ndarray) -> dict:
    """Relative error, bound, gap, and per layer relative error and cosine, each from its definition."""
    whole = np.sqrt(np.square(stack, dtype=np.float64).sum())
    best = svd(stack, len(templates))
    shaped = best[0].reshape(-1, *stack.shape[1:])
    found = {"relative_error": error(stack, templates, coefficients) / whole}
    found["bound"] = error(stack, shaped, best[1]) / whole
    found["gap"] = max(0.0, found["relative_error"] - found["bound"])
    found["layer_error"], found["cosine"] = [], []
    for layer, mine in zip(stack.astype(np.float64), rebuild(templates, coefficients)):
        layer, mine = layer.reshape(-1), mine.reshape(-1)
        found["layer_error"].append(np.linalg.norm(layer - mine) / np.linalg.norm(layer))
        found["cosine"].append(layer @ mine / np.linalg.norm(layer) / np.linalg.norm(mine))
    return found


def _smooth_l1(difference: torch.Tensor) -> torch.Tensor:
    size = difference.abs()
    return torch.where(size < 1, size**2 / 2, size - 0.5).mean()


LOSSES = {
    "smooth_l1": lambda mine, layer: _smooth_l1(mine - layer),
    "l1": lambda mine, layer: (mine - layer).abs().mean(),
    "mse": lambda mine, layer: ((mine - layer) ** 2).mean(),
    "cosine": lambda mine, layer: 1 - (mine * layer).sum() / (mine.norm() * layer.norm()),
}


def recast(
    layers: torch.Tensor, templates: torch.Tensor, coefficients: torch.Tensor, steps: int, loss: str = "smooth_l1",
    lr: float = 1e-2, step_size: int = 300, gamma: float = 0.5, clip: float = 1.0, noise: list[torch.Tensor] = (),
) -> tuple[torch.Tensor, torch.Tensor, list[float]]:  # fmt: skip
    """Neural Mimicry's loop (section 3.3 of https://arxiv.org/abs/2411.16870) from a given start, a layer at a time.

    layers ``l d``, templates ``t d``, coefficients ``l t``; noise: what is added to the coefficients, by step.
    Root mean square propagation by its formula (decay 0.99, epsilon 1e-8), a rate that falls by gamma every step_size
    steps, gradients scaled down to a norm of clip.  Returns the templates and coefficients of the step with the least
    loss, and the losses.
    """
    values = [templates.clone(), coefficients.clone()]
    squares = [torch.zeros_like(value) for value in values]
    best, losses = None, []
    for step in range(steps):
        values = [value.detach().requires_grad_() for value in values]
        total = 0.0
        for index, layer in enumerate(layers):
            row = values[1][index] + (noise[step][index] if len(noise) else 0)
            mine = sum(row[t] * values[0][t] for t in range(len(templates)))
            total = total + LOSSES[loss](mine, layer) / len(layers)
        if not losses or total.item() < min(losses):
            best = [value.detach().clone() for value in values]
        losses.append(total.item())
        gradients = torch.autograd.grad(total, values)
        norm = torch.sqrt(sum((gradient**2).sum() for gradient in gradients))
        gradients = [gradient * min(1.0, clip / (float(norm) + 1e-6)) for gradient in gradients]
        squares = [0.99 * square + 0.01 * gradient**2 for square, gradient in zip(squares, gradients)]
        rate = lr * gamma ** (step // step_size)
        values = [
            value - rate * gradient / (square.sqrt() + 1e-8)
            for value, gradient, square in zip(values, gradients, squares)
        ]
    return *best, losses
