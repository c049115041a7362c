"""How good a fit is, against the best there is."""

from collections.abc import Iterable

import numpy as np

from .factorization import Factorization, gram, spectrum


def certificate(stack: np.ndarray, fit: Factorization, itemsize: int = 4) -> dict:
    """Measures a fit of a stack ``l ...`` whose tensors have `itemsize` bytes a number.

    relative_error: ``|stack - C T| / |stack|``, Frobenius, of the float32 numbers that are stored.  bound: the least
    relative error at this rank (Eckart & Young 1936).  gap: their difference.  layer_error and cosine: per layer.
    singular_values: of the stack.  stored_bytes and original_bytes.  coefficients: count a task trains at resolution 1.
    warning: what a user must know of the fit, where there is something.
    """
    rows, templates = stack.reshape(len(stack), -1), fit.templates.reshape(len(fit.templates), -1)
    values, _ = spectrum(gram(stack))
    total = max(values.sum(), np.finfo(float).tiny)
    lost, cosine, layer_error = 0.0, [], []
    for row, coefficients in zip(rows, fit.coefficients):
        row, rebuilt = row.astype(np.float64), (coefficients @ templates).astype(np.float64)
        squared, norm = float(np.square(row - rebuilt).sum()), np.linalg.norm(row)
        lost += squared
        layer_error.append(float(np.sqrt(squared) / norm) if norm else float(squared > 0))
        norms = norm * np.linalg.norm(rebuilt)
        cosine.append(float(row @ rebuilt / norms) if norms else float(not row.any()))
    error, bound = np.sqrt(lost / total), np.sqrt(values[len(templates) :].sum() / total)
    return {
        "relative_error": float(error),
        "bound": float(bound),
        "gap": float(max(0.0, error - bound)),
        "layer_error": layer_error,
        "cosine": cosine,
        "singular_values": np.sqrt(values).tolist(),
        "layers": len(rows),
        "templates": len(templates),
        "stored_bytes": int(fit.templates.nbytes + fit.coefficients.nbytes),
        "original_bytes": int(rows.size * itemsize),
        "coefficients": int(fit.coefficients.size),
    } | ({"warning": fit.warning} if fit.warning else {})


def overall(certificates: Iterable[dict]) -> dict:
    """Certificates of several groups as one: errors over all their numbers, sums of bytes and counts."""
    certificates = list(certificates)
    energy = np.array([np.square(group["singular_values"]).sum() for group in certificates])

    def error(key: str) -> float:
        squares = np.square([group[key] for group in certificates])
        return float(np.sqrt((squares * energy).sum() / max(energy.sum(), np.finfo(float).tiny)))

    stored, original = (sum(group[key] for group in certificates) for key in ("stored_bytes", "original_bytes"))
    return {
        "relative_error": error("relative_error"),
        "bound": error("bound"),
        "least_cosine": min(min(group["cosine"]) for group in certificates),
        "stored_bytes": stored,
        "original_bytes": original,
        "stored_share": stored / original,
        "stored_parameters": stored // 4,
        "coefficients": sum(group["coefficients"] for group in certificates),
    }
