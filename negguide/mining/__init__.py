"""Hard negatives, generated and not retrieved: captions edited, images made, pairs verified, sets audited."""
