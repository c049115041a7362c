"""Neural Mimicry: a stack of layers -> templates and coefficients.  A fit is one function, stack -> Factorization."""
