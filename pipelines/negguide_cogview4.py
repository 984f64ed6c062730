"""CogView4 with `negative_guidance=`, for diffusers' `custom_pipeline=`.

pipe = DiffusionPipeline.from_pretrained(model, custom_pipeline="negguide_cogview4.py", trust_remote_code=True)
"""

from negguide.integration.pipelines import NegGuideCogView4Pipeline

__all__ = ["NegGuideCogView4Pipeline"]
