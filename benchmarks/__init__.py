"""Measurements against what others do for the same work; each one is `python -m benchmarks.NAME --json OUT`."""
