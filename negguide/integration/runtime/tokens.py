"""Token-space methods during a run: which self-attention outputs are pushed, and from what.

What a push is, the method says; here rows of a denoiser batch are told apart. A batch of self-attention outputs is
[branches * B, N, C]: B images for each guidance branch, the images of one prompt next to each other. Tokens are matched
inside one branch only.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any

import torch
from diffusers.models.attention import AttentionModuleMixin
from diffusers.models.attention_processor import Attention
from torch import Tensor, nn

from negguide.guidance.grid import resize_mask, token_grid
from negguide.integration.diagnostics.trace import TraceRecorder
from negguide.integration.families.base import Family, TextPlace
from negguide.integration.hooks.interception import Interceptor
from negguide.integration.runtime.attention import text_places
from negguide.integration.runtime.base import (
    DenoiserCall,
    Forward,
    Inputs,
    MethodRuntime,
    StepState,
    Targets,
)
from negguide.integration.runtime.batching import Branch, join_branches
from negguide.integration.runtime.maps import token_map
from negguide.integration.runtime.ragged_rows import image_places
from negguide.integration.runtime.references import EncodedReferences, given_apart, noised, with_latents
from negguide.integration.runtime.shared_match import SharedMatches
from negguide.methods import TokenMethod


class TokenRuntime(MethodRuntime):
    """A token-space method during one run, for all modules that it pushes.

    Args:
        method: with its family's values.
        family: of the denoiser.
        targets: for each denoiser the self-attention modules to push.
        images_per_prompt: how many consecutive images belong to one prompt; None = all of a branch.
        mask: [1, 1, h, w] float, or None. reference_mask: [R, 1, h, w] (R = 1 unless there are reference images).
        references: encoded reference images, and `scheduler`, which says how noisy they are at a step.
        at_once: how many reference images run in one forward; None = all.
        measure: also keep the fraction of tokens that each module pushes, and how far each token.
    """

    def __init__(
        self,
        method: TokenMethod,
        family: Family,
        targets: Mapping[nn.Module, Targets],
        images_per_prompt: int | None = None,
        mask: Tensor | None = None,
        reference_mask: Tensor | None = None,
        references: EncodedReferences | None = None,
        scheduler: Any = None,
        at_once: int | None = None,
        measure: bool = False,
    ) -> None:
        self.method = method
        self.family = family
        self.targets = targets
        self.images_per_prompt = images_per_prompt
        # the family's least size goes with the family's choice of blocks
        self.min_side = family.negtome_min_side if method.blocks is None else 0
        self.mask = mask
        self.reference_mask = reference_mask
        self.references = references
        self.scheduler = scheduler
        self.at_once = at_once
        self.measure = measure
        self.adds_forwards = references is not None
        self.pushes = {
            model: {name: TokenPush(self, target.places.get(name)) for name in target.modules}
            for model, target in targets.items()
        }
        self.matches = SharedMatches(method.match_every)
        self.pushing = False
        self.capturing = False
        # of the present forward: how many whole branches its rows are, where the images are told apart by that alone,
        # and how many images a branch has
        self.branches_in_forward = 1
        self.branch_sizes: set[int] = set()
        # which of the references' runs each image is pushed from, and each row of the present forward
        self.references_of: list[int] = []
        self.row_references: list[int] = []
        # how many tokens each row's text has, where the image stands right behind it
        self.row_lengths: list[int] = []
        self.state: StepState | None = None
        self._fractions: list[Tensor] = []
        self._maps: list[Tensor] = []

    def begin_step(self, state: StepState) -> None:
        """Switch the modules on or off for the step; masks go where the sample is, in its dtype."""
        self.pushing = all(state.step.inside(window) for window in self.method.windows)
        self.state = state
        self.mask = None if self.mask is None else self.mask.to(state.like)
        self.reference_mask = None if self.reference_mask is None else self.reference_mask.to(state.like)

    def before_call(self, call: DenoiserCall) -> None:
        """Run the references at this step's noise, for each module to keep its tokens."""
        if self.references is None or not self.pushing or call.branch("cond") is None:
            return
        assert self.state is not None and self.state.step.timestep is not None
        noisy = noised(self.scheduler, self.references, self.state.step.timestep)
        # where the parts of an image are to be, and what a ControlNet makes of its noise, is nothing to a reference
        sample = call.inputs[self.family.sample]
        left_out = {name: None for name in self.family.controls if name in call.inputs}
        given = {**call.inputs, **left_out}
        # an image is pushed away from references that are given what its first, unconditional, row is given: masks,
        # pictures, sizes
        like = given_apart(self.family, call.inputs, noisy, call.batch)
        runs = [
            (Branch("reference", slice(row, row + 1), self.references.text), latents)
            for row in sorted(set(like))
            for latents in noisy.split(self.at_once or len(noisy))
        ]
        self.references_of = [sorted(set(like)).index(row) for row in like]
        # where a cached model skips a module, what it kept at the last step holds on
        pushes = self.pushes[call.model]
        sizes = [len(latents) for _, latents in runs]
        kept = {push: _parts_of(push.reference, sizes) for push in pushes.values()}
        self.capturing = True
        try:
            for i, (branch, latents) in enumerate(runs):
                inputs = join_branches(self.family, given, len(sample), [branch] * len(latents))
                inputs[self.family.sample] = with_latents(
                    inputs[self.family.sample], latents, self.family.references_first
                )
                for push, parts in kept.items():
                    push.reference = parts.get(i)
                self._find_texts(inputs)
                call.forward(f"references {i}", inputs, pushes)
                for push, parts in kept.items():
                    if push.reference is not None:
                        # copied: a forward that replays CUDA graphs writes its next result into the same memory
                        parts[i] = push.reference.clone()
        finally:
            self.capturing = False
        for push, parts in kept.items():
            push.reference = torch.cat(list(parts.values())) if parts else None

    def begin_forward(self, inputs: Inputs, forward: Forward) -> Inputs:
        """Find where the text lies in this forward."""
        self._find_texts(inputs)
        self.branches_in_forward = max(1, len(inputs[self.family.sample]) // forward.batch)
        self.branch_sizes = {branch.size for branch in forward.branches}
        self.row_references = [
            self.references_of[row % forward.batch]
            for branch in forward.branches
            for row in range(branch.rows.start, branch.rows.stop)
            if self.references_of
        ]
        self.matches.forget()
        return inputs

    def _find_texts(self, inputs: Inputs) -> None:
        if self.family.text_lengths is not None:
            self.row_lengths = self.family.text_lengths(inputs)

    def interceptors(self, model: nn.Module) -> Mapping[str, Interceptor]:
        """A push by the name of each attention; empty outside the window."""
        return self.pushes[model] if self.pushing else {}

    def end_forward(self, output: Any, forward: Forward) -> Any:
        """Check that the pushes were called, and keep their statistics."""
        self.matches.forget()
        if self.pushing:
            self._check_intercepted(forward)
            self._keep_statistics(forward)
        return output

    def _check_intercepted(self, forward: Forward) -> None:
        """Refuse a run in which nothing is pushed.

        Raises:
            ValueError: every feature map was too small.
        """
        pushes = self.pushes[forward.model].values()
        largest = max(push.side for push in pushes)
        # 0: none was called, because a cached model took what they gave before
        if largest and not any(push.intercepted for push in pushes):
            raise ValueError(
                f"blocks: no self-attention of the default blocks works on a feature map at least {self.least_side} "
                f"wide at this image size (the largest is {largest}); choose blocks yourself, e.g. blocks='attn1'"
            )

    @property
    def least_side(self) -> int:
        """The least shorter side of a feature map that is pushed."""
        assert self.state is not None
        return min(self.min_side, min(self.state.latent_size) // 2)

    def _keep_statistics(self, forward: Forward) -> None:
        if not self.measure:
            return
        assert self.state is not None
        fractions, maps = [], []
        for push in self.pushes[forward.model].values():
            if push.fraction is not None and push.moved is not None:
                fractions.append(push.fraction)
                maps.append(token_map(push.moved, self.state.latent_size, self.state.frames))
            push.fraction = push.moved = None
        if not fractions:
            return
        fraction, place = torch.stack(fractions).mean(dim=0), torch.stack(maps).mean(dim=0)
        for rows in forward.whole_rows:
            self._fractions.append(fraction[rows])
            self._maps.append(place[rows])

    def record(self, recorder: TraceRecorder) -> None:
        """Give a trace how many tokens were pushed in this step, and where they are."""
        if self._fractions:
            recorder.record_pushed(torch.stack(self._fractions))
            recorder.record_token_maps(type(self.method).__name__, torch.stack(self._maps))
        self._fractions, self._maps = [], []


class TokenPush:
    """Does what a `TokenRuntime` wants around one self-attention module.

    Args:
        run: shared by all modules.
        place: where the module meets the text; None = its output is the image's tokens alone.
    """

    def __init__(self, run: TokenRuntime, place: TextPlace | None = None) -> None:
        self.run = run
        self.place = place
        self.reference: torch.Tensor | None = None
        self.fraction: torch.Tensor | None = None
        self.moved: torch.Tensor | None = None
        self.intercepted = False
        self.side = 0

    def __call__(self, processor: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """What the processor gives, with its image tokens [rows, N, C] pushed while the window is open."""
        output, run = processor(*args, **kwargs), self.run
        if not (run.pushing or run.capturing):
            return output
        # joint attention gives (image, text), or one sequence of both
        tokens = output[0] if isinstance(output, tuple) else output
        if tokens.ndim != 3:
            raise ValueError(
                f"blocks: a module gives {list(tokens.shape)} and not [rows, tokens, channels]; choose modules that do"
            )
        span = self._image_span(tokens.shape[1], alone=isinstance(output, tuple))
        # with text before it, of a length of its own in each row, the image is at another place in each
        places = self._places(tokens) if run.row_lengths and self.place == "text first" else None
        image = tokens[:, span] if places is None else tokens.gather(1, places)
        assert run.state is not None
        grid = token_grid(image.shape[1] // run.state.frames, run.state.latent_size)
        self.side = min(grid)
        if self.side < run.least_side:
            return output
        self.intercepted = True
        if run.capturing:
            self.reference = image
            return output
        pushed, fraction = self._push(image, grid)
        if run.measure:
            self.fraction = fraction
            push = torch.linalg.vector_norm((pushed - image).float(), dim=2)
            self.moved = push / torch.linalg.vector_norm(image.float(), dim=2).clamp_min(1e-12)
        if places is not None:
            pushed = tokens.scatter(1, places, pushed)
        elif image.shape[1] < tokens.shape[1]:
            pushed = torch.cat([tokens[:, : span.start], pushed, tokens[:, span.stop :]], dim=1)
        return (pushed, *output[1:]) if isinstance(output, tuple) else pushed

    def _places(self, tokens: Tensor) -> Tensor:
        """[rows, image tokens, channels] where the image's tokens are among all."""
        assert self.run.state is not None
        count = self.run.state.image_tokens[0]
        places = image_places(self.run.row_lengths, count, tokens.device)
        return places[:, :, None].expand(-1, -1, tokens.shape[2])

    def _image_span(self, tokens: int, alone: bool) -> slice:
        """Where the generated image's tokens lie: reference images' follow them, the text's may stand before."""
        assert self.run.state is not None
        image, with_references = self.run.state.image_tokens
        if self.place is None and image and tokens not in (image, with_references):
            raise ValueError(
                f"blocks: a self-attention over {tokens} tokens, which are not the image's {image}; choose modules "
                "that attend over the image"
            )
        if self.place in (None, "cross") or image == 0:
            return slice(0, image or tokens)
        start = 0 if alone or self.place == "image first" else tokens - with_references
        return slice(start, start + image)

    def _push(self, tokens: torch.Tensor, grid: tuple[int, int]) -> tuple[torch.Tensor, torch.Tensor]:
        run, method = self.run, self.run.method
        assert run.state is not None
        mask = reference_mask = None
        if run.mask is not None:
            mask = resize_mask(run.mask, grid).flatten(1).repeat(1, run.state.frames)
        if run.reference_mask is not None:
            reference_mask = resize_mask(run.reference_mask, grid).reshape(1, -1) >= 0.5
            reference_mask = reference_mask.repeat(1, run.state.frames)

        references = None if self.reference is None else self.reference.to(tokens)
        if method.match_every > 1:
            run.matches.begin_module((*tokens.shape[:2], 0 if references is None else len(references)))

        def push(source: torch.Tensor, reference: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            allowed = reference_mask
            if allowed is not None:
                allowed = allowed.repeat(1, reference.shape[1] // allowed.shape[1])
            if method.match_every == 1:
                return method.push(source, reference, mask, allowed)
            match = run.matches.match(lambda: method.match(source, reference, allowed))
            return method.push_matched(source, reference, match, mask)

        if references is not None:
            runs = references.reshape(max(run.references_of) + 1, -1, tokens.shape[2])
            return push(tokens, runs if len(runs) == 1 else runs[run.row_references])

        rows = tokens.shape[0]
        branches = run.branches_in_forward
        images = rows // branches if run.images_per_prompt is None else run.images_per_prompt
        if images < 2 or rows % images or any(size % images for size in run.branch_sizes):
            name = "num_images_per_prompt" if method.group_size is None else "group_size"
            raise ValueError(
                f"{name} is {images} for {rows} rows in {branches} guidance branches: "
                f"reference={method.reference!r} needs at least 2 images of each prompt; generate several, "
                "or give reference images"
            )
        groups = tokens.unflatten(0, (-1, images))
        if method.reference == "first":
            first = groups[:, :1]
            others = groups[:, 1:]
            # one set of reference rows for each image, without copying
            reference = first.expand_as(others)
            pushed, fraction = push(others.flatten(0, 1), reference.flatten(0, 1))
            fractions = fraction.unflatten(0, (-1, images - 1))
            unpushed = torch.zeros_like(fractions[:, :1])
            return (
                torch.cat([first, pushed.unflatten(0, (-1, images - 1))], dim=1).flatten(0, 1),
                torch.cat([unpushed, fractions], dim=1).flatten(),
            )
        if reference_mask is None:
            if method.match_every == 1:
                pushed, fraction = method.push_others(groups, mask)
            else:
                match = run.matches.match(lambda: method.match_others(groups))
                pushed, fraction = method.push_others_matched(groups, match, mask)
            return pushed.flatten(0, 1), fraction.flatten()
        # image by image: the references of all at once would be images - 1 copies of the batch
        results = []
        for image in range(images):
            rest = torch.cat([groups[:, :image], groups[:, image + 1 :]], dim=1)
            results.append(push(groups[:, image], rest.flatten(1, 2)))
        return (
            torch.stack([pushed for pushed, _ in results], dim=1).flatten(0, 1),
            torch.stack([fraction for _, fraction in results], dim=1).flatten(),
        )


def self_attention(model: nn.Module) -> dict[str, nn.Module]:
    """The self-attention modules of a diffusers model by name."""
    found = {}
    for name, module in model.named_modules():
        # classes that know self-attention only do not say so
        is_cross_attention = getattr(module, "is_cross_attention", False)
        if isinstance(module, Attention | AttentionModuleMixin) and not is_cross_attention:
            found[name] = module
    return found


def choose_blocks(modules: Mapping[str, nn.Module], blocks: str) -> dict[str, nn.Module]:
    """Those of `modules` in whose name the regular expression `blocks` is found.

    Raises:
        ValueError: when there is none, listing the names.
    """
    chosen = {name: module for name, module in modules.items() if re.search(blocks, name)}
    if not chosen:
        raise ValueError(
            f"blocks={blocks!r} is found in no self-attention module of the model; they are: {', '.join(modules)}"
        )
    return chosen


def token_targets(model: nn.Module, family: Family, method: TokenMethod) -> Targets:
    """The self-attention modules of a model that a token-space method acts in.

    Raises:
        ValueError: there is none.
    """
    blocks = family.negtome_blocks if method.blocks is None else method.blocks
    return Targets(choose_blocks(self_attention(model), blocks), text_places(model, family))


def _parts_of(reference: Tensor | None, sizes: list[int]) -> dict[int, Tensor]:
    return {} if reference is None else dict(enumerate(reference.split(sizes)))
