"""A planted tell in the images is found, and told apart from being rendered."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from planted import soft, write_set

from negguide.image_files import UnreadableImageError
from negguide.mining.audit.images import image_probes, vision_features
from negguide.mining.audit.looks import Look, look_at
from negguide.mining.audit.pairs import Pair, read_pairs
from negguide.mining.audit.probes import OVERALL, Accuracy, judge


def seen(pairs: list[Pair]) -> dict[Path, Look]:
    paths = {path for pair in pairs for path in (pair.image, pair.negative_image, pair.control) if path}
    return {path: look_at(path) for path in paths}


def overall(pairs: list[Pair], looks: dict[Path, Look], comparison: str) -> dict[str, Accuracy]:
    sources = [pair.source for pair in pairs]
    probes = image_probes(pairs, looks, comparison)
    return {probe.name: judge(probe, sources).accuracies[OVERALL] for probe in probes}


def test_soft_renders_are_told_from_originals_but_not_from_controls(rendered_set: Path) -> None:
    pairs = read_pairs(rendered_set)
    looks = seen(pairs)
    originals = overall(pairs, looks, "original and negative")
    for name in ("detail", "frequency", "all statistics"):
        assert originals[name].value > 0.98, name
    assert overall(pairs, looks, "original and control")["frequency"].value > 0.98
    for name, rate in overall(pairs, looks, "control and negative").items():
        assert rate.value < 0.65, (name, rate)


def test_negatives_that_are_softer_than_controls_are_told(tmp_path: Path) -> None:
    pairs = read_pairs(write_set(tmp_path, 40, negative=soft, controls=True))
    assert overall(pairs, seen(pairs), "control and negative")["frequency"].value > 0.98


def test_without_tells_no_statistic_tells(tmp_path: Path) -> None:
    pairs = read_pairs(write_set(tmp_path, 80))
    found = overall(pairs, seen(pairs), "original and negative")
    assert list(found) == ["colour", "detail", "frequency", "all statistics", "file"]
    for name, rate in found.items():
        assert rate.low <= 0.5 <= rate.high, (name, rate)
    assert image_probes(pairs, seen(pairs), "control and negative") == []


def test_another_file_format_is_told_by_the_file_alone(tmp_path: Path) -> None:
    pairs = []
    for number in range(30):
        pixels = np.random.default_rng(number).integers(0, 256, (16, 16, 3), dtype=np.uint8)
        for role, suffix in (("a", "png"), ("b", "bmp")):
            Image.fromarray(pixels).save(tmp_path / f"{number}{role}.{suffix}")
        image, negative = tmp_path / f"{number}a.png", tmp_path / f"{number}b.bmp"
        pairs.append(Pair(str(number), str(number), "x", "y", "all", image, negative))
    found = overall(pairs, seen(pairs), "original and negative")
    assert found["file"].value == 1.0
    assert found["all statistics"].value == 0.5


def test_pairs_without_a_look_take_no_part(tmp_path: Path) -> None:
    pairs = read_pairs(write_set(tmp_path, 30))
    looks = seen(pairs)
    del looks[pairs[3].negative_image]  # type: ignore[arg-type]
    [probe, *_] = image_probes(pairs, looks, "original and negative")
    assert probe.has is not None and probe.has.sum() == 29 and not probe.has[3]
    assert judge(probe, [pair.source for pair in pairs]).accuracies[OVERALL].n == 29


@pytest.mark.parametrize("size", [(1, 1), (5, 9), (700, 40)])
def test_images_of_any_size_give_vectors_of_one_length(tmp_path: Path, size: tuple[int, int]) -> None:
    Image.linear_gradient("L").resize(size).save(tmp_path / "x.png")
    look = look_at(tmp_path / "x.png")
    assert {k: len(v) for k, v in look.statistics.items()} == {
        "colour": 32,
        "detail": 9,
        "frequency": 24,
        "file": 5,
    }
    assert all(np.isfinite(v).all() for v in look.statistics.values())


@pytest.mark.parametrize("content", [b"", b"\x89PNG\r\n\x1a\n and then nothing", b"words"])
def test_images_that_cannot_be_read_are_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.png").write_bytes(content)
    with pytest.raises(UnreadableImageError, match=r"x\.png: cannot identify"):
        look_at(tmp_path / "x.png")
    with pytest.raises(FileNotFoundError, match=r"y\.png"):
        look_at(tmp_path / "y.png")


def test_features_of_the_judge_and_of_a_clip(rendered_set: Path) -> None:
    import torch

    from negguide.toyworld.models import CLIP, load_clip, load_judge

    paths = [pair.image for pair in read_pairs(rendered_set)[:3] if pair.image]
    images = [Image.open(path).convert("RGB") for path in paths]
    judged = vision_features(paths, "toyworld", batch_size=2)
    assert np.allclose(
        np.stack([judged[path] for path in paths]), load_judge().embed(images).numpy(), atol=1e-5
    )
    model, processor = load_clip()
    with torch.no_grad():
        inputs = processor(images=images, return_tensors="pt")
        expected = model.visual_projection(model.vision_model(**inputs).pooler_output)
    found = vision_features(paths, str(CLIP))
    assert np.allclose(np.stack([found[path] for path in paths]), expected.numpy(), atol=1e-3)
    with pytest.raises(ValueError, match=r"features=.*nowhere' cannot be loaded"):
        vision_features(paths, str(rendered_set / "nowhere"))
