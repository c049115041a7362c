"""Networks that are held out in turn."""

import numpy as np

FOLDS = 5


def folds(count: int, seed: int) -> np.ndarray:
    """``f+1 n`` booleans: which networks are held out, each once; in the last row none is."""
    several = min(FOLDS, count)
    which = np.random.default_rng(seed).permutation(count) % several
    return np.stack([*(which == each for each in range(several)), np.zeros(count, bool)])
