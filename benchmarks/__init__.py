"""Benchmarks: absolute figures of one machine are reported, ratios within one run are claimed."""
