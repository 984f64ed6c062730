"""What methods do during one call: a runtime for each, and what they share."""
