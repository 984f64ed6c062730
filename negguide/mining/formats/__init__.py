"""The forms in which a set can be written: for datasets, webdataset, sentence-transformers, open_clip, SugarCrepe."""

from negguide.mining.formats.export import FORMATS, write_export

__all__ = ["FORMATS", "write_export"]
