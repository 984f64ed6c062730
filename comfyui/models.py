"""How the models that ComfyUI samples with hold their texts, for methods in attention: one adapter each."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .attention import Attention, Texts, guide, take_over
from .methods import VSF, Method

Adapter = Callable[[Texts], Any]
_OTHER_MEANS = (
    "{label}: parts of this model ran by other means than ComfyUI's own; take out the node that compiles it"
)


def adapter_for(model: Any, method: Method) -> Adapter:
    """Of the class of a denoiser.

    Raises:
        ValueError: there is none.
    """
    # not their subclasses: those change what happens to the texts
    adapter = ADAPTERS.get(type(model).__name__)
    if adapter is not None:
        return adapter
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
        return across(texts, attention, prompt, spans)

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


def flux(texts: Texts) -> Any:
    """FLUX.1, FLUX.2 and Kontext: image and text in one sequence, the text first.

    Each text has a stream of its own through the blocks, and the positions that it would have alone.
    """
    call = texts.call
    context: Tensor = call.arguments["context"]
    negatives = texts.contexts(context)
    lengths = [negative.shape[1] for negative in negatives]
    prompt, spans = _spans(context.shape[1], lengths)
    call.arguments["context"] = _appended(context, negatives)
    patch = call.model.patch_size
    own = texts.image_tokens(patch)

    def place(inputs: dict[str, Any]) -> dict[str, Any]:
        ids = inputs["txt_ids"].clone()
        for span in spans:
            ids[:, span] = inputs["txt_ids"][:, : span.stop - span.start]
        return {**inputs, "txt_ids": ids}

    call.add_patch("post_input", place, first=True)
    take_over(call, lambda attention: joint(texts, attention, prompt, spans, own))
    return call()


def sd3(texts: Texts) -> Any:
    """Stable Diffusion 3 and 3.5: image and text in one sequence, the text first and without positions."""
    call = texts.call
    if call.model.context_processor is not None or call.model.register_length:
        raise ValueError(
            f"{texts.run.method.label} does not know models of Stable Diffusion 3's kind that refine the text, or have "
            "registers beside it; with cfg above 1, Perp-Neg acts on every model"
        )
    context: Tensor = call.arguments["context"]
    negatives = texts.contexts(context)
    prompt, spans = _spans(context.shape[1], [negative.shape[1] for negative in negatives])
    call.arguments["context"] = _appended(context, negatives)
    own = texts.image_tokens(call.model.patch_size)
    take_over(call, lambda attention: joint(texts, attention, prompt, spans, own))
    return call()


def qwen_image(texts: Texts) -> Any:
    """Qwen-Image, and Qwen-Image-Edit with its reference images: as FLUX, and the text may have a mask."""
    call = texts.call
    context: Tensor = call.arguments["context"]
    negatives = texts.contexts(context)
    prompt, spans = _spans(context.shape[1], [negative.shape[1] for negative in negatives])
    call.arguments["context"] = _appended(context, negatives)
    call.arguments["attention_mask"] = _text_mask(texts, prompt, spans)
    own = texts.image_tokens(call.model.patch_size) * texts.frames
    placed = False

    def place(module: Any, inputs: Any) -> Any:
        nonlocal placed
        placed = True
        ids = inputs[0].clone()
        for span in spans:
            ids[:, span] = inputs[0][:, : span.stop - span.start]
        return (ids, *inputs[1:])

    take_over(call, lambda attention: joint(texts, attention, prompt, spans, own))
    handle = call.model.pe_embedder.register_forward_pre_hook(place)
    try:
        result = call()
    finally:
        handle.remove()
    if not placed:
        raise ValueError(_OTHER_MEANS.format(label=texts.run.method.label))
    return result


def _text_mask(texts: Texts, prompt: slice, spans: list[slice]) -> Tensor | None:
    """[rows, tokens] of prompt and negatives, added to the logits; None where no text has a mask."""
    context: Tensor = texts.call.arguments["context"]
    given = [texts.call.arguments.get("attention_mask")]
    given += [texts.run.encoded(k).get("attention_mask") for k in texts.acting]
    if all(mask is None for mask in given):
        return None
    parts = []
    for mask, span in zip(given, [prompt, *spans], strict=True):
        if mask is None:
            mask = context.new_zeros(1, span.stop - span.start)
        elif not mask.is_floating_point():
            mask = (mask.to(context) - 1) * torch.finfo(context.dtype).max
        parts.append(mask.to(context).reshape(len(mask), -1).expand(len(context), -1))
    return torch.cat(parts, dim=1)


def joint(
    texts: Texts,
    attention: Attention,
    prompt: slice,
    spans: list[slice],
    own: int,
    of_negative: Callable[[int], Attention] | None = None,
) -> Tensor | None:
    """An attention over [prompt | negatives | image | reference images], each text beside the images alone.

    Args:
        own: how many tokens the generated image has; those of reference images behind it are left as they are.
        of_negative: the attention as the i-th negative has it, where that is not this one.
    """
    total, count = spans[-1].stop, attention.tokens[1]
    if count < total + own or attention.tokens[0] != count:
        return None
    image = slice(total, count)

    def beside(span: slice, attention: Attention) -> tuple[Tensor, Tensor]:
        """Outputs of a text and of the images."""
        output = attention.tokens_of(attention.attended([span, image], [span, image]))
        return output[:, : span.stop - span.start], output[:, span.stop - span.start :]

    def own_attention(i: int) -> Attention:
        return attention if of_negative is None else of_negative(i)

    stream, plain = beside(prompt, attention)
    streams: dict[int, Tensor] = {}

    def outputs() -> list[Tensor]:
        found = []
        for i, span in enumerate(spans):
            streams[i], output = beside(span, own_attention(i))
            found.append(texts.take(output[:, :own]))
        return found

    guided = guide(
        texts, attention, slice(total, total + own), [prompt, image], plain[:, :own], outputs, spans
    )
    for i, span in enumerate(spans):
        if i not in streams:
            streams[i] = attention.tokens_of(own_attention(i).attended([span], [span, image]))
    parts = [stream, *(streams[i] for i in range(len(spans))), guided, plain[:, own:]]
    return attention.like_output(torch.cat(parts, dim=1))


def wan(texts: Texts) -> Any:
    """Wan: a video that meets the text in cross-attention, behind the self-attention of each block."""
    call = texts.call
    context: Tensor = call.arguments["context"]
    negatives = texts.contexts(context)
    prompt, spans = _spans(context.shape[1], [negative.shape[1] for negative in negatives])
    call.arguments["context"] = _appended(context, negatives)
    # whether the last attention was over the video: its count may be that of the texts
    after_self = False

    def answer(attention: Attention) -> Tensor | None:
        nonlocal after_self
        queries, keys = attention.tokens
        if not after_self:
            after_self = queries == keys
            return None
        if keys != spans[-1].stop:
            # an image prompt's
            return None
        after_self = False
        return across(texts, attention, prompt, spans)

    take_over(call, answer)
    return call()


def z_image(texts: Texts) -> Any:
    """Z-Image: caption and image in one sequence, the caption first and refined before by itself.

    Each text is filled up to a multiple of 32 tokens as it would be alone, and lies as far from the image as alone.
    What fills the image up lies before the beginning of the text, and is elsewhere for a longer negative.
    """
    call = texts.call
    model, context = call.model, call.arguments["context"]
    multiple = getattr(model, "pad_tokens_multiple", None)
    if multiple is None or call.arguments.get("kwargs", call.arguments).get("ref_latents"):
        what = "Lumina 2" if multiple is None else "reference images of Z-Image"
        raise ValueError(f"{texts.run.method.label} does not know {what}; with cfg above 1, Perp-Neg does")
    negatives = texts.contexts(context)
    lengths = [context.shape[1], *(negative.shape[1] for negative in negatives)]
    filled = [-(-length // multiple) * multiple for length in lengths]
    prompt, spans = _spans(filled[0], filled[1:])
    total = sum(filled)
    call.arguments["context"] = _appended(context, negatives)
    own = texts.image_tokens(model.patch_size)
    positions = torch.cat([torch.arange(1, count + 1) + filled[0] - count for count in filled])
    seen = {"texts": 0, "positions": 0, "attentions": 0}

    def fill(module: Any, inputs: Any, output: Tensor) -> Tensor:
        seen["texts"] += 1
        filler = model.cap_pad_token.to(output).reshape(1, 1, -1).expand(len(output), -1, -1)
        parts = []
        for part, length, count in zip(output.split(lengths, dim=1), lengths, filled, strict=True):
            parts += [part, filler.expand(-1, count - length, -1)]
        return torch.cat(parts, dim=1)

    def place(module: Any, inputs: Any) -> Any:
        ids = inputs[0].clone()
        image = ids
        if not seen["positions"]:
            ids[:, :total, 0] = positions.to(ids)
            image = ids[:, total:]
        seen["positions"] += 1
        # what fills the image up is at 0
        image[..., 0] -= (total - filled[0]) * (image[..., 0] != 0)
        return (ids, *inputs[1:])

    def answer(attention: Attention) -> Tensor | None:
        seen["attentions"] += 1
        if seen["attentions"] <= len(model.context_refiner):
            apart = [attention.attended([span], [span]) for span in (prompt, *spans)]
            return attention.like_output(torch.cat([attention.tokens_of(one) for one in apart], dim=1))
        if seen["attentions"] <= len(model.context_refiner) + len(model.noise_refiner):
            return None

        def of_negative(i: int) -> Attention:
            at = filled[0] - filled[1 + i]
            return attention if at == 0 else _moved(attention, model.rope_embedder, total + own, at)

        return joint(texts, attention, prompt, spans, own, of_negative)

    take_over(call, answer)
    handles = [
        model.cap_embedder.register_forward_hook(fill),
        model.rope_embedder.register_forward_pre_hook(place),
    ]
    try:
        result = call()
    finally:
        for handle in handles:
            handle.remove()
    if not (seen["texts"] and seen["positions"]):
        raise ValueError(_OTHER_MEANS.format(label=texts.run.method.label))
    return result


def _moved(attention: Attention, positions: Any, start: int, at: int) -> Attention:
    """An attention whose keys from `start` on, which are at the position 0, are at `at`."""
    keys = attention.k.clone()
    ids = torch.zeros(1, 1, 3, dtype=torch.float32, device=keys.device)
    ids[..., 0] = at
    # [1, 1, 1, D / 2, 2, 2]; past the hook that is on it during the call
    turn: Tensor = positions.forward(ids)
    pairs = keys[:, :, start:].to(turn.dtype).unflatten(3, (-1, 1, 2))
    turned = turn[..., 0] * pairs[..., 0] + turn[..., 1] * pairs[..., 1]
    keys[:, :, start:] = turned.flatten(3).to(keys.dtype)
    return Attention(
        attention.function, attention.q, keys, attention.v, attention.heads, attention.mask, attention.options
    )


def across(texts: Texts, attention: Attention, prompt: slice, spans: list[slice]) -> Tensor:
    """A cross-attention over [prompt | negatives]."""
    image = slice(0, attention.tokens[0])
    plain = attention.tokens_of(attention.attended([image], [prompt]))

    def outputs() -> list[Tensor]:
        found = [attention.attended([image], [span], texts.take) for span in spans]
        return [attention.tokens_of(one) for one in found]

    return attention.like_output(guide(texts, attention, image, [prompt], plain, outputs, spans))


def _appended(context: Tensor, negatives: list[Tensor]) -> Tensor:
    return torch.cat([context, *(negative.expand(len(context), -1, -1) for negative in negatives)], dim=1)


def _spans(prompt: int, lengths: list[int]) -> tuple[slice, list[slice]]:
    """Where prompt and negatives lie, one behind the other."""
    spans, start = [], prompt
    for length in lengths:
        spans.append(slice(start, start + length))
        start += length
    return slice(0, prompt), spans


ADAPTERS: dict[str, Adapter] = {
    "UNetModel": unet,
    "OpenAISignatureMMDITWrapper": sd3,
    "Flux": flux,
    "QwenImageTransformer2DModel": qwen_image,
    "WanModel": wan,
    "VaceWanModel": wan,
    "NextDiT": z_image,
}
"""{class of the denoiser: adapter}"""
