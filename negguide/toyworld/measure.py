"""Compare what was asked for with what the judge sees."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from diffusers import DiffusionPipeline
from PIL import Image

from negguide.toyworld.scene import ABSENT, ACCESSORIES, ANY_COLOR, Scene


def agreement(said: Scene, seen: Scene) -> Mapping[str, bool]:
    """For everything that ``said`` fixes: is it so in ``seen``?

    Keys are "count", "background", and for every character from the left "kind", "fur", "view" and the
    accessories, with the place appended ("kind0", "hat1"). An accessory is right when it is worn in the colour that
    was said, or not worn where "without" was said. With another number of characters than said, everything about the
    characters counts as wrong.
    """
    facts: dict[str, bool] = {}
    if said.background is not None:
        facts["background"] = seen.background == said.background
    if said.characters:
        facts["count"] = seen.count == said.count
    for place, wanted in enumerate(said.left_to_right):
        found = seen.left_to_right[place] if seen.count == said.count else None
        for name in ("kind", "fur", "view", *ACCESSORIES):
            value = getattr(wanted, name)
            if value is None:
                continue
            got = getattr(found, name) if found is not None else None
            if value == ABSENT:
                facts[f"{name}{place}"] = found is not None and got is None
            else:
                facts[f"{name}{place}"] = got is not None if value == ANY_COLOR else got == value
    return facts


def draw(
    pipe: DiffusionPipeline,
    prompts: Sequence[str],
    seeds: Sequence[int],
    *,
    batch_size: int = 50,
    steps: int = 25,
    guidance_scale: float = 4.0,
    **arguments: object,
) -> list[Image.Image]:
    """One image for every prompt; image i starts from ``seeds[i]`` alone, so it does not depend on the batch.

    Further ``arguments`` are of the pipeline's call; a list among them, such as of negative prompts, has an item for
    every prompt.
    """
    images: list[Image.Image] = []
    for start in range(0, len(prompts), batch_size):
        chosen = slice(start, start + batch_size)
        generators = [torch.Generator("cpu").manual_seed(seed) for seed in seeds[chosen]]
        own = {name: value[chosen] if isinstance(value, list) else value for name, value in arguments.items()}
        images += pipe(
            list(prompts[chosen]),
            generator=generators,
            num_inference_steps=steps,
            guidance_scale=guidance_scale,
            **own,
        ).images
    return images
