"""Which layers of a family share a bank: neighbours along depth, lists, or those that are most alike."""

import numpy as np

from ..errors import FitError, check_choice
from ..weights.families import Family
from ..weights.named import Weights
from ..weights.selection import split
from .factorization import gram

ORDERS = ("consecutive", "similarity")


def cut_up(
    weights: Weights, family: Family, groups: int | list[list[int]] | None = None,
    group_size: int | None = None, group_by: str = "consecutive",
) -> list[tuple[str, ...]]:  # fmt: skip
    """The names of every group of a family, as `split` or, by ``similarity``, `alike` cuts it.

    Raises FitError for another `group_by`, and for similarity without a count of groups.
    """
    found = split(family, groups, group_size)
    check_choice("group_by", group_by, ORDERS, FitError)
    if group_by == "consecutive":
        return found
    if not isinstance(groups, int):
        raise FitError("group_by='similarity' needs `groups`, the number of groups, and neither lists nor group_size.")
    return split(family, alike(weights.stack(family.names), min(groups, family.layers)))


def alike(stack: np.ndarray, groups: int) -> list[list[int]]:
    """Positions of the layers of a stack ``l ...`` in `groups` groups, each in depth order, by their first layer.

    Agglomerative clustering with average linkage of ``1 - |cosine|`` between layers, from their normalised Gram matrix:
    of two layers with |cosine| near 1 one template rebuilds both, whatever sign and scale they have.  No optimum: fewer
    templates than layers need not lose less than they do with consecutive groups.
    Source: scikit-learn's AgglomerativeClustering, https://scikit-learn.org/stable/modules/clustering.html
    """
    if groups == len(stack):
        return [[place] for place in range(groups)]
    from sklearn.cluster import AgglomerativeClustering

    products = gram(stack)
    norms = np.sqrt(products.diagonal()).clip(min=np.finfo(float).tiny)
    cosine = np.abs(products / norms / norms[:, None])
    distance = (1 - cosine).clip(min=0)
    labels = AgglomerativeClustering(groups, metric="precomputed", linkage="average").fit_predict(distance).tolist()
    return [[place for place, own in enumerate(labels) if own == label] for label in dict.fromkeys(labels)]
