"""Every loss against its formula, written out with loops where that is clearer."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from negguide.vlm import losses
from negguide.vlm.losses import Options
from negguide.vlm.losses.info_nce import info_nce
from negguide.vlm.losses.masks import false_negative_weights, false_negatives
from negguide.vlm.losses.mixing import Mixing, mix

N, D, SCALE = 6, 5, 7.0


def features(count: int = N, seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Image, text, negative image and negative text, of unit length."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randn(4, count, D, generator=generator, dtype=torch.float64)
    image, text, negative_image, negative_text = F.normalize(drawn, dim=-1)
    return image, text, negative_image, negative_text


def ce(query: Tensor, keys: Tensor, label: int) -> Tensor:
    logits = torch.stack([SCALE * (query * key).sum() for key in keys])
    return torch.logsumexp(logits, 0) - logits[label]


def average(values: list[Tensor]) -> Tensor:
    return torch.stack(values).mean()


def test_clip_is_the_mean_of_both_cross_entropies() -> None:
    image, text, _, _ = features()
    forward = average([ce(image[i], text, i) for i in range(N)])
    backward = average([ce(text[i], image, i) for i in range(N)])
    torch.testing.assert_close(losses.clip(image, text, SCALE), (forward + backward) / 2)


def test_negclip_adds_negative_texts_to_the_texts_of_images_only() -> None:
    image, text, _, negative = features()
    forward = average([ce(image[i], torch.cat((text, negative)), i) for i in range(N)])
    backward = average([ce(text[i], image, i) for i in range(N)])
    torch.testing.assert_close(losses.negclip(image, text, negative, SCALE), (forward + backward) / 2)


def test_negimage_adds_negative_images_to_the_images_of_texts_only() -> None:
    image, text, negative, _ = features()
    forward = average([ce(image[i], text, i) for i in range(N)])
    backward = average([ce(text[i], torch.cat((image, negative)), i) for i in range(N)])
    torch.testing.assert_close(losses.negimage(image, text, negative, SCALE), (forward + backward) / 2)


def test_triplet_is_negclip_both_ways_round() -> None:
    image, text, negative_image, negative_text = features()
    expected = losses.negclip(image, text, negative_text, SCALE) + losses.negclip(
        negative_image, negative_text, text, SCALE
    )
    found = losses.triplet(image, text, negative_image, negative_text, SCALE)
    torch.testing.assert_close(found, expected)


def test_conclip_takes_a_negated_caption_to_the_negative_image() -> None:
    image, text, negative_image, negative_text = features()
    texts, images = torch.cat((text, negative_text)), torch.cat((image, negative_image))
    forward = average([ce(image[i], texts, i) for i in range(N)])
    backward = average(
        [ce(text[i], images, i) for i in range(N)] + [ce(negative_text[i], images, N + i) for i in range(N)]
    )
    found = losses.conclip(image, text, negative_image, negative_text, SCALE)
    torch.testing.assert_close(found, (forward + backward) / 2)


def test_siglip_is_a_sum_of_logistic_losses_over_the_number_of_images() -> None:
    image, text, _, _ = features()
    bias = -2.0
    expected = torch.zeros((), dtype=torch.float64)
    for i in range(N):
        for j in range(N):
            z = 1 if i == j else -1
            expected += torch.log1p(torch.exp(-z * (SCALE * image[i] @ text[j] + bias))) / N
    torch.testing.assert_close(losses.siglip(image, text, SCALE, bias), expected)


def test_siglip_with_negatives_is_siglip_of_twice_as_many_pairs() -> None:
    image, text, negative_image, negative_text = features()
    expected = losses.siglip(
        torch.cat((image, negative_image)), torch.cat((text, negative_text)), SCALE, -2.0
    )
    found = losses.negsiglip(image, text, negative_image, negative_text, SCALE, -2.0)
    torch.testing.assert_close(found, expected)


def test_rank_margin_is_the_hinge_of_all_four_comparisons() -> None:
    image, text, negative_image, negative_text = features()
    total = torch.zeros((), dtype=torch.float64)
    for i in range(N):
        pair, twin = image[i] @ text[i], negative_image[i] @ negative_text[i]
        for wrong in (image[i] @ negative_text[i], negative_image[i] @ text[i]):
            total += (F.relu(0.2 - pair + wrong) + F.relu(0.2 - twin + wrong)) / N
    found = losses.rank_margin(image, text, 0.2, negative_text=negative_text, negative_image=negative_image)
    torch.testing.assert_close(found, total)
    alone = average([F.relu(0.2 - image[i] @ text[i] + image[i] @ negative_text[i]) for i in range(N)])
    torch.testing.assert_close(losses.rank_margin(image, text, 0.2, negative_text=negative_text), alone)


def test_the_rank_margin_pushes_a_caption_away_from_its_negative() -> None:
    image, text, _, negative = features()
    text.requires_grad_()
    losses.rank_margin(image, text, 2.0, negative_text=negative).backward()
    moved = F.normalize(text.detach() - 0.1 * text.grad, dim=-1)
    assert ((image * moved).sum(1) >= (image * text).sum(1)).all()


def test_distill_is_the_kl_divergence_from_the_start_models_view() -> None:
    image, text, teacher_image, teacher_text = features()
    terms = []
    for a, b, c, d in (
        (image, text, teacher_image, teacher_text),
        (text, image, teacher_text, teacher_image),
    ):
        now, before = (SCALE * a @ b.T).softmax(1), (3.0 * c @ d.T).softmax(1)
        terms.append((before * (before / now).log()).sum(1).mean())
    found = losses.distill(image, text, SCALE, teacher_image, teacher_text, 3.0)
    torch.testing.assert_close(found, (terms[0] + terms[1]) / 2)
    assert losses.distill(image, text, SCALE, image, text, SCALE).abs() < 1e-12


def test_distill_leaves_siblings_to_be_unlearned() -> None:
    image, text, teacher_image, teacher_text = features()
    group = torch.arange(len(image)) // 2
    others = ~((group[:, None] == group) & ~torch.eye(len(image), dtype=torch.bool))
    terms = []
    for a, b, c, d in (
        (image, text, teacher_image, teacher_text),
        (text, image, teacher_text, teacher_image),
    ):
        rows = []
        for i in range(len(image)):
            now, before = ((z[i] @ k.T)[others[i]] for z, k in ((SCALE * a, b), (3.0 * c, d)))
            now, before = now.softmax(0), before.softmax(0)
            rows.append((before * (before / now).log()).sum())
        terms.append(torch.stack(rows).mean())
    found = losses.distill(image, text, SCALE, teacher_image, teacher_text, 3.0, group=group)
    torch.testing.assert_close(found, (terms[0] + terms[1]) / 2)


def test_cwcl_weighs_texts_by_how_alike_the_images_are() -> None:
    image, text, guide, _ = features()
    weights = (1 + guide @ guide.T) / 2
    log_p = (SCALE * image @ text.T).log_softmax(1)
    forward = -((weights * log_p).sum(1) / weights.sum(1)).mean()
    backward = average([ce(text[i], image, i) for i in range(N)])
    found = losses.clip(image, text, SCALE, Options(continuous=True, teacher_image=guide))
    torch.testing.assert_close(found, (forward + backward) / 2)


def test_cwcl_weighs_a_paraphrase_as_its_caption() -> None:
    image, text, guide, paraphrase = features()
    has = torch.tensor([True, False, True, True, False, True])
    weights = (1 + guide @ guide.T) / 2
    weights = torch.cat((weights, weights[:, has]), dim=1)
    log_p = (SCALE * image @ torch.cat((text, paraphrase[has])).T).log_softmax(1)
    forward = -((weights * log_p).sum(1) / weights.sum(1)).mean()
    backward = [ce(text[i], image, i) for i in range(N)]
    backward += [ce(paraphrase[i], image, i) for i in range(N) if has[i]]
    options = Options(continuous=True, teacher_image=guide, positive_text=paraphrase, has_positive=has)
    torch.testing.assert_close(losses.clip(image, text, SCALE, options), (forward + average(backward)) / 2)


def test_cwcl_takes_an_equal_caption_for_a_whole_positive() -> None:
    image, text, guide, _ = features()
    weights = (1 + guide @ guide.T) / 2
    weights[0, 2] = weights[2, 0] = 1.0
    log_p = (SCALE * image @ text.T).log_softmax(1)
    forward = -((weights * log_p).sum(1) / weights.sum(1)).mean()
    backward = [ce(text[i], image, i) for i in range(N)]
    for one, other in ((0, 2), (2, 0)):
        backward[one] = average([ce(text[one], image, one), ce(text[one], image, other)])
    options = Options(continuous=True, teacher_image=guide, caption=torch.tensor([0, 1, 0, 2, 3, 4]))
    torch.testing.assert_close(losses.clip(image, text, SCALE, options), (forward + average(backward)) / 2)


def test_rows_of_one_image_share_the_target() -> None:
    image, text, _, _ = features()
    source = torch.tensor([0, 1, 0, 2, 3, 4])
    rows = []
    for queries, keys in ((image, text), (text, image)):
        for i in range(N):
            same = [j for j in range(N) if source[j] == source[i]]
            rows.append(average([ce(queries[i], keys, j) for j in same]))
    found = losses.clip(image, text, SCALE, Options(source=source))
    torch.testing.assert_close(found, average(rows))


def test_a_negative_caption_that_is_true_of_another_row_is_no_negative_there() -> None:
    image, text, _, negative = features()
    caption, negative_caption = torch.arange(N), torch.arange(N) + 100
    negative_caption[3] = 1  # says what caption 1 says
    values = []
    for i in range(N):
        keep = [j for j in range(N) if not (i == 1 and j == 3)]
        values.append(ce(image[i], torch.cat((text, negative[keep])), i))
    backward = average([ce(text[i], image, i) for i in range(N)])
    options = Options(caption=caption, negative_caption=negative_caption)
    found = losses.negclip(image, text, negative, SCALE, options)
    torch.testing.assert_close(found, (average(values) + backward) / 2)


SAYS_THE_SAME: dict[str, Callable[[Tensor, Tensor, Tensor, Tensor, Options], Tensor]] = {
    "negclip": lambda i, t, ni, nt, o: losses.negclip(i, t, nt, SCALE, o),
    "negimage": lambda i, t, ni, nt, o: losses.negimage(i, t, ni, SCALE, o),
    "triplet": lambda i, t, ni, nt, o: losses.triplet(i, t, ni, nt, SCALE, o),
    "conclip": lambda i, t, ni, nt, o: losses.conclip(i, t, ni, nt, SCALE, o),
    "negsiglip": lambda i, t, ni, nt, o: losses.negsiglip(i, t, ni, nt, SCALE, -1.0, o),
}


@pytest.mark.parametrize("name", SAYS_THE_SAME)
def test_what_says_the_same_is_no_negative_in_any_loss(name: str) -> None:
    """Caption 1 and the negative caption of row 3 are one sentence: nothing pushes what the two are of apart."""
    numbers = torch.arange(N)
    options = Options(caption=numbers, negative_caption=torch.where(numbers == 3, 1, 100 + numbers))
    unit = torch.eye(2 * N, dtype=torch.float64)
    for masked in (True, False):
        image, negative_image = unit[:N].clone().requires_grad_(), unit[N:].clone().requires_grad_()
        value = SAYS_THE_SAME[name](
            image, unit[:N], negative_image, unit[N:], options if masked else Options()
        )
        value.backward()
        pushes = []
        if image.grad is not None:
            pushes.append(image.grad[1, N + 3])  # along the negative caption of row 3
        if negative_image.grad is not None:
            pushes.append(negative_image.grad[3, 1])  # along caption 1
        assert pushes and all(bool(push == 0) for push in pushes) == masked


def test_siblings_are_no_false_negatives_and_no_continuous_positives() -> None:
    image, text, teacher_image, teacher_text = features()
    group = torch.tensor([0, 0, 1, 1, 2, 2])
    with_all = Options(false_negative_fraction=1e-6, teacher_image=teacher_image, teacher_text=teacher_text)
    positive = torch.eye(N, dtype=torch.bool)
    masked = false_negative_weights(with_all, positive, image_queries=True)
    kept = false_negative_weights(replace(with_all, group=group), positive, image_queries=True)
    assert masked is not None and kept is not None
    pairs = (group[:, None] == group) & ~positive
    assert (masked[pairs] == -torch.inf).any() and (kept[pairs] == 0).all()
    assert torch.equal(kept[~pairs], masked[~pairs])
    # with siblings alone in the batch, CWCL is the plain loss
    alone = Options(continuous=True, teacher_image=teacher_image, group=torch.zeros(N, dtype=torch.int64))
    torch.testing.assert_close(losses.clip(image, text, SCALE, alone), losses.clip(image, text, SCALE))


def test_paraphrases_are_positives_both_ways() -> None:
    image, text, paraphrase, negative = features()
    has = torch.tensor([True, False, True, True, False, False])
    keys = torch.cat((text, paraphrase[has], negative))
    place = {int(i): N + k for k, i in enumerate(has.nonzero())}
    forward = [average([ce(image[i], keys, j) for j in ([i, place[i]] if has[i] else [i])]) for i in range(N)]
    backward = [ce(text[i], image, i) for i in range(N)]
    backward += [ce(paraphrase[i], image, i) for i in range(N) if has[i]]
    options = Options(positive_text=paraphrase, has_positive=has)
    found = losses.negclip(image, text, negative, SCALE, options)
    torch.testing.assert_close(found, (average(forward) + average(backward)) / 2)


def test_label_smoothing_is_that_of_torch() -> None:
    image, text, _, negative = features()
    keys = torch.cat((text, negative))
    labels = torch.arange(N)
    forward = F.cross_entropy(SCALE * image @ keys.T, labels, label_smoothing=0.1)
    backward = F.cross_entropy(SCALE * text @ image.T, labels, label_smoothing=0.1)
    found = losses.negclip(image, text, negative, SCALE, Options(smoothing=0.1))
    torch.testing.assert_close(found, (forward + backward) / 2)


def test_the_focal_factor_is_one_minus_the_probability_to_the_power() -> None:
    image, text, _, _ = features()
    values = []
    for queries, keys in ((image, text), (text, image)):
        for i in range(N):
            value = ce(queries[i], keys, i)
            values.append((1 - torch.exp(-value)) ** 2 * value)
    found = losses.clip(image, text, SCALE, Options(focal=2.0))
    torch.testing.assert_close(found, average(values))


def test_the_focal_loss_of_a_certain_answer_has_a_gradient() -> None:
    one = torch.eye(2, requires_grad=True)
    loss = info_nce(one, torch.eye(2), 100.0, torch.eye(2), focal=0.5).sum()
    loss.backward()
    assert one.grad is not None and torch.isfinite(one.grad).all()


@pytest.mark.parametrize("focal", [0.0, 1.0])
def test_the_dice_loss_is_one_minus_twice_the_probability_over_itself_and_one(focal: float) -> None:
    image, text, _, negative = features()
    values = []
    for queries, keys in ((image, torch.cat((text, negative))), (text, image)):
        for i in range(N):
            p = torch.exp(-ce(queries[i], keys, i))
            values.append((1 - p) ** focal * (1 - 2 * p / (p + 1)))
    found = losses.negclip(image, text, negative, SCALE, Options(dice=True, focal=focal))
    torch.testing.assert_close(found, average(values))


def test_the_dice_loss_learns_least_from_what_is_right_or_hopeless() -> None:
    cosine = torch.tensor([[0.99, 0.0], [0.5, 0.45], [0.0, 0.99]], dtype=torch.float64, requires_grad=True)
    right = torch.tensor([[1.0, 0.0]] * 3, dtype=torch.float64)
    info_nce(cosine, torch.eye(2, dtype=torch.float64), 20.0, right, dice=True).sum().backward()
    assert cosine.grad is not None
    easy, middling, hopeless = -cosine.grad[:, 0]
    assert middling > 100 * easy > 0 and middling > 100 * hopeless > 0
    # the cross entropy's, times 2 p / (1 + p)^2
    p = torch.sigmoid(torch.tensor(20 * 0.05, dtype=torch.float64))
    torch.testing.assert_close(middling, 20 * (1 - p) * 2 * p / (1 + p) ** 2)


def test_false_negatives_are_those_above_a_share_of_the_positive() -> None:
    similarity = torch.tensor([[0.8, 0.79, 0.5], [0.9, 0.6, 0.3], [0.1, 0.2, -0.1]])
    positive = torch.eye(3, dtype=torch.bool)
    masked = false_negatives(similarity, positive, fraction=0.9, weight=0.0)
    out = torch.tensor([[0, 1, 0], [1, 0, 0], [0, 0, 0]], dtype=torch.bool)  # the last positive is below 0
    assert torch.equal(masked == -torch.inf, out)
    half = false_negatives(similarity, positive, fraction=0.9, weight=0.5)
    assert torch.allclose(half[out].exp(), torch.tensor(0.5)) and (half[~out] == 0).all()


def test_a_masked_false_negative_leaves_the_denominator_and_a_halved_one_counts_half() -> None:
    image, text, teacher_image, teacher_text = features()
    for kept in (0.0, 0.5):
        values = []
        for queries, keys, a, b in (
            (image, text, teacher_image, teacher_text),
            (text, image, teacher_text, teacher_image),
        ):
            similarity = a @ b.T
            for i in range(N):
                total = torch.zeros((), dtype=torch.float64)
                for j in range(N):
                    best = similarity[i, i]
                    doubtful = i != j and best > 0 and similarity[i, j] > 0.5 * best
                    total += (kept if doubtful else 1) * torch.exp(SCALE * queries[i] @ keys[j])
                values.append(torch.log(total) - SCALE * queries[i] @ keys[i])
        options = Options(
            false_negative_fraction=0.5,
            false_negative_weight=kept,
            teacher_image=teacher_image,
            teacher_text=teacher_text,
        )
        torch.testing.assert_close(losses.clip(image, text, SCALE, options), average(values))


def test_mixed_negatives_lie_between_the_hardest_and_the_query() -> None:
    image, text, _, _ = features()
    negative = ~torch.eye(N, dtype=torch.bool)
    mixed = mix(image, text, negative, Mixing(hardest=2, pairs=40, queries=40))
    assert mixed.shape == (N, 80, D) and not mixed.requires_grad
    torch.testing.assert_close(mixed.norm(dim=-1), torch.ones(N, 80, dtype=mixed.dtype))
    similarity = (image @ text.T).masked_fill(~negative, -torch.inf)
    for i in range(N):
        hard = text[similarity[i].topk(2).indices]
        basis, _ = torch.linalg.qr(hard.T)
        inside = mixed[i, :40] @ basis
        torch.testing.assert_close(inside.norm(dim=-1), torch.ones(40, dtype=mixed.dtype))
        assert (mixed[i, 40:] @ image[i]).mean() > (mixed[i, :40] @ image[i]).mean()


def test_a_negative_mixed_with_the_query_is_never_more_than_half_of_it() -> None:
    image, text, _, _ = features()
    negative = ~torch.eye(N, dtype=torch.bool)
    mixed = mix(image, text, negative, Mixing(hardest=1, pairs=0, queries=200))
    hardest = (image @ text.T).masked_fill(~negative, -torch.inf).argmax(dim=1)
    for i in range(N):
        hard = text[hardest[i]]
        assert ((mixed[i] @ image[i]) <= (mixed[i] @ hard) + 1e-9).all()


def test_mixed_negatives_make_the_loss_larger_and_a_row_without_negatives_gets_none() -> None:
    image, text, _, _ = features()
    torch.manual_seed(0)
    assert losses.clip(
        image, text, SCALE, Options(mixing=Mixing(hardest=32, pairs=16, queries=0))
    ) > losses.clip(image, text, SCALE)
    alone = Options(source=torch.zeros(N, dtype=torch.int64), mixing=Mixing(hardest=32, pairs=16, queries=0))
    plain = Options(source=torch.zeros(N, dtype=torch.int64))
    # opposites of the query weigh exp(-7) each
    difference = losses.clip(image, text, 50.0, alone) - losses.clip(image, text, 50.0, plain)
    assert abs(difference) < 1e-6


Loss = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]
WITH_NEGATIVES: dict[str, Loss] = {
    "negclip": lambda i, t, ni, nt, v: losses.negclip(i, t, nt, SCALE, valid=v),
    "negimage": lambda i, t, ni, nt, v: losses.negimage(i, t, ni, SCALE, valid=v),
    "triplet": lambda i, t, ni, nt, v: losses.triplet(i, t, ni, nt, SCALE, valid=v),
    "conclip": lambda i, t, ni, nt, v: losses.conclip(i, t, ni, nt, SCALE, valid=v),
    "negsiglip": lambda i, t, ni, nt, v: losses.negsiglip(i, t, ni, nt, SCALE, -1.0, valid=v),
    "rank margin": lambda i, t, ni, nt, v: losses.rank_margin(
        i, t, 0.3, negative_image=ni, negative_text=nt, valid=v
    ),
}


@pytest.mark.parametrize("name", WITH_NEGATIVES)
def test_what_stands_in_a_row_without_a_negative_changes_nothing(name: str) -> None:
    image, text, negative_image, negative_text = features()
    valid = torch.tensor([True, True, False, True, False, True])
    found = []
    for filling in (0.0, 1.0):
        made = [
            torch.where(valid[:, None], f, torch.full_like(f, filling))
            for f in (negative_image, negative_text)
        ]
        leaves = [x.clone().requires_grad_() for x in (image, text, *made)]
        value = WITH_NEGATIVES[name](*leaves, valid)
        value.backward()
        for leaf in leaves[2:]:
            if leaf.grad is not None:
                assert (leaf.grad[~valid] == 0).all()
        found.append((value.detach(), leaves[0].grad))
    torch.testing.assert_close(found[0], found[1])


@pytest.mark.parametrize("name", WITH_NEGATIVES)
def test_invalid_rows_leave_what_the_valid_ones_alone_would_give(name: str) -> None:
    image, text, negative_image, negative_text = features()
    none = torch.zeros(N, dtype=torch.bool)
    value = WITH_NEGATIVES[name](image, text, negative_image, negative_text, none)
    plain = {
        "conclip": losses.clip(image, text, SCALE),
        "negsiglip": losses.siglip(image, text, SCALE, -1.0),
        "rank margin": torch.zeros((), dtype=torch.float64),
    }
    torch.testing.assert_close(value, plain.get(name, losses.clip(image, text, SCALE)))


def test_options_that_contradict_each_other_are_refused() -> None:
    image, text, negative_image, _ = features()
    with pytest.raises(ValueError, match="continuous=True needs teacher_image"):
        Options(continuous=True)
    with pytest.raises(
        ValueError, match=r"false_negative_fraction=0\.9 needs teacher_image and teacher_text"
    ):
        Options(false_negative_fraction=0.9)
    with pytest.raises(ValueError, match="no single positive"):
        Options(continuous=True, focal=1.0, teacher_image=image)
    with pytest.raises(ValueError, match="no single positive"):
        Options(continuous=True, dice=True, teacher_image=image)
    with pytest.raises(ValueError, match=r"dice=True has no labels that smoothing=0\.1 could smooth"):
        Options(dice=True, smoothing=0.1)
    with pytest.raises(ValueError, match="siglip takes no continuous, smoothing, focal, dice"):
        losses.siglip(image, text, SCALE, 0.0, Options(dice=True))
    with pytest.raises(ValueError, match="siglip takes no continuous, smoothing"):
        losses.siglip(image, text, SCALE, 0.0, Options(smoothing=0.1))
    with pytest.raises(TypeError, match="negative_text"):  # one kind of negatives alone is no sigmoid loss
        losses.negsiglip(image, text, negative_image, scale=SCALE, bias=0.0)  # type: ignore[call-arg]
    with pytest.raises(ValueError, match="needs negative_text, negative_image or both"):
        losses.rank_margin(image, text, 0.2)
    with pytest.raises(ValueError, match="hardest=0"):
        Mixing(hardest=0, pairs=16, queries=0)
