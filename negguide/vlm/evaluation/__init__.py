"""Measure CLIP-like models on suites: metrics with intervals, tables and pictures."""
