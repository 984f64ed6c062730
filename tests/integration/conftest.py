"""Tiny Stable Diffusion pipelines with random weights: every part is there, nothing is learnt."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderTiny,
    DDIMScheduler,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from naive_negtome import BLOCKS
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing
from transformers import CLIPTextConfig, CLIPTextModel, PreTrainedTokenizerFast

from negguide import NegGuideStableDiffusionPipeline, from_pipe

WORDS = [
    "a",
    "the",
    "bear",
    "cat",
    "robot",
    "hat",
    "glasses",
    "black",
    "red",
    "brown",
    "in",
    "wearing",
    "snow",
    "back",
    "view",
]
LENGTH = 12


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    vocabulary = {word: i for i, word in enumerate(["<s>", "</s>", "<unk>", *WORDS])}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.post_processor = TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 1)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="</s>",
        unk_token="<unk>",
        model_max_length=LENGTH,
    )


def tiny_unet(**changes: Any) -> UNet2DConditionModel:
    torch.manual_seed(1)
    config = {
        "sample_size": 8,
        "block_out_channels": (16, 32),
        "layers_per_block": 1,
        "norm_num_groups": 4,
        "attention_head_dim": 4,
        "cross_attention_dim": 32,
        "down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
    }
    unet = UNet2DConditionModel(**{**config, **changes})
    # a fresh UNet hardly listens to its text, and its image tokens are all alike; make it, so that negatives count
    strength = {"attn1.to_q": 4, "attn1.to_k": 4, "attn1.to_v": 4, "attn2.to_v": 2, "attn2.to_out": 2}
    for name, parameter in unet.named_parameters():
        for part, factor in strength.items():
            parameter.data *= factor if part in name else 1
    return unet.eval()


def tiny_pipeline(
    unet: UNet2DConditionModel | None = None, kl: bool = False, dtype: torch.dtype = torch.float64
) -> StableDiffusionPipeline:
    torch.manual_seed(2)
    text_encoder = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(WORDS) + 3,
            hidden_size=32,
            intermediate_size=37,
            num_hidden_layers=3,
            num_attention_heads=4,
            max_position_embeddings=LENGTH,
            bos_token_id=0,
            eos_token_id=1,
            pad_token_id=1,
        )
    ).eval()
    vae: AutoencoderKL | AutoencoderTiny
    if kl:
        blocks = ("DownEncoderBlock2D",) * 4, ("UpDecoderBlock2D",) * 4
        vae = AutoencoderKL(
            block_out_channels=(4, 4, 4, 4),
            norm_num_groups=2,
            down_block_types=blocks[0],
            up_block_types=blocks[1],
            latent_channels=4,
        ).eval()
    else:
        vae = AutoencoderTiny(
            encoder_block_out_channels=(4, 4, 4, 4),
            decoder_block_out_channels=(4, 4, 4, 4),
            num_encoder_blocks=(1, 1, 1, 1),
            num_decoder_blocks=(1, 1, 1, 1),
            scaling_factor=5.0,
        ).eval()
    pipe = StableDiffusionPipeline(
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tiny_tokenizer(),
        unet=tiny_unet() if unet is None else unet,
        scheduler=DDIMScheduler(clip_sample=False, set_alpha_to_one=False, steps_offset=1),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipe.set_progress_bar_config(disable=True)
    # in double precision runs that should agree do, however much a random model amplifies rounding
    return pipe.to(dtype=dtype)


@pytest.fixture(scope="session")
def base() -> StableDiffusionPipeline:
    """The plain pipeline; tests share it and leave it as it is."""
    return tiny_pipeline()


@pytest.fixture
def pipe(base: StableDiffusionPipeline) -> NegGuideStableDiffusionPipeline:
    """A guided pipeline on the shared models, with attributes (the scheduler) of its own."""
    return from_pipe(base)


@pytest.fixture(scope="session")
def make_unet() -> Callable[..., UNet2DConditionModel]:
    return tiny_unet


@pytest.fixture(scope="session")
def make_pipeline() -> Callable[..., StableDiffusionPipeline]:
    return tiny_pipeline


@pytest.fixture(scope="session")
def generate() -> Callable[..., Any]:
    """The output of a short run; keyword arguments override everything but the seed."""

    def run(pipe: Any, prompt: Any = "a bear wearing glasses", seed: int = 0, **arguments: Any) -> Any:
        defaults = {
            "generator": torch.Generator().manual_seed(seed),
            "num_inference_steps": 5,
            "guidance_scale": 3.0,
            "output_type": "latent",
        }
        return pipe(prompt, **{**defaults, **arguments})

    return run


@pytest.fixture
def unchanged(base: StableDiffusionPipeline) -> Iterator[None]:
    """Fails a test after which a module of the shared UNet has other attributes, hooks or processors than before."""

    def state() -> dict[str, Any]:
        return {
            name: (sorted(vars(module)), list(module._modules), id(getattr(module, "processor", None)))
            for name, module in base.unet.named_modules()
        }

    before = state()
    yield
    assert state() == before


@pytest.fixture
def with_processors(base: Any) -> Any:
    """Runs something while the base's chosen self-attention modules have these processors."""

    def run(make: Any, call: Any, blocks: str = BLOCKS) -> Any:
        before = base.unet.attn_processors
        chosen = {n: make() if "attn1" in n and blocks in n else p for n, p in before.items()}
        base.unet.set_attn_processor(chosen)
        try:
            return call()
        finally:
            base.unet.set_attn_processor(before)

    return run
