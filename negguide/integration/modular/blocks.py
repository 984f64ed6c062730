"""The blocks that put negatives into modular pipelines, and the ways to put them in."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from diffusers.modular_pipelines import ComponentSpec, ModularPipeline, ModularPipelineBlocks, PipelineState
from diffusers.utils.torch_utils import unwrap_module

from negguide.integration.families import Modular
from negguide.integration.hooks.views import original
from negguide.integration.modular.denoiser import ModularRun, check_denoisers, guiders_of, runtimes_of
from negguide.integration.modular.guider import PerpNegGuidance
from negguide.integration.modular.text import TextEncoder, encodes_text, known_family, text_step
from negguide.integration.runtime.base import MethodRuntime
from negguide.integration.runtime.token_budget import arguments_of_negatives
from negguide.methods import Method, Methods, PerpNeg, collect, negatives_of
from negguide.methods.choices import names_in


class EncodeNegatives(ModularPipelineBlocks):
    """Encodes the negatives of the pipeline's `PerpNegGuidance`, with the pipeline's own text encoder step.

    It goes in front of that step, in modular pipelines whose loop asks a guider (`negguide.integration.families`):

        blocks.sub_blocks.insert("encode_negatives", EncodeNegatives(), 0)
        pipe = blocks.init_pipeline(model)
        pipe.update_components(guider=PerpNegGuidance(PerpNeg("black glasses"), guidance_scale=7.5))

    and `negguide.with_perp_neg` does the same to a pipeline that is there. Each negative is encoded once, whatever the
    number of prompts and images; the guider repeats it. Other settings of the call (`max_sequence_length`, LoRA scale,
    reference images) count for negatives as for prompts. A ControlNet is told each negative in its turn, as modular
    pipelines do for all predictions; classic pipelines tell it the prompt alone, so that their images differ.

    Raises, when the pipeline runs:
        ValueError: no guider is a `PerpNegGuidance`; an unsupported pipeline; a distilled model, which has no guidance;
            a text encoder that is not loaded; a negative longer than what it reads; embeddings that are not those of
            the model; a negative of a prompt that is not there; a mask in a pipeline that does not know the image's
            size yet.
    """

    @property
    def description(self) -> str:
        """What the block does, for diffusers to print."""
        return "Encodes the negatives of PerpNegGuidance with the pipeline's text encoder"

    def __call__(self, components: Any, state: PipelineState) -> tuple[Any, PipelineState]:
        """Give every `PerpNegGuidance` of the pipeline its negatives, encoded."""
        guiders = [
            guider for guider in guiders_of(components).values() if isinstance(guider, PerpNegGuidance)
        ]
        if not guiders:
            raise ValueError(
                "EncodeNegatives found no PerpNegGuidance; give the pipeline one: "
                "pipe.update_components(guider=PerpNegGuidance(PerpNeg('black glasses'), guidance_scale=7.5))"
            )
        for guider in guiders:
            guider.begin_run(state)
        encoder = TextEncoder(components, state, _OURS)
        modular = encoder.modular
        _check_guided(components)
        encoder.check([n for guider in guiders for n in guider.perp_neg.negatives], type(self).__name__)
        for guider in guiders:
            negatives = guider.perp_neg.negatives
            size = None
            if modular.packed and any(negative.mask is not None for negative in negatives):
                size = _latent_size(components, state)
            guider.set_negatives(
                [encoder.guider_fields(encoder.encode(negative)) for negative in negatives],
                size,
                _images_per_prompt(state),
                getattr(components, "scheduler", None),
                modular.positions,
                modular.generated,
            )
        return components, state

    def save_config(self, save_directory: Any, push_to_hub: bool = False, **kwargs: Any) -> None:
        """Beside the config, the module that it names: `ModularPipelineBlocks.from_pretrained` needs it."""
        folder = Path(save_directory)
        folder.mkdir(parents=True, exist_ok=True)
        line = f"from {__name__} import {type(self).__name__}  # noqa: F401\n"
        (folder / f"{__name__.rsplit('.', 1)[-1]}.py").write_text(line)
        super().save_config(save_directory, push_to_hub=push_to_hub, **kwargs)


class GuideDenoiser(ModularPipelineBlocks):
    """Lets methods in attention and token space act in the denoiser, in the blocks that stand behind it.

    It goes in front of the text encoder step, with which it encodes the negatives:

        blocks.sub_blocks.insert("guide_denoiser", GuideDenoiser(NAG("black glasses")), 0)

    and `negguide.with_negative_guidance` does the same to a pipeline that is there. The blocks behind it are handed a
    view of the pipeline whose denoiser does what the methods ask for; the models are left alone, so that other runs on
    them, in other threads or inside this one, know nothing of it. Methods in attention space act in the prediction of
    the prompt, with guidance or without any; those in token space in every prediction. The result is that of the
    classic pipeline where there is one.

    Args:
        methods: at most one in attention space (e.g. `NAG`) and one in token space (`NegToMe`, without
            reference images).

    Raises:
        TypeError, ValueError: other methods, or two of one kind; and when the pipeline runs, for what
            `EncodeNegatives` raises, a model with a method on it already (`apply_to_model`), or a cache on it that
            cannot tell predictions with negatives from those without.
    """

    def __init__(self, *methods: Method) -> None:
        found = collect(list(methods))
        if found.score is not None:
            raise ValueError(
                f"GuideDenoiser takes methods of attention and token space, got {type(found.score).__name__}, which is "
                "a guider of modular pipelines: PerpNegGuidance(PerpNeg(...)), or negguide.with_negative_guidance"
            )
        if found.token is not None and found.token.images:
            raise ValueError(
                "reference holds images, which modular pipelines do not encode as latents for it; use "
                "reference='others' or 'first', or the classic pipeline (negguide.from_pipe)"
            )
        self.methods = found
        super().__init__()

    @property
    def description(self) -> str:
        """What the block does, for diffusers to print."""
        names = " and ".join(type(method).__name__ for method in self.methods)
        return f"Lets {names} act in the denoiser"

    def __call__(self, components: Any, state: PipelineState) -> tuple[Any, PipelineState]:
        """Put the methods on the denoiser of the pipeline, for one run."""
        components = original(components)
        encoder = TextEncoder(components, state, _OURS)
        family, modular = encoder.family, encoder.modular
        methods = Methods(
            None,
            self.methods.token and family.with_defaults(self.methods.token),
            self.methods.attention and family.with_defaults(self.methods.attention),
        )
        latent_size = modular.latent_size
        if latent_size is None and family.denoiser is not None:
            latent_size = family.denoiser.latent_size
        check_denoisers(methods, family, encoder.models)
        if not modular.places:
            raise ValueError(
                f"{' and '.join(type(method).__name__ for method in methods)} cannot act in modular pipelines of "
                f"{modular.model_name!r}: it is not known where in the image a token lies; PerpNeg can, and the "
                "classic pipeline where there is one (negguide.from_pipe)"
            )
        if latent_size is None:
            raise ValueError(
                f"the denoiser of {family.name} does not tell the size of the image, so that "
                f"{' and '.join(type(method).__name__ for method in methods)} cannot be placed in it; use the classic "
                "pipeline (negguide.from_pipe)"
            )
        if methods.attention is not None:
            encoder.values = arguments_of_negatives(family, methods.attention, state.values)
        negatives = list(negatives_of(list(methods)))
        encoder.check(negatives, type(self).__name__, pooled=False)
        texts = [encoder.inputs(encoder.encode(negative)) for negative in negatives]
        images = _images_per_prompt(state)
        models = [unwrap_module(model) for model in encoder.models]

        def make(size: tuple[int, int]) -> list[MethodRuntime]:
            return runtimes_of(methods, family, models, texts, images, size)

        run = ModularRun(components, state, family, latent_size, make, list(methods))
        return run.view(), state

    def save_config(self, save_directory: Any, push_to_hub: bool = False, **kwargs: Any) -> None:
        """Refuse: what diffusers makes of a saved block has no methods.

        Raises:
            ValueError: always.
        """
        raise ValueError(
            "GuideDenoiser is not saved with its methods; put it in after loading: "
            "negguide.with_negative_guidance(pipe, ...)"
        )


_OURS = (EncodeNegatives, GuideDenoiser)


def with_perp_neg(pipe: Any, method: PerpNeg | PerpNegGuidance | None = None) -> Any:
    """A modular pipeline with negatives, which shares everything else with `pipe`; `pipe` itself stays as it is.

    Args:
        pipe: a modular pipeline whose loop asks a guider (see `negguide.integration.families.modular_families`).
        method: a `PerpNeg`, which goes around each of the pipeline's own guiders (Wan 2.2 has two); or a whole
            `PerpNegGuidance`, for pipelines with one guider; or None, to keep the `PerpNegGuidance` that is there, e.g.
            in a pipeline that was saved with it.

    Returns:
        A pipeline of the same class. `save_pretrained` keeps its guider, but not its blocks, which diffusers finds by
        the pipeline's class: call `with_perp_neg(pipe)` again after loading.

    Raises:
        TypeError: `pipe` is no modular pipeline, or `method` none of these.
        ValueError: a pipeline that is not supported or has no guider, or whose guider cannot be combined with Perp-Neg
            (see `PerpNegGuidance`) or is switched off.

    Example:
        >>> pipe = negguide.with_perp_neg(pipe, PerpNeg("black glasses"))
        >>> image = pipe(prompt="a bear wearing glasses", output="images")[0]
    """
    _check_modular(pipe)
    _, modular = known_family(pipe.blocks)
    guiders = guiders_of(pipe)
    if not guiders or not modular.fields:
        raise ValueError(
            f"{type(pipe).__name__} has no guider: its model is distilled or guided inside, and makes no unconditional "
            f"prediction. Negatives for such models are {names_in('attention')}: negguide.with_negative_guidance, or "
            "negguide.from_pipe in classic pipelines"
        )
    text_step(pipe.blocks, modular, _OURS)
    made = {name: _guider(name, guider, method, len(guiders)) for name, guider in guiders.items()}
    guided = _with_block(pipe, modular, "encode_negatives", EncodeNegatives())
    # as a component that is loaded, not made from defaults, the guider is saved with the pipeline
    specs = {name: ComponentSpec(name=name, type_hint=PerpNegGuidance) for name in made}
    guided._component_specs = pipe._component_specs | specs
    guided.register_components(**made)
    return guided


def with_negative_guidance(
    pipe: Any, negative_guidance: Method | PerpNegGuidance | Sequence[Method | PerpNegGuidance]
) -> Any:
    """A modular pipeline with methods of every space, which shares everything else with `pipe`, and leaves it alone.

    Args:
        pipe: a modular pipeline that is supported; also of a distilled model and with guidance off, for methods in
            attention and token space.
        negative_guidance: a method, or a list of at most one each in score space (`PerpNeg`, or a `PerpNegGuidance`),
            attention space (e.g. `NAG`) and token space (`NegToMe`, without reference images). It takes the
            place of what is there; where there is none in score space, a `PerpNegGuidance` of the pipeline stays.

    Returns:
        A pipeline of the same class. `save_pretrained` keeps a `PerpNegGuidance`, but not the other methods: call this
        again after loading.

    Raises:
        TypeError, ValueError: as `with_perp_neg`, and where a method cannot act in the pipeline.

    Example:
        >>> pipe = negguide.with_negative_guidance(pipe, NAG("black glasses"))
        >>> image = pipe(prompt="a bear wearing glasses", output="images")[0]
    """
    _check_modular(pipe)
    given: list[Any] = (
        list(negative_guidance) if isinstance(negative_guidance, list | tuple) else [negative_guidance]
    )
    guiders = [method for method in given if isinstance(method, PerpNegGuidance)]
    # checked together: two of one space exclude each other, also as a guider
    methods = collect(
        [method.perp_neg if isinstance(method, PerpNegGuidance) else method for method in given]
    )
    _, modular = known_family(pipe.blocks)
    text_step(pipe.blocks, modular, _OURS)
    score: Any = methods.score
    guided = with_perp_neg(pipe, guiders[0] if guiders else score) if score is not None else pipe
    acting = [method for method in (methods.token, methods.attention) if method is not None]
    if not acting:
        return _without_block(guided, GuideDenoiser) if guided is not pipe else guided
    return _with_block(guided, modular, "guide_denoiser", GuideDenoiser(*acting))


def _check_modular(pipe: Any) -> None:
    if not isinstance(pipe, ModularPipeline):
        hint = "; for classic pipelines there is negguide.from_pipe" if hasattr(pipe, "components") else ""
        raise TypeError(f"pipe must be a modular pipeline, got {type(pipe).__name__}{hint}")


def _with_block(pipe: Any, modular: Modular, name: str, block: Any) -> Any:
    """The pipeline with a block in front of its text encoder step, in place of one of its kind."""
    guided = _without_block(pipe, type(block))
    blocks = guided._blocks
    position = next(
        i
        for i, other in enumerate(blocks.sub_blocks.values())
        if not isinstance(other, _OURS) and encodes_text(other, modular)
    )
    blocks.sub_blocks.insert(name, block, position)
    return guided


def _without_block(pipe: Any, kind: type) -> Any:
    """A pipeline that shares everything with `pipe` but its blocks, without those of a kind."""
    blocks = pipe.blocks
    for name in [name for name, block in blocks.sub_blocks.items() if isinstance(block, kind)]:
        blocks.sub_blocks.pop(name)
    other: Any = object.__new__(type(pipe))
    other.__dict__.update(pipe.__dict__)
    other._blocks = blocks
    return other


def _guider(name: str, present: Any, method: Any, count: int) -> PerpNegGuidance:
    if method is None:
        if not isinstance(present, PerpNegGuidance):
            raise ValueError(
                f"method is None, and {name} of the pipeline is {type(present).__name__}; give a PerpNeg, e.g. "
                "with_perp_neg(pipe, PerpNeg('black glasses'))"
            )
        return present
    if isinstance(method, PerpNegGuidance):
        if count > 1:
            raise ValueError(
                f"method is one PerpNegGuidance, and the pipeline has {count} guiders; give a PerpNeg, which goes "
                "around each of them"
            )
        return method
    if not isinstance(method, PerpNeg):
        raise TypeError(f"method must be a PerpNeg, a PerpNegGuidance or None, got {method!r}")
    inner: Any = present.guidance if isinstance(present, PerpNegGuidance) else present
    if not inner._enabled:
        raise ValueError(
            f"{name} of the pipeline is switched off (Z-Image's is, for its Turbo model), and Perp-Neg needs guidance; "
            "give one: with_perp_neg(pipe, PerpNegGuidance(PerpNeg('black glasses'), guidance_scale=5.0))"
        )
    return PerpNegGuidance(method, guidance=inner)


def _check_guided(components: Any) -> None:
    """Refuse models that were distilled to do without guidance: the pipelines switch it off without a word."""
    unet = getattr(components, "unet", None)
    if unet is not None and unet.config.time_cond_proj_dim is not None:
        reason = "this UNet is distilled and takes guidance_scale as an input"
    elif getattr(components.config, "is_distilled", False):
        reason = "is_distilled is True"
    else:
        return
    raise ValueError(
        f"{reason}, so there is no unconditional prediction, which PerpNegGuidance needs; {names_in('attention')} work "
        "without: negguide.with_negative_guidance"
    )


def _images_per_prompt(state: PipelineState) -> int:
    return int(state.get("num_images_per_prompt") or state.get("num_videos_per_prompt") or 1)


def _latent_size(components: Any, state: PipelineState) -> tuple[int, int]:
    """(height, width) of the latents in whole patches of 2x2."""
    height, width = state.get("height"), state.get("width")
    from_image = None in (height, width) and state.get("image") is not None
    height = height or getattr(components, "default_height", None)
    width = width or getattr(components, "default_width", None)
    if from_image or height is None or width is None:
        raise ValueError(
            "a negative with a mask needs height= and width= of the call where the size could come from image="
        )
    patch = 2 * components.vae_scale_factor
    return 2 * (int(height) // patch), 2 * (int(width) // patch)
