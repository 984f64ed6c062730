"""Suites, one a file and by name: the embedded world's own, the public ones, and sets of `negguide mine`."""

from negguide.vlm.evaluation.suites.registry import make_suite, register_suite, registered_suites

__all__ = ["make_suite", "register_suite", "registered_suites"]
