"""The `recast` command."""

from pathlib import Path
from typing import Annotated

import typer

from .errors import ExportError, RecipeError, check_choice, listing, plainly
from .pipelines import STAGES, let_waiting_threads_sleep

app = typer.Typer(
    name="recast", no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False,
    help="A pretrained network as shared templates and tiny coefficients: one backbone, many small tasks.",
)  # fmt: skip
Recipe = Annotated[Path, typer.Argument(help="A recipe, such as pipelines/digits.yaml.")]

Storage = Annotated[str | None, typer.Option(help="tune: an Optuna storage URL; tune.storage when not given.")]


def main() -> None:
    """Runs the command; an error of ours is one plain message."""
    let_waiting_threads_sleep()
    with plainly():
        app()


@app.command()
def inspect(
    source: Annotated[
        str, typer.Argument(help="A timm model's name, a checkpoint, an extract.zarr, a bank, or a task.")
    ],
    groups: Annotated[
        int | None, typer.Option(min=1, help="Groups a family, at most its layers; half its layers when not given.")
    ] = None,
    templates: Annotated[
        int | None, typer.Option(min=1, help="Templates a group; all its layers when not given.")
    ] = None,
    by: Annotated[str, typer.Option(help="What makes a family: index or shape.")] = "index",
    split_qkv: Annotated[bool, typer.Option(help="A fused qkv as three families.")] = False,
    every: Annotated[bool, typer.Option("--all", help="Also families that have nothing to share.")] = False,
) -> None:
    """Prints a network's families, what a bank would store and a task would cost; how good a bank is; or a task."""
    from .console import show
    from .weights.families import split
    from .weights.named import SplitQkv, Weights
    from .weights.networks import shapes
    from .weights.store import kind_of

    kind = kind_of(source)
    if kind == "task":
        _print_task(source)
        return
    if kind == "bank":
        from .bank.saved import open_bank
        from .mimicry.measures import print_certificate

        bank = open_bank(source)
        print(f"{source}: bank {bank.hash} of {bank.backbone.get('timm_model') or 'a network of its own'}")
        print_certificate(bank)
        return

    weights = Weights({}, shapes=shapes(source))
    found = (SplitQkv(weights) if split_qkv else weights).families(by)
    rows, totals = [], [0, 0, 0]
    for family in found.values():
        if not (every or family.shareable):
            continue
        row = [family.name, family.layers, "x".join(map(str, family.shape)), family.parameters, "", ""]
        if family.shareable:
            sizes = [len(names) for names in split(family, min(groups or max(1, family.layers // 2), family.layers))]
            kept = [min(templates or size, size) for size in sizes]
            row[4] = sum(kept) * family.parameters // family.layers
            row[5] = sum(size * count for size, count in zip(sizes, kept))
            totals = [total + value for total, value in zip(totals, row[3:])]
        rows.append(row)
    head = ["family", "layers", "shape", "parameters", "stored in a bank", "coefficients a task"]
    everything = sum(family.parameters for family in found.values())
    show([head, *rows, ["shareable", "", "", *totals], ["whole network", "", "", everything, "", ""]])


def _print_task(path: str) -> None:
    from .bank.taskfile import ADAPTER, verified
    from .console import show
    from .model.card import metrics

    meta, about, tensors = verified(path)
    size, adapter = Path(path).stat().st_size, about.get("adapter")
    head = [name for name in tensors if name != "coefficients" and not name.startswith(ADAPTER)]
    named = about.get("classes") or ["not named" if head else "none, it has no head"]
    print(f"{path}: task of bank {meta['bank']}, resolution {listing(sorted(set(meta['resolution'])))}")
    print(f"classes: {listing(named, 10)}")
    if about.get("metrics"):
        print(metrics(about["metrics"]))
    if adapter:
        print(f"adapter: {adapter['name']} ({metrics(adapter['options']) or 'no options'})")
    rows = [[name, "x".join(map(str, array.shape)), array.dtype.name, array.nbytes] for name, array in tensors.items()]
    rows.append(["names and checks", "", "", size - sum(row[-1] for row in rows)])
    show([["tensor", "shape", "dtype", "bytes"], *rows, ["file", "", "", size]])


@app.command()
def run(
    stage: Annotated[str, typer.Argument(help="extract, mimic, mimic_vae, tune, train, generate or report.")],
    recipe: Recipe = Path("pipelines/digits.yaml"),
    workers: Annotated[int | None, typer.Option(min=1, help="tune: processes on this machine.")] = None,
    storage: Storage = None,
) -> None:
    """Runs one stage of a recipe, as `dvc repro` would."""
    check_choice("stage", stage, STAGES, RecipeError)
    from .pipelines.stage import execute

    if stage == "tune":
        from .pipelines.tune import opened

        execute(stage, recipe, lambda path: opened(path, storage, workers)[0])
    elif workers or storage:
        raise RecipeError(f"--workers and --storage are of stage tune; {stage} has one process and no storage.")
    else:
        execute(stage, recipe)


@app.command(name="tune-worker")
def tune_worker(recipe: Recipe = Path("pipelines/digits.yaml"), storage: Storage = None) -> None:
    """Runs trials of a recipe's study beside other processes, on this machine or others, until none is missing."""
    from .pipelines.tune import join

    print(f"{join(recipe, storage)}: no trial is missing")


@app.command()
def studies(recipe: Recipe = Path("pipelines/digits.yaml"), storage: Storage = None) -> None:
    """Lists the studies of a recipe's storage: an edit of what a trial measures starts a new one, old ones stay."""
    from .console import show
    from .pipelines.tune import studies

    rows = [
        [row["study"], row["started"], row["trials"], row.get("settings", ""), str(row.get("model", "")),
         ", ".join(row.get("objectives", [])), ", ".join(f"{k} {v:g}" for k, v in row.get("constraints", {}).items())]
        for row in studies(recipe, storage)
    ]  # fmt: skip
    if not rows:
        print(f"{recipe} has no study yet: run `recast run tune {recipe}`.")
        return
    show([["study", "started", "trials", "of settings", "model", "objectives", "constraints"], *rows])


@app.command()
def report(recipe: Recipe = Path("pipelines/digits.yaml")) -> None:
    """Draws a recipe's results as one HTML file and prints its path."""
    from .pipelines.stage import Folder, execute

    execute("report", recipe)
    print(Folder(recipe, "report") / "report.html")


Bank = Annotated[Path, typer.Argument(help="A bank.zarr, or a packed bank.")]
exports = typer.Typer(no_args_is_help=True, help="Writes tasks in other formats.")
app.add_typer(exports, name="export")


@exports.command()
def onnx(
    bank: Bank,
    task: Annotated[Path, typer.Argument(help="A task file.")],
    out: Annotated[Path, typer.Option(help="The ONNX file to write.")] = Path("model.onnx"),
) -> None:
    """Writes a task's complete model as ONNX and checks it in onnxruntime."""
    from .bank import taskfile
    from .bank.generation import generate
    from .bank.saved import load_bank
    from .model.export import to_onnx
    from .weights import networks
    from .weights.named import Weights

    loaded = load_bank(bank)
    if not (size := loaded.backbone.get("data_config", {}).get("input_size")):
        raise ExportError(f"{bank} does not say how large images are: call rg.to_onnx(model, path, input_size).")
    read = taskfile.read(task, loaded)
    kwargs = loaded.backbone.get("timm_kwargs", {})
    if read.outputs:  # without a head of its own, it has the backbone's
        kwargs = kwargs | {"num_classes": read.outputs}
    model = networks.rebuild(Weights(generate(loaded, read), loaded.backbone | {"timm_kwargs": kwargs}))
    error = to_onnx(model, out, size)
    print(f"{out}: logits within {error:.2g} of torch's")


@exports.command()
def peft(
    bank: Bank,
    task: Annotated[Path, typer.Argument(help="A task file.")],
    out: Annotated[Path, typer.Option(help="The folder to write.")] = Path("adapter"),
    rank: Annotated[int, typer.Option(help="Of every layer's LoRA.")] = 16,
) -> None:
    """Writes a task as a PEFT LoRA adapter, the nearest of its rank."""
    from .model.export import to_peft

    made = to_peft(bank, task, out, rank)
    print(f"{out}: rank {rank} loses {made['relative_error']:.3g} of what the task adds (relative)")


@exports.command()
def folder(
    bank: Bank,
    tasks: Annotated[list[Path], typer.Argument(help="Task files.")],
    out: Annotated[Path, typer.Option(help="The folder to write.")] = Path("published"),
    licence: Annotated[str | None, typer.Option(help="Of the base; what timm says when not given.")] = None,
) -> None:
    """Writes a bank, its tasks and a model card, ready to publish."""
    from .model.export import to_folder

    print(to_folder(bank, tasks, out, licence))


@app.command()
def compare(
    bank: Bank,
    model: Annotated[
        str, typer.Argument(help="The network it was made from: timm's name, checkpoint or extract.zarr.")
    ],
    images: Annotated[str, typer.Option(help="A folder with one subfolder a class, or an .npz.")],
) -> None:
    """Prints what the bank changes: features block by block, predictions, accuracy."""
    from .bank.saved import load_bank
    from .model.comparison import compare
    from .tasks.data import load_all
    from .weights.sources import model_of

    network, about = model_of(model)
    found = compare(load_bank(bank), network, load_all(images, about.get("data_config", {})))
    print(f"{found['images']} images")
    for name, cosine in found["blocks"].items():
        print(f"{name:24} cosine of features {cosine:.6f}")
    print(f"{'logits':24} cosine {found['logits_cosine']:.6f}, largest difference {found['largest_difference']:.2g}")
    print(f"{'same prediction':24} {found['same_prediction']:.1%}")
    print(f"{'accuracy':24} {found['accuracy']:.1%} before, {found['accuracy_of_bank']:.1%} with the bank")


@app.command()
def generate(
    bank: Bank,
    task: Annotated[Path | None, typer.Argument(help="A task file; the backbone itself when not given.")] = None,
    out: Annotated[Path, typer.Option(help="The safetensors file to write.")] = Path("generated.safetensors"),
    depth: Annotated[
        list[int] | None, typer.Option(help="Blocks, from a token bank; once for each of its lists of blocks.")
    ] = None,
    temperature: Annotated[float | None, typer.Option(help="Of draws from a token bank; 0 for its means.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of those draws.")] = None,
) -> None:
    """Writes a task's complete weights, on the CPU, with numpy alone, layer by layer."""
    from math import prod

    from .bank.generation import write

    asked = {"depth": depth, "temperature": temperature, "seed": seed}
    made = write(bank, task, out, **{name: value for name, value in asked.items() if value is not None})
    print(f"{out}: {len(made)} tensors, {sum(prod(shape) for shape, _ in made.values()):,} numbers")


Out = Annotated[Path, typer.Option(help="The folder to write task files to.")]


def _write_tasks(bank, tasks: list, out: Path, word: str) -> None:
    from .bank.taskfile import write

    for index, task in enumerate(tasks):
        write(out / f"{word}_{index:03d}.safetensors", task, bank)
    print(f"{out}: {len(tasks)} task files; `recast generate` makes weights of each")


@app.command()
def sample(
    bank: Bank,
    n: Annotated[int, typer.Option(help="How many.")] = 1,
    temperature: Annotated[float, typer.Option(help="Factor on the standard deviation.")] = 1.0,
    seed: Annotated[int, typer.Option(help="Of the draws.")] = 0,
    source: Annotated[str, typer.Option(help="posterior or prior.")] = "posterior",
    out: Out = Path("samples"),
) -> None:
    """Draws coefficients from a bank of mimic_vae and writes each set as a task file with the backbone's head."""
    from .bank.sampling import sample
    from .bank.saved import open_bank
    from .bank.taskfile import Task

    opened = open_bank(bank)
    about = {"source": source, "temperature": temperature, "seed": seed}
    drawn = enumerate(sample(opened, n, temperature, seed, source))
    _write_tasks(opened, [Task(one, {}, {"sampled": about | {"index": index}}) for index, one in drawn], out, "sample")


@app.command()
def interpolate(
    bank: Bank,
    start: Annotated[str, typer.Argument(help="A task file, a layer's tensor, or 'base' for the backbone.")],
    end: Annotated[str, typer.Argument(help="Another one.")],
    steps: Annotated[int, typer.Option(help="How many, both ends included.")] = 5,
    out: Out = Path("between"),
) -> None:
    """Writes task files in equal steps between two tasks, or with one layer on its way to another of its group."""
    from .bank.sampling import interpolate
    from .bank.saved import open_bank

    opened = open_bank(bank)
    ends = [None if end == "base" else end for end in (start, end)]
    _write_tasks(opened, interpolate(opened, *ends, steps), out, "step")


@app.command()
def pack(
    bank: Annotated[Path, typer.Argument(help="A bank.zarr.")],
    file: Annotated[Path, typer.Argument(help="The safetensors file to write.")],
) -> None:
    """Writes a bank as one file, nothing lost; every command reads it as it reads the directory."""
    from .bank.saved import pack

    print(f"{file}: bank {pack(bank, file)}")


@app.command()
def unpack(
    file: Annotated[Path, typer.Argument(help="A packed bank.")],
    bank: Annotated[Path, typer.Argument(help="The bank.zarr to write.")],
) -> None:
    """Writes a packed bank as a directory again, nothing lost."""
    from .bank.saved import unpack

    print(f"{bank}: bank {unpack(file, bank)}")
