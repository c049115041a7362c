"""What do templates in few bits cost: accuracy, bytes, and the time in which weights are generated?

    python -m benchmarks.few_bits [run] [--networks ...]
    python -m benchmarks.few_bits table

The CIFAR networks on their 1000 test images; the vision transformer of real size by a ridge head on what it makes of
98-pixel sign digits, solved on training images for each bank.  The bank has all shareable families, whole layers, full,
in the basis svd.  Goes on where it stopped; writes results/few_bits.csv.

images: for which templates are rounded, none or so many.  The CIFAR networks' are halves of the test images (drawn with
seed 0), each half evaluated with the bank of the other; the transformer's are training images.
smaller: bytes of the layers in the network over those of templates, scales and coefficients.  bytes: of the whole
packed bank, with the rest of the network.  generate, in_memory: processor seconds for all weights from the packed file,
and from the bank in memory, over those of the float bank (the least of several).
"""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

import recast_gen as rg
from recast_gen.mimicry.measures import overall
from recast_gen.tasks.analytic import ridge_start
from recast_gen.tasks.data import drawn
from recast_gen.weights.networks import fill

from .backbones import BACKBONES, LARGE, Backbone, features
from .compression import network, right
from .measured import Table, asked, markdown

NAMES = BACKBONES | LARGE
DEFAULT = ("cifar10_vit", "cifar10_resnet20", "cifar10_resnet56", "vit_small_dinov2_98")
WAYS = ((32, False), *((bits, calibrated) for bits in (8, 4, "ternary") for calibrated in (False, True)))
TASK, CALIBRATION, REPEATS = "sign_digits_98", 256, 9
COLUMNS = ("smaller", "bytes", "relative_error", "accuracy", "generate", "in_memory")
TABLE = Table("few_bits.csv", ("network", "bits", "images"), COLUMNS)


def least(act: Callable[[], object]) -> float:
    times = []
    for _ in range(REPEATS):
        started = time.process_time()
        made = act()
        times.append(time.process_time() - started)
        del made
    return min(times)


def seconds(bank: rg.TemplateBank) -> tuple[int, float, float]:
    """Bytes of the packed bank, processor seconds from its file and from memory."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "bank.safetensors"
        bank.save(path, packed=True)
        loaded = rg.load_bank(path)
        return path.stat().st_size, least(lambda: rg.generate(path)), least(lambda: rg.generate(loaded))


def rounded(bank: rg.TemplateBank, bits, moments=None) -> rg.TemplateBank:
    return bank if bits == 32 else rg.quantise(bank, bits, moments)


def cifar(
    backbone: Backbone, bank: rg.TemplateBank, bits, calibrated: bool
) -> tuple[list[rg.TemplateBank], int, float]:
    """Banks, how many images they were rounded for, accuracy."""
    model, images, labels = network(backbone.name)
    halves = torch.from_numpy(np.random.default_rng(0).permutation(len(images))).chunk(2)
    if calibrated:
        banks = [rounded(bank, bits, rg.moments(model, images[half], by=backbone.by)) for half in halves]
        tested, count = halves[::-1], len(halves[0])
    else:
        banks, tested, count = [rounded(bank, bits)], [slice(None)], 0
    counts = [right(model, dict(each.base()), images[part], labels[part]) for each, part in zip(banks, tested)]
    return banks, count, sum(counts) / len(images)


def large(
    backbone: Backbone, bank: rg.TemplateBank, bits, calibrated: bool
) -> tuple[list[rg.TemplateBank], int, float]:
    splits, moments = backbone.splits(TASK), None
    if calibrated:
        moments = rg.moments(backbone(), drawn(splits.train, CALIBRATION), by=backbone.by)
    found, model = rounded(bank, bits, moments), backbone()
    fill(model, found.base())
    seen = features(model, backbone.head, splits)
    head, (images, labels) = ridge_start(seen), seen.test.tensors
    return [found], CALIBRATION if calibrated else 0, float((head(images).argmax(1) == labels).float().mean())


def run(networks: list[str]) -> None:
    for name in networks:
        backbone = NAMES[name]
        bank, before = backbone.bank(gauge="svd"), None
        for bits, calibrated in WAYS:
            count = 0 if not calibrated else CALIBRATION if name in LARGE else 500
            if (name, bits, count) in TABLE or (name in LARGE and bits in (8, "ternary")):
                continue
            before = before or seconds(bank)
            banks, count, accuracy = (large if name in LARGE else cifar)(backbone, bank, bits, calibrated)
            measured, (size, *times) = overall(banks[0].certificate.values()), seconds(banks[0])
            values = {
                "smaller": measured["original_bytes"] / measured["stored_bytes"], "bytes": size,
                "relative_error": measured["relative_error"], "accuracy": accuracy,
                "generate": times[0] / before[1], "in_memory": times[1] / before[2],
            }  # fmt: skip
            TABLE.add(name, bits, count, **values)


def table() -> str:
    rows = []
    for (name, bits, images), row in TABLE.rows().items():
        accuracy, ratios = f"{100 * float(row['accuracy']):.1f}", [f"{float(row[c]):.2f}x" for c in COLUMNS[4:]]
        sizes = [f"{float(row['smaller']):.1f}x", f"{int(row['bytes']):,}", f"{float(row['relative_error']):.3f}"]
        rows.append([name, bits, images if float(images) else "none", *sizes, accuracy, *ratios])
    return markdown(
        ("network", "bits", "images", "smaller", "bytes of the bank", "relative error", "accuracy, %", "generate",
         "in memory"), rows,
    )  # fmt: skip


def main() -> None:
    given = asked(__doc__, networks=(DEFAULT, NAMES))
    run(given.networks) if given.act == "run" else print(table())


if __name__ == "__main__":
    main()
