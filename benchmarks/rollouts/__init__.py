"""What `benchmarks/rollout.py` measures with."""
