"""Benchmarks: never run by the tests, always reporting ratios measured in one run."""
