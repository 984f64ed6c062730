"""How a method reaches a diffusers model: one denoiser hook, one attention hook, one row of data per model family."""
