"""What is equal to the model never wins over itself, in whatever batch it is read."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import torch
from known_features import Known
from PIL import Image

from negguide.toyworld.suite import retrieval_part
from negguide.vlm.evaluation.evaluate import evaluate, pair_scores
from negguide.vlm.evaluation.features import cosines, image_features, text_features
from negguide.vlm.evaluation.results import Results
from negguide.vlm.evaluation.suites.base import Choice, Choices, Pair, Pairs, Part, Retrieval, Suite, ZeroShot
from negguide.vlm.models import VisionLanguageModel, load_model

BATCHES = (3, 7, 32)


@pytest.fixture(scope="module", params=["toyworld", "siglip"])
def model(request: pytest.FixtureRequest, tiny_folders: dict[str, Path]) -> VisionLanguageModel:
    """A CLIP, which masks its padding, and a SigLIP, which reads it."""
    return load_model(request.param if request.param == "toyworld" else str(tiny_folders[request.param]))


@pytest.fixture(scope="module")
def shown() -> Retrieval:
    """Renders, each with its caption."""
    return retrieval_part(40)


def found(model: VisionLanguageModel, part: Part) -> Iterator[Results]:
    for batch_size in BATCHES:
        yield evaluate(model, [Suite("s", "1", {"": part})], batch_size=batch_size)


def value(results: Results, metric: str) -> float:
    return results.row("s", metric).value


def again(images: Sequence[Image.Image]) -> list[Image.Image]:
    """The same pixels in other objects."""
    return [image.copy() for image in images]


def test_an_option_in_other_letters_is_the_same_to_the_model(model, shown):
    # what a tokenizer that knows no capitals makes of it
    assert torch.equal(
        *(model.text_inputs([text])["input_ids"] for text in (shown.captions[0], shown.captions[0].upper()))
    )
    items = tuple(Choice(i, (text, text.upper()), 0, "x") for i, text in enumerate(shown.captions))
    for results in found(model, Choices(shown.images, items)):
        assert value(results, "accuracy") == 0


def test_options_that_are_the_same_where_they_are_cut_off_are_the_same(model, shown):
    long = [" ".join([text] * 8) for text in shown.captions]
    assert all(model.truncated(long))
    items = tuple(Choice(i, (text, f"{text} cat", f"{text} bear"), i % 3, "x") for i, text in enumerate(long))
    for results in found(model, Choices(shown.images, items)):
        assert value(results, "accuracy") == 0


def test_the_same_caption_or_image_on_both_sides_of_a_pair_is_never_right(model, shown):
    images = [*shown.images, *again(shown.images)]
    n, texts = len(shown.images), shown.captions
    items = [Pair((i, (i + 1) % n), (text, text.upper()), "text") for i, text in enumerate(texts)]
    items += [Pair((i, n + i), (text, texts[(i + 1) % n]), "image") for i, text in enumerate(texts)]
    part = Pairs(images, tuple(items))
    for results in found(model, part):
        assert results.row("s", "text", "text").value == results.row("s", "image", "image").value == 0
    scores = pair_scores(model, part, 7)
    assert torch.equal(scores[:n, :, 0], scores[:n, :, 1])
    assert torch.equal(scores[n:, 0], scores[n:, 1])


def test_a_paraphrase_that_reads_like_the_negative_never_beats_it(model, shown):
    n, texts = len(shown.images), shown.captions
    items = tuple(
        Pair((i, (i + 1) % n), (text, texts[(i + 1) % n]), "x", (texts[(i + 1) % n].upper(),))
        for i, text in enumerate(texts)
    )
    same = tuple(
        Pair((i, (i + 1) % n), (text, texts[(i + 1) % n]), "x", (text.upper(),))
        for i, text in enumerate(texts)
    )
    for results in found(model, Pairs(shown.images, items)):
        assert value(results, "hard positives") == 0
    for results in found(model, Pairs(shown.images, same)):
        gap = results.row("s", "paraphrase gap")
        assert gap.value == 0 and value(results, "paraphrase failures") == 0 and gap.low < 0 < gap.high


def test_an_image_that_is_twice_in_a_gallery_is_never_first(model, shown):
    twice = [*shown.images, *again(shown.images)]
    for results in found(model, Retrieval(twice, shown.captions, shown.owners, both=False)):
        assert value(results, "text to image R@1") == 0
    # and a caption of two images is never the first of either
    captions = (*shown.captions, *map(str.upper, shown.captions))
    owners = (*shown.owners, *((owner + 1) % 40 for owner in shown.owners))
    for results in found(model, Retrieval(shown.images, captions, owners)):
        assert value(results, "image to text R@1") == 0


def test_two_classes_of_the_same_texts_are_never_right(model, shown):
    classes = tuple((a, b) for a, b in zip(shown.captions, shown.captions[1:], strict=False))
    turned = tuple((b.upper(), a) for a, b in classes)
    part = ZeroShot(shown.images, tuple(i % len(classes) for i in range(40)), (*classes, *turned))
    for results in found(model, part):
        assert value(results, "accuracy") == 0


def test_figures_do_not_hang_on_the_batch_size(clip, shown):
    first, *others = (results.rows for results in found(clip, shown))
    assert [row.value for row in first if row.metric == "text to image R@1"] != [0]
    assert all(rows == first for rows in others)


class Counting(Sequence):
    """Lazy images that count how often each is opened."""

    def __init__(self, reds: Sequence[int]) -> None:
        self.reds, self.opened = reds, [0] * len(reds)

    def __len__(self) -> int:
        return len(self.reds)

    def __getitem__(self, index: int) -> Image.Image:
        self.opened[index] += 1
        return Image.new("RGB", (4, 4), (self.reds[index], 0, 0))


def test_each_image_is_opened_once_and_each_picture_is_encoded_once_in_full_batches():
    sizes = []

    class Asked(Known):
        def encode_images(self, images, batch_size):
            sizes.append(len(images))
            return super().encode_images(images, batch_size)

    reds = [i // 2 for i in range(20)]
    images = Counting(reds)
    features = image_features(Asked({i: [i, 1] for i in range(10)}, {}), images, 4, "s")
    assert images.opened == [1] * 20 and sizes == [4, 4, 2]
    assert features.distinct[features.rows(range(20))].tolist() == [[red, 1] for red in reds]


def test_images_of_the_same_bytes_and_another_size_differ():
    wide, high = Image.new("RGB", (4, 2), (1, 0, 0)), Image.new("RGB", (2, 4), (1, 0, 0))
    grey = Image.new("L", (4, 4), 5)
    features = image_features(
        Known({1: [1.0], 5: [5.0]}, {}), [wide, high, grey, grey.convert("RGB")], 8, "s"
    )
    assert features.rows(range(4)).tolist() == [0, 1, 2, 2]


def test_similarities_are_those_of_the_rows_however_often_a_pair_comes():
    generator = torch.Generator().manual_seed(0)
    vectors = {name: torch.rand(8, generator=generator).tolist() for name in "abcdefg"}
    images = {red: torch.rand(8, generator=generator).tolist() for red in range(5)}
    model = Known(images, vectors)
    texts = text_features(model, list(vectors), 3, "s")
    seen = image_features(model, Counting(range(5)), 2, "s")
    names, places = list("abcdefg" * 3), [i % 5 for i in range(21)]
    wanted = [
        sum(x * y for x, y in zip(vectors[name], images[place], strict=True))
        for name, place in zip(names, places, strict=True)
    ]
    assert cosines(texts, names, seen, places).tolist() == pytest.approx(wanted)
