"""What each byte of a whole task file buys, head and names included, beside published methods.

    python -m benchmarks.whole_files table       # every method on the networks of real size, by bytes
    python -m benchmarks.whole_files targets     # what is wanted of whole files, and by how much it is met or missed
    python -m benchmarks.whole_files picture     # results/whole_files_<network>.svg

Measures nothing: `whole_task`, `adaptation` and `time_to_task` did.  Files of `adaptation` are as each method stores
what it trained, in float32 (what is random and frozen as a seed); those of `whole_task`, called "in few bits", are as
recipes write them, and those of `time_to_task` as `recast adapt` does.
"""

import argparse
import statistics
from collections.abc import Iterable, Iterator

from .adaptation.runs import RESULTS
from .adaptation.view import Point, alone, best, picture, points, verdict
from .backbones import LARGE
from .measured import markdown
from .time_to_task import TABLE as ADAPTED
from .whole_task import BITS, TABLE

# Bytes of a file of ten classes in an early version of this package.
EARLY = {"vit_small_dinov2_98": 16_200, "tf_efficientnet_lite0": 51_700}
EARLY_SMALL = 2800
TIMES, TIMES_SMALL = 10, 3  # smaller, of networks of real size and of small ones
NAMES, LOST, READING = 300, 0.5, 1.1  # bytes besides head and coefficients; points; times a float32 file's
BYTES, PARAMETERS = (500, 1000, 2000, 5000, 10_000, 20_000), (64, 256, 1024)
CHOICE = 1.0  # points that a choice on validation may lose

Check = tuple[str, float | None, str]  # target, by how much it is met (negative: missed; None: does not apply), why


def whole_rows() -> list[dict]:
    """Rows of `whole_task` in the form of those of `adaptation`, counts aside."""
    named = {"float": "in float32", "auto": "in few bits"}
    return [
        row | {"method": f"RECAST {row['way']} {named[row['bits']]}", "coefficients": 0, "norms": 0, "adapter": 0}
        for row in TABLE.rows().values()
    ]


def adapted_rows() -> list[dict]:
    """Rows of `recast adapt`, in the form of those of `adaptation`."""
    return [
        row | {"backbone": row["network"], "task": row["images"], "method": "RECAST adapt", "norms": 0, "adapter": 0}
        for row in ADAPTED.rows().values() if row["way"] == "adapt"
    ]  # fmt: skip


def pairs() -> dict[tuple[str, str, str], dict[str, list[dict]]]:
    """(backbone, task, way) -> bits -> rows, of what was written in both ways."""
    found: dict[tuple[str, str, str], dict[str, list[dict]]] = {}
    for row in TABLE.rows().values():
        each = found.setdefault((row["backbone"], row["task"], row["way"]), {bits: [] for bits in BITS})
        each[row["bits"]].append(row)
    return {key: both for key, both in found.items() if all(both.values())}


def _mean(rows: Iterable[dict], column: str) -> float:
    return statistics.mean(float(row[column]) for row in rows)


def files() -> Iterator[Check]:
    """What is wanted of files in few bits."""
    lost: dict[str, list[float]] = {}
    for (backbone, task, way), both in pairs().items():
        before, after = (_mean(both[bits], "bytes") for bits in BITS)
        early = before if "50" in task else EARLY.get(backbone, EARLY_SMALL)
        times = TIMES if backbone in LARGE else TIMES_SMALL
        why = f"{after:,.0f} bytes, {early:,.0f} before: {early / after:.1f}x"
        yield f"{backbone}, {task}, {way}: {times}x smaller", early / after - times, why
        named = max(int(row["names and checks"]) for row in both["auto"])
        yield f"{backbone}, {task}, {way}: names and checks within {NAMES} bytes", NAMES - named, f"{named} bytes"
        ratio = _mean(both["auto"], "read_and_generate") / _mean(both["float"], "read_and_generate")
        yield f"{backbone}, {task}, {way}: read and generated in {READING}x", READING - ratio, f"{ratio:.2f}x"
        tests = [100 * _mean(both[bits], "test") for bits in BITS]
        lost.setdefault(backbone, []).append(tests[0] - tests[1])
    for backbone, each in lost.items():
        mean, all_ = statistics.mean(each), ", ".join(f"{points:+.1f}" for points in each)
        yield f"{backbone}: at most {LOST} points lost on test, mean", LOST - mean, f"{mean:+.2f}; each {all_}"


def fronts(methods: list[Point]) -> Iterator[Check]:
    """Of one backbone and task: the best of ours on validation against the best peer, at each budget."""
    whole = [p for p in methods if alone(p)]
    counted = [p for p in whole if not counts_nothing(p)]
    for what, budgets, each, cost in (
        ("bytes", BYTES, whole, lambda p: p.mean("bytes")), ("parameters", PARAMETERS, counted, lambda p: p.numbers),
    ):  # fmt: skip
        for budget in budgets:
            ours, peer = (best([p for p in each if p.ours is mine], budget, cost=cost) for mine in (True, False))
            if peer is None:
                continue
            margin = None if ours is None else ours.test - peer.test
            own = f"{ours.method} {ours.test:.1f}" if ours else "none of ours"
            yield f"at most {budget:,} {what}", margin, f"{own}, {peer.method} {peer.test:.1f}"
    for budget in BYTES:
        ours = [p for p in whole if p.ours]
        chosen, most = (best(ours, budget, on, lambda p: p.mean("bytes")) for on in ("validation", "test"))
        if chosen and most:
            why = f"{chosen.method} {chosen.test:.1f}, best on test {most.method} {most.test:.1f}"
            yield f"choice within {budget:,} bytes", CHOICE - (most.test - chosen.test), why


def all_rows() -> list[dict]:
    return [*RESULTS.rows().values(), *whole_rows(), *adapted_rows()]


def table() -> None:
    """Mean bytes, parameters besides the head, and test accuracy (%, mean and spread) on the networks of real size."""
    lines = []
    for (backbone, task), methods in points(all_rows()).items():
        for point in sorted(methods, key=lambda p: p.mean("bytes")) if backbone in LARGE else ():
            counted = "" if counts_nothing(point) else f"{point.numbers:,}"
            test = f"{point.test:.1f}" + (f" ± {point.spread:.1f}" if len(point.rows) > 1 else "")
            lines.append([backbone, task, point.method, f"{point.mean('bytes'):,.0f}", counted, test])
    print(markdown(["network", "task", "method", "bytes", "parameters", "test, %"], lines))


def counts_nothing(point: Point) -> bool:
    """Whether it is one of `whole_rows`."""
    return point.method.endswith(("float32", "bits"))


def targets() -> None:
    for target, margin, why in files():
        print(f"{target}: {verdict(margin, '.3g')} ({why})")
    for (backbone, task), methods in points(all_rows()).items():
        print(f"\n{backbone}, {task}")
        for target, margin, why in fronts(methods):
            print(f"  {target}: {verdict(margin)} ({why})")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("act", choices=["table", "targets", "picture"])
    act = parser.parse_args().act
    if act == "picture":
        picture(all_rows(), name="whole_files", cost=lambda p: p.mean("bytes"), axis="bytes of the whole task file")
    else:
        {"table": table, "targets": targets}[act]()


if __name__ == "__main__":
    main()
