"""Measure CLIP-like models on suites: metrics with intervals, tables and pictures."""

BATCH_SIZE = 64
"""Images at once, unless another number is asked for."""
