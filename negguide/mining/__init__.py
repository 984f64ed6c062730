"""Hard negatives, generated and not retrieved: edits of captions are planned, rendered, verified, audited and written."""
