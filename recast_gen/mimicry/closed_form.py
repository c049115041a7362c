"""The best templates there are, without iterations."""

import numpy as np

from .factorization import Factorization, combine, gram, spectrum


def closed_form(stack: np.ndarray, templates: int, kept: bool = True) -> Factorization:
    """Truncated singular value decomposition of a stack ``l ...`` through its Gram matrix; gauge ``svd``.

    Problem: the templates T ``t ...`` and coefficients C ``l t`` that minimise ``|stack - C T|`` in the Frobenius norm.
    Optimum (Eckart & Young 1936): with ``stack = U S V'``, C is the first t columns of U and ``T = S V' = U' stack``.
    U comes from the ``l l`` Gram matrix in float64, so the long axis is walked twice: for the products, then for T.
    With ``t = l`` the reconstruction ``U U' stack`` is exact to rounding whatever the spectrum, as U is orthogonal.
    kept: False leaves T out, as ``mixing`` makes it of the stack whenever it is wanted.
    Deviation from RECAST's Neural Mimicry (section 3.3 of https://arxiv.org/abs/2411.16870): no gradient steps.
    """
    squares, vectors = spectrum(gram(stack))
    basis = vectors[:, :templates]
    made = combine(basis.T, stack) if kept else None
    return Factorization(made, basis.astype(np.float32), mixing=(basis.T,), squares=squares)
