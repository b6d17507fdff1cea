"""The benchmark harness: what is measured, how answers are marked, and how figures are reported."""
