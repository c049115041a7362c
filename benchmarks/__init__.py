"""What is measured, how, and with which result: `README.md` lists it.  Run one as ``python -m benchmarks.NAME``."""
