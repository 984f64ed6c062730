"""Where NegToMe acts in the models that ComfyUI samples with: one adapter each."""

from collections.abc import Callable
from typing import Any

from torch import Tensor

from .negtome import Adapter, Pushes


def adapter_for(model: Any) -> Adapter:
    """Of the class of a denoiser.

    Raises:
        ValueError: there is none.
    """
    # not their subclasses: those change what happens to the tokens
    adapter = ADAPTERS.get(type(model).__name__)
    if adapter is not None:
        return adapter
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


def flux(pushes: Pushes) -> Any:
    """FLUX.1 and Kontext: all blocks, as published; FLUX.2, whose later blocks are most of it: the first ones.

    Tokens of reference images stay as they are.
    Behind the projection of the attention in the first blocks; in the later ones, where attention and feed-forward
    share one projection, in front of it.
    """
    model = pushes.call.model
    own = _patches(pushes, model.patch_size)
    with _Hooks(pushes) as hooks:
        for i, block in enumerate(model.double_blocks):
            hooks.behind(("double", i), block.img_attn.proj, lambda tokens: slice(0, own))
        # these have the text in front; how much of it is known from how many tokens the images had before
        later = [] if model.params.global_modulation else model.single_blocks
        for i, block in enumerate(later):
            hooks.before(
                ("single", i),
                block.linear2,
                lambda tokens: slice(tokens - hooks.seen, tokens - hooks.seen + own),
                model.hidden_size,
            )
        return pushes.call()


def sd3(pushes: Pushes) -> Any:
    """Stable Diffusion 3 and 3.5: the joint attention of every block, and not the second one of the image alone."""
    own = _patches(pushes, pushes.call.model.patch_size)
    with _Hooks(pushes) as hooks:
        for i, block in enumerate(pushes.call.model.joint_blocks):
            hooks.behind(i, block.x_block.attn.proj, lambda tokens: slice(0, own))
        return pushes.call()


def qwen_image(pushes: Pushes) -> Any:
    """Qwen-Image, and Qwen-Image-Edit, whose reference images stay as they are: every block."""
    own = _patches(pushes, pushes.call.model.patch_size) * pushes.frames
    with _Hooks(pushes) as hooks:
        for i, block in enumerate(pushes.call.model.transformer_blocks):
            hooks.behind(i, block.attn.to_out[0], lambda tokens: slice(0, own))
        return pushes.call()


def wan(pushes: Pushes) -> Any:
    """Wan: the self-attention of every block."""
    own = _patches(pushes, pushes.call.model.patch_size[1]) * pushes.frames
    with _Hooks(pushes) as hooks:
        for i, block in enumerate(pushes.call.model.blocks):
            hooks.behind(i, block.self_attn.o, lambda tokens: _all_of(tokens, own))
        return pushes.call()


def next_dit(pushes: Pushes) -> Any:
    """Z-Image and Lumina 2: every block behind the refiners, where the image stands behind the caption."""
    call = pushes.call
    if call.arguments.get("kwargs", call.arguments).get("ref_latents"):
        raise ValueError("NegToMe does not know reference images of Z-Image; take them out")
    own = _patches(pushes, call.model.patch_size)
    multiple = getattr(call.model, "pad_tokens_multiple", None) or 1
    filled = -(-own // multiple) * multiple
    with _Hooks(pushes) as hooks:
        for i, layer in enumerate(call.model.layers):
            hooks.behind(i, layer.attention.out, lambda tokens: slice(tokens - filled, tokens - filled + own))
        return call()


class _Hooks:
    """Hooks of modules during one call of the denoiser; every one must come to act."""

    def __init__(self, pushes: Pushes) -> None:
        self._pushes = pushes
        self._handles: list[Any] = []
        self._acted: set[Any] = set()
        self._places: set[Any] = set()
        self.seen = 0
        """How many tokens the last module had."""

    def behind(self, place: Any, module: Any, span: Callable[[int], slice]) -> None:
        """Push what a module gives, [rows, tokens, channels]."""

        def hook(module: Any, inputs: Any, output: Tensor) -> Tensor:
            self.seen = output.shape[1]
            return self._pushed(place, output, span(output.shape[1]), output.shape[2])

        self._places.add(place)
        self._handles.append(module.register_forward_hook(hook))

    def before(self, place: Any, module: Any, span: Callable[[int], slice], channels: int) -> None:
        """Push the first channels of what a module takes."""

        def hook(module: Any, inputs: Any) -> Any:
            return (self._pushed(place, inputs[0], span(inputs[0].shape[1]), channels), *inputs[1:])

        self._places.add(place)
        self._handles.append(module.register_forward_pre_hook(hook))

    def _pushed(self, place: Any, tokens: Tensor, span: slice, channels: int) -> Tensor:
        self._acted.add(place)
        result = tokens.clone()
        result[:, span, :channels] = self._pushes(place, tokens[:, span, :channels])
        return result

    def __enter__(self) -> "_Hooks":
        return self

    def __exit__(self, kind: Any, *_: Any) -> None:
        for handle in self._handles:
            handle.remove()
        if kind is None and self._acted != self._places:
            raise ValueError(
                f"NegToMe: {len(self._places - self._acted)} of {len(self._places)} blocks of the model ran by other "
                "means than ComfyUI's own; take out the node that compiles, caches or replaces blocks"
            )


def _patches(pushes: Pushes, side: int) -> int:
    """How many tokens the generated image has, in patches of so many latents."""
    return -(-pushes.size[0] // side) * -(-pushes.size[1] // side)


def _all_of(tokens: int, own: int) -> slice:
    if tokens != own:
        raise ValueError(
            f"NegToMe: the model has {tokens} tokens and the video {own}; it does not know where reference frames are"
        )
    return slice(0, own)


ADAPTERS: dict[str, Adapter] = {
    "UNetModel": unet,
    "OpenAISignatureMMDITWrapper": sd3,
    "Flux": flux,
    "QwenImageTransformer2DModel": qwen_image,
    "WanModel": wan,
    "NextDiT": next_dit,
}
"""{class of the denoiser: adapter}"""
