"""hf-haul beside its peers, in one run: ``python -m tests.benchmarks``."""
