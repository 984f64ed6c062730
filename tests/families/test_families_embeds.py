"""Negatives as embeddings, on every family: as good as words, without text encoders too, and refused where wrong."""

import inspect
import json
import pickle
from collections.abc import Callable, Iterator
from typing import Any
from unittest.mock import patch

import pytest
import torch
from tiny_pipelines import NEGATIVES, PROMPT, assert_same, denoiser, differ, taken
from torch import Tensor, nn

from negguide import (
    NAG,
    ONG,
    VSF,
    Negative,
    PerpNeg,
    apply_to_model,
    from_pipe,
    remove_from_model,
)

Run = Callable[..., Any]
Embeds = dict[str, Tensor]
# what `encode_prompt` gives besides prompt_embeds: under which name the call takes it, and where it stands
FURTHER: dict[str, tuple[str, int]] = {
    "sdxl": ("pooled_prompt_embeds", 2),
    "kolors": ("pooled_prompt_embeds", 2),
    "animatediff-sdxl": ("pooled_prompt_embeds", 2),
    "sd3": ("pooled_prompt_embeds", 2),
    "flux-": ("pooled_prompt_embeds", 1),
    "pixart": ("prompt_attention_mask", 1),
    "sana": ("prompt_attention_mask", 1),
    "qwen": ("prompt_embeds_mask", 1),
    "chroma": ("prompt_attention_mask", 2),
    "ltx": ("prompt_attention_mask", 1),
    "lumina2": ("prompt_attention_mask", 1),
    "krea2": ("prompt_embeds_mask", 1),
}
# of what is beside an image
WITH_IMAGES = {"qwen-image-21-edit": ("image_pad_mask", 2)}

SETTINGS = ("max_sequence_length", "clean_caption", "text_encoder_out_layers")


class EncodingError(Exception):
    """A pipeline begins to encode its prompt."""


def image_to_encode(pipe: Any, call: dict[str, Any]) -> Any:
    """What a pipeline's call gives its text encoder to see beside the prompt."""
    seen: list[Any] = []

    def encode_prompt(*args: Any, image: Any = None, **kwargs: Any) -> Any:
        seen.append(image)
        raise EncodingError

    with patch.object(pipe, "encode_prompt", encode_prompt), pytest.raises(EncodingError):
        pipe(prompt=PROMPT, **call)
    return seen[0]


def encode(pipe: Any, tiny: Any, text: str, **told: Any) -> Embeds:
    """A text by the pipeline's own `encode_prompt`, by the names of its call; Sana's without its instruction."""
    takes = inspect.signature(pipe.encode_prompt).parameters
    defaults = inspect.signature(type(pipe).__call__).parameters
    call = tiny.call() | told
    options = {name: call.get(name, defaults[name].default) for name in SETTINGS if name in takes}
    options |= {
        name: value
        for name, value in {
            "device": "cpu",
            "num_images_per_prompt": 1,
            "do_classifier_free_guidance": False,
            "prompt_2": None,
            "prompt_3": None,
            "prompt_4": None,
        }.items()
        if name in takes
    }
    if "image" in takes:
        options["image"] = image_to_encode(pipe, call)
    # as a negative is encoded
    options |= {name: value for name, value in tiny.alike().items() if name in takes}
    with torch.no_grad():
        output = pipe.encode_prompt(prompt=[text], **options)
    if tiny.like == "hidream":
        names = ("prompt_embeds_t5", "prompt_embeds_llama3", "pooled_prompt_embeds")
        return dict(zip(names, output[::2], strict=True))
    embeds = {"prompt_embeds": output[0][0][None] if tiny.like == "z-image" else output[0]}
    for start, (name, place) in FURTHER.items():
        if f"{tiny.like}-".startswith(start) and output[place] is not None:
            embeds[name] = output[place]
    if tiny.name in WITH_IMAGES:
        name, place = WITH_IMAGES[tiny.name]
        embeds[name] = output[place]
    return embeds


def main(embeds: Embeds) -> str:
    """The name of those that have the tokens."""
    return next(iter(embeds))


def as_list(tiny: Any, value: Tensor) -> Any:
    return list(value) if tiny.like == "z-image" else value


@pytest.fixture
def encoded(base: Any, tiny: Any) -> Callable[[str], Embeds]:
    return lambda text: encode(base, tiny, text)


def methods(tiny: Any, *negatives: Negative) -> list[Any]:
    return taken(tiny, PerpNeg(*negatives), NAG(*negatives, scale=3.0, alpha=0.7))


@pytest.mark.main
def test_a_negative_that_was_encoded_before_is_the_negative_in_words(
    pipe: Any, run: Run, tiny: Any, encoded: Any
) -> None:
    """Beside one in words, and without the batch axis too."""
    words = [Negative(text, weight=w, stop=1.0) for text, w in zip(NEGATIVES, (1.5, 0.5), strict=True)]
    first = encoded(NEGATIVES[0])
    whole = Negative(NEGATIVES[0], weight=1.5, stop=1.0, embeds=first)
    for in_words, one in zip(methods(tiny, *words), methods(tiny, whole, words[1]), strict=True):
        assert_same(run(pipe, negative_guidance=one), run(pipe, negative_guidance=in_words))
    if first[main(first)].ndim == 3:
        # without the batch, which is behind the layers of a Llama
        bare = Negative(
            weight=1.5,
            stop=1.0,
            embeds={name: value.squeeze(int(value.ndim == 4)) for name, value in first.items()},
        )
        assert_same(run(pipe, negative_guidance=NAG(bare)), run(pipe, negative_guidance=NAG(whole)))


def test_weighted_embeddings_act_otherwise(pipe: Any, run: Run, tiny: Any, encoded: Any) -> None:
    plain = encoded(NEGATIVES[0])
    text = plain[main(plain)]
    # away from their mean: where a model takes the norm of each token, its length alone would not count
    mean = text.mean(dim=1, keepdim=True)
    weighted = {**plain, main(plain): mean + 1.5 * (text - mean)}
    negatives = Negative(stop=1.0, embeds=plain), Negative(stop=1.0, embeds=weighted)
    for one, other in zip(*(methods(tiny, negative) for negative in negatives), strict=True):
        assert differ(run(pipe, negative_guidance=one), run(pipe, negative_guidance=other)) > 1e-4


def test_all_works_with_the_text_encoders_freed(
    base: Any, pipe: Any, run: Run, tiny: Any, encoded: Any
) -> None:
    """As people free memory: encode everything, throw the encoders away, and call with embeddings alone."""
    if not tiny.embeds_alone:
        return
    takes = inspect.signature(type(base).__call__).parameters
    call = {name: as_list(tiny, value) for name, value in encoded(PROMPT).items()}
    if f"negative_{main(call)}" in takes:
        call |= {f"negative_{name}": as_list(tiny, value) for name, value in encoded("").items()}
    if "negative_prompt" in takes:
        call["negative_prompt"] = None
    words, given = (Negative(NEGATIVES[0], stop=1.0, embeds=e) for e in (None, encoded(NEGATIVES[0])))
    expected = [run(pipe, None, negative_guidance=method, **call) for method in methods(tiny, words)]
    freed: Any = from_pipe(base)
    for name in base.components:
        if name.startswith(("text_encoder", "tokenizer")):
            setattr(freed, name, None)
    for method, picture in zip(methods(tiny, given), expected, strict=True):
        assert_same(run(freed, None, negative_guidance=method, **call), picture)
        assert differ(picture, run(freed, None, **call)) > 1e-4
    for method in methods(tiny, words):
        says = r"needs the pipeline's text_encoder\w* to encode its negatives.*Negative\(embeds=\.\.\.\)"
        with pytest.raises(ValueError, match=says):
            run(freed, None, negative_guidance=method, **call)


def test_wrong_embeddings_are_refused_before_any_model_runs(
    base: Any, pipe: Any, run: Run, tiny: Any, encoded: Any, monkeypatch: Any
) -> None:
    right = encoded(NEGATIVES[0])
    first = main(right)
    tokens, *layers, channels = right[first].shape[1:]
    axes = "tokens, layers" if layers else "tokens"
    wrong: list[tuple[Embeds, str]] = [
        ({**right, "text_embeds": right[first]}, rf"must be {first} .*; got .*text_embeds"),
        (
            {**right, first: right[first][..., :-1]},
            rf"\[{axes}, {channels}\].*got \[{tokens}, ",
        ),
    ]
    for name, value in right.items():
        if "mask" in name:
            wrong.append(
                ({**right, name: value[:, :-1]}, rf"{name} must be \[{tokens}\], .*got \[{tokens - 1}\]")
            )
        elif value.ndim == 4 and name != first:
            wrong.append(
                (
                    {**right, name: value[..., :-3]},
                    rf"{name} must be \[layers, tokens, {value.shape[3]}\] .*got \[{value.shape[0]}, {tokens}, ",
                )
            )
            # with the pooled ones or without
            needed = rf"must be {first} and {name} "
            wrong.append(({other: one for other, one in right.items() if other != name}, needed))
        elif name != first:
            width = value.shape[1]
            wrong.append(
                ({**right, name: value[:, :-3]}, rf"{name} must be \[.*{width}.*\] .*got \[{width - 3}\]")
            )
            needed = f"must be {' and '.join(one for one in right if 'mask' not in one)} for"
            wrong.append(({other: one for other, one in right.items() if other != name}, needed))

    def never(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("a model ran")

    for part in base.components.values():
        if isinstance(part, nn.Module):
            monkeypatch.setitem(vars(part), "forward", never)
    for embeds, says in wrong:
        bad = Negative("snow", embeds=embeds)
        # those in attention do without the pooled ones
        pooled = "pooled_prompt_embeds" in right and "pooled_prompt_embeds" not in embeds
        for method in (PerpNeg("a hat", bad), NAG("a hat", bad), ONG(bad), VSF(bad)):
            if not tiny.guided if isinstance(method, PerpNeg) else pooled:
                continue
            with pytest.raises(ValueError, match=r"^embeds of Negative\('snow'\).*" + says):
                run(pipe, negative_guidance=method)


@pytest.mark.families("sdxl", "sd3", "flux", "flux-kontext", "hidream")
def test_attention_needs_no_pooled_embeddings(pipe: Any, run: Run, encoded: Any) -> None:
    whole = encoded(NEGATIVES[0])
    bare: Any = {name: value for name, value in whole.items() if name != "pooled_prompt_embeds"}
    # a tensor by itself is all that most have
    bare = bare if len(bare) > 1 else bare["prompt_embeds"]
    expected = run(pipe, negative_guidance=NAG(NEGATIVES[0]))
    assert_same(run(pipe, negative_guidance=NAG(Negative(embeds=bare))), expected)


@pytest.mark.families("pixart-sigma", "sana", "qwen-image", "chroma")
def test_without_a_mask_there_is_no_padding(pipe: Any, run: Run, encoded: Any) -> None:
    whole = encoded(NEGATIVES[0])
    (mask,) = [name for name in (*whole, "prompt_embeds_mask") if "mask" in name][:1]
    ones = torch.ones(whole["prompt_embeds"].shape[:2])
    for method in (PerpNeg, NAG):
        one = run(pipe, negative_guidance=method(Negative(embeds=whole["prompt_embeds"])))
        other = run(pipe, negative_guidance=method(Negative(embeds={**whole, mask: ones})))
        assert_same(one, other)


@pytest.mark.main
def test_fewer_tokens_of_a_negative_are_those_of_a_shorter_text(
    pipe: Any, run: Run, tiny: Any, base: Any
) -> None:
    """Where a text is filled up to `max_sequence_length`, a method may say one of its own; elsewhere it is refused."""
    arguments = {
        name: p.default for name, p in inspect.signature(type(base).__call__).parameters.items()
    } | tiny.call()
    few = max(pipe.family.token_budget(pipe, text, arguments).tokens for text in NEGATIVES)
    short = NAG(*NEGATIVES, scale=3.0, alpha=0.7, max_sequence_length=few)
    if not pipe.family.padded_text:
        with pytest.raises(
            ValueError, match=rf"^max_sequence_length of NAG is {few}, and the negatives of .*leave"
        ):
            run(pipe, negative_guidance=short)
        return
    if tiny.name == "wan-i2v":
        # its processor tells the image prompt's tokens from the text's by their number
        with pytest.raises(
            ValueError, match=rf"^NAG: a negative of {few} tokens in .* takes another number of tokens"
        ):
            run(pipe, negative_guidance=short)
        return
    texts = [encode(base, tiny, text, max_sequence_length=few) for text in NEGATIVES]
    usual = encode(base, tiny, "")["prompt_embeds"].shape[1]
    assert all(text["prompt_embeds"].shape[1] < usual for text in texts)
    given = NAG(*(Negative(embeds=text) for text in texts), scale=3.0, alpha=0.7)
    cheap = run(pipe, negative_guidance=short)
    assert_same(cheap, run(pipe, negative_guidance=given))
    if tiny.like != "sd3":
        # whose CLIPs read all of it, however little its T5 does
        with pytest.raises(ValueError, match=r"^prompt of Negative\('a red scarf'\) is \d+ tokens long"):
            run(pipe, negative_guidance=ONG("a red scarf", max_sequence_length=2))
    with pytest.raises(
        ValueError, match=rf"^max_sequence_length of NAG is {few}, and its negatives are given as"
    ):
        run(pipe, negative_guidance=NAG(*given.negatives, max_sequence_length=few))


def test_tokens_of_negatives_must_be_a_number_of_them() -> None:
    for wrong, error in (
        (0, ValueError),
        (-3, ValueError),
        (2.5, TypeError),
        (True, TypeError),
        ("8", TypeError),
    ):
        with pytest.raises(error, match=r"^max_sequence_length must be"):
            VSF("a hat", max_sequence_length=wrong)  # type: ignore[arg-type]


@pytest.mark.families("flux")
def test_a_model_by_itself_has_negatives_of_their_own_length(pipe: Any, tiny: Any, base: Any) -> None:
    embeds = encode(base, tiny, "a hat")["prompt_embeds"]
    with pytest.raises(
        ValueError, match=r"^max_sequence_length of NAG is 8, and here its negatives are given as"
    ):
        apply_to_model(
            denoiser(base), NAG("a hat", max_sequence_length=8), negative_embeds=embeds, guidance_branches=1
        )


@pytest.mark.families(
    "sdxl", "pixart-sigma", "flux2-dev", "qwen-image", "z-image", "krea2", "hidream", "qwen-image-21-edit"
)
def test_it_comes_back_from_json_and_pickle_and_acts_the_same(
    pipe: Any, run: Run, tiny: Any, encoded: Any
) -> None:
    kept: list[Any] = []

    def save(image: Any) -> int:
        kept.append(image)
        return len(kept) - 1

    for method in methods(tiny, Negative(weight=1.5, stop=1.0, embeds=encoded(NEGATIVES[0]))):
        data = json.loads(json.dumps(method.to_dict(save)))
        back = type(method).from_dict(data, kept.__getitem__)
        pickled = pickle.loads(pickle.dumps(method))
        assert back == pickled == method
        assert torch.equal(run(pipe, negative_guidance=back), run(pipe, negative_guidance=pickled))


@pytest.fixture
def applied(base: Any) -> Iterator[Any]:
    """The denoiser; what is applied to it goes when the test ends."""
    yield denoiser(base)
    remove_from_model(denoiser(base))


@pytest.mark.families(
    "sd",
    "sdxl",
    "sd3",
    "pixart-sigma",
    "sana",
    "wan",
    "ltx",
    "cogview4",
    "flux",
    "chroma",
    "flux2-dev",
    "qwen-image",
)
def test_a_denoiser_by_itself_takes_them(
    base: Any, pipe: Any, run: Run, tiny: Any, encoded: Any, applied: Any
) -> None:
    """Of different lengths too, and where each belongs to a prompt of its own."""
    first, second = (encoded(text) for text in NEGATIVES)
    longer = {
        name: torch.cat([value, value], dim=1) if value.ndim == 3 or "mask" in name else value
        for name, value in second.items()
    }
    given = Negative(embeds=first, prompt_index=0), Negative(embeds=longer, weight=0.5)
    branches = {"guidance_branches": 2 if tiny.guided else 1}
    for method in (NAG(*given, scale=3.0, alpha=0.7), VSF(*given, scale=1.0)):
        expected = run(pipe, [PROMPT, PROMPT], negative_guidance=method)
        apply_to_model(applied, method, num_images_per_prompt=1, **branches)
        result = run(base, [PROMPT, PROMPT])
        remove_from_model(applied)
        assert_same(result, expected)
        assert differ(result, run(base, [PROMPT, PROMPT])) > 1e-3


@pytest.mark.families("sd", "flux", "qwen-image")
def test_and_refuses_wrong_ones(base: Any, run: Run, encoded: Any, applied: Any) -> None:
    right = encoded(NEGATIVES[0])
    bad = {**right, "prompt_embeds": right["prompt_embeds"][..., :-1]}
    with pytest.raises(ValueError, match=r"^embeds of Negative\('snow'\): prompt_embeds must be \[tokens"):
        apply_to_model(applied, NAG(Negative("snow", embeds=bad)), guidance_branches=2)
    with pytest.raises(ValueError, match=r"negative_embeds are given, and Negative\('snow'\) has embeds"):
        apply_to_model(
            applied,
            NAG(Negative("snow", embeds=right)),
            guidance_branches=2,
            negative_embeds=right["prompt_embeds"],
        )
    other = NAG(Negative("snow", embeds=right, prompt_index=1))
    with pytest.raises(ValueError, match=r"num_images_per_prompt must be given: Negative\('snow'\)"):
        apply_to_model(applied, other, guidance_branches=2)
    apply_to_model(applied, other, guidance_branches=2, num_images_per_prompt=1)
    with pytest.raises(ValueError, match=r"prompt_index of Negative\('snow'\) is 1, .* 1 prompt;"):
        run(base)


NAN = torch.full((1, 4, 8), torch.nan)
BAD_VALUES: list[tuple[Any, type[Exception], str]] = [
    (torch.ones(2, 4, 8), ValueError, r"prompt_embeds has shape \[2, 4, 8\]: one Negative is one text"),
    (torch.ones(8), ValueError, r"prompt_embeds has shape \[8\]"),
    (NAN, ValueError, "prompt_embeds holds values that are not finite"),
    (torch.ones(1, 4, 8, dtype=torch.long), ValueError, "prompt_embeds has dtype torch.int64"),
    ([1.0], TypeError, r"got \[1.0\]"),
    ({"prompt_embeds": [1.0]}, TypeError, r"prompt_embeds is \[1.0\]"),
    ({}, ValueError, "prompt_embeds is missing, got nothing"),
    ({"embeds": torch.ones(4, 8)}, ValueError, "prompt_embeds is missing, got 'embeds'"),
    (
        {"prompt_embeds": torch.ones(4, 8), "pooled_prompt_embeds": torch.ones(8).long()},
        ValueError,
        "pooled_prompt_embeds has dtype torch.int64",
    ),
    (
        {"prompt_embeds": torch.ones(4, 8), "pooled_prompt_embeds": NAN[0, 0]},
        ValueError,
        "pooled_prompt_embeds holds values that are not finite",
    ),
    (
        {"prompt_embeds": torch.ones(1, 4, 8), "pooled_prompt_embeds": torch.ones(8)},
        ValueError,
        r"pooled_prompt_embeds has shape \[8\]",
    ),
]


@pytest.mark.parametrize(("embeds", "error", "says"), BAD_VALUES)
def test_values_that_are_no_embeddings_are_refused_at_once(embeds: Any, error: Any, says: str) -> None:
    with pytest.raises(error, match="^embeds must be .*" + says):
        Negative(embeds=embeds)


@pytest.mark.families("sd", "flux")
def test_they_go_with_windows_masks_weights_and_refreshing(pipe: Any, run: Run, encoded: Any) -> None:
    mask = torch.zeros(32, 32)
    mask[:, :12] = 1
    settings: dict[str, Any] = {"weight": 2.0, "start": 0.25, "stop": 1.0, "mask": mask}
    for options in ({"refresh_every": 2}, {"joint": True}, {"adaptive": True}):
        words = PerpNeg(NEGATIVES[1], Negative(NEGATIVES[0], **settings), **options)
        given = PerpNeg(NEGATIVES[1], Negative(**settings, embeds=encoded(NEGATIVES[0])), **options)
        assert_same(run(pipe, steps=4, negative_guidance=given), run(pipe, steps=4, negative_guidance=words))
