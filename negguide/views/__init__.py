"""View-dependent negatives and score distillation, for text-to-3D with a renderer of one's own."""
