"""Benchmarks: each module measures one topic and prints a table of medians and ratios."""
