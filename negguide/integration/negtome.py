"""NegToMe inside a denoiser: which self-attention outputs are pushed, and from what.

The mathematics is `negguide.guidance.negtome`; here rows of a denoiser batch are told apart. A batch of self-attention
outputs is [branches * B, N, C]: B images for each guidance branch, the images of one prompt next to each other.
Tokens are matched inside one branch only.

What runs inside the model's forward reads plain Python values that change only with the phase of a run (before, in,
after the window), so that a compiled denoiser is compiled once for each phase and not at each step.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from diffusers.models.attention import AttentionModuleMixin
from diffusers.models.attention_processor import Attention
from torch import nn

from negguide.guidance import active, negtome_and_share, negtome_others
from negguide.integration.family import Family, TextPlace
from negguide.integration.images import resize_mask, token_grid
from negguide.integration.maps import token_map
from negguide.methods import NegToMe


class NegToMeRun:
    """What all pushed modules of one denoiser share during a run.

    Args:
        method: what the user asked for, with its values (see `suited`).
        images_per_prompt: how many consecutive images belong to one prompt; None = all of a branch.
        min_side: least shorter side of a feature map that is pushed (see `Family.negtome_min_side`).
        measure: also keep the share of tokens that each module pushes, and how far each token.
        mask: [1, 1, h, w] float, or None. reference_mask: [R, 1, h, w] (R = 1 unless there are reference images).
    """

    def __init__(
        self,
        method: NegToMe,
        images_per_prompt: int | None,
        min_side: int = 0,
        measure: bool = False,
        mask: torch.Tensor | None = None,
        reference_mask: torch.Tensor | None = None,
    ) -> None:
        assert method.threshold is not None
        self.method = method
        self.threshold = method.threshold
        self.images_per_prompt = images_per_prompt
        self.min_side = min_side
        self.measure = measure
        self.mask = mask
        self.reference_mask = reference_mask
        self.modules: list[TokenPush] = []
        self.pushing = False
        self.capturing = False
        self.branches = 1
        self.latent_size = (0, 0)
        # of a video; and of models without feature maps: image tokens, and those with reference images' behind them
        self.frames = 1
        self.image_tokens = (0, 0)

    def begin_step(self, step: int, num_steps: int, latent_size: tuple[int, int], like: torch.Tensor) -> None:
        """Switch the modules on or off for step `step` of `num_steps`; masks go where `like` is, in its dtype."""
        self.pushing = active(*self.method.window, step, num_steps)
        self.latent_size = latent_size
        self.mask = None if self.mask is None else self.mask.to(like)
        self.reference_mask = None if self.reference_mask is None else self.reference_mask.to(like)

    def check_reached(self) -> None:
        """Refuse a run in which nothing is pushed.

        Raises:
            ValueError: after a forward with the modules on in which every feature map was too small.
        """
        largest = max(module.side for module in self.modules)
        # 0: none was called, i.e. the attention processors are no longer there
        if largest and not any(module.reached for module in self.modules):
            raise ValueError(
                f"blocks: no self-attention of the default blocks works on a feature map at least {self._least_side()} "
                f"wide at this image size (the largest is {largest}); choose blocks yourself, e.g. blocks='attn1'"
            )

    def _least_side(self) -> int:
        return min(self.min_side, min(self.latent_size) // 2)

    def take_shares(self) -> torch.Tensor | None:
        """[rows] share of tokens pushed in the last forward, averaged over the modules that pushed.

        None when none of them ran, because a cached model took what they gave before.
        """
        shares = [module.share for module in self.modules if module.share is not None]
        for module in self.modules:
            module.share = None
        return torch.stack(shares).mean(dim=0) if shares else None

    def take_maps(self) -> torch.Tensor | None:
        """[rows, h, w] |push| / |token| over the latents in the last forward, mean over the modules that pushed."""
        maps = [
            token_map(m.moved, self.latent_size, self.frames) for m in self.modules if m.moved is not None
        ]
        for module in self.modules:
            module.moved = None
        return torch.stack(maps).mean(dim=0) if maps else None


class TokenPush:
    """Applies a `NegToMeRun` around one self-attention module.

    Args:
        run: shared by all modules.
        place: where the module meets the text; None = its output is the image's tokens alone.
    """

    def __init__(self, run: NegToMeRun, place: TextPlace | None = None) -> None:
        self.run = run
        self.place = place
        self.reference: torch.Tensor | None = None
        self.share: torch.Tensor | None = None
        self.moved: torch.Tensor | None = None
        self.reached = False
        self.side = 0
        run.modules.append(self)

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
        image = tokens[:, span]
        grid = token_grid(image.shape[1] // run.frames, run.latent_size)
        self.side = min(grid)
        if self.side < run._least_side():
            return output
        self.reached = True
        if run.capturing:
            self.reference = image
            return output
        pushed, share = self._push(image, grid)
        if run.measure:
            self.share = share
            push = torch.linalg.vector_norm((pushed - image).float(), dim=2)
            self.moved = push / torch.linalg.vector_norm(image.float(), dim=2).clamp_min(1e-12)
        if image.shape[1] < tokens.shape[1]:
            pushed = torch.cat([tokens[:, : span.start], pushed, tokens[:, span.stop :]], dim=1)
        return (pushed, *output[1:]) if isinstance(output, tuple) else pushed

    def _image_span(self, tokens: int, alone: bool) -> slice:
        """Where the generated image's tokens lie: reference images' follow them, the text's may stand before."""
        image, with_references = self.run.image_tokens
        if self.place in (None, "cross") or image == 0:
            return slice(0, image or tokens)
        start = 0 if alone or self.place == "image first" else tokens - with_references
        return slice(start, start + image)

    def _push(self, tokens: torch.Tensor, grid: tuple[int, int]) -> tuple[torch.Tensor, torch.Tensor]:
        run, method = self.run, self.run.method
        mask = reference_mask = None
        if run.mask is not None:
            mask = resize_mask(run.mask, grid).flatten(1).repeat(1, run.frames)
        if run.reference_mask is not None:
            reference_mask = resize_mask(run.reference_mask, grid).reshape(1, -1) >= 0.5
            reference_mask = reference_mask.repeat(1, run.frames)

        def push(source: torch.Tensor, reference: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            allowed = reference_mask
            if allowed is not None:
                allowed = allowed.repeat(1, reference.shape[1] // allowed.shape[1])
            return negtome_and_share(
                source,
                reference,
                method.alpha,
                run.threshold,
                source_mask=mask,
                reference_mask=allowed,
                center=method.center,
                max_push=method.max_push,
            )

        if self.reference is not None:
            return push(tokens, self.reference.to(tokens).reshape(1, -1, tokens.shape[2]))

        rows = tokens.shape[0]
        images = rows // run.branches if run.images_per_prompt is None else run.images_per_prompt
        if images < 2 or rows % (run.branches * images):
            raise ValueError(
                f"num_images_per_prompt is {images} for {rows} rows in {run.branches} guidance branches: "
                f"reference={method.reference!r} needs at least 2 images of each prompt; generate several, "
                "or give reference images"
            )
        groups = tokens.unflatten(0, (-1, images))
        if method.reference == "first":
            first = groups[:, :1]
            others = groups[:, 1:]
            # one set of reference rows for each image, without copying
            reference = first.expand_as(others)
            pushed, share = push(others.flatten(0, 1), reference.flatten(0, 1))
            shares = share.unflatten(0, (-1, images - 1))
            unpushed = torch.zeros_like(shares[:, :1])
            return (
                torch.cat([first, pushed.unflatten(0, (-1, images - 1))], dim=1).flatten(0, 1),
                torch.cat([unpushed, shares], dim=1).flatten(),
            )
        if reference_mask is None:
            pushed, share = negtome_others(
                groups,
                method.alpha,
                run.threshold,
                source_mask=mask,
                center=method.center,
                max_push=method.max_push,
            )
            return pushed.flatten(0, 1), share.flatten()
        # image by image: the references of all at once would be images - 1 copies of the batch
        results = []
        for image in range(images):
            rest = torch.cat([groups[:, :image], groups[:, image + 1 :]], dim=1)
            results.append(push(groups[:, image], rest.flatten(1, 2)))
        return (
            torch.stack([pushed for pushed, _ in results], dim=1).flatten(0, 1),
            torch.stack([share for _, share in results], dim=1).flatten(),
        )


def suited(method: NegToMe, family: Family) -> NegToMe:
    """The method with the family's own threshold and stop where it gives none.

    Raises:
        ValueError: its start is not before the family's stop.
    """
    return replace(
        method,
        threshold=family.negtome_threshold if method.threshold is None else method.threshold,
        stop=family.negtome_stop if method.stop is None else method.stop,
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
