"""Hard-negative sets: plan edits of captions, render them, verify the pairs, audit the set, write it."""
