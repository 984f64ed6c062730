"""What is particular to a model family, as data: one `Family` says how its pipelines and denoisers are reached."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, nn

from negguide.methods import Method, Negative, Timestep

Arguments = Mapping[str, Any]
"""A pipeline call's arguments by name, defaults included."""
TextAxis = Literal["tokens", "tokens, image", "layers", "layers first", "pooled", "positions"]
"""How a denoiser input carries text: [B, tokens, ..], [B, tokens, layers of the text encoder, ..], the same as [layers,
B, tokens, ..], [B, ..], or the tokens' positions [tokens, ..], without batch. "tokens, image" is a mask [B, tokens +
image tokens], of which a negative brings the part of its own tokens."""
NEGTOME_DEFAULTS: Mapping[str, Any] = MappingProxyType({"threshold": 0.65, "stop": Timestep(900)})
"""Those published for FLUX, for flow models without values of their own: how noisy an image is decides what may still
change in it, and a timestep says that of them all."""
NEGTOME_DISCRETE: Mapping[str, Any] = MappingProxyType({"threshold": 0.65, "stop": Timestep(800)})
"""For models with the discrete schedule of Stable Diffusion: the window published for SDXL. At its end the noise is .84
of the mixture, sigma / (alpha + sigma); at that of the window published for FLUX it is .9."""
MethodT = TypeVar("MethodT", bound=Method)
TextPlace = Literal["cross", "text first", "image first"]
"""Where an attention module meets the text: as keys and values only, or beside the image's tokens."""


@dataclass(frozen=True)
class TokenBudget:
    """How much of a text reaches the model: of `tokens`, with all that is put around the text, `limit` do."""

    tokenizer: Any
    tokens: int
    limit: int


@dataclass(frozen=True)
class Denoiser:
    """What a denoiser's own calls say, where there is no pipeline to ask: for attention processors.

    Attributes:
        classes: the diffusers classes by name, or classes from elsewhere. A class derived from one of them counts too.
        text_channels: `text_channels(config)` -> channels of its text input.
        noise: `noise(config)` -> the timestep of pure noise, as it is given to the model; 0 is the image.
        latent_size: `latent_size(inputs)` -> (height, width) of the generated image's latents.
        matches: `matches(config)` -> whether a model of these classes belongs to the family, where several share one.
    """

    classes: tuple[str | type, ...]
    text_channels: Callable[[Any], int]
    noise: Callable[[Any], float]
    latent_size: Callable[[Mapping[str, Any]], tuple[int, int]]
    matches: Callable[[Any], bool] = lambda config: True


@dataclass(frozen=True)
class ImageBehindText:
    """Where the image stands by the length of its row's text: how far a text is from it is told by rotary positions.

    Attributes:
        starts: `starts(inputs)` -> for each row, where on the first axis of the positions the image is.
        rotation: `rotation(model)` -> (theta, channels) of that axis, which is the first of a head's channels.
    """

    starts: Callable[[Mapping[str, Any]], list[int]]
    rotation: Callable[[nn.Module], tuple[float, int]]


@dataclass(frozen=True)
class TextsBefore:
    """A call with further texts before its image, where a text sees what is before it and never the image.

    Attributes:
        changes: {denoiser input: value} of those that carry more than text.
        positions: [tokens, ..] of all texts and the image, each text as far from the image as it is alone.
        lengths: how many tokens each text has in attention, images inside it included.
        words: where in each the text begins that is behind those images.
    """

    changes: Mapping[str, Any]
    positions: Tensor
    lengths: tuple[int, ...]
    words: tuple[int, ...]


@dataclass(frozen=True)
class Modular:
    """How modular pipelines of the family carry text.

    Attributes:
        model_name: of the pipeline's blocks.
        fields: {field of the inputs that go through the guider: what the text encoder step calls it, or `make(encoded)`
            of {what it calls it: value}, which may return a `make(prompt)` of the prompt's own fields}. Empty where the
            pipeline calls no guider, so that methods in score space cannot act in it.
        packed: whether predictions are [B, tokens, C], which does not show height and width.
        reader: `reader(components)` -> what stands for the classic pipeline in `Family.token_budget`.
        positions: fields without a batch axis.
        generated: `generated(state)` -> where in a prediction [B, ..] along its second axis the generated image is, by
            what the run has so far; everywhere but where it is given images.
        text_steps: class names of the blocks that make of the text encoder step's outputs what `fields` name, where
            they are not its own.
        latent_size: `latent_size(inputs)` -> (height, width) of the latents by a denoiser call's inputs; None = that
            of `Family.denoiser`.
        places: whether it is known where in the image a token of a prediction lies; where not, negatives have no masks,
            and methods in attention and token space cannot act.
        check: `check(arguments)` refuses what a call cannot have beside negatives.
    """

    model_name: str
    fields: Mapping[str, str | Callable[[Mapping[str, Any]], Any]]
    packed: bool = False
    reader: Callable[[Any], Any] = lambda components: components
    positions: tuple[str, ...] = ()
    generated: Callable[[Mapping[str, Any]], slice] = lambda state: slice(None)
    text_steps: tuple[str, ...] = ()
    latent_size: Callable[[Mapping[str, Any]], tuple[int, int]] | None = None
    places: bool = True
    check: Callable[[Arguments], object] = lambda arguments: None


@dataclass(frozen=True)
class Family:
    """One model family. `pipe` below is the diffusers pipeline, `arguments` those of its call by name.

    Attributes:
        name: for people and messages.
        pipelines: the diffusers pipelines by class name, or pipeline classes from elsewhere. A class that is derived
            from one of them, outside of diffusers, is supported as well.
        denoisers: the pipeline's attributes that hold a denoiser; those that are None are left out.
        text_encoders: the pipeline's attributes without which negatives in words cannot be encoded.
        sample, timestep: names of the denoiser's inputs that hold the noisy latents and the timestep.
        text: the denoiser's inputs that carry the prompt, and how; a negative replaces exactly these. A dot leads into
            a dict: "added_cond_kwargs.text_embeds". The first one has the tokens.
        embeds: {text input: the name that the pipeline's call has for it}, e.g. {"encoder_hidden_states":
            "prompt_embeds"}; those that a negative given as embeddings may leave out are the masks.
        derived: {text input: `derive(prompt_embeds)`} of those that follow from `prompt_embeds` (positions).
        channels: {name in `embeds`: `channels(config)` -> how many channels it may have for a denoiser with this
            config}, of those that `Denoiser.text_channels` does not tell; what is not named is not checked.
        batched: further inputs with a batch axis, paths as in `text`: a tensor whose rows are those of the sample, or
            a list or tuple of such tensors. What is not named is passed on whole, whatever its shape.
        deferred: {denoiser input: the pipeline's attribute that holds the model that makes it}, of a ControlNet that
            gives something for each token of the text: it is called with each forward's own rows. Its output is a
            mapping to tensors [rows, image tokens and text, ..].
        controls: inputs that say for each image where its parts are to be (what ControlNets and T2I-Adapters add):
            NegToMe's reference images, which are none of the call's, go without.
        row_lists: inputs that are lists of one entry a row instead of tensors.
        frame_rows: of a video model that takes each frame for an image: those of its inputs that have a row for each
            frame, as its attention to the image and the text has too. Methods see one row a video.
        branches: `branches(pipe, arguments)` -> the guidance branches of one step in order, "uncond" and "cond". Asked
            at each step: a callback may switch guidance off.
        sequential: whether each branch is a denoiser call of its own; otherwise one call holds them along its batch.
        upcasts: whether the pipeline itself combines its branches in float32.
        guidance_scale: `guidance_scale(pipe, arguments)` -> g of u + g (c - u), as the pipeline combines its branches.
        cfg_disabled_reason: `cfg_disabled_reason(pipe, arguments)` -> why this call runs without classifier-free
            guidance, so that score-space methods cannot act; None when it runs with it.
        latent_size: `latent_size(pipe, arguments)` -> (height, width) of the latents of this call.
        encode_text: `encode_text(pipe, texts, arguments)` -> for each text {text input: [1, ...]}, by the pipeline
            itself; None stands for an input that the pipeline leaves out.
        token_budget: `token_budget(pipe, text, arguments)` -> how much of a negative's text the pipeline's text encoder
            reads; of several, the one that reads most.
        padded_text: whether a text is filled up to the call's `max_sequence_length`, and may have another length than
            the prompt's in attention, so that a negative is cheaper with fewer tokens.
        encode_image: `encode_image(pipe, pixels)` -> latents as the denoiser gets them; pixels [R, 3, H, W] in
            [-1, 1]. None where NegToMe cannot take reference images.
        prediction_slice: `prediction_slice(prediction, sample, latent_size)` -> the view of a denoiser's output that is
            the prediction for the generated image; the rest (learned variances, references) is left as it is.
        is_auxiliary: whether a denoiser call, by its inputs, is none of the branches (SD3's skipped layers): it is
            passed on.
        attention: (regular expression, place) pairs: which attention modules meet the text, and where.
        negative_rows: whether attention-space methods need the negatives as further rows of the batch, because the
            model places its tokens by the length of the text; otherwise they are appended to the prompt's tokens.
        counts_text: `counts_text(module)` -> whether an attention module takes the last so many tokens of its input for
            the text, a number of its own, and image tokens from before them: negatives must not stand there (Wan).
        text_lengths: with `negative_rows`, `text_lengths(inputs)` -> how many tokens each row's text has, where the
            image's stand right behind them in each row, and behind both what fills the rows up; None elsewhere.
        image_behind_text: with `negative_rows`, where in each row the image is, if that depends on the length of the
            row's text; None where it is the same in all rows of a batch.
        one_layout: whether a forward places the tokens of every row as those of the first, so that each text has
            forwards of its own.
        texts_before: with `one_layout`, `texts_before(model, inputs, texts)` -> how the call holds further texts, where
            the text stands before the image, sees none of it, and is placed by its length; None elsewhere. The
            attention modules have the positions by the name "rotary_emb".
        empty_cache: `empty_cache(cache)` -> one like that in the denoiser's input "kv_cache", which "kv_cache_mode"
            says to fill ("extract") or to use ("cached"); None where a denoiser keeps no text between steps.
        check_negative: `check_negative(arguments, negative)` refuses a negative that a call cannot have, before any
            model runs.
        references_first: whether the tokens of images that the pipeline was given stand before the generated image's.
        text_positions: the argument of the attention modules that holds (image positions, text positions), where those
            of the text are counted by its length alone.
        image_tokens: `image_tokens(sample, latent_size)` -> how many tokens the generated image has in attention, and
            how many together with the reference images' behind it; None where attention tells (feature maps).
        filled_tokens: `filled_tokens(config, latent_size)` -> how many tokens the generated image has with those that
            fill it up behind, where the denoiser's config says it; None = as many as `image_tokens` says.
        negtome_blocks, negtome_min_side: where token-space methods act unless told: modules whose name matches, on
            feature maps with a shorter side of at least negtome_min_side, or half the latent's shorter side where that
            is less.
        defaults: {method: {field: value}} published for the family, or for its kind: of the fields that a method leaves
            to the family (None), and of others, with which `negguide.defaults` says to begin.
        guided: whether its models can have classifier-free guidance; False for guidance-distilled ones.
        dtype: what the family's models were published in, for `--dtype auto`: one of float16 overflows in few places,
            one of bfloat16 in many.
        denoiser: for attention processors; None where the denoiser takes none.
        modular: for modular pipelines, of several kinds where they have models of several names; None where negatives
            cannot be used in them.
    """

    name: str
    pipelines: tuple[str | type, ...]
    denoisers: tuple[str, ...]
    text_encoders: tuple[str, ...]
    sample: str
    timestep: str
    text: Mapping[str, TextAxis]
    embeds: Mapping[str, str]
    branches: Callable[[Any, Arguments], tuple[str, ...]]
    guidance_scale: Callable[[Any, Arguments], float]
    cfg_disabled_reason: Callable[[Any, Arguments], str | None]
    latent_size: Callable[[Any, Arguments], tuple[int, int]]
    encode_text: Callable[[Any, Sequence[str], Arguments], list[dict[str, Any]]]
    token_budget: Callable[[Any, str, Arguments], TokenBudget]
    attention: tuple[tuple[str, TextPlace], ...]
    negtome_blocks: str
    negtome_min_side: int = 0
    padded_text: bool = False
    defaults: Mapping[str, Mapping[str, Any]] = field(default_factory=lambda: {"NegToMe": NEGTOME_DEFAULTS})
    derived: Mapping[str, Callable[[Tensor], Any]] = field(default_factory=dict)
    channels: Mapping[str, Callable[[Any], tuple[int, ...]]] = field(default_factory=dict)
    batched: tuple[str, ...] = ()
    deferred: Mapping[str, str] = field(default_factory=dict)
    controls: tuple[str, ...] = ()
    row_lists: tuple[str, ...] = ()
    frame_rows: tuple[str, ...] = ()
    sequential: bool = False
    upcasts: bool = False
    encode_image: Callable[[Any, Tensor], Tensor] | None = None
    image_tokens: Callable[[Any, tuple[int, int]], tuple[int, int]] | None = None
    filled_tokens: Callable[[Any, tuple[int, int]], int] | None = None
    negative_rows: bool = False
    counts_text: Callable[[nn.Module], bool] = lambda module: False
    text_lengths: Callable[[Mapping[str, Any]], list[int]] | None = None
    image_behind_text: ImageBehindText | None = None
    text_positions: str | None = None
    one_layout: bool = False
    texts_before: (
        Callable[[nn.Module, Mapping[str, Any], Sequence[Mapping[str, Any]]], TextsBefore] | None
    ) = None
    empty_cache: Callable[[Any], Any] | None = None
    references_first: bool = False
    check_negative: Callable[[Arguments, Negative], object] = lambda arguments, negative: None
    prediction_slice: Callable[[Tensor, Any, tuple[int, int]], Tensor] = lambda prediction, sample, size: (
        prediction
    )
    is_auxiliary: Callable[[Mapping[str, Any]], bool] = lambda inputs: False
    guided: bool = True
    dtype: torch.dtype = torch.bfloat16
    denoiser: Denoiser | None = None
    modular: Modular | tuple[Modular, ...] | None = None

    @property
    def main_embeds(self) -> str:
        """The name in `embeds` of those that have the tokens: what one tensor given as a negative is."""
        return self.embeds[next(iter(self.text))]

    def batch_axis(self, path: str) -> int:
        """Along which axis an input has its rows."""
        return 1 if self.text.get(path) == "layers first" else 0

    @property
    def modulars(self) -> tuple[Modular, ...]:
        """Its kinds of modular pipelines."""
        if self.modular is None:
            return ()
        return self.modular if isinstance(self.modular, tuple) else (self.modular,)

    def with_defaults(self, method: MethodT) -> MethodT:
        """The method with the family's values for the fields that it leaves open.

        Raises:
            ValueError: a value does not go with the method's own, e.g. its start is behind the family's stop.
        """
        known = {"NegToMe": NEGTOME_DEFAULTS, **self.defaults}
        return method.with_defaults(known.get(type(method).__name__, {}))


def nested_input(inputs: Mapping[str, Any], path: str) -> Any:
    """The input that `path` names, e.g. "added_cond_kwargs.text_embeds"; None where it is not given."""
    value: Any = inputs
    for name in path.split("."):
        value = None if value is None else value.get(name)
    return value


def with_inputs(inputs: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of `inputs` with other values at these paths; dicts on the way are copied too."""
    changed = dict(inputs)
    for path, value in changes.items():
        *parents, last = path.split(".")
        inner = changed
        for parent in parents:
            inner[parent] = dict(inner[parent])
            inner = inner[parent]
        inner[last] = value
    return changed
