"""Parts of `benchmarks/update.py`."""
