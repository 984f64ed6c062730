"""Contrastive fine-tuning and evaluation of CLIP-like models."""
