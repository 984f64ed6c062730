"""How the models that ComfyUI samples with hold their texts, for methods in attention: one adapter each."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .attention import Attention, Texts, guide, take_over
from .methods import VSF, Method

Adapter = Callable[[Texts], Any]


def adapter_for(model: Any, method: Method) -> Adapter:
    """Of the first class of a denoiser that has one.

    Raises:
        ValueError: there is none.
    """
    for kind in type(model).__mro__:
        if kind.__name__ in ADAPTERS:
            return ADAPTERS[kind.__name__]
    raise ValueError(
        f"{method.label} does not know models of the class {type(model).__name__}; it knows {', '.join(ADAPTERS)}. "
        "With cfg above 1, Perp-Neg acts on every model"
    )


def unet(texts: Texts) -> Any:
    """Stable Diffusion 1, 2, XL and their kin: a UNet that meets the text in cross-attention.

    The texts are put together in each block, behind whatever other nodes make of the prompt there.
    """
    call = texts.call
    like: Tensor = call.arguments["context"]
    negatives = texts.contexts(like)
    lengths = [negative.shape[1] for negative in negatives]
    # how many tokens the prompt has, between the patch that appends the negatives and the attention after it
    pending: list[int] = []

    def append(n: Tensor, context: Tensor, value: Tensor | None, extra: Any) -> tuple[Tensor, Tensor, Tensor]:
        pending.append(context.shape[1])
        rows = [negative.to(context).expand(len(context), -1, -1) for negative in negatives]
        return (
            n,
            torch.cat([context, *rows], dim=1),
            torch.cat([context if value is None else value, *rows], dim=1),
        )

    def answer(attention: Attention) -> Tensor | None:
        if not pending:
            return None
        prompt, spans = _spans(pending.pop(), lengths)
        image = slice(0, attention.tokens[0])
        plain = attention.tokens_of(attention.attended([image], [prompt]))

        def outputs() -> list[Tensor]:
            found = [attention.attended([image], [span], texts.take) for span in spans]
            return [attention.tokens_of(one) for one in found]

        return attention.like_output(guide(texts, attention, image, [prompt], plain, outputs, spans))

    def beside(replacement: Callable[..., Tensor]) -> Callable[..., Tensor]:
        """Another node's attention in place of this one: it gets the prompt alone, and the method its result."""

        def attend(q: Tensor, k: Tensor, v: Tensor, extra: dict[str, Any]) -> Tensor:
            prompt, spans = _spans(pending.pop(), lengths)
            plain = replacement(q, k[:, prompt], v[:, prompt], extra)
            if isinstance(texts.run.method, VSF):
                raise ValueError(
                    "VSF attends to prompt and negatives at once, and another node (of image prompts, say) attends in "
                    "its place; use NAG or ONG beside it"
                )
            from comfy.ldm.modules.attention import optimized_attention

            options = {"attn_precision": extra.get("attn_precision")}
            attention = Attention(optimized_attention, q, k, v, extra["n_heads"], None, options)
            image = slice(0, q.shape[1])

            def outputs() -> list[Tensor]:
                return [attention.attended([image], [span], texts.take) for span in spans]

            return guide(texts, attention, image, [prompt], plain, outputs, spans)

        return attend

    def check(n: Tensor, extra: Any) -> Tensor:
        if pending:
            raise ValueError(
                f"{texts.run.method.label} appends negatives to the prompt, and another node computes this attention "
                "by other means than ComfyUI's; take that node out"
            )
        return n

    call.add_patch("attn2_patch", append)
    call.add_patch("attn2_output_patch", check, first=True)
    replaced = call.options["patches_replace"].get("attn2", {})
    for key in replaced:
        replaced[key] = beside(replaced[key])
    take_over(call, answer)
    return call()


def _spans(prompt: int, lengths: list[int]) -> tuple[slice, list[slice]]:
    """Where prompt and negatives lie, one behind the other."""
    spans, start = [], prompt
    for length in lengths:
        spans.append(slice(start, start + length))
        start += length
    return slice(0, prompt), spans


ADAPTERS: dict[str, Adapter] = {"UNetModel": unet}
"""{class of the denoiser: adapter}"""
