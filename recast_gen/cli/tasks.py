"""Commands of tasks: how good they are, what they say of images, what a folder of them holds."""

import json
import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from .arguments import Bank, Task

Graph = Annotated[
    Path | None, typer.Option(help="What `recast export graph` wrote: onnxruntime answers, without torch.")
]
MOST = 12  # classes whose confusion matrix fits a terminal


def adapt(
    model: Annotated[str, typer.Argument(help="A timm model's name, a checkpoint, or a bank.")],
    images: Annotated[str, typer.Argument(help="A folder with a subfolder a class, a CSV of path,label or an .npz.")],
    out: Annotated[Path, typer.Option(help="The task file to write.")] = Path("task.safetensors"),
    parameters: Annotated[
        int | None, typer.Option(min=1, help="Trainable parameters besides the head, at most; 1000 when not given.")
    ] = None,
    size: Annotated[
        int | None, typer.Option("--bytes", min=1, help="Bytes of the whole file, head included, at most.")
    ] = None,
    epochs: Annotated[
        int | None, typer.Option(min=1, help="Of the training after the trials; 1 to 10 by the images when not given.")
    ] = None,
    img_size: Annotated[
        tuple[int, int] | None,
        typer.Option(min=1, metavar="HEIGHT WIDTH", help="Of the images; the network's own when not given."),
    ] = None,
    compare: Annotated[bool, typer.Option("--compare", help="Also train LoRA with rank 1.")] = False,
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Of splits, draws and batches.")] = 0,
) -> None:
    """Adapts a network to images, and writes a small task file.

    A network's last layers get a bank, written beside the file; a bank takes further tasks.  Templates (each layer's
    own, those of like layers, or its own and random or singular ones) and learning rate are chosen by short trials on
    validation; test images are read once.

    Example: recast adapt vit_small_patch16_224 photos --out flowers.safetensors --compare
    """
    from ..console import show
    from ..tasks.adapt import adapt

    found = adapt(
        model, images, out, parameters=parameters, bytes=size, epochs=epochs, compare=compare, seed=seed,
        img_size=img_size, say=print,
    )  # fmt: skip
    rows: list[tuple[str, dict]] = [("linear probe", found.probe), ("coefficients", found.run)]
    rows += [("LoRA r=1", found.lora)] if found.lora else []
    head = ["", "trained besides the head", "file, bytes", "validation, %", "test, %"]
    show([head, *([name, row["coefficients"] + row["norms"] + row["adapter"], row["bytes"],
                   _percent(row["validation"]), _percent(row["test"])] for name, row in rows)])  # fmt: skip
    best = [row for row in found.history if " coefficients " in row["run"] and row["epoch"] == found.run["best_epoch"]]
    before = best[0]["validation"] if best else found.run["start"]
    if _percent(before) != _percent(found.run["validation"]):
        print(f"note: validation was {_percent(before)} % before the file's numbers were rounded to few bits,")
        print(f"the best of at most {size:,} bytes" if size else "the fewest that lose next to nothing", end=" ")
        print("in folds of training and validation images")
    if not found.run["best_epoch"]:
        print("note: no epoch was better on validation than the start, which is kept:")
        print("its head is all that the task file changes")
    print(f"{out}: {len(found.classes)} classes, {found.run['bytes']:,} bytes; bank {found.bank}")
    print("next:", shlex.join(["recast", "predict", str(found.bank), str(out), "IMAGE"]))


def tasks(
    folder: Annotated[Path, typer.Argument(help="A folder of task files.")],
    diff: Annotated[
        tuple[str, str] | None, typer.Option("--diff", metavar="A B", help="Two of them: what differs.")
    ] = None,
) -> None:
    """Lists a folder's tasks: classes, trained coefficients, bytes of the head and of the whole file, metrics.

    Example: recast tasks weights_store/digits/train/tasks
    """
    from ..bank.listing import difference, tasks_in
    from ..console import show

    if diff:
        show([["", *diff], *difference(*(_named(folder, name) for name in diff))])
        return
    found = tasks_in(folder)
    metrics = list(dict.fromkeys(name for each in found for name in each.metrics))
    head = ["task", "bank", "classes", "trained", "head, B", "file, B", *metrics]
    rows = [
        [each.name, each.bank[:8], each.classes, each.coefficients, each.head_bytes, each.bytes]
        + [_metric(each.metrics.get(name)) for name in metrics]
        for each in found
    ]
    show([head, *rows])


def _named(folder: Path, name: str) -> Path:
    return folder / (name if name.endswith(".safetensors") else f"{name}.safetensors")


def _metric(value: object) -> str:
    return "-" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


def evaluate(
    bank: Bank,
    task: Task,
    images: Annotated[str, typer.Argument(help="A folder with a subfolder a class, a CSV of path,label or an .npz.")],
    csv: Annotated[Path | None, typer.Option(help="Write the confusion matrix to this CSV.")] = None,
    graph: Graph = None,
) -> None:
    """Prints a task's accuracy on images with labels, by class, and what it takes for what.

    The test part where the images have parts, else their validation part, else all of them.

    Example: recast evaluate bank.zarr flowers.safetensors photos --csv confusion.csv
    """
    from ..console import show
    from ..tasks.evaluation import UNSEEN, evaluate

    found = evaluate(bank, task, images, graph)
    part = "all" if found.part == UNSEEN else f"{found.part} part"
    print(f"{images}, {part}: {found.images} images; {task.stem} tells {len(found.classes)} classes apart")
    if found.part == UNSEEN:
        print("note: these images have no test part,")
        print("so that the task may have been trained on some of them")
    print(f"accuracy {found.accuracy:.1%} (standard error {found.error:.1%})")
    rows = [
        [row["class"], row["images"], _percent(row["recall"]), _percent(row["precision"]), row["taken_for"] or "-"]
        for row in found.per_class()
    ]
    show([["class", "images", "recall, %", "precision, %", "most wrongly taken for"], *rows])
    if len(found.classes) <= MOST:
        head = [f"{name[:14]} {place}" for place, name in enumerate(found.classes, 1)]
        matrix = [[name, *row] for name, row in zip(head, found.confusion.tolist())]
        show([["label, predicted as", *range(1, len(head) + 1)], *matrix])
    if csv:
        found.save(csv)
        print(f"{csv}: confusion matrix, a row a label, a column a prediction")


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f}"


def predict(
    bank: Bank,
    task: Task,
    images: Annotated[list[Path], typer.Argument(help="Images, or folders of images.")],
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line, with every class.")] = False,
    top: Annotated[int, typer.Option(min=1, help="How many classes to print for an image.")] = 3,
    graph: Graph = None,
) -> None:
    """Prints the classes that a task sees in images, and how likely they are.

    An image that cannot be read is reported, the others are answered, and the exit status is 1.

    Example: recast predict bank.zarr flowers.safetensors rose.jpg --json
    """
    from ..tasks.prediction import predict

    found = predict(bank, task, images, graph)
    for one in found:
        if as_json:
            said = {"error": one.error} if one.error else {"class": one.label, "probabilities": one.probabilities}
            print(json.dumps({"image": one.image, **said}, ensure_ascii=False))
        elif one.error:
            print(f"{one.image}: cannot be read ({one.error})", file=sys.stderr)
        else:
            likely = list(one.probabilities.items())[:top]
            print(f"{one.image}: {', '.join(f'{name} {share:.1%}' for name, share in likely)}")
    if any(one.error for one in found):
        raise typer.Exit(1)
