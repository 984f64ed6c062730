"""What a call cannot honour is refused before any model runs, on every family."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionInstructPix2PixPipeline, StableDiffusionPanoramaPipeline
from tiny_pipelines import NEGATIVES, build, taken
from torch import nn

from negguide import NAG, ONG, VSF, Negative, NegToMe, PerpNeg, from_pipe
from negguide.integration.families import supported_pipelines

Refused = Callable[..., None]


@pytest.fixture
def refused(base: Any, pipe: Any, run: Callable[..., Any], monkeypatch: Any) -> Refused:
    """Expects a ValueError that says something, of a call in which no model can run."""

    def never(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("a model ran")

    def refused(says: str, **arguments: Any) -> None:
        with monkeypatch.context() as patch:
            for part in base.components.values():
                if isinstance(part, nn.Module):
                    patch.setitem(vars(part), "forward", never)
            with pytest.raises(ValueError, match=says):
                run(pipe, **arguments)

    return refused


@pytest.fixture
def short(tiny: Any) -> dict[str, int]:
    """The arguments with which this pipeline cuts off text of more than some words."""
    if tiny.name == "wan-i2v":
        # its transformer takes 512
        return {"max_sequence_length": 10}
    return {"max_sequence_length": 24} if tiny.like.startswith("qwen-image") else {}


@pytest.mark.guided_only
def test_perp_neg_without_guidance_is_refused_and_nag_named(
    refused: Refused, unguided: dict[str, Any]
) -> None:
    ((name, scale),) = unguided.items()
    says = rf"PerpNeg needs classifier-free guidance: {name} is {scale}.*NAG\('black glasses'\), and NegToMe"
    refused(says, negative_guidance=PerpNeg(NEGATIVES[0]), **unguided)


def test_two_methods_in_attention_are_refused(refused: Refused) -> None:
    says = "negative_guidance holds NAG and VSF, which both work in attention"
    refused(says, negative_guidance=[NAG("a hat"), VSF("a hat")])


def test_masks_of_other_proportions_are_refused(refused: Refused, tiny: Any, two: Any) -> None:
    wide = torch.ones(32, 64)
    says = "is 64x32 .*the image is " + f"{tiny.side}x{tiny.side}" + ": .*aspect ratio"
    negative = Negative("a hat", mask=wide)
    for method in taken(tiny, PerpNeg(negative), NAG(negative), ONG(negative), VSF(negative)):
        refused(rf"mask of Negative\('a hat'\) {says}", negative_guidance=method)
    for option in ("mask", "reference_mask"):
        refused(f"{option} of NegToMe {says}", negative_guidance=NegToMe(**{option: wide}), **two)


def test_one_image_of_a_prompt_is_too_few_for_negtome(refused: Refused, two: Any) -> None:
    (name,) = two
    refused(f"{name} is 1: NegToMe .* at least 2 images of each prompt", negative_guidance=NegToMe())


def test_a_negative_that_would_be_cut_off_is_refused_with_what_is_lost(
    refused: Refused, tiny: Any, short: dict[str, int]
) -> None:
    if not tiny.cuts_text:
        return
    words = (
        "a black hat in the snow in the forest on the bear with red glasses on the back of the robot " * 14
    )
    says = "prompt of Negative.* is [0-9]+ tokens long.* reads [0-9]+: '.* robot' would be cut off"
    for method in taken(tiny, PerpNeg(words), NAG("a hat", words)):
        refused(says, negative_guidance=method, **short)


def test_prompts_that_would_be_cut_off_are_refused_with_what_is_lost(
    refused: Refused, tiny: Any, short: dict[str, int]
) -> None:
    if not tiny.cuts_text:
        return
    words = (
        "a black hat in the snow in the forest on the bear with red glasses on the back of the robot " * 14
    )
    says = r" is [0-9]+ tokens long.* reads [0-9]+: '.* robot' would be cut off; shorten it"
    method = NAG("a hat")
    refused(f"^prompt{says}", prompt=words, negative_guidance=method, **short)
    refused(rf"^prompt\[1\]{says}", prompt=["a hat", words], negative_guidance=method, **short)
    if tiny.negative_prompt:
        refused(f"^negative_prompt{says}", negative_prompt=words, negative_guidance=method, **short)
    if f"{tiny.like}-".startswith(("sdxl", "flux-", "sd3", "hidream")):
        refused(f"^prompt_2{says}", prompt_2=words, negative_guidance=method, **short)
    if tiny.like == "hidream":
        refused(f"^negative_prompt_4{says}", negative_prompt_4=words, negative_guidance=method, **short)


@pytest.mark.families("sd", "flux", "z-image")
def test_a_negative_prompt_that_is_not_read_may_have_any_length(
    pipe: Any, run: Callable[..., Any], unguided: dict[str, Any]
) -> None:
    arguments: dict[str, Any] = {"steps": 1, "negative_guidance": NAG("a hat"), **unguided}
    one, other = (run(pipe, negative_prompt=text, **arguments) for text in ("", "hat " * 90))
    assert torch.equal(one, other)


@pytest.mark.families("sdxl-img2img", "sd-controlnet", "flux2-klein-reference")
def test_what_is_no_image_is_refused_with_what_would_be_one(
    pipe: Any, run: Callable[..., Any], tiny: Any
) -> None:
    right = r"image must be a PIL image, a tensor .*, an array .*, or a list of these, got "
    # without a size, which is then that of the image
    arguments = {"negative_guidance": NAG("a hat")}
    if "height" in tiny.call():
        arguments |= {"height": None, "width": None}
    for image, error, says in (
        ("bear.png", TypeError, "'bear.png'; open a file with PIL.Image.open"),
        ([7], TypeError, "7$"),
        ([], ValueError, "an empty list"),
        (torch.ones(64, 64), ValueError, r"one of shape \[64, 64\]"),
        (torch.ones(64, 64).numpy(), ValueError, r"one of shape \[64, 64\]"),
    ):
        with pytest.raises(error, match=right + says):
            run(pipe, image=image, **arguments)


def test_the_longest_negative_that_is_taken_is_read_to_its_end(
    pipe: Any, refused: Refused, tiny: Any, short: dict[str, int]
) -> None:
    arguments = {**tiny.call(), **short, "clip_skip": None, "clean_caption": False}

    def text(words: int, last: str) -> str:
        return " ".join([*["hat"] * (words - 1), last])

    def fits(words: int) -> bool:
        reading = pipe.family.token_budget(pipe, text(words, "hat"), arguments)
        return bool(reading.tokens <= reading.limit)

    def last_word_is_read(words: int) -> bool:
        with torch.no_grad():
            texts = [text(words, last) for last in ("hat", "bear")]
            one, other = (pipe.family.encode_text(pipe, [text], arguments)[0] for text in texts)
        path = next(iter(one))
        return not all(torch.equal(a, b) for a, b in zip(one[path], other[path], strict=True))

    if not tiny.cuts_text:
        assert fits(60) and last_word_is_read(60)
        return
    longest = next(words for words in range(1, 300) if not fits(words + 1))
    assert last_word_is_read(longest)
    refused("'hat' would be cut off", negative_guidance=NAG(text(longest + 1, "hat")), **short)
    if not tiny.chat:
        # those put something behind the text, which is lost first
        assert not last_word_is_read(longest + 1)


def test_a_pipeline_without_what_encodes_is_told_so(pipe: Any, refused: Refused, tiny: Any) -> None:
    name = pipe.family.text_encoders[-1]
    setattr(pipe, name, None)
    refused(
        f"NAG needs the pipeline's {name} to encode its negatives, and it is None", negative_guidance=NAG("a")
    )
    if tiny.reference_images:
        method = NegToMe(torch.rand(3, 64, 64))
        refused(
            f"NegToMe needs the pipeline's {name} to encode its reference images", negative_guidance=method
        )
        pipe.vae = None
        refused("NegToMe needs the pipeline's vae to encode", negative_guidance=method)


@pytest.mark.families("flux", "flux-kontext", "qwen-image")
def test_perp_neg_without_a_negative_prompt_is_told_to_give_one(refused: Refused) -> None:
    says = "negative_prompt is None, and this pipeline is guided only with one; give negative_prompt=''"
    refused(says, negative_guidance=PerpNeg("a hat"), negative_prompt=None)


@pytest.mark.families("flux2-dev")
def test_what_the_system_message_takes_is_not_left_for_a_negative(pipe: Any, refused: Refused) -> None:
    method = NAG("a red hat")
    pipe.system_message = "bear " * 49
    # with the start, two marks around each of the two messages, and 3 words, 57 of 56 tokens
    refused("is 57 tokens long.* reads 56: 'hat' would be cut off", negative_guidance=method)
    assert pipe.family.token_budget(pipe, "a hat", {"max_sequence_length": 56}).tokens == 56


@pytest.mark.families("flux2-dev")
def test_a_tokenizer_without_its_processor_is_asked_itself(tiny: Any, pipe: Any) -> None:
    arguments, base = tiny.call(), build(tiny)
    processor, base.tokenizer = base.tokenizer, base.tokenizer.tokenizer
    base.tokenizer.chat_template = processor.chat_template
    inside, alone = (p.family.token_budget(p, "a red hat", arguments) for p in (pipe, from_pipe(base)))
    assert (inside.tokens, inside.limit) == (alone.tokens, alone.limit) == (34, 56)
    assert type(inside.tokenizer) is type(alone.tokenizer)


@pytest.mark.families("flux2-dev", "flux2-dev-reference")
def test_flux_2_dev_is_not_given_perp_neg(refused: Refused) -> None:
    says = r"FLUX.2 dev is guidance-distilled, so .* no second prediction\. NAG.*, e.g. NAG\('a hat'\), and NegToMe"
    for scale in (1.0, 4.0):
        refused(says, negative_guidance=PerpNeg("a hat"), guidance_scale=scale)


@pytest.mark.families("flux2-klein")
def test_a_distilled_klein_is_not_given_perp_neg(pipe: Any, refused: Refused) -> None:
    pipe.register_to_config(is_distilled=True)
    refused("guidance-distilled, so there is no second prediction.*NAG", negative_guidance=PerpNeg("a hat"))


@pytest.mark.families("sd")
def test_a_pipeline_that_is_not_supported_is_named_beside_those_that_are(base: Any) -> None:
    other = StableDiffusionInstructPix2PixPipeline(
        **{**base.components, "safety_checker": None}, requires_safety_checker=False
    )
    says = "from_pipe does not take StableDiffusionInstructPix2PixPipeline: it weighs the image and the text with a "
    with pytest.raises(ValueError, match=says):
        from_pipe(other)
    latent = StableDiffusionPanoramaPipeline(
        **{**base.components, "safety_checker": None}, requires_safety_checker=False
    )
    known = supported_pipelines()
    with pytest.raises(
        ValueError, match="does not know StableDiffusionPanoramaPipeline; supported and near"
    ) as caught:
        from_pipe(latent)
    assert f"lists all {len(known)} supported pipelines" in str(caught.value)
    assert any(name in str(caught.value) for name in known)


@pytest.mark.families("sd-inpaint", "sdxl-inpaint", "qwen-image-inpaint", "flux-inpaint")
def test_masks_are_refused_where_the_pipeline_draws_a_part_that_it_chooses_itself(
    refused: Refused, two: Any
) -> None:
    mask = torch.ones(64, 64)
    says = "padding_mask_crop is 8, .* mask of {} is for the whole image"
    refused(
        says.format(r"Negative\('a hat'\)"),
        negative_guidance=NAG(Negative("a hat", mask=mask)),
        padding_mask_crop=8,
    )
    refused(says.format("NegToMe"), negative_guidance=NegToMe(mask=mask), padding_mask_crop=8, **two)
