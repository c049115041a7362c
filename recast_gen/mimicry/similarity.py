"""Groups of the layers that are most alike, wherever they are along depth."""

import numpy as np

from .factorization import gram


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
