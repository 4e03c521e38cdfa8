"""Benchmarks: asv suites (``asv run``), and side-by-side comparisons (``python -m benchmarks.compare``)."""
