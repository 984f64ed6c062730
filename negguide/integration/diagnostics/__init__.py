"""What negatives did: the trace of a run, and its pictures."""
