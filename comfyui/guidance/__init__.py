"""Guidance as pure tensor functions: a copy of negguide.guidance."""
