"""Pipelines of diffusers that people ask for and that negatives cannot act in, with the reason and what would help.

A pipeline that no family has and that is not here is only unknown; `register_family` may make it known.
"""

from collections.abc import Mapping

_TWO_SCALES = (
    "it weighs the image and the text with a guidance scale each, in three branches, and a negative has no "
    "single direction to be compared with there; edit with QwenImageEditPlusPipeline or "
    "FluxKontextPipeline, which have one"
)
_CASCADE = (
    "its UNets attend to one sequence of the image's own tokens, the text and an image's embedding, in "
    "which negguide knows no place of the text; it would take a family for each of the two"
)
_LTX_2 = (
    "it guides the estimates of the clean video and sound (x0) with a scale each, and the sound's "
    "prediction comes out of the same forward as the video's; it would take a combination of both that its "
    "denoiser offers to the outside"
)
_PAG = (
    "perturbed-attention guidance adds a branch of its own to the batch; methods in token and attention "
    "space act beside it by negguide.apply_to_model(model, method), and the pipeline without PAG takes them all"
)

REFUSED: Mapping[str, str] = {
    "Flux2KleinKVPipeline": "it keeps the keys and values of reference images in processors of its own, of "
    "rows that are not a negative's; Flux2KleinPipeline takes the same model",
    "LTXConditionPipeline": "its given frames lie in front of the video's tokens, and nothing in the "
    "denoiser's inputs tells them apart, which masks and the projection need; LTXImageToVideoPipeline takes "
    "a first frame",
    "Ideogram4Pipeline": "its unconditional prediction comes from a second network that reads no text, so "
    "that there is no pair of texts to compare a negative with; it would take a run of the first network on "
    "a further text",
    "OmniGenPipeline": _TWO_SCALES,
    "StableDiffusionInstructPix2PixPipeline": _TWO_SCALES,
    "StableDiffusionXLInstructPix2PixPipeline": _TWO_SCALES,
    "StableCascadeCombinedPipeline": _CASCADE,
    "StableCascadeDecoderPipeline": _CASCADE,
    "StableCascadePriorPipeline": _CASCADE,
    "LTX2Pipeline": _LTX_2,
    "LTX2ConditionPipeline": _LTX_2,
    "LTX2ImageToVideoPipeline": _LTX_2,
    "LTX2InContextPipeline": _LTX_2,
    "StableDiffusionPAGPipeline": _PAG,
    "StableDiffusionPAGImg2ImgPipeline": _PAG,
    "StableDiffusionPAGInpaintPipeline": _PAG,
    "StableDiffusionControlNetPAGPipeline": _PAG,
    "StableDiffusionXLPAGPipeline": _PAG,
    "StableDiffusionXLPAGImg2ImgPipeline": _PAG,
    "StableDiffusionXLPAGInpaintPipeline": _PAG,
    "StableDiffusionXLControlNetPAGPipeline": _PAG,
    "StableDiffusion3PAGPipeline": _PAG,
    "StableDiffusion3PAGImg2ImgPipeline": _PAG,
    "PixArtSigmaPAGPipeline": _PAG,
    "SanaPAGPipeline": _PAG,
}
"""{class name: why}."""
