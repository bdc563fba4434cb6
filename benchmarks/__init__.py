"""Measures the gateway beside what stands in front of it, behind it and next to it; `benchmarks/run` starts it."""
