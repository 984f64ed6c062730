"""Pieces that several parts of the package share, by subject."""
