"""The parts of benchmarks/rollback.py."""
