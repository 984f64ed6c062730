"""How a modular pipeline encodes text, found among its blocks, and negatives encoded the same way."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from diffusers.modular_pipelines import PipelineState, SequentialPipelineBlocks
from torch import Tensor, nn

from negguide.integration.families import Family, Modular, modular_families
from negguide.integration.modular.unsupported import UNSUPPORTED
from negguide.integration.runtime.embeddings import check_embeds
from negguide.integration.runtime.prepare import denoisers_of, prompts_of
from negguide.integration.runtime.prompt_rows import check_prompt_index
from negguide.integration.runtime.token_budget import check_negative
from negguide.methods import Negative

Encoded = Mapping[str, Any]
"""What the text encoder step gives for one text, by the names that it has for it: [1, ..], or a list of one tensor."""


def known_family(blocks: Any) -> tuple[Family, Modular]:
    """The family of a modular pipeline's blocks.

    Raises:
        ValueError: there is none, and where it is known why.
    """
    name, families = blocks.model_name, modular_families()
    if name in families:
        return families[name]
    if name in UNSUPPORTED:
        raise ValueError(f"modular pipelines of {name!r} cannot have negatives: {UNSUPPORTED[name]}")
    raise ValueError(
        f"negguide does not know modular pipelines of {name!r}; supported: {', '.join(families)}. "
        "negguide.register_family makes others known"
    )


def encodes_text(block: Any, modular: Modular) -> bool:
    """Whether a block is the text encoder step, or has it in it."""
    names = block.intermediate_output_names
    # with further steps to finish it, the encoder's own outputs are called otherwise
    made = any("prompt_embeds" in name for name in names) if modular.text_steps else "prompt_embeds" in names
    return "prompt" in block.input_names and made


def text_step(blocks: Any, modular: Modular, inside: tuple[type, ...]) -> Any:
    """The step that makes embeddings of a prompt, with all that it does to images beside it.

    Args:
        inside: classes of the blocks that ask: one of them may stand beside the step in a sequence, which is then not
            taken as a whole.

    Raises:
        ValueError: there is none.
    """
    for block in blocks.sub_blocks.values():
        if isinstance(block, inside) or not encodes_text(block, modular):
            continue
        asks = any(isinstance(part, inside) for part in _parts(block))
        return (
            text_step(block, modular, inside)
            if asks and isinstance(block, SequentialPipelineBlocks)
            else block
        )
    raise ValueError(
        f"{type(blocks).__name__} has no step that makes prompt_embeds of prompt, with which negatives are encoded"
    )


def _parts(block: Any) -> Iterator[Any]:
    for part in block.sub_blocks.values():
        yield part
        yield from _parts(part)


class TextEncoder:
    """Encodes negatives as the pipeline of one run encodes its prompt.

    Args:
        components: of the run.
        state: of the run.
        inside: see `text_step`.

    Attributes:
        values: what the pipeline is told when it encodes a negative; those of the run unless a method says otherwise.

    Raises:
        ValueError: a pipeline that is not supported, or without a text encoder step.
    """

    def __init__(self, components: Any, state: PipelineState, inside: tuple[type, ...]) -> None:
        self.components = components
        self.state = state
        self.values: Mapping[str, Any] = state.values
        self.family, self.modular = known_family(components._blocks)
        self.step = text_step(components._blocks, self.modular, inside)
        self._encoded: dict[str, Encoded] = {}

    @property
    def models(self) -> list[nn.Module]:
        """The denoisers."""
        return denoisers_of(self.components, self.family)

    def check(self, negatives: Sequence[Negative], who: str, pooled: bool = True) -> None:
        """Refuse negatives that the pipeline cannot honour, before any model runs.

        Args:
            who: for the message, encodes them.
            pooled: whether embeddings without a token axis are needed.

        Raises:
            ValueError: naming the negative and what would be right.
        """
        reader, values = self.modular.reader(self.components), self.values
        self.modular.check(values)
        for negative in negatives:
            if negative.mask is not None and not self.modular.places:
                raise ValueError(
                    f"mask of Negative({negative.prompt!r}) cannot be placed in modular pipelines of "
                    f"{self.modular.model_name!r}, whose predictions do not show where a token lies; leave it out"
                )
            if negative.embeds is None:
                self._check_loaded(who)
            check_embeds(self.family, negative, self.models, pooled=pooled)
            check_negative(reader, self.family, values, negative)
            check_prompt_index(negative, prompts_of(values))

    def _check_loaded(self, who: str) -> None:
        names = [name for name in self.step.component_names if name.startswith("text_encoder")]
        if names and all(getattr(self.components, name, None) is None for name in names):
            raise ValueError(
                f"{who} needs the pipeline's {names[0]} to encode negatives, and it is None; put it back, or give "
                "Negative(embeds=...)"
            )

    def encode(self, negative: Negative) -> Encoded:
        """One negative, by the pipeline itself or as it was given."""
        if negative.embeds is not None:
            return self._given(negative)
        if negative.prompt not in self._encoded:
            self._encoded[negative.prompt] = self._of_words(negative.prompt)
        return self._encoded[negative.prompt]

    def _of_words(self, prompt: str) -> Encoded:
        """A text as the pipeline encodes a prompt, in a copy of its state."""
        values = {name: None if _is_text(name) else value for name, value in self.values.items()}
        kinds = {kind: list(names) for kind, names in self.state.kwargs_mapping.items()}
        state = PipelineState(values={**values, "prompt": prompt}, kwargs_mapping=kinds)
        finishing = [self._part(name) for name in self.modular.text_steps]
        for step in (self.step, *finishing):
            _, state = step(self.components, state)
        # some repeat a prompt for each of its images themselves
        return {name: _first(state.get(name)) for name in self.family.embeds.values()}

    def _part(self, name: str) -> Any:
        for part in _parts(self.components._blocks):
            if type(part).__name__ == name:
                return part
        raise ValueError(
            f"{type(self.components._blocks).__name__} has no step {name}, with which text is encoded"
        )

    def _given(self, negative: Negative) -> Encoded:
        lists = {self.family.embeds[path] for path in self.family.row_lists if path in self.family.embeds}
        return {
            name: [value[0]] if name in lists and value is not None else value
            for name in self.family.embeds.values()
            for value in (negative.encoded.get(name),)
        }

    def guider_fields(self, encoded: Encoded) -> dict[str, Any]:
        """A text as the fields that go through the guider."""
        return {
            field: encoded.get(source) if isinstance(source, str) else source(encoded)
            for field, source in self.modular.fields.items()
        }

    def inputs(self, encoded: Encoded) -> dict[str, Any]:
        """A text as inputs of the denoiser, {text input: [1, ...], or [tokens, ..] of positions}."""
        family = self.family
        return {
            path: family.derived[path](encoded["prompt_embeds"])
            if path in family.derived
            else encoded.get(family.embeds[path])
            for path in family.text
        }


def _first(value: Any) -> Any:
    return value[:1] if isinstance(value, Tensor | list) else value


def _is_text(name: str) -> bool:
    return name.startswith(("prompt", "negative_prompt"))
