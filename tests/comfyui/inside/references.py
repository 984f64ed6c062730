"""NegToMe's references: run beside the image without a trace in what else happens to it."""

from typing import Any
from unittest.mock import patch

import comfy.context_windows as context_windows
import comfy.controlnet
import pytest
import torch
from comfy_extras.nodes_easycache import EasyCacheNode
from tiny import (
    CPU,
    EMPTY,
    PROMPT,
    SAME,
    SIDE,
    exact,
    first,
    in_attention,
    low_memory,
    negtome,
    rms,
    run,
    text,
    unet,
    wan,
)


@pytest.fixture(scope="module")
def model() -> Any:
    return exact(unet())


def latents(count: int = 1, *size: int) -> dict[str, torch.Tensor]:
    size = size or (4, SIDE, SIDE)
    return {"samples": torch.randn(count, *size, generator=torch.manual_seed(9))}


class Hint(torch.nn.Module):
    """A ControlNet that adds its hint in the middle of the UNet."""

    dtype = torch.float32

    def forward(self, x: torch.Tensor, hint: torch.Tensor, **_: Any) -> dict[str, Any]:
        small = torch.nn.functional.avg_pool2d(hint, 16)[:, :1].expand(-1, 64, -1, -1)
        return {"middle": [3 * small.expand(len(x), -1, -1, -1).clone()], "input": [], "output": []}


class Control(comfy.controlnet.ControlNet):
    def get_models(self) -> list[Any]:
        return []

    def inference_memory_requirements(self, dtype: Any) -> int:
        return 0


def controlled(hints: torch.Tensor) -> dict[str, Any]:
    """Prompt and negative prompt with a ControlNet, which has one hint for each image."""
    control = Control(None, load_device=CPU)
    control.control_model, control.cond_hint_original = Hint(), hints
    with_it = {"pooled_output": None, "control": control, "control_apply_to_uncond": False}
    return {"positive": [[PROMPT[0][0], with_it]], "negative": [[EMPTY[0][0], with_it]]}


TEXTS = {"positive": PROMPT, "negative": EMPTY}
HINTS = 4 * torch.randn(3, 3, 8 * SIDE, 8 * SIDE, generator=torch.manual_seed(8))


@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_controlnet_keeps_its_hint_for_each_image(model: Any, count: int) -> None:
    options = {"batch": 3, "steps": 3}
    plain = run(model, **controlled(HINTS), **options)
    found = run(negtome(model, reference_latent=latents(count), alpha=0.0), **controlled(HINTS), **options)
    assert rms(found, plain) < SAME
    assert rms(plain, run(model, **controlled(HINTS[:1]), **options)) > 100 * SAME


def test_a_batch_with_references_and_a_hint_for_each_image_is_what_its_images_are_alone(model: Any) -> None:
    patched = negtome(model, reference_latent=latents(2))
    noise = torch.randn(3, 4, SIDE, SIDE, generator=torch.manual_seed(4))
    batch = run(patched, batch=3, steps=2, noise=noise, **controlled(HINTS))
    alone = [run(patched, steps=2, noise=noise[i : i + 1], **controlled(HINTS[i : i + 1])) for i in range(3)]
    assert rms(batch, torch.cat(alone)) < SAME


@pytest.mark.parametrize("references", [1, 2])
def test_each_image_is_pushed_from_references_that_are_given_the_mask_it_is_given(references: int) -> None:
    model = exact(unet(in_channels=9))
    model.model.set_inpaint()
    patched = negtome(model, reference_latent=latents(references))
    generator = torch.Generator().manual_seed(5)
    # the third is given what the first is given
    pictures = torch.randn(2, 4, SIDE, SIDE, generator=generator)[[0, 1, 0]]
    masks = (torch.rand(2, 1, SIDE, SIDE, generator=generator)[[0, 1, 0]] > 0.5).float()
    noise = torch.randn(3, 4, SIDE, SIDE, generator=generator)

    def of(*which: int) -> torch.Tensor:
        given = {"concat_latent_image": pictures[list(which)], "concat_mask": masks[list(which)]}
        conds = {name: [[text[0][0], {**text[0][1], **given}]] for name, text in TEXTS.items()}
        return run(patched, batch=len(which), steps=2, noise=noise[list(which)], **conds)

    together = of(0, 1, 2)
    assert rms(together, torch.cat([of(0), of(1), of(2)])) < SAME
    assert rms(together, of(0, 0, 0)) > 100 * SAME


def test_masks_for_each_image_go_with_any_number_of_references(model: Any) -> None:
    masks = torch.zeros(3, SIDE, SIDE)
    masks[2] = 1
    options = {"batch": 3, "steps": 2}
    patched = negtome(model, reference_latent=latents(1), mask=masks)
    found, plain = run(patched, **options), run(model, **options)
    whole = run(negtome(model, reference_latent=latents(1)), **options)
    assert rms(found[:2], plain[:2]) < SAME and rms(found[2:], whole[2:]) < SAME
    assert rms(found[2], plain[2]) > 10 * SAME


@pytest.mark.parametrize("masked", [False, True])
def test_of_a_combined_negative_prompt_the_first_text_is_the_references(model: Any, masked: bool) -> None:
    half = torch.zeros(1, SIDE, SIDE)
    half[:, :, :8] = 1
    more = {"reference_mask": half} if masked else {}
    patched = negtome(model, reference_latent=latents(2), **more)
    combined = [*EMPTY, *text(77)]
    together = run(patched, negative=combined, steps=3)
    with low_memory():
        apart = run(patched, negative=combined, steps=3)
    assert rms(together, apart) < SAME
    # without guidance it is the references' alone
    unguided = run(patched, negative=combined, steps=3, cfg=1.0)
    assert torch.equal(unguided, run(patched, steps=3, cfg=1.0))
    assert rms(unguided, run(model, steps=3, cfg=1.0)) > 10 * SAME


def in_windows(model: Any, frames: int) -> Any:
    """The model as ComfyUI's node of context windows makes it, without overlap."""
    cut = model.clone()
    schedules, fuses = context_windows.ContextSchedules, context_windows.ContextFuseMethods
    cut.model_options["context_handler"] = context_windows.IndexListContextHandler(
        context_schedule=context_windows.get_matching_context_schedule(schedules.STATIC_STANDARD),
        fuse_method=context_windows.get_matching_fuse_method(fuses.FLAT),
        context_length=frames,
        context_overlap=0,
        dim=2,
    )
    # a newer ComfyUI puts the last frame of a window before the next one
    cut.model_options["context_handler"].causal_window_fix = False
    context_windows.create_prepare_sampling_wrapper(cut)
    return cut


@pytest.mark.parametrize("masked", [False, True])
def test_a_long_reference_counts_in_all_windows_of_a_video(masked: bool) -> None:
    """Eight frames in two windows are two references of four frames."""
    model = in_windows(wan(), 4)
    video, whole = torch.zeros(1, 16, 8, 8, 8), latents(1, 16, 8, 8, 8)["samples"]
    half = torch.zeros(1, 8, 8)
    half[:, :, :4] = 1
    options = {"threshold": -1.0, **({"reference_mask": half} if masked else {})}
    halves = torch.cat(whole.split(4, dim=2))
    randn = torch.randn

    def unless_of_references(*size: Any, generator: Any = None, **more: Any) -> torch.Tensor:
        # the noise on references depends on how many frames they have
        drawn = randn(*size, generator=generator, **more)
        return drawn if generator is None else torch.zeros_like(drawn)

    noise = randn(video.shape, generator=torch.manual_seed(3))
    found = []
    with patch.object(torch, "randn", unless_of_references):
        for reference in (whole, halves, whole[:, :, 4:]):
            patched = negtome(model, reference_latent={"samples": reference}, **options)
            found.append(run(patched, latent=video, noise=noise, steps=2, cfg=3.0))
    assert rms(found[0], found[1]) < 5 * SAME
    assert rms(found[0], found[2]) > 10 * SAME


def cached(model: Any) -> Any:
    """With a cache that leaves out most steps."""
    return first(EasyCacheNode.execute(model, 3.0, 0.0, 0.99, False))


def test_a_cache_does_not_take_references_for_the_image(model: Any) -> None:
    """It leaves nothing out then."""
    options = {"reference_latent": latents(1)}
    right = run(negtome(model, **options))
    for found in (run(negtome(cached(model), **options)), run(cached(negtome(model, **options)))):
        assert rms(found, right) < SAME
    assert rms(run(cached(model)), run(model)) > 100 * SAME


def test_references_that_a_node_leaves_out_are_missed_with_a_sentence(model: Any) -> None:
    def leaves_out(executor: Any, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        # the references are one, the images two
        return x if len(x) == 1 else executor(x, *args, **kwargs)

    other = model.clone()
    other.add_wrapper_with_key("diffusion_model", "tests", leaves_out)
    with pytest.raises(ValueError, match="NegToMe: the model did not run on the references at this step"):
        run(negtome(other, reference_latent=latents(1)), batch=2)


def test_a_cache_behind_negtome_is_refused_with_what_to_do(model: Any) -> None:
    with pytest.raises(
        ValueError, match="NegToMe: none of the model's self-attentions ran: another node left"
    ):
        run(cached(negtome(model)), batch=2)


def test_a_cache_goes_with_nag_where_it_is_nearer_to_the_checkpoint(model: Any) -> None:
    with pytest.raises(ValueError, match=r"NAG takes over .* put it nearer to the checkpoint than NAG"):
        run(cached(in_attention("NAG", model)))
    assert rms(run(in_attention("NAG", cached(model))), run(cached(model))) > 100 * SAME
