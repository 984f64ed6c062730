"""The modular pipelines of diffusers in which negatives cannot act, with the reason and what would help."""

from collections.abc import Mapping

_DISTILLED = (
    "its model is distilled, and its loop calls it once a step and no guider; methods in attention space would help, "
    "which nothing here knows for its transformer yet"
)
_X0 = (
    "its loop guides the estimates of the clean video and sound (x0), each by a guider of its own, and its denoiser "
    "names the predictions that there are and has no place for those of negatives; a loop that runs whatever batches a "
    "guider prepares would help"
)
_ANIMATE = (
    "its predictions are of one video without a batch axis, and its unconditional pass leaves out the driving video as "
    "well as the prompt, so that its direction is not that of the text; a loop with an unconditional pass of the text "
    "alone would help"
)

UNSUPPORTED: Mapping[str, str] = {
    "cosmos3-omni": "its loop packs text, video, sound and action into one sequence and combines a conditional and an "
    "unconditional pass itself, without a guider; a loop that hands its predictions to a guider would help",
    "echo": _DISTILLED,
    "flux3-distilled": "its model is distilled, and its loop calls it once a step and no guider; in attention a prompt "
    "and negatives beside it would meet in the blocks that the text has of its own, and texts of several lengths "
    "cannot be rows of one batch; a model that masks its text's padding would help",
    "ideogram4": "its unconditional prediction comes from a second network that reads no text, so that there is no "
    "pair of texts to compare a negative with, and its loop calls no guider; a loop that runs the first network on a "
    "further text would help",
    "ltx2": _X0,
    "ltx2.5": _X0,
    "minimax-h3": _DISTILLED,
    "minimax-music3": "it guides the features of music against zeros, and its text is read before, by a language "
    "model; a negative has no text to take the place of",
    "wan-animate-2": _ANIMATE,
    "qwenimage21-turbo": _DISTILLED,
    "wan-animate-2-distilled": _ANIMATE,
}
"""{model name of the blocks: why}."""
