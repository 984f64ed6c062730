"""Training of the embedded models from nothing: on CPU or GPU, seeded, resumable."""
