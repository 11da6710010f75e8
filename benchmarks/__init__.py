"""Side-by-side measurements against peers; `python -m benchmarks` runs them (see README.md)."""
