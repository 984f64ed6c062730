"""Losses by name: those of the package, and one from outside in a few lines."""

import inspect
import pkgutil

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import negguide.vlm.losses as package
from negguide.vlm import Settings, register_loss, registered_losses
from negguide.vlm.data.loader import Batch
from negguide.vlm.losses import loss_by_name, registry
from negguide.vlm.training.task import objective


@pytest.fixture
def restored(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test registers is forgotten after it."""
    registered_losses()
    monkeypatch.setattr(registry, "_LOSSES", dict(registry._LOSSES))


def batch(rows: int = 4) -> Batch:
    """Rows of which the first two have negatives; the towers' inputs are not looked at."""
    numbers = torch.arange(rows)
    return Batch(
        places=list(range(rows)),
        images={},
        texts={},
        negative=torch.tensor([0, 1]),
        has_images=True,
        has_texts=True,
        positive=torch.zeros(0, dtype=torch.int64),
        source=numbers,
        caption=numbers,
        negative_caption=100 + numbers,
        group=numbers,
    )


def features(rows: int = 4) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    images, texts = F.normalize(torch.randn(2, rows + 2, 5, generator=generator), dim=-1)
    return images, texts, torch.tensor(7.0)


def test_a_loss_from_outside_is_trained_like_any_other(restored: None) -> None:
    @register_loss("cosine")
    def cosine(image: Tensor, text: Tensor, negative_text: Tensor, valid: Tensor) -> Tensor:
        wrong = (image * negative_text).sum(dim=1)[valid].mean()
        return 1 - (image * text).sum(dim=1).mean() + wrong

    assert "cosine" in registered_losses()
    settings = Settings("set", loss="cosine", rank_margin=0.1)
    assert settings.columns == ("negative_caption",)
    images, texts, scale = features()
    value, parts = objective(settings, [(images, texts, scale)], [batch()])
    expected = 1 - (images[:4] * texts[:4]).sum(1).mean() + (images[:2] * texts[4:]).sum(1).mean()
    torch.testing.assert_close(parts["cosine"], expected)
    torch.testing.assert_close(value, parts["cosine"] + parts["rank margin"])


def test_a_loss_is_refused_with_settings_that_it_would_ignore(restored: None) -> None:
    @register_loss("plain")
    def plain(image: Tensor, text: Tensor) -> Tensor:
        return (image * text).sum()

    for more in ({"smoothing": 0.1}, {"paraphrases": True}, {"false_negative_fraction": 0.9}):
        with pytest.raises(ValueError, match=f"loss='plain' takes no options, and so no {next(iter(more))}"):
            Settings("set", loss="plain", **more)
    with pytest.raises(ValueError, match="loss='siglip' has no smoothing: they are of the softmax losses"):
        Settings("set", loss="siglip", smoothing=0.1)
    Settings("set", loss="siglip", false_negative_fraction=0.9)  # which the sigmoid losses have


def test_what_cannot_be_a_loss_is_refused(restored: None) -> None:
    with pytest.raises(ValueError, match="takes caption; a loss can take image, text, negative_image"):

        @register_loss("other")
        def other(image: Tensor, caption: Tensor) -> Tensor:
            return image.sum()

    with pytest.raises(
        ValueError, match=r"a loss 'clip' is registered already \(by negguide.vlm.losses.clip\)"
    ):

        @register_loss("clip")
        def another(image: Tensor, text: Tensor) -> Tensor:
            return image.sum()

    with pytest.raises(ValueError, match="loss='hinge' is not known; use one of clip, conclip"):
        Settings("set", loss="hinge")


def test_what_a_loss_needs_is_told_by_what_it_takes() -> None:
    columns = {name: loss.columns for name, loss in registered_losses().items()}
    both = ("negative_caption", "negative_image")
    assert columns == {
        "clip": (),
        "conclip": both,
        "grouped": both,
        "negclip": ("negative_caption",),
        "negimage": ("negative_image",),
        "negsiglip": both,
        "siglip": (),
        "triplet": both,
    }
    assert [name for name, loss in registered_losses().items() if loss.needs_bias] == ["negsiglip", "siglip"]
    assert [name for name, loss in registered_losses().items() if loss.siblings] == ["grouped"]


def test_every_loss_has_its_own_file_and_says_what_it_is_for() -> None:
    modules = {module.name for module in pkgutil.iter_modules(package.__path__)}
    for name, loss in registered_losses().items():
        assert name in modules and loss.function.__module__ == f"negguide.vlm.losses.{name}"
    added = [package.rank_margin, package.distill]
    for function in [*(loss.function for loss in registered_losses().values()), *added]:
        text = inspect.getdoc(function) or ""
        for section in ("Inputs:", "Requirements:", "Recommendations:", "Example:", "Args:", "Source:"):
            assert f"\n{section}" in text, (function.__name__, section)


@pytest.mark.parametrize("name", ["clip", "grouped", "negclip", "negimage", "triplet", "conclip"])
def test_a_loss_by_name_is_the_function_of_that_name(name: str) -> None:
    settings = Settings("set", loss=name)
    images, texts, scale = features()
    _, parts = objective(settings, [(images, texts, scale)], [batch()])
    valid = torch.tensor([True, True, False, False])
    padded = [torch.cat((part[4:], torch.zeros(2, 5))) for part in (images, texts)]
    known = {"image": images[:4], "text": texts[:4], "scale": scale, "valid": valid}
    known |= {"negative_image": padded[0], "negative_text": padded[1]}
    takes = [key for key in loss_by_name(name).takes if key != "options"]
    expected = getattr(package, name)(**{key: known[key] for key in takes})
    torch.testing.assert_close(parts[name], expected)
