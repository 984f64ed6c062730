"""From a set on disk to batches: rows, readers, validation, the order of rows, and what the towers take."""
