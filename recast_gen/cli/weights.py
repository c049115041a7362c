"""Commands of networks and banks: what is in them, weights made from them, banks as one file."""

from pathlib import Path
from typing import Annotated

import typer

from .arguments import Bank

Out = Annotated[Path, typer.Option(help="The bank to write: a directory, or packed if it ends in .safetensors.")]


def compare(
    bank: Bank,
    model: Annotated[
        str, typer.Argument(help="The network it was made from: timm's name, checkpoint or extract.zarr.")
    ],
    images: Annotated[str, typer.Option(help="A folder with one subfolder a class, or an .npz.")],
) -> None:
    """Prints what a bank changes: features, predictions, accuracy.

    Example: recast compare bank.zarr vit_small_patch16_224 --images photos
    """
    from ..bank.saved import load_bank
    from ..model.comparison import compare
    from ..tasks.data import load_all
    from ..weights.sources import model_of

    network, about = model_of(model)
    outputs = getattr(network, "num_classes", None)
    found = compare(
        load_bank(bank), network, load_all(images, about.get("data_config", {}), about.get("classes"), outputs)
    )
    print(f"{found['images']} images")
    for name, cosine in found["blocks"].items():
        print(f"{name:24} cosine of features {cosine:.6f}")
    print(f"{'logits':24} cosine {found['logits_cosine']:.6f}, largest difference {found['largest_difference']:.2g}")
    print(f"{'same prediction':24} {found['same_prediction']:.1%}")
    print(f"{'accuracy':24} {found['accuracy']:.1%} before, {found['accuracy_of_bank']:.1%} with the bank")


def generate(
    bank: Bank,
    task: Annotated[Path | None, typer.Argument(help="A task file; the backbone itself when not given.")] = None,
    out: Annotated[Path, typer.Option(help="The safetensors file to write.")] = Path("generated.safetensors"),
    depth: Annotated[
        list[int] | None, typer.Option(help="Blocks, from a token bank; once for each of its lists of blocks.")
    ] = None,
    temperature: Annotated[float | None, typer.Option(help="Of draws from a token bank; 0 for its means.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Of those draws.")] = None,
) -> None:
    """Writes a task's complete weights, on the CPU, with numpy alone.

    Example: recast generate bank.zarr flowers.safetensors
    """
    from math import prod

    from ..bank.generation import write

    asked = {"depth": depth, "temperature": temperature, "seed": seed}
    made = write(bank, task, out, **{name: value for name, value in asked.items() if value is not None})
    print(f"{out}: {len(made)} tensors, {sum(prod(shape) for shape, _ in made.values()):,} parameters")


def pack(
    bank: Annotated[Path, typer.Argument(help="A bank.zarr.")],
    file: Annotated[Path, typer.Argument(help="The safetensors file to write.")],
) -> None:
    """Writes a bank as one file, nothing lost.

    Every command reads it as it reads the directory.

    Example: recast pack bank.zarr bank.safetensors
    """
    from ..bank.saved import pack

    print(f"{file}: bank {pack(bank, file)}")


def grow(
    network: Annotated[str, typer.Argument(help="timm's name, a checkpoint or an extract.zarr.")],
    depth: Annotated[
        list[int] | None, typer.Option(help="Blocks; once for each of its lists of blocks. Its own when not given.")
    ] = None,
    width: Annotated[int, typer.Option(min=1, help="So many times its channels, hidden units and heads.")] = 1,
    how: Annotated[
        str,
        typer.Option(help="stack, repeat or identity: whole stacks, blocks beside copies, copies that add nothing."),
    ] = "stack",
    out: Annotated[Path, typer.Option(help="The safetensors file to write.")] = Path("grown.safetensors"),
) -> None:
    """Writes the weights of a deeper or wider network, as a start for training.

    Example: recast grow small.safetensors --depth 12 --how identity
    """
    from ..api import grow
    from ..weights.described import header
    from ..weights.files import save_tensors

    grown = grow(network, depth or None, width, how)
    save_tensors(out, dict(grown), header(grown.backbone))
    print(f"{out}: {len(grown)} tensors, {sum(array.size for array in grown.values()):,} parameters")


def nest(
    bank: Bank,
    templates: Annotated[int, typer.Option(min=1, help="Templates a group, at most.")],
    out: Out,
) -> None:
    """Cuts a bank to the first templates of every group, the best there are of so many.

    Example: recast nest bank.zarr --templates 4 --out small.zarr
    """
    from ..bank.saved import open_bank
    from ..mimicry.ordering import nest

    _save(nest(open_bank(bank), templates), out)


def quantise(
    bank: Bank,
    out: Out,
    bits: Annotated[str, typer.Option(help="8, 4 or ternary.")] = "4",
    images: Annotated[
        Path | None, typer.Option(help="A folder of images or an .npz: what layers make of them changes least.")
    ] = None,
    count: Annotated[int, typer.Option("--count", min=1, help="So many of its training images, at most.")] = 256,
) -> None:
    """Rounds a bank's templates to 8 or 4 bits or to ternary, and solves its coefficients again for them.

    Example: recast quantise bank.zarr --bits 4 --images photos --out bank4.zarr
    """
    from ..bank.saved import open_bank
    from ..mimicry.few_bits import quantise

    opened = open_bank(bank)
    moments = None if images is None else _moments(opened, images, count)
    _save(quantise(opened, int(bits) if bits.isdecimal() else bits, moments), out)


def _moments(bank, images: Path, count: int) -> dict:
    """Of the inputs of a bank's layers, on images drawn with seed 0."""
    from ..mimicry.moments import moments
    from ..recipe.images import Data
    from ..tasks.data import drawn, load
    from ..weights.networks import rebuild

    base = bank.base()
    found = load(Data.of(str(images)), base.backbone.get("data_config", {}), 0).train
    names = [name for name, group in bank.layers.items() if not group.vectors]
    return moments(rebuild(base), drawn(found, count), names)


def _save(bank, out: Path) -> None:
    from ..mimicry.measures import print_certificate

    written = bank.save(out, packed=out.suffix == ".safetensors")
    print_certificate(bank)
    print(f"{out}: bank {written}")


def unpack(
    file: Annotated[Path, typer.Argument(help="A packed bank.")],
    bank: Annotated[Path, typer.Argument(help="The bank.zarr to write.")],
) -> None:
    """Writes a packed bank as a directory again.

    Example: recast unpack bank.safetensors bank.zarr
    """
    from ..bank.saved import unpack

    print(f"{bank}: bank {unpack(file, bank)}")
