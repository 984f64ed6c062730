"""The block that encodes negatives in modular pipelines, and the way to put it in."""

from pathlib import Path
from typing import Any

from diffusers.guiders import BaseGuidance
from diffusers.modular_pipelines import (
    ComponentSpec,
    ModularPipeline,
    ModularPipelineBlocks,
    PipelineState,
    SequentialPipelineBlocks,
)

from negguide.integration.families import Family, Modular, modular_families
from negguide.integration.modular.guider import PerpNegGuidance
from negguide.integration.runtime.embeddings import check_embeds
from negguide.integration.runtime.prepare import denoisers_of, prompts_of
from negguide.integration.runtime.prompt_rows import check_prompt_index
from negguide.integration.runtime.token_budget import check_negative
from negguide.methods import Negative, PerpNeg
from negguide.methods.choices import names_in


class EncodeNegatives(ModularPipelineBlocks):
    """Encodes the negatives of the pipeline's `PerpNegGuidance`, with the pipeline's own text encoder step.

    It goes in front of that step, in the modular pipelines of Stable Diffusion XL and 3, Qwen-Image, Z-Image, Wan (text
    to video) and FLUX.2 klein (the base model):

        blocks.sub_blocks.insert("encode_negatives", EncodeNegatives(), 0)
        pipe = blocks.init_pipeline(model)
        pipe.update_components(guider=PerpNegGuidance(PerpNeg("black glasses"), guidance_scale=7.5))

    and `negguide.with_perp_neg` does the same to a pipeline that is there. Each negative is encoded once, whatever the
    number of prompts and images; the guider repeats it. Other settings of the call (`max_sequence_length`, LoRA scale)
    count for negatives as for prompts. A ControlNet is told each negative in its turn, as modular pipelines do for all
    predictions; classic pipelines tell it the prompt alone, so that their images differ.

    Raises, when the pipeline runs:
        ValueError: no guider is a `PerpNegGuidance`; an unsupported pipeline; a distilled model, which has no guidance;
            a text encoder that is not loaded; a negative longer than what it reads; embeddings that are not those of
            the model; a negative of a prompt that is not there; a mask in a pipeline that does not know the image's
            size yet.
    """

    @property
    def description(self) -> str:
        return "Encodes the negatives of PerpNegGuidance with the pipeline's text encoder"

    def __call__(self, components: Any, state: PipelineState) -> tuple[Any, PipelineState]:
        guiders = [guider for guider in _guiders(components).values() if isinstance(guider, PerpNegGuidance)]
        if not guiders:
            raise ValueError(
                "EncodeNegatives found no PerpNegGuidance; give the pipeline one: "
                "pipe.update_components(guider=PerpNegGuidance(PerpNeg('black glasses'), guidance_scale=7.5))"
            )
        for guider in guiders:
            guider.begin_run(state)
        family, modular = _family(components._blocks)
        step = _text_step(components._blocks)
        _check_guided(components)
        reader = modular.reader(components)
        models = denoisers_of(components, family)
        for negative in (negative for guider in guiders for negative in guider.perp_neg.negatives):
            if negative.embeds is None:
                _check_loaded(components, step)
            check_embeds(family, negative, models)
            check_negative(reader, family, state.values, negative)
            check_prompt_index(negative, prompts_of(state.values))
        encoded: dict[str, dict[str, Any]] = {}
        for guider in guiders:
            negatives = guider.perp_neg.negatives
            for prompt in (negative.prompt for negative in negatives if negative.embeds is None):
                if prompt not in encoded:
                    encoded[prompt] = _encode(components, step, modular, state, prompt)
            size = None
            if modular.packed and any(negative.mask is not None for negative in negatives):
                size = _latent_size(components, state)
            guider.set_negatives(
                [
                    encoded[negative.prompt] if negative.embeds is None else _given(modular, family, negative)
                    for negative in negatives
                ],
                size,
                int(state.get("num_images_per_prompt") or state.get("num_videos_per_prompt") or 1),
                getattr(components, "scheduler", None),
            )
        return components, state

    def save_config(self, save_directory: Any, push_to_hub: bool = False, **kwargs: Any) -> None:
        """Beside the config, the module that it names: `ModularPipelineBlocks.from_pretrained` needs it."""
        folder = Path(save_directory)
        folder.mkdir(parents=True, exist_ok=True)
        line = f"from {__name__} import {type(self).__name__}  # noqa: F401\n"
        (folder / f"{__name__.rsplit('.', 1)[-1]}.py").write_text(line)
        super().save_config(save_directory, push_to_hub=push_to_hub, **kwargs)


def with_perp_neg(pipe: Any, method: PerpNeg | PerpNegGuidance | None = None) -> Any:
    """A modular pipeline with negatives, which shares everything else with `pipe`; `pipe` itself stays as it is.

    Args:
        pipe: a modular pipeline of Stable Diffusion XL or 3, Qwen-Image, Z-Image, Wan (text to video) or FLUX.2 klein
            (the base model).
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
    if not isinstance(pipe, ModularPipeline):
        hint = "; for classic pipelines there is negguide.from_pipe" if hasattr(pipe, "components") else ""
        raise TypeError(f"pipe must be a modular pipeline, got {type(pipe).__name__}{hint}")
    guiders = _guiders(pipe)
    if not guiders:
        raise ValueError(
            f"{type(pipe).__name__} has no guider: its model is distilled or guided inside, and makes no unconditional "
            f"prediction. Negatives for such models are {names_in('attention')}, in classic pipelines "
            "(negguide.from_pipe)"
        )
    blocks = pipe.blocks
    _family(blocks)
    _text_step(blocks)
    made = {name: _guider(name, guider, method, len(guiders)) for name, guider in guiders.items()}
    for name in [name for name, block in blocks.sub_blocks.items() if isinstance(block, EncodeNegatives)]:
        blocks.sub_blocks.pop(name)
    position = next(i for i, block in enumerate(blocks.sub_blocks.values()) if _encodes_text(block))
    blocks.sub_blocks.insert("encode_negatives", EncodeNegatives(), position)

    guided: Any = object.__new__(type(pipe))
    guided.__dict__.update(pipe.__dict__)
    guided._blocks = blocks
    # as a component that is loaded, not made from defaults, the guider is saved with the pipeline
    specs = {name: ComponentSpec(name=name, type_hint=PerpNegGuidance) for name in made}
    guided._component_specs = pipe._component_specs | specs
    guided.register_components(**made)
    return guided


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


def _guiders(components: Any) -> dict[str, Any]:
    return {name: part for name, part in components.components.items() if isinstance(part, BaseGuidance)}


def _encodes_text(block: Any) -> bool:
    return "prompt" in block.input_names and "prompt_embeds" in block.intermediate_output_names


def _text_step(blocks: Any) -> Any:
    """The step that makes embeddings of a prompt."""
    for block in blocks.sub_blocks.values():
        if _encodes_text(block):
            # this block may be inside, beside the step
            return _text_step(block) if isinstance(block, SequentialPipelineBlocks) else block
    raise ValueError(
        f"{type(blocks).__name__} has no step that makes prompt_embeds of prompt, with which negatives are encoded"
    )


def _family(blocks: Any) -> tuple[Family, Modular]:
    name, families = blocks.model_name, modular_families()
    if name not in families:
        raise ValueError(
            f"Perp-Neg does not know modular pipelines of {name!r}; supported: {', '.join(families)}"
        )
    return families[name]


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
        "without, in classic pipelines (negguide.from_pipe)"
    )


def _check_loaded(components: Any, step: Any) -> None:
    names = [name for name in step.component_names if name.startswith("text_encoder")]
    if names and all(getattr(components, name, None) is None for name in names):
        raise ValueError(
            f"EncodeNegatives needs the pipeline's {names[0]} to encode negatives, and it is None"
        )


def _encode(
    components: Any, step: Any, modular: Modular, state: PipelineState, prompt: str
) -> dict[str, Any]:
    """One negative as the pipeline encodes a prompt, in a copy of its state."""
    values = {name: None if _is_text(name) else value for name, value in state.values.items()}
    kinds = {kind: list(names) for kind, names in state.kwargs_mapping.items()}
    _, result = step(components, PipelineState(values={**values, "prompt": prompt}, kwargs_mapping=kinds))
    return {field: result.get(name) for field, name in modular.fields.items()}


def _given(modular: Modular, family: Family, negative: Negative) -> dict[str, Any]:
    """A negative that was given as embeddings."""
    found = {field: negative.encoded.get(name) for field, name in modular.fields.items()}
    lists = {family.embeds[path] for path in family.row_lists if path in family.embeds}
    return {
        field: [value[0]] if modular.fields[field] in lists and value is not None else value
        for field, value in found.items()
    }


def _is_text(name: str) -> bool:
    return name.startswith(("prompt", "negative_prompt"))


def _latent_size(components: Any, state: PipelineState) -> tuple[int, int]:
    """(height, width) of the latents in whole patches of 2x2."""
    height, width = state.get("height"), state.get("width")
    if None in (height, width) and state.get("image") is not None:
        raise ValueError(
            "a negative with a mask needs height= and width= of the call where the size could come from image="
        )
    patch = 2 * components.vae_scale_factor
    pixels = (height or components.default_height, width or components.default_width)
    rows, columns = (2 * (int(side) // patch) for side in pixels)
    return rows, columns
