"""Class-incremental on networks of real size: the 20 classes of two folders of images, five a step, at equal bytes.

    python -m benchmarks.class_stream [run] [--backbones ...] [--ways ...] [--orders ...]
    python -m benchmarks.class_stream table

By the package's own stage `incremental`, in three orders of the classes.  A head keeps at most BYTES: the random layer
of RanPAC is as wide as fits, and SLCA has one covariance.  Ways: ``published``, heads on what the frozen network's head
sees; ``two stages``, heads see the mean of the last stage but one, too; ``first session``, coefficients of the last
blocks have learnt the first step's classes, and their bytes count.  What the frozen network makes of the images is kept
in weights_store/class_stream/.  ``trained``, heads that are published and train by gradient, half a minute a step: in
the first order alone.  Writes results/class_stream.csv, a row an order and head; `table` prints means and standard
deviations over orders (%).
"""

import itertools
import statistics
from dataclasses import replace
from pathlib import Path

import recast_gen as rg
from recast_gen.recipe.images import Data, Task
from recast_gen.recipe.incremental import Incremental
from recast_gen.recipe.training import Train
from recast_gen.tasks.classes import Features, Source
from recast_gen.tasks.incremental import FIRST, run

from .backbones import LARGE, LARGE_TASKS, SPLIT, Backbone
from .measured import REAL, Table, asked, markdown

KEPT = Path(__file__).parents[1] / "weights_store" / "class_stream"
ORDERS = ("0", "1", "2")
BYTES, PER_STEP, EPOCHS = 9_000_000, 5, 6
LAST = {  # what learns in a first session; what is before it runs once
    "tf_efficientnet_lite0": ["blocks.{5..6}.*.conv_pw.weight", "blocks.{5..6}.*.conv_pwl.weight"],
    "vit_small_dinov2_98": ["blocks.{8..11}.attn.*.weight", "blocks.{8..11}.mlp.*.weight"],
}
HEADS = {  # as they were published, and those that see more
    "published": ["means", "ridge", "random_ridge"], "two stages": ["ridge", "random_ridge"],
    "first session": ["ridge", "random_ridge"], "trained": ["statistics", "translated"],
}  # fmt: skip
SEE_MORE = ("two stages", "first session")
NAMES = {
    "means": "nearest class mean", "ridge": "ridge (G-ACIL)", "random_ridge": "ridge on random features (RanPAC)",
    "statistics": "class statistics (SLCA++)", "translated": "FeTrIL",
}  # fmt: skip
MEASURES = ("classes", "final", "average", "forgetting", "bytes")
TABLE = Table("class_stream.csv", ("backbone", "way", "head", "order"), MEASURES)


def source(backbone: Backbone) -> Source:
    """The images of both folders, and a bank that has the last blocks' matrices."""
    bank = rg.mimic(REAL / f"{backbone.name}.safetensors", families=LAST[backbone.name])
    about = {"head": backbone.head, "data_config": backbone.data_config}
    tasks = [Task(name=task, data=Data(source="folder", path=str(REAL / task))) for task in LARGE_TASKS]
    settings = Train(epochs=EPOCHS, batch_size=64, schedule="onecycle", head="solved", resolution=16)
    return Source(replace(bank, backbone=bank.backbone | about), tasks, settings, SPLIT)


def features(backbone: Backbone, images: Source, stages: int) -> Features:
    """What the frozen network makes of all images, in one pass for one stage and for two."""
    path = KEPT / f"{backbone.name}.safetensors"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        images.features(2).save(path)
    found, last = Features.load(path), backbone().num_features
    parts = {name: (seen[:, -last:] if stages == 1 else seen, labels) for name, (seen, labels) in found.parts.items()}
    return replace(found, parts=parts)


def measure(backbone: Backbone, order: int, way: str) -> None:
    """The rows of one order; those of a first session come with those of two stages."""
    images, stages = source(backbone), 2 if way in SEE_MORE else 1
    session = EPOCHS if way == "first session" else False
    settings = Incremental(
        heads=HEADS[way], options={"statistics": {"shared": True}} if way == "trained" else {}, orders=1,
        classes_per_step=PER_STEP, stages=stages, first_session=session, max_bytes=BYTES,
    )  # fmt: skip
    rows, _ = run(features(backbone, images, stages), settings, order, source=images)
    for head, row in {row["head"]: row | {"final": row["accuracy"]} for row in rows}.items():  # the last of each
        name, found = head.removesuffix(FIRST), {column: row[column] for column in MEASURES}
        of = SEE_MORE[head.endswith(FIRST)] if way in SEE_MORE else way
        TABLE.add(backbone.name, of, NAMES[name], order, **found)


def show() -> None:
    found: dict[tuple, list[dict]] = {}
    for row in TABLE.rows().values():
        found.setdefault((row["backbone"], row["way"], row["head"]), []).append(row)
    lines = []
    for about, rows in found.items():
        cells = [[100 * float(row[name]) for row in rows] for name in MEASURES[1:4]]
        cells = [
            f"{statistics.mean(each):.1f}" + (f" ± {statistics.stdev(each):.1f}" if len(each) > 1 else "")
            for each in cells
        ]
        lines.append([*about, len(rows), *cells, f"{max(int(row['bytes']) for row in rows):,}"])
    print(markdown(("backbone", "way", "head", "orders", "final %", "average %", "forgetting %", "bytes"), lines))


def main() -> None:
    given = asked(__doc__, backbones=(LARGE, LARGE), ways=(HEADS, HEADS), orders=(ORDERS, ORDERS))
    if given.act == "run":
        for name, way, order in itertools.product(given.backbones, given.ways, given.orders):
            first = way != "trained" or order == ORDERS[0]
            if first and (name, way, NAMES[HEADS[way][-1]], order) not in TABLE:
                measure(LARGE[name], int(order), way)
    show()


if __name__ == "__main__":
    main()
