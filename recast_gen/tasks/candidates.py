"""What of a network may be adapted, and the banks that adapt it with at most so many coefficients."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import isqrt

from ..bank.bank import TemplateBank
from ..errors import FitError
from ..mimicry.extension import extend
from ..mimicry.fit import mimic
from ..mimicry.grouping import Grouping
from ..weights.families import Families
from ..weights.named import Weights

LAST = 3  # the last layers are adapted, one in so many: what comes before them is computed once
LARGE = 0.01  # of the network's numbers in a family's last layers, for it to be worth adapting


@dataclass(frozen=True)
class Candidate:
    """A bank, and how finely its coefficients divide it.

    Args:
        source: of the templates, in words.
        resolution: blocks by family, or what the bank brings.
        coefficients: of a task (count).
    """

    source: str
    bank: TemplateBank
    resolution: dict[str, int]
    coefficients: int


def late(weights: Weights, order: list[str], head: str) -> Families:
    """The large matrices and kernels among the last layers of a network, but for its head.

    Args:
        order: names of its tensors, in the order of its modules.
    Raises:
        FitError: it has none.
    """
    found = weights.families("index")
    names = {name for family in found.values() for name in family.names if len(family.shape) > 1 and family.floating}
    layers = [name for name in order if name in names and name.endswith("weight") and not name.startswith(f"{head}.")]
    last, total = set(layers[-(-(LAST - 1) * len(layers) // LAST) :]), sum(each.parameters for each in found.values())
    chosen = Families()
    for family in found.values():
        part = replace(family, names=tuple(name for name in family.names if name in last))
        if part.names and part.parameters >= LARGE * total:
            chosen[family.name] = part
    if not chosen:
        raise FitError("This network has no large layer besides its head: give a bank of the layers to adapt.")
    return chosen


def candidates(weights: Weights, families: Families, most: int, seed: int) -> Iterator[Candidate]:
    """A bank from each source of templates, with the finest resolution of at most `most` coefficients.

    All of them cover the same layers.

    Raises:
        FitError: `most` is below what any of them has.
    """
    own = mimic(weights, Grouping(families=families, group_size=1), gauge="identity")
    fewest = _count(own, dict.fromkeys(families, 1))
    if most < fewest:
        raise FitError(
            f"{most:,} coefficients are too few: the fewest here are {fewest:,}, one for each layer that is adapted "
            f"({fewest:,} of them). Allow {fewest:,} or more."
        )
    banks = {"own layers": own}
    if any(family.layers > 1 for family in families.values()):
        banks["shared layers"] = mimic(weights, Grouping(families=families, groups=1), gauge="identity")
    banks["own + random"] = extend(own, 1, "random", seed)
    if (rank := isqrt(max(0, most // fewest - 1))) > 0:
        banks["own + singular"] = extend(own, source="singular", rank=rank, seed=seed)
    for source, bank in banks.items():
        if found := finest(source, bank, most):
            yield found


def finest(source: str, bank: TemplateBank, most: int) -> Candidate | None:
    """The finest resolution of a bank with at most `most` coefficients; None where even the coarsest has more."""
    if "resolution" in bank.fit:  # what a study chose comes with the bank
        return Candidate(source, bank, {}, 0)
    rows = {name: family.shape[0] for name, family in bank.families.items()}
    least = {group.family: group.coefficients.shape[2] for group in bank.groups.values()}
    steps = {
        name: [count for count in range(least[name], rows[name] + 1, least[name]) if rows[name] % count == 0]
        for name in rows
    }
    found = None
    for target in sorted({count for counts in steps.values() for count in counts}):
        blocks = {name: max([count for count in counts if count <= target], default=counts[0])
                  for name, counts in steps.items()}  # fmt: skip
        if (count := _count(bank, blocks)) > most:
            break
        found = Candidate(source, bank, blocks, count)
    return found


def fewest(bank: TemplateBank) -> int:
    """Coefficients of a task at the coarsest resolution (count)."""
    return sum(group.coefficients.size for group in bank.groups.values())


def _count(bank: TemplateBank, blocks: dict[str, int]) -> int:
    total = 0
    for group in bank.groups.values():
        layers, sets, _, templates = group.coefficients.shape
        total += layers * sets * templates * blocks[group.family]
    return total
