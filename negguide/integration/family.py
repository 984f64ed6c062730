"""What is particular to a model family, as data: the columns of the table in `families`."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

Arguments = Mapping[str, Any]
"""A pipeline call's arguments by name, defaults included."""
TextAxis = Literal["tokens", "pooled", "positions"]
"""How a denoiser input carries text: [B, tokens, ..], [B, ..], or the tokens' positions [tokens, ..], without batch."""
TextPlace = Literal["cross", "text first", "image first"]
"""Where an attention module meets the text: as keys and values only, or beside the image's tokens."""


@dataclass(frozen=True)
class Reading:
    """How much of a text reaches the model: of `tokens`, with all that is put around the text, `limit` do."""

    tokenizer: Any
    tokens: int
    limit: int


@dataclass(frozen=True)
class Family:
    """One row. `pipe` below is the diffusers pipeline.

    Attributes:
        name: for messages.
        denoisers: the pipeline's attributes that hold a denoiser; those that are None are left out.
        text_encoders: the pipeline's attributes without which negatives cannot be encoded.
        sample, timestep: names of the denoiser's inputs that hold the noisy latents and the timestep.
        text: the denoiser's inputs that carry the prompt, and how; a negative replaces exactly these. A dot leads into
            a dict: "added_cond_kwargs.text_embeds".
        branches: `branches(pipe, arguments)` -> the guidance branches of one step in order, "uncond" and "cond". Asked
            at each step: a callback may switch guidance off.
        sequential: whether each branch is a denoiser call of its own; otherwise one call holds them along its batch.
        scale: `scale(pipe, arguments)` -> g of u + g (c - u), as the pipeline combines its branches.
        guidance_off: `guidance_off(pipe, arguments)` -> why this call runs without classifier-free guidance, so that
            score-space methods cannot act; None when it runs with it.
        latent_size: `latent_size(pipe, arguments)` -> (height, width) of the latents of this call.
        encode_text: `encode_text(pipe, texts, arguments)` -> for each text {text input: [1, ...]}, by the pipeline
            itself; None stands for an input that the pipeline leaves out.
        reading: `reading(pipe, text, arguments)` -> how much of a negative's text the pipeline's text encoder reads; of
            several, the one that reads most.
        encode_image: `encode_image(pipe, pixels)` -> latents as the denoiser gets them; pixels [R, 3, H, W] in
            [-1, 1]. None where NegToMe cannot take reference images.
        predicted: `predicted(prediction, sample, latent_size)` -> the view of a denoiser's output that is the
            prediction for the generated image; the rest (learned variances, references) is left as it is.
        aside: whether a denoiser call, by its inputs, is none of the branches (SD3's skipped layers): it is passed on.
        attention: (regular expression, place) pairs: which attention modules meet the text, and where.
        negative_rows: whether NAG, ONG and VSF need the negatives as further rows of the batch, because the model
            places its tokens by the length of the text; otherwise they are appended to the prompt's tokens.
        text_positions: the argument of the attention modules that holds (image positions, text positions), where those
            of the text are counted by its length alone.
        row_lists: inputs that are lists of one entry a row instead of tensors.
        shared: inputs without a batch axis, whatever their shape.
        image_tokens: `image_tokens(sample, latent_size)` -> how many tokens the generated image has in attention, and
            how many together with the reference images' behind it; None where attention tells (feature maps).
        negtome_blocks, negtome_min_side: where NegToMe acts unless told: modules whose name matches, on feature maps
            with a shorter side of at least negtome_min_side, or half the latent's shorter side where that is less.
        negtome_threshold, negtome_stop: of NegToMe unless told: the values published for the family, or those between
            where there are none.
    """

    name: str
    denoisers: tuple[str, ...]
    text_encoders: tuple[str, ...]
    sample: str
    timestep: str
    text: Mapping[str, TextAxis]
    branches: Callable[[Any, Arguments], tuple[str, ...]]
    scale: Callable[[Any, Arguments], float]
    guidance_off: Callable[[Any, Arguments], str | None]
    latent_size: Callable[[Any, Arguments], tuple[int, int]]
    encode_text: Callable[[Any, Sequence[str], Arguments], list[dict[str, Any]]]
    reading: Callable[[Any, str, Arguments], Reading]
    attention: tuple[tuple[str, TextPlace], ...]
    negtome_blocks: str
    negtome_min_side: int = 0
    negtome_threshold: float = 0.65
    negtome_stop: float = 0.2
    sequential: bool = False
    encode_image: Callable[[Any, Tensor], Tensor] | None = None
    image_tokens: Callable[[Any, tuple[int, int]], tuple[int, int]] | None = None
    negative_rows: bool = False
    text_positions: str | None = None
    row_lists: tuple[str, ...] = ()
    shared: tuple[str, ...] = ()
    predicted: Callable[[Tensor, Any, tuple[int, int]], Tensor] = lambda prediction, sample, size: prediction
    aside: Callable[[Mapping[str, Any]], bool] = lambda inputs: False


def text_input(inputs: Mapping[str, Any], path: str) -> Any:
    """The input that `path` names, e.g. "added_cond_kwargs.text_embeds"; None where it is not given."""
    value: Any = inputs
    for name in path.split("."):
        value = None if value is None else value.get(name)
    return value


def with_text(inputs: Mapping[str, Any], text: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of `inputs` with other values at these paths; dicts on the way are copied too."""
    changed = dict(inputs)
    for path, value in text.items():
        *parents, last = path.split(".")
        inner = changed
        for parent in parents:
            inner[parent] = dict(inner[parent])
            inner = inner[parent]
        inner[last] = value
    return changed
