"""The version, stated once: the build reads it from here, and so does everything that is written to disk."""

__version__ = "0.2.0"
