"""What the patches of all nodes share: one object a sampling run, and what they ask of ComfyUI.

A node leaves in a cloned model a wrapper around the whole sampling. It puts the negatives among the guider's
conditionings, which ComfyUI then prepares as it does the prompt's. When that is done, a second wrapper makes an object
for the run, which goes into the run's own copy of `transformer_options` and ends with it, so that neither another run
nor another branch of a graph sees it.
"""

import functools
import inspect
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from .negatives import Negative, mask_over
from .windows import Steps, Window

AUXILIARY = "negguide auxiliary"
"""In `transformer_options` of a forward that is no prediction of the prompt: of a negative, or of a reference."""

# The key under which ComfyUI's nodes compile a model.
_COMPILED = "torch.compile"
# Denoisers whose forward calls none of the wrappers that ComfyUI has for denoisers.
_WITHOUT_WRAPPERS = ("OpenAISignatureMMDITWrapper",)

# Of the prompt's conditioning, what a negative never takes over: its text in every form that ComfyUI's text encoders
# give it, some of which only some texts have, and what is said of the text alone;
_TEXT = (
    "cross_attn",
    "pooled_output",
    "attention_mask",
    "attention_mask_img_shape",
    "attention_mask_mt5xl",
    "conditioning_mt5xl",
    "conditioning_llama3",
    "conditioning_byt5small",
    "conditioning_lyrics",
    "lyrics_strength",
    "audio_codes",
    "t5xxl_ids",
    "t5xxl_weights",
    "text_input_ids",
    "num_layers_stacked",
    "minimax_token_tags",
    "unprocessed_ltxav_embeds",
    "cross_attn_controlnet",
    "aesthetic_score",
)
# what ComfyUI made of it, and where and when it acts.
_OWN = (
    *_TEXT,
    "model_conds",
    "uuid",
    "area",
    "mask",
    "mask_strength",
    "set_area_to_bounds",
    "strength",
    "default",
    "start_percent",
    "end_percent",
    "clip_start_percent",
    "clip_end_percent",
    "prompt_type",
)


class Run:
    """One sampling run.

    Args:
        guider: ComfyUI's.
        sigmas: [steps + 1].
        latent: the image that the run begins from, or zeros.

    Attributes:
        prompts: {uuid of a conditioning of the prompt: how many tokens its text has}. Guiders pass conditionings to the
            model in any order, and some one alone, so that their places tell nothing.
        used: whether the node came to act.
    """

    def __init__(self, guider: Any, sigmas: Tensor, latent: Tensor) -> None:
        self.guider = guider
        self.model = guider.inner_model
        self.batch = latent.shape[0]
        self.latent_size = (int(latent.shape[-2]), int(latent.shape[-1]))
        self.axes = latent.ndim
        self.steps = Steps(sigmas, self.model, from_noise=not bool(latent.count_nonzero()))
        self.prompts = _told_apart(guider.conds)
        self.used = False

    def prepare(self) -> None:
        """Everything that needs the run to have begun, and may refuse it."""

    def mask(self, mask: Tensor | None, owner: str, images: int = 0) -> Tensor | None:
        """A mask at the size of the latents, [1 or images, 1, h, w].

        Args:
            images: how many images it is for; 0 = those of the batch.

        Raises:
            ValueError: it does not lie over them, or there are masks for another number of images.
        """
        if mask is None:
            return None
        images = images or self.batch
        if len(mask) not in (1, images):
            raise ValueError(
                f"mask of {owner} must be one mask for all images, or one for each of the {images}, got a batch of "
                f"{len(mask)}"
            )
        if self.axes not in (4, 5):
            raise ValueError(f"mask of {owner}: latents of {self.axes} axes are no images or videos")
        return mask_over(mask, self.latent_size, owner)


def around_run(
    patcher: Any,
    key: str,
    make: Callable[[Any, Tensor, Tensor], Run],
    negatives: Sequence[Negative] = (),
    unused: str = "",
    inside: bool = False,
) -> None:
    """Let each sampling run with this model have a `Run` under `key` in its `transformer_options`.

    Args:
        patcher: ComfyUI's ModelPatcher, cloned.
        key: of the node.
        make: (guider, sigmas, latent) -> the run.
        negatives: put among the conditionings as `name(key, i)`.
        unused: what to say where a run never came to use.
        inside: whether the node acts inside the denoiser. A compiled one would do in each run what it did in the first,
            since ComfyUI has torch.compile disregard what stands in `transformer_options`; it is refused.

    Raises:
        ValueError: the model has such a node already.
    """
    from comfy.patcher_extension import WrappersMP

    if patcher.get_wrappers(WrappersMP.OUTER_SAMPLE, key):
        raise ValueError(f"this model has {key} already, and two would not know of one another; use one")

    def sample(
        executor: Any, noise: Any, latent: Any, sampler: Any, sigmas: Any, *args: Any, **kwargs: Any
    ) -> Any:
        guider = executor.class_obj
        if inside and guider.model_patcher.get_wrappers(WrappersMP.APPLY_MODEL, _COMPILED):
            raise ValueError(
                f"{key} acts inside the model, and this one is compiled; take out the node that compiles it"
            )
        options = guider.model_options.setdefault("transformer_options", {})
        names = [name(key, i) for i in range(len(negatives))]
        for label, negative in zip(names, negatives, strict=True):
            guider.conds[label] = _like_prompt(negative, guider.conds)
        place = Lazy(lambda: make(guider, sigmas, latent))
        options[key] = place
        result = executor(noise, latent, sampler, sigmas, *args, **kwargs)
        if unused and not (place.made and place.run.used):
            raise ValueError(unused)
        return result

    def begin(executor: Any, guider: Any, *args: Any, **kwargs: Any) -> Any:
        # makes it: the conditionings are prepared, and no call of the model has been put together yet
        _ = guider.model_options["transformer_options"][key].run
        return executor(guider, *args, **kwargs)

    patcher.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, key, sample)
    patcher.add_wrapper_with_key(WrappersMP.SAMPLER_SAMPLE, key, begin)


class Lazy:
    """A run that is made when it is first asked for, when ComfyUI has loaded the model and prepared conditionings."""

    def __init__(self, make: Callable[[], Run]) -> None:
        self._make = make
        self._run: Run | None = None

    @property
    def made(self) -> bool:
        return self._run is not None

    @property
    def run(self) -> Any:
        if self._run is None:
            self._run = self._make()
            self._run.prepare()
        return self._run


def name(key: str, index: int) -> str:
    """Of a negative among the guider's conditionings."""
    return f"{key} {index}"


def _like_prompt(negative: Negative, conds: dict[str, Any]) -> list[dict[str, Any]]:
    """A negative's conditioning with what the prompt's has and it has not: ControlNet, guidance, reference latents, ..

    Where a prompt is of several parts, its first counts. Some models are told what kind of prompt one is; the name
    among the conditionings would tell them nothing.
    """
    from comfy.sampler_helpers import convert_cond

    prompt = next(iter(conds.get("positive") or next(iter(conds.values()))), {})
    taken = {key: value for key, value in prompt.items() if key not in _OWN}
    return [{**taken, "prompt_type": "negative", **own} for own in convert_cond(negative.conditioning)]


def _told_apart(conds: dict[str, Any]) -> dict[Any, int]:
    """The prompt's conditionings by `uuid`, which no other has any more, and how many tokens their texts have.

    Where one conditioning has an area, ComfyUI gives each other one a copy of it with its own text, and the same uuid.
    """
    prompt = conds.get("positive")
    if prompt is None:
        return {}
    others = {cond["uuid"] for kind in conds if kind != "positive" for cond in conds[kind]}
    tokens = {}
    for cond in prompt:
        if cond["uuid"] in others or cond["uuid"] in tokens:
            cond["uuid"] = uuid.uuid4()
        text = cond["model_conds"].get("c_crossattn")
        tokens[cond["uuid"]] = 0 if text is None else text.cond.shape[1]
    return tokens


def predict(run: Run, cond: Any, x: Tensor, sigma: Tensor, model_options: dict[str, Any]) -> Tensor:
    """A prediction beside those of prompt and negative prompt.

    One conditioning a call: ComfyUI's own and other nodes tell the prompt by its place, the first.
    """
    from comfy.samplers import calc_cond_batch

    options = {**model_options.get("transformer_options", {}), AUXILIARY: True}
    result: Tensor = calc_cond_batch(
        run.model, [cond], x, sigma, {**model_options, "transformer_options": options}
    )[0]
    return result


def around_denoiser(patcher: Any, key: str, act: Callable[[Run, "Call"], Any]) -> None:
    """Let `act` stand around every call of the denoiser in runs that `around_run` knows."""
    from comfy.patcher_extension import WrappersMP

    def denoise(executor: Any, *args: Any, **kwargs: Any) -> Any:
        call = Call(executor, args, kwargs)
        place = call.options.get(key)
        if place is None:
            raise ValueError(
                f"{key}: the model runs outside of a sampler that ComfyUI's guiders know; use KSampler or "
                "SamplerCustomAdvanced"
            )
        return act(place.run, call)

    if type(patcher.model.diffusion_model).__name__ not in _WITHOUT_WRAPPERS:
        patcher.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, key, denoise)
        return

    def apply(executor: Any, *args: Any, **kwargs: Any) -> Any:
        with _wrapped(executor.class_obj.diffusion_model, denoise):
            return executor(*args, **kwargs)

    patcher.add_wrapper_with_key(WrappersMP.APPLY_MODEL, key, apply)


@contextmanager
def _wrapped(denoiser: Any, wrapper: Callable[..., Any]) -> Iterator[None]:
    """A wrapper of a denoiser that asks for none itself, while this is open."""
    from comfy.patcher_extension import WrapperExecutor

    before = denoiser.__dict__.get("forward")
    around = WrapperExecutor.new_class_executor(denoiser.forward, denoiser, [wrapper])

    @functools.wraps(denoiser.forward)
    def forward(*args: Any, **kwargs: Any) -> Any:
        return around.execute(*args, **kwargs)

    denoiser.forward = forward
    try:
        yield
    finally:
        if before is None:
            del denoiser.forward
        else:
            denoiser.forward = before


class Call:
    """A call of a denoiser, whose arguments are by name.

    Attributes:
        model: the denoiser, a module.
        arguments: {name: value}, to be changed.
        options: its `transformer_options`, a copy that may be changed, two levels deep.
    """

    def __init__(self, executor: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._executor = executor
        self.model: Any = executor.class_obj
        self._bound = inspect.signature(executor.original).bind(*args, **kwargs)
        given = self._bound.arguments
        self._place = given if "transformer_options" in given else given.get("kwargs", {})
        options = dict(self._place.get("transformer_options") or {})
        for group in ("patches", "patches_replace"):
            options[group] = {
                kind: value.copy() if isinstance(value, list | dict) else value
                for kind, value in options.get(group, {}).items()
            }
        self.options: dict[str, Any] = options

    @property
    def arguments(self) -> dict[str, Any]:
        arguments: dict[str, Any] = self._bound.arguments
        return arguments

    @property
    def chunks(self) -> list[int]:
        """The place, in what the guider asked for, of the conditioning that each part of the batch belongs to."""
        return list(self.options.get("cond_or_uncond", [0]))

    @property
    def uuids(self) -> list[Any]:
        """The `uuid` of the conditioning that each part of the batch belongs to."""
        return list(self.options.get("uuids", []))

    @property
    def auxiliary(self) -> bool:
        return bool(self.options.get(AUXILIARY))

    def add_patch(self, kind: str, patch: Callable[..., Any], first: bool = False) -> None:
        patches = self.options["patches"].setdefault(kind, [])
        patches.insert(0 if first else len(patches), patch)

    def __call__(self) -> Any:
        self._place["transformer_options"] = self.options
        return self._executor(*self._bound.args, **self._bound.kwargs)


def windows_of(negatives: Sequence[Negative]) -> list[Window]:
    return [negative.window for negative in negatives]


def norm(difference: Tensor) -> Tensor:
    """[B, 1, ...] L2 norms of [B, ...] in float32, above zero."""
    length = torch.linalg.vector_norm(difference.float().flatten(1), dim=1)
    floor = torch.finfo(torch.float32).eps
    return length.clamp_min(floor).reshape(-1, *[1] * (difference.ndim - 1))
