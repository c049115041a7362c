"""Which of timm's architectures have something to share, and whether their smallest models stay exact.

    python -m benchmarks.coverage            every name of timm.list_models(): families and shareable parameters
    python -m benchmarks.coverage exact      the smallest model of every timm module: mimic (full), attach, logits

Writes results/coverage.csv and coverage_exact.csv; both resume where they stopped.  The first makes no weights (meta
device); the second draws random weights (seed 0), one random image, the largest difference of logits over the largest
logit.
"""

import sys
import warnings

import timm
import torch

import recast_gen as rg
from recast_gen.weights.families import families
from recast_gen.weights.networks import shapes

from .measured import Table


def names(table: Table) -> None:
    for name in timm.list_models():
        module = timm.models.model_entrypoint(name).__module__.rpartition(".")[2]
        row = {"module": module, "families": 0, "share": 0.0, "reason": ""}
        if (name,) in table:
            continue
        try:
            found = families(shapes(name))
            total = sum(family.parameters for family in found.values())
            row |= {"parameters": total, "families": len(found.shareable)}
            row["share"] = round(sum(found[family].parameters for family in found.shareable) / total, 4)
            row["reason"] = "" if found.shareable else "no two matrices or kernels of one shape"
        except Exception as error:
            row["reason"] = f"{type(error).__name__}: {error}"
        table.add(name, **row)


def exact(name: str) -> dict:
    """Relative difference of logits after attaching a full bank."""
    torch.manual_seed(0)
    model = timm.create_model(name).eval()
    size = model.pretrained_cfg.get("input_size", (3, 224, 224))
    images = torch.randn(1, *size)
    with torch.no_grad():
        run = model if bool(first(model(images)).any()) else model.forward_features  # some heads start as zeros
        before = first(run(images))
        rg.attach(model, rg.mimic(model))
        after = first(run(images))
    return {"difference": float((before - after).abs().max() / before.abs().max()), "reason": ""}


def first(output) -> torch.Tensor:
    return first(output[0]) if isinstance(output, tuple | list) else output


def main(what: str = "names") -> None:
    warnings.filterwarnings("ignore")
    table = Table("coverage.csv", ("model",), ("module", "families", "share", "reason", "parameters"))
    if what == "names":
        names(table)
        rows = table.rows().values()
        errors = [row for row in rows if ":" in row["reason"]]
        shared = sum(row["families"] != "0" for row in rows)
        print(f"{len(rows)} names: {len(errors)} errors, {shared} ({shared / len(rows):.1%}) have something to share")
        for row in rows:
            if row["reason"]:
                print(f"  {row['model']}: {row['reason']}")
        return
    smallest = {}
    for row in sorted(table.rows().values(), key=lambda row: int(row["parameters"] or 0)):
        if row["families"] != "0":
            smallest.setdefault(row["module"], row["model"])
    done = Table("coverage_exact.csv", ("module", "model"), ("difference", "reason"))
    for module, model in sorted(smallest.items()):
        if (module, model) in done:
            continue
        try:
            row = exact(model)
        except Exception as error:
            row = {"difference": "", "reason": f"{type(error).__name__}: {error}"[:200]}
        done.add(module, model, **row)
    rows = done.rows().values()
    good = sum(row["difference"] != "" and float(row["difference"]) <= 1e-4 for row in rows)
    print(f"{good} of {len(rows)} modules exact to 1e-4")


if __name__ == "__main__":
    main(*sys.argv[1:])
