"""Latent Consistency Models with `negative_guidance=`, for diffusers' `custom_pipeline=`.

file = "negguide_latent_consistency.py"
pipe = DiffusionPipeline.from_pretrained(model, custom_pipeline=file, trust_remote_code=True)
"""

from negguide.integration.pipelines import NegGuideLatentConsistencyModelPipeline

__all__ = ["NegGuideLatentConsistencyModelPipeline"]
