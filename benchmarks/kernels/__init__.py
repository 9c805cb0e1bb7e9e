"""pytest-benchmark suites: one file per op, a grid of shapes. `python -m benchmarks` runs them and prints the ratios."""
