"""Lumina-Image 2.0 with `negative_guidance=`, for diffusers' `custom_pipeline=`.

pipe = DiffusionPipeline.from_pretrained(model, custom_pipeline="negguide_lumina2.py", trust_remote_code=True)
"""

from negguide.integration.pipelines import NegGuideLumina2Pipeline

__all__ = ["NegGuideLumina2Pipeline"]
