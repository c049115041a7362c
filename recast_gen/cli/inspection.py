"""The command that says what something is."""

from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import listing
from .recipes import check
from .tasks import tasks


def inspect(
    source: Annotated[
        str,
        typer.Argument(
            help="A timm model's name, a checkpoint, an extract.zarr, a bank, a population, a task, tasks, or a recipe."
        ),
    ],
    groups: Annotated[
        int | None, typer.Option(min=1, help="Groups a family, at most its layers; half its layers when not given.")
    ] = None,
    templates: Annotated[
        int | None, typer.Option(min=1, help="Templates a group; all its layers when not given.")
    ] = None,
    families: Annotated[
        list[str] | None, typer.Option(help="A glob such as 'blocks.{8..11}.*', as in a recipe; may be given again.")
    ] = None,
    by: Annotated[str, typer.Option(help="What makes a family: index or shape.")] = "index",
    split_qkv: Annotated[bool, typer.Option(help="A fused qkv as three families.")] = False,
    every: Annotated[bool, typer.Option("--all", help="Also families that have nothing to share.")] = False,
) -> None:
    """Says what a network, a bank, a task, a folder of tasks or a recipe holds.

    Of a network: its families, what a bank would store and a task would cost.  Of a bank: how good it is.  Of a
    folder: as `recast tasks`.  Of a recipe: as `recast check`.

    Example: recast inspect vit_small_patch16_224 --groups 6
    """
    from ..console import show
    from ..weights.named import SplitQkv, Weights
    from ..weights.networks import shapes
    from ..weights.selection import select, split
    from ..weights.store import kind_of

    if source.endswith((".yaml", ".yml")):
        check(Path(source))
        return
    kind = kind_of(source)
    if kind is None and any(kind_of(path) == "task" for path in Path(source).glob("*.safetensors")):
        tasks(Path(source))
        return
    if kind == "task":
        _print_task(source)
        return
    if kind == "bank":
        from ..bank.saved import open_bank
        from ..mimicry.measures import print_certificate

        bank = open_bank(source)
        print(f"{source}: bank {bank.hash} of {bank.backbone.get('timm_model') or 'a network of its own'}")
        print_certificate(bank)
        return
    if kind == "population":
        _print_population(source)
        return

    weights = Weights({}, shapes=shapes(source))
    found = (SplitQkv(weights) if split_qkv else weights).families(by)
    chosen = select(found, families) if families or found.shareable else {}
    totals = [0, 0, 0]
    rows: list[list[Any]] = []
    for family in (found | chosen if every else chosen).values():
        row: list[Any] = [family.name, family.layers, "x".join(map(str, family.shape)), family.parameters, "", ""]
        if family.name in chosen:
            sizes = [len(names) for names in split(family, groups or max(1, family.layers // 2))]
            kept = [min(templates or size, size) for size in sizes]
            row[4] = sum(kept) * family.parameters // family.layers
            row[5] = sum(size * count for size, count in zip(sizes, kept))
            totals = [total + value for total, value in zip(totals, row[3:])]
        rows.append(row)
    head = ["family", "layers", "shape", "parameters", "stored in a bank", "coefficients a task"]
    everything = sum(family.parameters for family in found.values())
    label = "chosen" if families else "shareable"
    show([head, *rows, [label, "", "", *totals], ["whole network", "", "", everything, "", ""]])


def _print_population(path: str) -> None:
    from ..bank.population import load_population
    from ..console import show

    found = load_population(path)
    print(f"{path}: population {found.hash} of {len(found)} networks, {found.backbone.get('timm_model') or 'its own'}")
    left = listing(found.fit["left"])
    print(f"left as they are: {left}; {len(found.statistics)} statistics of batch norms")
    for name, values in found.fit.get("labels", {}).items():
        print(f"label {name}: {min(values):g} to {max(values):g}")
    print(" ".join(f"{word} {found.fit[word]}" for word in ("solver", "decoder", "prior") if word in found.fit))
    for name, nats in found.fit.get("held_out", {}).items():
        for word, value in nats.items():
            print(f"{name}: held-out networks with {word}, {value:.1f} nats")
    rows = [[name, len(block.names), *block.rows.shape[::-1], block.latents]
            for name, block in found.blocks.items()]  # fmt: skip
    show([["block", "tensors", "parameters", "rows", "code"], *rows])


def _print_task(path: str) -> None:
    from ..bank.taskfile import ADAPTER, parts, record, sizes
    from ..console import show
    from ..model.card import metrics

    found = record(path)
    about, adapter = found.about, found.about.get("adapter")
    head = [name for name in found.named() if not name.startswith(ADAPTER)]
    named = about.get("classes") or ["not named" if head else "none, it has no head"]
    print(f"{path}: task of bank {found.bank}, resolution {listing(sorted(set(found.resolution)))}")
    print(f"classes: {listing(named, 10)}")
    if found.images:
        print(f"images: {'x'.join(map(str, found.images))} pixels, not the backbone's")
    if about.get("metrics"):
        print(metrics(about["metrics"]))
    if adapter:
        print(f"adapter: {adapter['name']} ({metrics(adapter['options']) or 'no options'})")
    held = parts(path)
    print(f"{sum(held.values()):,} bytes whole: " + ", ".join(f"{part} {count:,}" for part, count in held.items()))
    show([["tensor", "shape", "stored as", "bytes"], *map(list, sizes(path))])
