"""Which of timm's architectures have something to share, and whether their smallest models stay exact.

    python benchmarks/coverage.py            every name of timm.list_models(): families and shareable parameters
    python benchmarks/coverage.py exact      the smallest model of every timm module: mimic (full), attach, logits

Writes benchmarks/results/coverage.csv and coverage_exact.csv. The first makes no weights (meta device); the second
resumes where it stopped and draws random weights (seed 0), one random image, the largest difference of logits
over the largest logit.
"""

import csv
import sys
import warnings
from pathlib import Path

import timm
import torch

import recast_gen as rg
from recast_gen.weights.families import families
from recast_gen.weights.networks import shapes

RESULTS = Path(__file__).parent / "results"


def names() -> list[dict]:
    rows = []
    for name in timm.list_models():
        row = {
            "model": name,
            "module": timm.models.model_entrypoint(name).__module__.rpartition(".")[2],
            "families": 0,
            "share": 0.0,
            "reason": "",
        }
        try:
            found = families(shapes(name))
            total = sum(family.parameters for family in found.values())
            row |= {"parameters": total, "families": len(found.shareable)}
            row["share"] = round(sum(found[family].parameters for family in found.shareable) / total, 4)
            row["reason"] = "" if found.shareable else "no two matrices or kernels of one shape"
        except Exception as error:
            row["reason"] = f"{type(error).__name__}: {error}"
        rows.append(row)
    return rows


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
    return {"model": name, "difference": float((before - after).abs().max() / before.abs().max()), "reason": ""}


def first(output) -> torch.Tensor:
    return first(output[0]) if isinstance(output, tuple | list) else output


def write(path: Path, rows: list[dict]) -> None:
    path.parent.mkdir(exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(dict.fromkeys(key for row in rows for key in row)), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def main(what: str = "names") -> None:
    warnings.filterwarnings("ignore")
    table = RESULTS / "coverage.csv"
    if what == "names":
        rows = names()
        write(table, rows)
        errors = [row for row in rows if ":" in row["reason"]]
        shared = sum(row["families"] > 0 for row in rows)
        print(f"{len(rows)} names: {len(errors)} errors, {shared} ({shared / len(rows):.1%}) have something to share")
        for row in rows:
            if row["reason"]:
                print(f"  {row['model']}: {row['reason']}")
        return
    with table.open() as file:
        rows = [row for row in csv.DictReader(file) if row["families"] != "0"]
    smallest = {}
    for row in sorted(rows, key=lambda row: int(row["parameters"])):
        smallest.setdefault(row["module"], row["model"])
    path = RESULTS / "coverage_exact.csv"
    done = list(csv.DictReader(path.open())) if path.exists() else []
    for module, model in sorted(smallest.items()):
        if model in {row["model"] for row in done}:
            continue
        try:
            row = exact(model)
        except Exception as error:
            row = {"model": model, "difference": "", "reason": f"{type(error).__name__}: {error}"[:200]}
        done.append({"module": module, **row})
        write(path, done)
        print(f"{module}: {model} {row['reason'] or row['difference']}", flush=True)
    good = sum(row["difference"] not in ("", None) and float(row["difference"]) <= 1e-4 for row in done)
    print(f"{good} of {len(done)} modules exact to 1e-4")


if __name__ == "__main__":
    main(*sys.argv[1:])
