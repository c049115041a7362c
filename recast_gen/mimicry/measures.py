"""How good a fit is, against the best there is; a bank's certificate in print."""

from collections.abc import Iterable, Iterator

import numpy as np

from ..bank.bank import TemplateBank
from ..console import show
from ..errors import listing
from .factorization import Block, Factorization, gram, over_blocks, spectrum

NO_GAP = 1e-6  # relative errors this near to the bound are at it, to the rounding of float32

HEAD = ["family", "group", "layers", "templates", "error", "bound", "gap", "stored", "coefficients", "effective"]


def certificate(
    stack: np.ndarray, fit: Factorization, itemsize: int = 4, sets: int = 1, layers: int | None = None
) -> dict:
    """Measures a fit of a stack ``l ...`` whose tensors have `itemsize` bytes a number.

    layers: how many there are, where the stack is a matrix ``(layers rows) n`` of another layout.  sets: count.
    relative_error: ``|stack - C T| / |stack|``, Frobenius, of the float32 parameters that are stored.  bound: the least
    relative error at this rank (Eckart & Young 1936).  gap: their difference.  layer_error and cosine: per layer.
    singular_values: of the stack.  stored_bytes and original_bytes.  coefficients: count a task trains at resolution 1;
    effective_coefficients: how many of them act, as the mean over `sets` sets is what mixes templates.
    warning: what a user must know of the fit, where there is something.
    """
    rows, count = stack.reshape(len(stack), -1), fit.coefficients.shape[1]
    templates = None if fit.templates is None else fit.templates.reshape(count, -1)
    layers = layers or len(rows)
    values = fit.squares
    if values is None:
        values, _ = spectrum(gram(rows if len(rows) <= rows.shape[1] else rows.T))
    total = max(values.sum(), np.finfo(float).tiny)

    def sums(blocks: Iterator[Block], width: int) -> np.ndarray:
        """Of each row: its square, its error, and the square of what is rebuilt."""
        squares, lost, length = found = np.zeros((3, len(rows)))
        made, rebuilt = np.empty((count, width), np.float32), np.empty((len(rows), width), np.float32)
        double = np.empty((max(rebuilt.shape[0], count), width))
        for part, wanted in blocks:
            size = wanted.shape[1]
            if templates is None:
                made[:, :size] = np.matmul(fit.mixing[0], wanted, out=double[:count, :size])
            own = made[:, :size] if templates is None else templates[:, part]
            again = double[: len(rows), :size]
            again[...] = np.matmul(fit.coefficients, own, out=rebuilt[:, :size])
            squares += np.vecdot(wanted, wanted)
            length += np.vecdot(again, again)
            wanted -= again
            lost += np.vecdot(wanted, wanted)
        return found

    squares, lost, length = (
        each.reshape(layers, -1).sum(1) for each in sum(over_blocks(rows, sums), np.zeros((3, len(rows))))
    )
    along = (squares + length - lost) / 2  # the product with what is rebuilt
    layer_error = np.where(squares > 0, np.sqrt(_ratio(lost, squares)), lost > 0)
    cosine = np.where(squares * length > 0, _ratio(along, np.sqrt(squares * length)), squares == 0)
    error, bound = np.sqrt(lost.sum() / total), np.sqrt(values[count:].sum() / total)
    return {
        "relative_error": float(error),
        "bound": float(bound),
        "gap": float(max(0.0, error - bound)),
        "layer_error": layer_error.tolist(),
        "cosine": cosine.tolist(),
        "singular_values": np.sqrt(values).tolist(),
        "layers": layers,
        "templates": count,
        "stored_bytes": int(4 * count * rows.shape[1] + sets * fit.coefficients.nbytes),
        "original_bytes": int(rows.size * itemsize),
        "coefficients": int(sets * fit.coefficients.size),
        "effective_coefficients": int(fit.coefficients.size),
    } | ({"warning": fit.warning} if fit.warning else {})


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.divide(part, whole, out=np.zeros_like(part), where=whole > 0)


def overall(certificates: Iterable[dict]) -> dict:
    """Certificates of several groups as one: errors over all their parameters, sums of bytes and counts."""
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


def rows(bank: TemplateBank) -> list[dict]:
    """The certificate without what is one number a layer, a group a row; ``stored_share`` is a fraction."""
    kept = ("layers", "templates", "relative_error", "bound", "gap", "stored_bytes", "original_bytes", "coefficients",
            "effective_coefficients")  # fmt: skip
    found = []
    for (family, index), measured in bank.certificate.items():
        row = {"family": family, "group": index} | {key: measured[key] for key in kept}
        row["stored_share"] = measured["stored_bytes"] / measured["original_bytes"]
        found.append(row)
    return found


def print_certificate(bank: TemplateBank) -> None:
    """Prints the certificate as a table, which groups are not at the optimum, and what has no templates.

    error, bound and gap are relative (fractions of the layers' norm); coefficients are what a task trains at resolution
    1, effective how many of them act.
    """
    found, total = rows(bank), overall(bank.certificate.values())
    everything = {
        "family": "all",
        "group": "",
        **{key: sum(row[key] for row in found) for key in ("layers", "templates")},
    }
    show([HEAD, *map(_cells, found), _cells(everything | total)])
    above = [row for row in found if row["gap"] > NO_GAP]
    if above and not (bank.fit.get("whitened") or "bits" in bank.fit):  # nearest in outputs, or of rounded templates
        worst = max(above, key=lambda row: row["gap"])
        print(
            f"{len(above)} of {len(found)} groups are above the least error at their number of templates, at most by "
            f"{worst['gap']:.2g} ({worst['family']} group {worst['group']}): there is a better fit of this size."
        )
    if untouched := bank.fit.get("untouched"):
        print("untouched, integers or quantised: " + listing(f"{name} ({dtype})" for name, dtype in untouched.items()))


def _cells(row: dict) -> list:
    gap = f"{row['gap']:.2g}" if row["gap"] > NO_GAP else "none"
    share = f"{row['stored_share']:.1%}"
    errors = [f"{row[key]:.2g}" for key in ("relative_error", "bound")]
    return [row["family"], row["group"], row["layers"], row["templates"], *errors, gap, share,
            row["coefficients"], row["effective_coefficients"]]  # fmt: skip
