"""The factors of low rank nearest to what a task adds to a matrix, and the rank that they need."""

from collections.abc import Iterable

import numpy as np

SPARE, POWERS, FIRST = 8, 3, 64  # directions beside the rank, passes, and the rank that is tried before all values


def factors(added: np.ndarray, rank: int) -> tuple[np.ndarray, np.ndarray, float]:
    """``o r`` and ``r i`` whose product is nearest to ``o i``, each with the root of the singular values; the square of
    what is lost.

    For a rank far below full by subspace iteration (Halko et al., 2011, algorithm 4.4, https://arxiv.org/abs/0909.4061)
    from a fixed seed; the loss is that of the factors themselves.
    """
    matrix = added.astype(np.float64)
    flat = matrix if len(matrix) <= matrix.shape[1] else matrix.T
    if 4 * (rank + SPARE) < len(flat):
        basis = np.linalg.qr(flat @ np.random.default_rng(0).standard_normal((flat.shape[1], rank + SPARE)))[0]
        for _ in range(POWERS):
            basis = np.linalg.qr(flat @ np.linalg.qr(flat.T @ basis)[0])[0]
        basis = basis @ np.linalg.svd(basis.T @ flat, full_matrices=False)[0]
    else:
        basis = np.linalg.eigh(flat @ flat.T)[1][:, ::-1]
    basis = basis[:, :rank]
    rest = basis.T @ flat
    roots = np.sqrt(np.linalg.norm(rest, axis=1))  # the singular values'
    first, last = np.zeros((len(flat), rank), np.float32), np.zeros((rank, flat.shape[1]), np.float32)
    first[:, : len(roots)] = basis * roots
    np.divide(rest, roots[:, None], out=last[: len(roots)], where=roots[:, None] > 0, casting="same_kind")
    left, right = (first, last) if flat is matrix else (last.T.copy(), first.T.copy())
    return left, right, float(np.square(matrix - left.astype(np.float64) @ right).sum())


def smallest_rank(matrices: Iterable[np.ndarray], tolerance: float) -> int:
    """The least rank, one for all, that loses at most this share of the norm of all matrices ``o i`` together."""
    squares = [_squares(matrix) for matrix in matrices]
    total, width = sum(float(values.sum()) for values in squares), max(map(len, squares))
    left = np.zeros(width + 1)  # by rank, the square of what is lost
    for values in squares:
        left[: len(values)] += np.cumsum(values[::-1])[::-1]
    return max(1, int(np.argmax(left <= tolerance**2 * total)))


def _squares(added: np.ndarray) -> np.ndarray:
    """The squares of the singular values, the largest first, from the smaller of the two Gram matrices."""
    matrix = added.astype(np.float64)
    gram = matrix @ matrix.T if len(matrix) <= matrix.shape[1] else matrix.T @ matrix
    return np.linalg.eigvalsh(gram)[::-1].clip(0)
