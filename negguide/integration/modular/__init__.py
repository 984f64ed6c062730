"""Perp-Neg in modular diffusers: a guider and a block."""
