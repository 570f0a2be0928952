"""The parts of benchmarks/sequential.py."""
