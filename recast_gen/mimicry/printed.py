"""A bank's certificate in print."""

from ..bank import TemplateBank
from ..errors import listing
from ..tables import show
from .measures import overall

NO_GAP = 1e-6  # relative errors this near to the bound are at it, to the rounding of float32

HEAD = ["family", "group", "layers", "templates", "error", "bound", "gap", "stored", "coefficients", "effective"]


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
    if above and not bank.fit.get("whitened"):  # that is nearest in what layers give, not in weights
        worst = max(above, key=lambda row: row["gap"])
        print(
            f"{len(above)} of {len(found)} groups are above the least error at their number of templates, at most by "
            f"{worst['gap']:.2g} ({worst['family']} group {worst['group']}): there is a better fit of this size."
        )
    if untouched := bank.fit.get("untouched"):
        print("untouched, as they are codes: " + listing(f"{name} ({dtype})" for name, dtype in untouched.items()))


def _cells(row: dict) -> list:
    gap = f"{row['gap']:.2g}" if row["gap"] > NO_GAP else "none"
    share = f"{row['stored_share']:.1%}"
    errors = [f"{row[key]:.2g}" for key in ("relative_error", "bound")]
    return [row["family"], row["group"], row["layers"], row["templates"], *errors, gap, share,
            row["coefficients"], row["effective_coefficients"]]  # fmt: skip
