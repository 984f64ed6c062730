"""Where NegToMe acts in the models that ComfyUI samples with: one adapter each."""

from typing import Any

from torch import Tensor

from .negtome import Adapter, Pushes


def adapter_for(model: Any) -> Adapter:
    """Of the first class of a denoiser that has one.

    Raises:
        ValueError: there is none.
    """
    for kind in type(model).__mro__:
        if kind.__name__ in ADAPTERS:
            return ADAPTERS[kind.__name__]
    raise ValueError(
        f"NegToMe does not know models of the class {type(model).__name__}; it knows {', '.join(ADAPTERS)}"
    )


def unet(pushes: Pushes) -> Any:
    """Stable Diffusion 1, 2, XL and their kin: the self-attentions of the up blocks, on large feature maps.

    The choice published for SDXL at 1024 pixels, whose latents are 128 wide.
    """
    call = pushes.call

    def push(n: Tensor, extra: dict[str, Any]) -> Tensor:
        block = extra.get("block") or ("", 0)
        if block[0] != "output":
            return n
        shape = extra["activations_shape"]
        side = min(shape[-2:])
        pushes.largest = max(pushes.largest, side)
        if side < pushes.least_side:
            return n
        # [rows, tokens, channels]; one attention may hold several transformer blocks
        return pushes((*block, extra.get("block_index", 0)), n)

    call.add_patch("attn1_output_patch", push)
    return call()


ADAPTERS: dict[str, Adapter] = {"UNetModel": unet}
"""{class of the denoiser: adapter}"""
