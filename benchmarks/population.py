"""What networks drawn from a population are worth, and what the population costs.

    python -m benchmarks.generation_quality population  # the recipes' own stages, then the controls
    python -m benchmarks.population run [FOLDER]        # the same; FOLDER keeps trained networks for a restart
    python -m benchmarks.population options [FOLDER]    # decoders and priors, on the recipes' populations
    python -m benchmarks.population speed               # against reading and copying, processor seconds
    python -m benchmarks.population compared            # one row a population, and one a decoder and prior
    python -m benchmarks.population table

Writes results/population.csv, population_options.csv and population_speed.csv.  Samples of the prior are judged beside
their controls: originals with noise of the same distance, averages of two originals, the mean of all, copies; see
`recast_gen.tasks.controls`.  Recipes train their networks from seeds of their own.  Kinds of networks, and how ResNets
are trained, were chosen on other splits of the digits, so that some test images had been looked at.
Ten ResNets are trained in other ways as well: with fewer channels, and by AdamW, which leaves of their initial values
nearly all.
options: codes of eight values; `held_out` is how many nats likelier networks that were held out are than with the
linear decoder (a bound, of mlp) and than with the normal prior (of their codes, of flow).
"""

import os
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from ruamel.yaml import YAML

import recast_gen as rg
from recast_gen.pipelines.stage import execute
from recast_gen.tasks.results import NETWORKS
from recast_gen.weights import checkpoints, networks
from recast_gen.weights.described import header
from recast_gen.weights.files import save_tensors

from .measured import Table, markdown

ADAMW = {"optimizer": "adamw", "lr": 3e-3, "weight_decay": 0.05, "epochs": 10}
POPULATIONS: dict[str, tuple[str, dict[str, Any]]] = {  # recipe, and what its model has instead
    "digits perceptrons": ("digits_population", {}),
    "digits ResNets": ("digits_resnets", {}),
    "ten ResNets": ("digits_resnets", {"population": 10}),
    "ten ResNets, a third as wide": ("digits_resnets", {"population": 10, "kwargs": {"channels": [16, 32]}}),
    "ten ResNets, AdamW": ("digits_resnets", {"population": 10, "pretrain": ADAMW}),
}
OPTIONS: dict[tuple[str, str], dict[str, Any]] = {  # decoder and prior, and the section of the stage
    ("linear", "normal"): {"templates": 8},
    ("linear", "flow"): {"templates": 8, "prior": "flow"},
    ("mlp", "normal"): {"templates": 8, "solver": "vae", "decoder": "mlp"},
    ("mlp", "flow"): {"templates": 8, "solver": "vae", "decoder": "mlp", "prior": "flow"},
}
COLUMNS = ("networks", "accuracy", "least", "most", "ensemble", "distance", "iou")
WAYS = (*COLUMNS[1:], "noise", "average", "held_out_mlp", "held_out_flow")
MODEL = {
    "timm_model": "recast_gen.weights.perceptron:perceptron",
    "timm_kwargs": {"inputs": 784, "hidden": [680, 680], "num_classes": 10},
    "data_config": {"input_size": [1, 28, 28]},
}  # 1.0 M parameters
COUNT, SEVERAL = 100, 20  # networks of the speed table, and draws
EMBEDDED = ("digits perceptrons", "digits ResNets")
BESIDE = {"mlp": "linear", "flow": "normal"}
KINDS = ("original", "sample", "unaligned", "noise", "average", "mean")
ENDS = (("original", "most"), ("original", "ensemble"), ("sample", "ensemble"))


def controls(table: Table, folder: Path) -> None:
    """Runs the stages of each recipe in a folder, and keeps what they measured."""
    for name, (recipe, changes) in POPULATIONS.items():
        if all((name, words) in table for words in NETWORKS.values()):
            continue
        for kind, measured in judged(folder, name, recipe, {"model": changes})["kinds"].items():
            kept = {key: measured[key] for key in COLUMNS if key in measured}
            table.add(name, NETWORKS[kind], **kept)


def decoders(table: Table, folder: Path) -> None:
    """Samples of each decoder and prior, beside their controls."""
    for name in EMBEDDED:
        for way, section in OPTIONS.items():
            if (name, *way) in table:
                continue
            found = judged(folder, name, POPULATIONS[name][0], {"mimic_vae": section})
            sample, held = found["kinds"]["sample"], found["fit"]["held_out"]["network"]
            table.add(
                name, *way, noise=found["kinds"]["noise"]["accuracy"], average=found["kinds"]["average"]["accuracy"],
                **{key: sample[key] for key in COLUMNS if key != "networks"},
                **{f"held_out_{new}": held[new] - held[old] for new, old in BESIDE.items() if new in held},
            )  # fmt: skip


def judged(folder: Path, name: str, recipe: str, changes: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Metrics of stage mimic_vae of a recipe with other values; networks that were trained there before are kept."""
    read = YAML(typ="safe").load(Path(f"pipelines/{recipe}.yaml"))
    for section, values in changes.items():
        for key, value in values.items():
            known = read[section].get(key)
            read[section][key] = known | value if isinstance(known, dict) else value
    path, here = folder / f"{name.replace(',', '').replace(' ', '_')}.yaml", os.getcwd()
    YAML().dump(read, path)
    os.chdir(folder)
    try:
        if not Path("weights_store", path.stem, "extract", "metrics.json").exists():
            execute("extract", path)
        return execute("mimic_vae", path)
    finally:
        os.chdir(here)


def compared(table: Table) -> str:
    """One row a population: mean accuracies (%) of what is drawn, of its controls, and of the originals."""
    rows = table.rows()
    kinds = [NETWORKS[kind] for kind in KINDS]
    return markdown(
        ("population", *kinds, "best original", "ensemble of ten originals", "of ten samples"),
        (
            [name, *(f"{100 * float(rows[name, words]['accuracy']):.1f}" for words in kinds)]
            + [f"{100 * float(rows[name, NETWORKS[kind]][key]):.1f}" for kind, key in ENDS]
            for name in POPULATIONS if (name, kinds[0]) in rows
        ),
    )  # fmt: skip


def ways(table: Table) -> str:
    """One row a decoder and prior of codes of eight values."""
    shares, plain = ("accuracy", "noise", "average", "ensemble"), ("distance", "iou")
    return markdown(
        ("population", "decoder", "prior", "samples", "noise", "averages of two", "ensemble of ten samples", "distance",
         "IoU of errors", "mlp, held out", "flow, held out"),
        (
            [*key, *(f"{100 * float(row[word]):.1f}" for word in shares)]
            + [f"{float(row[word]):.2f}" for word in plain]
            + [f"{float(row[word]):+.1f}" if row[word] else "" for word in WAYS[-2:]]
            for key in ((name, *way) for name in EMBEDDED for way in OPTIONS) if (row := table.get(*key))
        ),
    )  # fmt: skip


def used(act: Callable[[], object]) -> float:
    """Processor seconds of one call."""
    start = time.process_time()
    act()
    return time.process_time() - start


def speed(table: Table) -> None:
    """A population of random weights, which cost what trained ones cost."""
    with tempfile.TemporaryDirectory() as scratch:
        files = [Path(scratch) / f"{index:03d}.safetensors" for index in range(COUNT)]
        shapes = networks.create(MODEL["timm_model"], MODEL["timm_kwargs"]).state_dict()
        for index, file in enumerate(files):
            rng = np.random.default_rng(index)
            tensors = {name: rng.standard_normal(tuple(t.shape), np.float32) for name, t in shapes.items()}
            save_tensors(file, tensors, header(MODEL))
        size = sum(tensor.numel() for tensor in shapes.values())
        rg.mimic_vae(files[:2], passes=1)  # what is imported is not measured
        reading = used(lambda: [len(dict(checkpoints.read(file).items())) for file in files])
        found: list[rg.Population] = []
        fitting = used(lambda: found.append(rg.mimic_vae(files, aligned=False)))
        aligning = used(lambda: rg.mimic_vae(files[:10], passes=2))
        code = np.random.default_rng(0).standard_normal(found[0].latents)
        one = found[0].network(code)
        copying = min(used(lambda: [tensor.copy() for tensor in one.values()]) for _ in range(20))
        drawing = min(used(lambda: found[0].network(code)) for _ in range(20))
        many = min(used(lambda: found[0].sample(SEVERAL)) for _ in range(3)) / SEVERAL
        tracemalloc.start()  # knows numpy's memory, and not the pages of the scratch file, which the system takes back
        rg.mimic_vae(files, aligned=False)
        peak = tracemalloc.get_traced_memory()[1] / (4 * size)
        tracemalloc.stop()
        writing = used(lambda: found[0].save(Path(scratch) / "population.zarr"))
    rows = [
        (f"read {COUNT} files of {size:,} parameters", reading, 1.0),
        ("fit them, not aligned", fitting, fitting / reading),
        ("fit ten of them, aligned in two passes", aligning, aligning / (reading * 10 / COUNT)),
        ("save the population", writing, writing / reading),
        ("copy one network in memory", copying, 1.0),
        ("draw one", drawing, drawing / copying),
        (f"draw {SEVERAL} at once, for each", many, many / copying),
    ]
    for what, seconds, ratio in rows:
        table.add(what, seconds=seconds, ratio=ratio)
    table.add("peak of the fit's memory, in networks, besides its scratch file", ratio=peak)


def main(*given: str) -> None:
    act, *folders = given or sys.argv[1:] or ["table"]
    quality = Table("population.csv", ("population", "what"), COLUMNS)
    cost = Table("population_speed.csv", ("what",), ("seconds", "ratio"))
    options = Table("population_options.csv", ("population", "decoder", "prior"), WAYS)
    if act in ("run", "options"):
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(*folders or [scratch]).resolve()
            controls(quality, folder) if act == "run" else decoders(options, folder)
    if act == "speed":
        speed(cost)
    if act == "compared":
        return print(compared(quality), ways(options), sep="\n\n")
    for table in (quality, options, cost):
        print(markdown(table.columns, (row.values() for row in table.rows().values())), end="\n\n")


if __name__ == "__main__":
    main()
