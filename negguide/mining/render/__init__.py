"""Negative images: jobs, and painters that paint them."""

from negguide.mining.render.job import Job, Painter

__all__ = ["Job", "Painter"]
