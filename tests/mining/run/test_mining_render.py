"""Painters paint each image as if it were alone, in batches."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from negguide import Negative, NegToMe, PerpNeg
from negguide.mining.item import Edit, Source
from negguide.mining.render.job import Job, NoRegionError
from negguide.mining.render.paste import change_outside, paste
from negguide.mining.render.pipeline import PipelinePainter
from negguide.mining.render.regions import AttentionRegion, ColumnRegion, DetectorRegion, make_region
from negguide.models import load_pipeline, revision

JOBS = [
    Job("a bear wearing a hat in a meadow", 1, "a red hat", 1.5, group="one"),
    Job("a cat wearing glasses", 2, "black glasses", group="one"),
    Job("two dogs", 3, group="two"),
]
PUSH = NegToMe("others", alpha=3.0, threshold=-1.0, stop=1.0, blocks="attn1$")


@pytest.fixture(scope="module")
def pipe(tiny_model):
    return load_pipeline(str(tiny_model))


def painter(pipe, **options):
    return PipelinePainter(pipe, **{"steps": 4, "guidance_scale": 5.0, **options})


def different(one, other):
    return int(np.abs(np.asarray(one).astype(int) - np.asarray(other).astype(int)).max())


@pytest.fixture
def changing():
    """The same jobs with an image and a mask each, of another size than the model's."""
    picture = Image.effect_noise((80, 48), 60).convert("RGB")
    mask = Image.new("L", (80, 48))
    mask.paste(255, (20, 10, 60, 40))
    return [replace(job, image=picture, mask=mask) for job in JOBS]


def test_every_image_of_a_batch_has_its_own_negative(pipe):
    images = painter(pipe)(JOBS)
    for job, image in zip(JOBS, images, strict=True):
        guidance = PerpNeg(Negative(job.avoid, job.weight)) if job.avoid else None
        alone = pipe(
            job.prompt,
            num_inference_steps=4,
            guidance_scale=5.0,
            generator=torch.Generator().manual_seed(job.seed),
            negative_guidance=guidance,
        ).images[0]
        assert different(image, alone) <= 1
    plain = painter(pipe, method="plain")(JOBS)
    assert different(images[0], plain[0]) > 1 and different(images[2], plain[2]) <= 1


def test_the_classic_negative_prompt_is_the_pipelines_own(pipe):
    images = painter(pipe, method="negative-prompt")(JOBS)
    for job, image in zip(JOBS, images, strict=True):
        alone = pipe(
            job.prompt,
            negative_prompt=job.avoid,
            num_inference_steps=4,
            guidance_scale=5.0,
            generator=torch.Generator().manual_seed(job.seed),
        ).images[0]
        assert different(image, alone) <= 1


@pytest.mark.parametrize("mode", ["generate", "edit", "inpaint"])
def test_the_same_batch_gives_the_same_bytes_and_another_one_the_same_image(pipe, mode, changing):
    jobs = JOBS if mode == "generate" else changing
    whole = painter(pipe, mode=mode)(jobs)
    assert [i.tobytes() for i in painter(pipe, mode=mode)(jobs)] == [i.tobytes() for i in whole]
    single = painter(pipe, mode=mode, batch_size=1)(jobs)
    assert max(different(a, b) for a, b in zip(whole, single, strict=True)) <= 1


def test_changed_images_keep_their_size_and_inpainted_ones_all_that_is_outside_the_mask(pipe, changing):
    source, mask = changing[0].image, changing[0].mask
    edited = painter(pipe, mode="edit")(changing)
    inpainted = painter(pipe, mode="inpaint", strength=1.0)(changing)
    assert {image.size for image in edited + inpainted} == {source.size}
    for image in inpainted:
        assert change_outside(source, image, mask) == 0
        assert different(image, source) > 20
    assert change_outside(source, edited[0], mask) > 0.02
    weak = painter(pipe, mode="edit", strength=0.5)(changing)
    assert change_outside(source, weak[0], mask) != change_outside(source, edited[0], mask)


def test_images_of_different_sizes_are_painted_in_batches_of_one_size(pipe, changing):
    jobs = [
        changing[0],
        replace(changing[1], image=changing[1].image.resize((64, 64)), mask=None),
        changing[2],
    ]
    images = painter(pipe, mode="edit")(jobs)
    assert [image.size for image in images] == [(80, 48), (64, 64), (80, 48)]
    assert different(images[0], painter(pipe, mode="edit")(jobs[:1])[0]) <= 1


def test_images_of_one_group_are_pushed_apart_and_others_are_left_alone(tiny_model):
    # in double precision: a push from a random model's tokens amplifies rounding
    pipe = load_pipeline(str(tiny_model), dtype=torch.float64)
    plain, pushed = painter(pipe)(JOBS), painter(pipe, diversify=PUSH)(JOBS)
    assert different(plain[0], pushed[0]) > 1 and different(plain[1], pushed[1]) > 1
    assert different(plain[2], pushed[2]) <= 1
    # two groups of two in one batch are what they are in two batches
    two = [*JOBS[:2], *(replace(job, seed=job.seed + 10, group="three") for job in JOBS[:2])]
    together, apart = painter(pipe, diversify=PUSH)(two), painter(pipe, diversify=PUSH, batch_size=2)(two)
    assert max(different(a, b) for a, b in zip(together, apart, strict=True)) <= 1


def test_out_of_memory_halves_the_batch_and_goes_on(pipe, monkeypatch):
    jobs = [replace(job, seed=seed) for seed, job in enumerate(JOBS * 2)]
    expected = painter(pipe, batch_size=1)(jobs)
    small = painter(pipe, batch_size=6)
    sizes: list[int] = []
    draw = small._draw

    def limited(chosen):
        sizes.append(len(chosen))
        if len(chosen) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return draw(chosen)

    monkeypatch.setattr(small, "_draw", limited)
    images = small(jobs)
    assert max(different(a, b) for a, b in zip(images, expected, strict=True)) <= 1
    assert sizes == [6, 3, 1, 1, 1, 3, 1, 1, 1] or max(sizes[sizes.index(3) :]) <= 3
    sizes.clear()
    small(jobs)
    assert max(sizes) <= 2

    def never(chosen):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(small, "_draw", never)
    with pytest.raises(ValueError, match="too little memory for 1 image at once"):
        small(jobs[:2])


def test_what_cannot_be_painted_is_refused_with_a_reason(pipe, changing):
    long = " ".join(["a bear"] * 60)
    assert painter(pipe).refusal(JOBS[0]) is None
    assert painter(pipe).refusal(replace(JOBS[0], prompt=long)) == "the prompt is too long for the model"
    assert painter(pipe).refusal(replace(JOBS[0], avoid=long)) == "avoid is too long"
    assert painter(pipe, method="plain").refusal(replace(JOBS[0], avoid=long)) is None
    assert painter(pipe, mode="edit").refusal(JOBS[0]) == "there is no image to change"
    assert (
        painter(pipe, mode="inpaint").refusal(replace(changing[0], mask=None))
        == "there is no mask to paint in"
    )


def test_wrong_arguments_are_refused(pipe):
    for options, message in (
        ({"mode": "draw"}, "mode='draw' is not known; use one of generate, edit, inpaint"),
        ({"method": "nag"}, "method='nag' is not known"),
        ({"steps": 0}, "steps=0 must be at least 1"),
        ({"steps": 1}, r"steps=1 are too few: Perp-Neg acts in 0-50% of the steps, and 1 are run"),
        ({"mode": "edit", "strength": 0.3}, r"acts in 0-50% of the steps, and 1 are run"),
        ({"diversify": NegToMe("others", stop=0.2)}, "NegToMe acts in 0-20% of the steps"),
        ({"strength": 0.0}, "strength=0.0 must be above 0"),
        ({"guidance_scale": 1.0}, "guidance_scale=1.0 must be above 1.*use method='plain'"),
        ({"guidance_scale": float("nan")}, "guidance_scale=nan must be a finite number"),
        ({"diversify": NegToMe("first")}, "diversify must be NegToMe"),
    ):
        with pytest.raises(ValueError, match=message):
            painter(pipe, **options)


def test_pasting_keeps_the_outside_to_the_bit_and_has_a_soft_seam_inside():
    black, white = (Image.new("RGB", (128, 128), color) for color in ("black", "white"))
    mask = Image.new("L", (128, 128))
    mask.paste(255, (32, 32, 96, 96))
    pasted = np.asarray(paste(black, white, mask))[..., 0]
    outside = np.asarray(mask) == 0
    assert pasted[outside].max() == 0 and pasted[64, 64] == 255
    assert 0 < pasted[32, 64] < 255


def edit(before="red hat", after="scarf", caption="a bear wearing a red hat in a meadow"):
    start = caption.index(before)
    return Edit.replacing(
        caption, start, start + len(before), after, category="object", backend="rules", avoid=f"a {before}"
    )


@pytest.fixture
def toyworld_scene():
    from negguide.toyworld import parse, render

    caption = "a brown bear in front view wearing a red hat in a meadow"
    return Source("one", caption), render(parse(caption), 64, seed=0)


def test_attention_finds_where_the_words_are(toyworld_pipeline, toyworld_scene):
    source, image = toyworld_scene
    region = AttentionRegion(toyworld_pipeline, toyworld_pipeline.family)
    change = edit(caption=source.caption)
    mask = region(source, change, image)
    area = np.asarray(mask) > 0
    assert mask.size == image.size and 0 < area.mean() < 0.9
    assert region(source, change, image).tobytes() == mask.tobytes()
    place = edit("meadow", "room", source.caption)
    assert region(source, place, image).tobytes() != mask.tobytes()
    added = Edit.replacing(source.caption, 2, 2, "small ", category="add", backend="rules")
    with pytest.raises(NoRegionError, match="no words are replaced"):
        region(source, added, image)
    # the denoiser is as it was
    assert not any("Observer" in type(p).__name__ for p in toyworld_pipeline.unet.attn_processors.values())


def test_the_inputs_mask_is_used_where_it_fits(toyworld_scene):
    source, image = toyworld_scene
    mask = Image.new("L", image.size, 255)
    assert ColumnRegion()(replace(source, mask=lambda: mask), edit(), image).tobytes() == mask.tobytes()
    with pytest.raises(NoRegionError, match="has no mask"):
        ColumnRegion()(source, edit(), image)
    with pytest.raises(NoRegionError, match="not of the image's size"):
        ColumnRegion()(replace(source, mask=lambda: mask.resize((9, 9))), edit(), image)

    def torn():
        raise OSError("truncated")

    with pytest.raises(NoRegionError, match="missing or corrupt"):
        ColumnRegion()(replace(source, mask=torn), edit(), image)


@pytest.fixture(scope="module")
def tiny_detector(tmp_path_factory):
    """A random OWL-ViT with the words of the toy world."""
    from transformers import (
        OwlViTConfig,
        OwlViTForObjectDetection,
        OwlViTImageProcessorPil,
        OwlViTProcessor,
        OwlViTTextConfig,
        OwlViTVisionConfig,
    )

    from negguide.toyworld.words import new_tokenizer

    torch.manual_seed(0)
    tokenizer = new_tokenizer()
    small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = OwlViTConfig(
        text_config=OwlViTTextConfig(
            vocab_size=len(tokenizer), max_position_embeddings=tokenizer.model_max_length, **small
        ).to_dict(),
        vision_config=OwlViTVisionConfig(image_size=32, patch_size=8, **small).to_dict(),
        projection_dim=16,
    )
    folder = tmp_path_factory.mktemp("models") / "detector"
    model = OwlViTForObjectDetection(config)
    for parameter in model.box_head.parameters():  # boxes as the bias has them, one around each patch
        parameter.data *= 0.01
    model.save_pretrained(folder)
    images = OwlViTImageProcessorPil(size={"height": 32, "width": 32})
    OwlViTProcessor(image_processor=images, tokenizer=tokenizer).save_pretrained(folder)
    return str(folder)


def test_a_detectors_boxes_are_the_mask(tiny_detector, toyworld_scene):
    source, image = toyworld_scene
    detector = DetectorRegion(tiny_detector, threshold=0.0)
    # what is in the settings of a set
    assert detector.revision == revision(tiny_detector) is not None
    mask = detector(source, edit(), image)
    assert mask.size == image.size and np.asarray(mask).any()
    with pytest.raises(NoRegionError, match="the detector sees nothing"):
        DetectorRegion(tiny_detector, threshold=1.0)(source, edit(), image)
    with pytest.raises(ValueError, match="--region: 'no/such' cannot be loaded"):
        make_region("no/such", None, None, "cpu")
