"""Commands that make tasks without training: draws from a bank, steps between two tasks."""

from pathlib import Path
from typing import Annotated

import typer

from .arguments import Bank

Out = Annotated[Path, typer.Option(help="The folder to write task files to.")]


def _write_tasks(bank, tasks: list, out: Path, word: str, *read: str) -> None:
    from ..bank.taskfile import write
    from ..weights.files import refuse_input

    files = [out / f"{word}_{index:03d}.safetensors" for index in range(len(tasks))]
    for file in files:
        refuse_input(file, *read)
    for file, task in zip(files, tasks):
        write(file, task, bank)
    print(f"{out}: {len(tasks)} task files; `recast generate` makes weights of each")


def sample(
    bank: Annotated[Path, typer.Argument(help="A bank.zarr, a packed bank, or a population.zarr.")],
    n: Annotated[int, typer.Option(help="How many.")] = 1,
    temperature: Annotated[float, typer.Option(help="Factor on the standard deviation.")] = 1.0,
    seed: Annotated[int, typer.Option(min=0, help="Of the draws.")] = 0,
    source: Annotated[
        str | None, typer.Option(help="posterior or prior; of a bank the posterior when not given, else the prior.")
    ] = None,
    images: Annotated[
        Path | None,
        typer.Option(
            help="Of a population with batch norms: images as for a task, or its recipe; labels are not used."
        ),
    ] = None,
    given: Annotated[
        list[str] | None, typer.Option(help="Of a population with labels: name=value, such as validation=0.99.")
    ] = None,
    tasks: Annotated[
        Path | None, typer.Option(help="A folder of task files of this bank: draws tasks like them.")
    ] = None,
    out: Out = Path("samples"),
) -> None:
    """Draws coefficients as task files, from a bank of mimic_vae or many tasks, or networks from a population.

    A task has the backbone's head.  A network is complete.

    Example: recast sample bank.zarr --n 10 --temperature 0.1
    """
    from ..bank.sampling import sample
    from ..bank.saved import open_bank
    from ..bank.task import Task
    from ..errors import FitError
    from ..weights.store import kind_of

    population, wanted = kind_of(bank) == "population", _values(given or [])
    if tasks and (images or population):
        raise FitError("--tasks draws tasks of a bank: leave out --images, and give a bank, not a population.")
    if population:
        _sample_networks(bank, n, temperature, seed, source, images, wanted, out)
        return
    opened = open_bank(bank)
    source = source or ("prior" if tasks else "posterior")
    if tasks:
        from ..mimicry.population.tasks import mimic_tasks

        found = mimic_tasks(opened, tasks).sample(n, temperature, seed, source, given=wanted)
    else:
        found = sample(opened, n, temperature, seed, source, images, wanted)
    about = {"source": source, "temperature": temperature, "seed": seed}
    drawn = [Task(one, {}, {"sampled": about | {"index": index}}) for index, one in enumerate(found)]
    _write_tasks(opened, drawn, out, "sample")


def merge(
    bank: Bank,
    tasks: Annotated[list[Path], typer.Argument(help="Two task files of that bank, or more.")],
    method: Annotated[str, typer.Option(help="mean, arithmetic, ties or latent.")] = "mean",
    scale: Annotated[float | None, typer.Option(help="Factor of arithmetic (0.3), ties (1) and latent (0.5).")] = None,
    density: Annotated[float | None, typer.Option(help="Share of each task's changes that ties keeps (0.2).")] = None,
    head: Annotated[str, typer.Option(help="joined: all tasks' classes; none: the backbone's.")] = "joined",
    out: Annotated[Path, typer.Option(help="The task file to write.")] = Path("merged.safetensors"),
) -> None:
    """Merges tasks into one, without images and without training.

    Example: recast merge bank.zarr flowers.safetensors birds.safetensors --method ties
    """
    from ..bank.merging import merge_tasks
    from ..bank.saved import open_bank
    from ..bank.taskfile import check_listed, write

    check_listed(out)
    opened = open_bank(bank)
    options = {name: value for name, value in (("scale", scale), ("density", density)) if value is not None}
    merged = merge_tasks(opened, tasks, method, head, **options)
    print(f"{out}: {write(out, merged, opened):,} bytes, {len(merged.classes)} classes of {len(tasks)} tasks")


def _sample_networks(
    path: Path, n: int, temperature: float, seed: int, source: str | None, images: Path | None,
    given: dict[str, float], out: Path,
) -> None:  # fmt: skip
    from ..bank.population import load_population
    from ..weights.described import header
    from ..weights.files import save_tensors

    population, known = load_population(path), None
    if images is not None:
        known = _unlabelled(images, population.backbone.get("data_config", {}), seed)
    for index, network in enumerate(population.sample(n, temperature, seed, source or "prior", known, given)):
        save_tensors(out / f"sample_{index:03d}.safetensors", network, header(population.backbone))
    print(f"{out}: {n} networks; `recast inspect`, `recast adapt` and `timm` take each as a checkpoint")


def _values(given: list[str]) -> dict[str, float]:
    """Name -> value of ``name=value``."""
    from ..errors import FitError

    found = {}
    for text in given:
        name, _, value = text.partition("=")
        try:
            found[name] = float(value)
        except ValueError:
            raise FitError(f"--given {text}: expected name=value with a number, such as validation=0.99.") from None
    return found


def _unlabelled(path: Path, config: dict, seed: int):
    """Images of a file or folder, or the training images of a recipe that trains its networks."""
    from ..errors import RecipeError
    from ..recipe import reading
    from ..recipe.images import Data
    from ..tasks.controls import unlabelled
    from ..tasks.data import load

    if path.suffix not in (".yaml", ".yml"):
        return unlabelled(load(Data.of(path), config, seed))
    recipe = reading.load(path)
    if not recipe.model.pretrain:
        raise RecipeError(f"{path} trains no networks (model.pretrain), so it names no images: give a folder of them.")
    return unlabelled(load(recipe.model.pretrain.data, config, recipe.seed))


def interpolate(
    bank: Bank,
    start: Annotated[str, typer.Argument(help="A task file, a layer's tensor, or 'base' for the backbone.")],
    end: Annotated[str, typer.Argument(help="Another one.")],
    steps: Annotated[int, typer.Option(help="How many, both ends included.")] = 5,
    out: Out = Path("between"),
) -> None:
    """Writes task files in equal steps between two tasks.

    Or with one layer on its way to another of its group.

    Example: recast interpolate bank.zarr base flowers.safetensors --steps 5
    """
    from ..bank.sampling import interpolate
    from ..bank.saved import open_bank

    opened = open_bank(bank)
    first, last = (None if end == "base" else end for end in (start, end))
    _write_tasks(opened, interpolate(opened, first, last, steps), out, "step", start, end)


def project(
    bank: Bank,
    network: Annotated[str, typer.Argument(help="A fine-tuned network: a checkpoint, or an extract.zarr.")],
    resolution: Annotated[int, typer.Option(min=1, help="Blocks of a layer with coefficients of their own.")] = 1,
    head: Annotated[str | None, typer.Option(help="The head's module; the backbone's own when not given.")] = None,
    out: Annotated[Path, typer.Option(help="The task file to write.")] = Path("projected.safetensors"),
) -> None:
    """Writes a fine-tuned network as a task of its backbone's bank.

    Prints which share of the change it keeps.

    Example: recast project bank.zarr flowers.safetensors --resolution 16 --out flowers_task.safetensors
    """
    from ..api import project
    from ..bank.saved import open_bank
    from ..bank.taskfile import check_listed, write

    check_listed(out)
    opened = open_bank(bank)
    task = project(opened, network, resolution, head)
    size, found = write(out, task, opened), task.about["projection"]
    print(f"{out}: {size:,} bytes, keeps {found['kept']:.1%} of the change; {len(task.classes)} classes")
