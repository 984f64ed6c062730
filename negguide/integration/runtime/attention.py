"""Attention-space methods during a run: prompt and negatives attended side by side, and what becomes of the two.

The denoiser gets the negatives' text appended to the prompt's, [prompt | negative 1 | .. | negative K] along the token
axis; everything in a model between two attentions works token by token, so they do not meet. In attention they would:
there the call of `scaled_dot_product_attention` is intercepted. Each text sees, and is seen by, the image alone, as if
it were the only one, and the method makes of the outputs of the generated image's tokens what it wants; tokens of
reference images and of padding stay as they are. In joint attention every text so keeps a stream of its own through the
blocks, while the image's stream, the large part, is computed once.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from diffusers.models.attention import AttentionModuleMixin
from diffusers.models.attention_processor import Attention
from torch import Tensor, nn

from negguide.integration.diagnostics.trace import TraceRecorder
from negguide.integration.families.base import Family, TextPlace, TextsBefore, nested_input, with_inputs
from negguide.integration.hooks.interception import Interceptor
from negguide.integration.runtime.attention_patch import AppendedTexts, AttentionPatch, RowTexts
from negguide.integration.runtime.base import Forward, Inputs, MethodRuntime, StepState, Targets
from negguide.integration.runtime.batching import (
    Branch,
    all_rows,
    image_mask,
    join_branches,
    row_shape,
)
from negguide.integration.runtime.causal_text import CausalTextPatch, CausalTexts
from negguide.integration.runtime.counted_text import CountedTextPatch
from negguide.integration.runtime.maps import token_map
from negguide.integration.runtime.places import Places
from negguide.integration.runtime.prompt_rows import prompt_rows
from negguide.integration.runtime.ragged_rows import RaggedRowTexts, filled_up
from negguide.integration.runtime.slots import Slot, alike_texts, slot_text, slots_of
from negguide.methods import AttentionMethod


class AttentionRuntime(MethodRuntime):
    """An attention-space method during one run, for all modules that meet the text.

    Args:
        method: what the user asked for.
        family: of the denoiser.
        text: for each negative {text input: [1, tokens, ..], or [tokens, ..] of positions}; other inputs are ignored.
        targets: for each denoiser the attention modules that meet the text.
        images_per_prompt: consecutive images of one prompt, for negatives of a prompt's own.
        masks: [K, 1, h, w] float, or None when no negative has one.
        measure: also keep how much each module's image tokens are changed.
    """

    def __init__(
        self,
        method: AttentionMethod,
        family: Family,
        text: Sequence[Mapping[str, Any]],
        targets: Mapping[nn.Module, Targets],
        images_per_prompt: int = 1,
        masks: Tensor | None = None,
        measure: bool = False,
    ) -> None:
        self.method = method
        self.family = family
        self.text = text
        self.targets = targets
        self.images_per_prompt = images_per_prompt
        self.masks = masks
        self.measure = measure
        self.patches = {
            model: {
                name: _patch_class(family, target.modules[name])(self, name, place)
                for name, place in target.places.items()
            }
            for model, target in targets.items()
        }
        # how an attention holds the texts
        rows: Any = RowTexts if family.text_lengths is None else RaggedRowTexts
        appended = AppendedTexts if family.texts_before is None else CausalTexts
        self.texts: Any = rows if family.negative_rows else appended
        self.state: StepState | None = None
        # of the present step: which negatives act, and those of different prompts side by side
        self.active: tuple[int, ...] = ()
        self.slots: list[Slot] = []
        # by the negatives that act: texts are compared once, which waits for a GPU
        self._known_slots: dict[tuple[int, ...], list[Slot]] = {}
        # of the present forward: whether it carries the negatives' text, the prompt's tokens, the guided rows, and
        # where negatives that are rows of their own begin
        self.on = False
        self.prompt_tokens = 0
        self.rows = (0, 0)
        self.total = 0
        # of rows whose texts have lengths of their own
        self.row_lengths: list[int] = []
        # of rows whose images stand behind the text
        self.places: Places | None = None
        # of texts that never see the image
        self.before: TextsBefore | None = None
        self._changes: list[Tensor] = []
        self._maps: list[Tensor] = []

    def begin_step(self, state: StepState) -> None:
        """Choose the negatives of the step."""
        self.active = tuple(
            k
            for k, (negative, window) in enumerate(
                zip(self.method.negatives, self.method.windows, strict=True)
            )
            if not negative.off and state.step.inside(window)
        )
        self.slots = self._slots(self.active)
        self.state = state
        self.on = False

    def _slots(self, acting: tuple[int, ...]) -> list[Slot]:
        def alike(one: int, other: int) -> bool:
            return alike_texts(self.family, self.text[one], self.text[other])

        if acting not in self._known_slots:
            self._known_slots[acting] = slots_of(self.method.negatives, acting, alike)
        return self._known_slots[acting]

    @property
    def negative_tokens(self) -> tuple[int, ...]:
        """How many tokens the text of each slot has."""
        path = next(iter(self.family.text))
        return tuple(self.text[slot[0]][path].shape[1] for slot in self.slots)

    def joined_rows(self) -> int:
        """One branch for each slot of negatives, where the model has each in rows of its own."""
        return len(self.slots) if self.family.negative_rows else 0

    def most_joined_rows(self) -> int:
        """The same when all negatives act."""
        return len(self._slots(tuple(range(len(self.text))))) if self.family.negative_rows else 0

    def cache_key(self, forward: Forward) -> str | None:
        """Which negatives act in this forward; None = none does."""
        acts = self.active and forward.rows_of("cond") is not None
        return f"with negatives {self.active}" if acts else None

    def begin_forward(self, inputs: Inputs, forward: Forward) -> Inputs:
        """The inputs with the acting negatives' text; they act on the rows of the conditional branch."""
        rows = forward.rows_of("cond")
        self.on = bool(self.active) and rows is not None
        if not self.on or rows is None:
            return inputs
        self.rows, self.total = (rows.start, rows.stop), len(inputs[self.family.sample])
        for k in self.active:
            # refused here, before the model runs
            self.own_rows(k)
        if self.family.negative_rows:
            batch = rows.stop - rows.start
            # the copies of the image stay copies only with the prompt's own pooled text
            texts: Sequence[Mapping[str, Any]] = [
                {path: self._slot_text(slot, path, batch) for path in self._text_paths(slot)}
                for slot in self.slots
            ]
            if self.family.text_lengths is not None:
                inputs, texts = filled_up(self.family, inputs, texts)
            self._check_shapes(inputs, texts)
            negatives = [Branch("negative", rows, text) for text in texts]
            present = Branch("all", slice(0, self.total))
            joined = join_branches(self.family, inputs, self.total, [present, *negatives])
            if self.family.text_lengths is not None:
                self.row_lengths = self.family.text_lengths(joined)
            if self.family.image_behind_text is not None:
                self.places = Places.of(self.family.image_behind_text, forward.model, joined)
            for name in self.family.deferred:
                joined[name] = replace(joined[name], change=self._copied)
            return joined
        self.prompt_tokens = nested_input(inputs, next(iter(self.family.text))).shape[1]
        extended = {
            path: self._extended(inputs, path) for path, axis in self.family.text.items() if axis != "pooled"
        }
        changes = {path: value for path, value in extended.items() if value is not None}
        if self.family.texts_before is not None:
            texts = [self.text[k] for (k,) in self.slots]
            self.before = self.family.texts_before(forward.model, inputs, texts)
            changes |= self.before.changes
        return with_inputs(inputs, changes)

    def _text_paths(self, slot: Slot) -> list[str]:
        return [path for path in self.text[slot[0]] if self.family.text[path] != "pooled"]

    def _slot_text(self, slot: Slot, path: str, rows: int, first: int = 0) -> Any:
        """A text input of a slot's negatives for each of `rows`; the guided ones begin at `first`."""
        texts = []
        for k in slot:
            own = self.own_rows(k) or slice(0, self.rows[1] - self.rows[0])
            texts.append((slice(first + own.start, first + own.stop), self.text[k]))
        return slot_text(self.family, path, texts, rows)

    def _check_shapes(self, inputs: Inputs, texts: Sequence[Mapping[str, Any]]) -> None:
        """Refuse texts that are not as long as the prompt's, in whose batch they are.

        Raises:
            ValueError: naming the negative, the input, its shape and what would be right.
        """
        for (k, *_), text in zip(self.slots, texts, strict=True):
            for path, value in text.items():
                own, right = (
                    row_shape(self.family, path, one) for one in (value, nested_input(inputs, path))
                )
                if own is not None and right is not None and own != right:
                    raise ValueError(
                        f"Negative({self.method.negatives[k].prompt!r}) has {path} of shape {list(own)}, and the "
                        f"prompt's is {list(right)}: {self.family.name} runs the two in one batch, as rows that "
                        f"{type(self.method).__name__} needs to be alike; encode both with one max_sequence_length"
                    )

    def _copied(self, residuals: Mapping[Any, Tensor]) -> dict[Any, Tensor]:
        """What a ControlNet adds: to the copies of the image beside negatives, what it adds to the prompt's image."""
        assert self.state is not None
        tokens, rows = self.state.image_tokens[1], slice(*self.rows)
        changed = {}
        for layer, added in residuals.items():
            changed[layer] = added.clone()
            for start in range(self.total, len(added), rows.stop - rows.start):
                changed[layer][start : start + rows.stop - rows.start, :tokens] = added[rows, :tokens]
        return changed

    def _extended(self, inputs: Inputs, path: str) -> Tensor | None:
        """A text input with the negatives' behind the prompt's."""
        present = nested_input(inputs, path)
        over_image = self.family.text[path] == "tokens, image"
        if over_image and present is not None:
            present = all_rows(present, len(inputs[self.family.sample]))[:, : self.prompt_tokens]
        rows = next(len(nested_input(inputs, name)) for name in self.family.text)
        negatives = [self._slot_text(slot, path, rows, self.rows[0]) for slot in self.slots]
        given = [part for part in (present, *negatives) if part is not None]
        if not given:
            return None
        if self.family.text[path] == "positions":
            return torch.cat([present, *(negative.to(present) for negative in negatives)])
        parts = []
        for part, tokens in zip(
            (present, *negatives), (self.prompt_tokens, *self.negative_tokens), strict=True
        ):
            # a mask that is left out lets everything through
            part = given[0].new_ones(1, tokens) if part is None else part.to(given[0])
            parts.append(part.expand(rows, *part.shape[1:]))
        if over_image:
            parts.append(image_mask(self.family, inputs, path, parts[0]))
        return torch.cat(parts, dim=1)

    def interceptors(self, model: nn.Module) -> Mapping[str, Interceptor]:
        """A patch by the name of each attention of the model; empty where no negative acts."""
        if not self.on:
            return {}
        for patch in self.patches[model].values():
            patch.called = False
        return self.patches[model]

    def end_forward(self, output: Any, forward: Forward) -> Any:
        """The denoiser's output without the rows of the negatives."""
        if not self.on:
            return output
        patches = self.patches[forward.model].values()
        missed = [patch.name for patch in patches if patch.called and not patch.intercepted]
        if missed:
            raise ValueError(
                f"{type(self.method).__name__} takes over torch's scaled_dot_product_attention, but {missed[0]} (one "
                f"of {len(missed)}) computes attention by other means; use diffusers' default attention processors and "
                "its attention backend 'native' (model.set_attention_backend('native'))"
            )
        self._keep_statistics(forward)
        return (output[0][: self.total], *output[1:]) if self.family.negative_rows else output

    def _keep_statistics(self, forward: Forward) -> None:
        if not self.measure:
            return
        assert self.state is not None
        changes, maps = [], []
        for patch in self.patches[forward.model].values():
            if patch.change is not None and patch.moved is not None:
                changes.append(patch.change)
                maps.append(token_map(patch.moved, self.state.latent_size, self.state.frames))
            patch.change = patch.moved = None
        if changes:
            self._changes.append(torch.stack(changes).mean(dim=0))
            self._maps.append(torch.stack(maps).mean(dim=0))

    def record(self, recorder: TraceRecorder) -> None:
        """Give a trace the changes of this step, and where they are."""
        if self._changes:
            recorder.record_changed(self._changes[0])
            recorder.record_token_maps(type(self.method).__name__, torch.stack(self._maps))
        self._changes, self._maps = [], []

    def own_rows(self, k: int) -> slice | None:
        """Of the guided rows, those that negative k belongs to; None = all."""
        negative, (start, stop) = self.method.negatives[k], self.rows
        if negative.prompt_index is None:
            return None
        return prompt_rows(negative, self.images_per_prompt, stop - start)


def _patch_class(family: Family, module: nn.Module) -> type[AttentionPatch]:
    if family.texts_before is not None:
        return CausalTextPatch
    return CountedTextPatch if family.counts_text(module) else AttentionPatch


def text_places(model: nn.Module, family: Family) -> dict[str, TextPlace]:
    """The attention modules of a model that meet the text, by name, and where they do.

    Raises:
        ValueError: when there is none.
    """
    places: dict[str, TextPlace] = {}
    for name, module in model.named_modules():
        if isinstance(module, Attention | AttentionModuleMixin):
            for pattern, place in family.attention:
                if re.search(pattern, name):
                    places[name] = place
    if not places:
        raise ValueError(f"this {type(model).__name__} has no attention that meets the text of {family.name}")
    return places


def text_targets(model: nn.Module, family: Family) -> Targets:
    """The attention modules of a model in which an attention-space method acts."""
    places = text_places(model, family)
    return Targets({name: model.get_submodule(name) for name in places}, places)
