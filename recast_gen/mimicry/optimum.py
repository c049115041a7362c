"""One group in one layout: its best templates and coefficients, plain or in the norm of the layers' inputs."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ..bank.layouts import Layout
from .factorization import Factorization, gram, spectrum

RIDGE = 1e-2  # of the mean second moment, added to it: directions that calibration never saw still count a little


@dataclass(frozen=True)
class Problem:
    """One group in one layout: its matrix ``m n`` -> coefficients C ``m t`` and templates T ``t n``.

    moments: ``l i i``, of each layer's inputs, invertible; None for the plain norm.
    Problem: minimise ``sum_l |(W_l - W'_l) S_l^1/2|^2``, W' the stack that C T lies as, S_l the moment of layer l's
    inputs (or 1), which makes it the error of the layers' outputs.
    Optimum: a truncated SVD (Eckart & Young 1936).  Plain, that of the matrix.  Where all input axes are in the rows
    (``column``), T's span is that of the leading eigenvectors of ``sum_l W_l S_l W_l'``: exact, each layer with its own
    moment.  Where templates have input axes, layers of several moments share them, and a closed form is known only for
    the moment pooled over layers (and over the blocks of a ``tile``): the SVD of W S^1/2, undone on T; exact for one
    layer.  C is then solved for each layer's own moment, which can only gain.
    Source: SVD-LLM (https://arxiv.org/abs/2403.07378) for one layer, Basis Sharing (https://arxiv.org/abs/2410.03765)
    for several with their pooled moment; ours are the tiles, the exact case and the last solve.
    """

    layout: Layout
    layers: np.ndarray
    moments: np.ndarray | None = None

    @cached_property
    def matrix(self) -> np.ndarray:
        return self.layout.matrix(self.layers)

    @cached_property
    def own(self) -> np.ndarray:
        """The moments in the order of the matrix."""
        assert self.moments is not None
        return self.layout.inputs(self.moments)

    @property
    def pooling(self) -> bool:
        """Whether the templates are the optimum of pooled moments and not of each layer's own."""
        _, rows, _, columns = self.layout.counts
        return self.moments is not None and columns > 1 and rows * len(self.layers) > 1

    @cached_property
    def _factor(self) -> np.ndarray | None:
        """Cholesky's factor of the pooled moment of the inputs in the columns; None where there are none."""
        _, rows, _, columns = self.layout.counts
        if self.moments is None or columns == 1:
            return None
        blocks = self.own.reshape(len(self.own), rows, columns, rows, columns)
        return np.linalg.cholesky(np.einsum("lcqcr->qr", blocks) / (len(blocks) * rows))

    @cached_property
    def _seen(self) -> np.ndarray:
        if self._factor is None:
            return self.matrix
        return (self.matrix.reshape(-1, len(self._factor)) @ self._factor).reshape(self.matrix.shape)

    @cached_property
    def _spectrum(self) -> tuple[np.ndarray, np.ndarray]:
        """Squared singular values and vectors, left ones where the matrix is wide and plain or pooled, else right."""
        if self.moments is not None and self._factor is None:
            outputs, _, columns, _ = self.layout.counts
            rows = self.matrix.astype(np.float64).reshape(len(self.layers), outputs, -1, columns)
            return spectrum(np.einsum("laip,laiq->pq", rows, self.own[:, None] @ rows, optimize=True))
        return spectrum(gram(self._seen if self._wide else self._seen.T))

    @property
    def _wide(self) -> bool:
        return len(self.matrix) < self.matrix.shape[1] and (self.moments is None or self._factor is not None)

    @property
    def squares(self) -> np.ndarray:
        """Squared singular values of what is factored, falling."""
        return self._spectrum[0][: self.most]

    @property
    def most(self) -> int:
        """As many templates as are exact."""
        return min(self.matrix.shape)

    @property
    def cost(self) -> int:
        """Numbers stored for one template and its coefficients."""
        return sum(self.matrix.shape)

    def fit(self, templates: int) -> Factorization:
        """The optimum with so many templates."""
        vectors = self._spectrum[1][:, :templates]
        basis = vectors.T @ self._seen if self._wide else vectors.T
        if self._factor is None:
            coefficients = vectors if self._wide else self.matrix @ vectors
        else:
            inverse = np.linalg.inv(self._factor)
            basis = (basis.reshape(-1, len(inverse)) @ inverse).reshape(basis.shape)
            coefficients = np.concatenate([self._solve(basis, layer) for layer in range(len(self.layers))])
        return Factorization(basis.astype(np.float32), coefficients.astype(np.float32))

    def _solve(self, basis: np.ndarray, layer: int) -> np.ndarray:
        """Coefficients ``rows t`` of one layer in the norm of its own inputs, by least squares."""
        a, c, p, q = self.layout.counts
        moment = self.own[layer].reshape(c, q, c * q)
        parts = basis.reshape(-1, q)  # (t p) q
        gram = np.stack(
            [(parts @ block).reshape(-1, p, c, q).swapaxes(1, 2).reshape(-1, c, p * q) @ basis.T for block in moment]
        )  # c t c t
        weight = self.matrix.reshape(len(self.layers), a, c, p, q)[layer].swapaxes(1, 2).reshape(a * p, c * q)
        target = (weight @ self.own[layer]).reshape(a, p, c, q).swapaxes(1, 2).reshape(a, c, p * q) @ basis.T
        gram = gram.reshape(c * len(basis), -1)
        gram += 1e-10 * max(np.trace(gram) / len(gram), np.finfo(np.float32).tiny) * np.eye(len(gram))
        return np.linalg.solve(gram, target.reshape(a, -1).T).T.reshape(a * c, -1)

    def lost(self, fit: Factorization) -> float:
        """The squared error of a fit in the norm of each layer's own inputs."""
        left = (self.layers - self.layout.stack(fit.coefficients @ fit.templates)).reshape(*self.layers.shape[:2], -1)
        return energy(left, self.moments)


def energy(layers: np.ndarray, moments: np.ndarray | None) -> float:
    """The squared norm of layers ``l o i``, or of their outputs for inputs of the given moments."""
    return float(np.square(layers, dtype=np.float64).sum() if moments is None else ((layers @ moments) * layers).sum())


def invertible(moment: np.ndarray) -> np.ndarray:
    """A second moment with its ridge, whatever its rank."""
    return moment + RIDGE * max(np.trace(moment) / len(moment), np.finfo(np.float32).tiny) * np.eye(len(moment))
