"""RECAST and its peers on really trained networks: ``python -m benchmarks.adaptation``, see `__main__`."""
