"""How good a fit is, against the best there is."""

from collections.abc import Iterable

import numpy as np

from .factorization import Factorization, blocks, gram, spectrum


def certificate(
    stack: np.ndarray, fit: Factorization, itemsize: int = 4, sets: int = 1, layers: int | None = None
) -> dict:
    """Measures a fit of a stack ``l ...`` whose tensors have `itemsize` bytes a number.

    layers: how many there are, where the stack is a matrix ``(layers rows) n`` of another layout.  sets: count.
    relative_error: ``|stack - C T| / |stack|``, Frobenius, of the float32 numbers that are stored.  bound: the least
    relative error at this rank (Eckart & Young 1936).  gap: their difference.  layer_error and cosine: per layer.
    singular_values: of the stack.  stored_bytes and original_bytes.  coefficients: count a task trains at resolution 1;
    effective_coefficients: how many of them act, as the mean over `sets` sets is what mixes templates.
    warning: what a user must know of the fit, where there is something.
    """
    rows, templates = stack.reshape(len(stack), -1), fit.templates.reshape(len(fit.templates), -1)
    layers = layers or len(rows)
    values, _ = spectrum(gram(rows if len(rows) <= rows.shape[1] else rows.T))
    total = max(values.sum(), np.finfo(float).tiny)
    squares, lost, along, length = np.zeros((4, len(rows)))  # a row: its square, its error, with and of the rebuilt
    for part in blocks(rows):
        wanted, rebuilt = rows[:, part].astype(np.float64), (fit.coefficients @ templates[:, part]).astype(np.float64)
        squares += np.einsum("ld,ld->l", wanted, wanted)
        along += np.einsum("ld,ld->l", wanted, rebuilt)
        length += np.einsum("ld,ld->l", rebuilt, rebuilt)
        wanted -= rebuilt
        lost += np.einsum("ld,ld->l", wanted, wanted)
    squares, lost, along, length = (each.reshape(layers, -1).sum(1) for each in (squares, lost, along, length))
    layer_error = np.where(squares > 0, np.sqrt(_ratio(lost, squares)), lost > 0)
    cosine = np.where(squares * length > 0, _ratio(along, np.sqrt(squares * length)), squares == 0)
    error, bound = np.sqrt(lost.sum() / total), np.sqrt(values[len(templates) :].sum() / total)
    return {
        "relative_error": float(error),
        "bound": float(bound),
        "gap": float(max(0.0, error - bound)),
        "layer_error": layer_error.tolist(),
        "cosine": cosine.tolist(),
        "singular_values": np.sqrt(values).tolist(),
        "layers": layers,
        "templates": len(templates),
        "stored_bytes": int(fit.templates.nbytes + sets * fit.coefficients.nbytes),
        "original_bytes": int(rows.size * itemsize),
        "coefficients": int(sets * fit.coefficients.size),
        "effective_coefficients": int(fit.coefficients.size),
    } | ({"warning": fit.warning} if fit.warning else {})


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.divide(part, whole, out=np.zeros_like(part), where=whole > 0)


def overall(certificates: Iterable[dict]) -> dict:
    """Certificates of several groups as one: errors over all their numbers, sums of bytes and counts."""
    certificates = list(certificates)
    energy = np.array([np.square(group["singular_values"]).sum() for group in certificates])

    def error(key: str) -> float:
        squares = np.square([group[key] for group in certificates])
        return float(np.sqrt((squares * energy).sum() / max(energy.sum(), np.finfo(float).tiny)))

    found = {key: error(key) for key in ("relative_error", "bound")}
    stored, original = (sum(group[key] for group in certificates) for key in ("stored_bytes", "original_bytes"))
    return found | {
        "gap": max(0.0, found["relative_error"] - found["bound"]),
        "least_cosine": min(min(group["cosine"]) for group in certificates),
        "stored_bytes": stored,
        "original_bytes": original,
        "stored_share": stored / original,
        "stored_parameters": stored // 4,
        "coefficients": sum(group["coefficients"] for group in certificates),
        "effective_coefficients": sum(group["effective_coefficients"] for group in certificates),
    }
