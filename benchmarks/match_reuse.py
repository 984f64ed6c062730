"""What NegToMe's `match_every` saves on SDXL and FLUX.1-dev at 1024 px, four images, without a GPU.

    python benchmarks/match_reuse.py --threads 1

Three ways to the time of a whole run with the published window, over the same run without NegToMe:

- products: the floating point operations of the searches over those of a step, both counted on the models in their real
  shapes, without weights.
- CPU: one transformer block, one search and one push, timed in float32 at the shapes of the models; a step takes as
  long as its operations do at the rate of the blocks.
- GPU: the time that NegToMe added to a step on one NVIDIA H200 (results/gpu.json), times the share of the search's
  operations that is left. What was measured is search and push together, and the pushes stay; so this is a little low.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
from gpu_models import MODELS
from report import RESULTS, arguments, print_table, write_json
from torch.utils.flop_counter import FlopCounterMode
from tqdm import tqdm

from negguide.guidance import Match, negtome_match, negtome_push
from negguide.integration.families import supported_pipelines
from negguide.integration.runtime.shared_match import SharedMatches
from negguide.integration.runtime.tokens import choose_blocks, self_attention

IMAGES = 4
LATENT = 128
"""Side of the latents at 1024 px."""
EVERY = (1, 2, 4, 6, 8, 16)
GPU_ROWS = {"SDXL": "NegToMe, kernel", "FLUX.1-dev": "NegToMe, one matrix"}
"""The fastest matching that was timed on a GPU."""


@dataclass(frozen=True)
class Step:
    """One step of a model that draws `IMAGES` images.

    Attributes:
        flops: of the denoiser.
        modules: (image tokens, channels) of the self-attention outputs that are pushed, in the order of the forward.
        rows: of the batch, images times guidance branches.
        blocks: {(tokens, channels): a transformer block of them, without weights}.
    """

    flops: float
    modules: list[tuple[int, int]]
    rows: int
    blocks: dict[tuple[int, int], Any]


def counted(call: Callable[[], Any]) -> float:
    """Floating point operations of matrix products, convolutions and attention; two for a product and its sum."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        call()
    return float(counter.get_total_flops())


def step_of(name: str) -> Step:
    """A step of SDXL (two guidance branches) or FLUX.1-dev (one), counted without weights or data."""
    meta = torch.device("meta")
    pipe = MODELS[name].build(meta, False)
    family = supported_pipelines()[type(pipe).__name__]
    model = pipe.unet if name == "SDXL" else pipe.transformer
    rows = IMAGES * (2 if name == "SDXL" else 1)
    size: dict[str, Any] = {"device": meta, "dtype": torch.bfloat16}
    if name == "SDXL":
        text = torch.empty(rows, 77, model.config.cross_attention_dim, **size)
        added = {"text_embeds": torch.empty(rows, 1280, **size), "time_ids": torch.empty(rows, 6, **size)}

        def call() -> Any:
            sample = torch.empty(rows, 4, LATENT, LATENT, **size)
            return model(sample, torch.empty((), **size), text, added_cond_kwargs=added)
    else:
        count = (LATENT // 2) ** 2
        config = model.config

        def call() -> Any:
            return model(
                hidden_states=torch.empty(rows, count, config.in_channels, **size),
                timestep=torch.empty(rows, **size),
                guidance=torch.empty(rows, **size),
                pooled_projections=torch.empty(rows, config.pooled_projection_dim, **size),
                encoder_hidden_states=torch.empty(rows, 512, config.joint_attention_dim, **size),
                txt_ids=torch.empty(512, 3, **size),
                img_ids=torch.empty(count, 3, **size),
            )

    seen: list[tuple[int, int]] = []
    least = family.negtome_min_side**2

    def look(module: Any, inputs: Any, output: Any) -> None:
        tokens = output[0] if isinstance(output, tuple) else output
        # where FLUX has text and image in one sequence, the image's tokens are the last
        count = tokens.shape[1] if name == "SDXL" else (LATENT // 2) ** 2
        if count >= least:
            seen.append((count, tokens.shape[2]))

    chosen = choose_blocks(self_attention(model), family.negtome_blocks)
    hooks = [module.register_forward_hook(look) for module in chosen.values()]
    flops = counted(call)
    for hook in hooks:
        hook.remove()
    if name == "SDXL":
        blocks = {
            (4 ** (5 + place), 1280 // 2**place): model.up_blocks[place].attentions[0].transformer_blocks[0]
            for place in (0, 1)
        }
    else:
        blocks = {seen[0]: model.single_transformer_blocks[0]}
    return Step(flops, seen, rows, blocks)


def searches(step: Step, every: int) -> list[tuple[int, int]]:
    """Those modules of a step that search."""
    shared, found = SharedMatches(every), []
    for tokens, channels in step.modules:

        def search(shape: tuple[int, int] = (tokens, channels)) -> Match:
            found.append(shape)
            return Match(torch.empty(0), torch.empty(0))

        shared.begin_module((step.rows, tokens, 0))
        shared.match(search)
    return found


def search_flops(step: Step, modules: list[tuple[int, int]]) -> float:
    """Of every token's cosine to all tokens of the other images."""
    return sum(2.0 * step.rows * tokens**2 * (IMAGES - 1) * channels for tokens, channels in modules)


def seconds(call: Callable[[], Any], repeats: int) -> float:
    """Of processor time, the median."""
    times = []
    with torch.no_grad():
        for _ in range(repeats):
            start = time.process_time()
            call()
            times.append(time.process_time() - start)
    return median(times)


def parts(name: str, shape: tuple[int, int], block: Any, repeats: int) -> dict[str, float]:
    """Seconds of one image's block, search and push at these (tokens, channels), and the block's operations."""
    tokens, channels = shape

    def run(dtype: torch.dtype, device: str) -> Any:
        size: dict[str, Any] = {"dtype": dtype, "device": device}
        x = torch.ones(1, tokens, channels, **size)
        if name == "SDXL":
            text = torch.ones(1, 77, block.attn2.to_k.in_features, **size)
            return block(x, encoder_hidden_states=text)
        text = torch.ones(1, 512, channels, **size)
        return block(x, encoder_hidden_states=text, temb=torch.ones(1, channels, **size))

    flops = counted(lambda: run(torch.bfloat16, "meta"))
    block = block.to_empty(device="cpu").float().eval()
    for parameter in block.parameters():
        torch.nn.init.normal_(parameter, std=0.02)
    x, others = torch.randn(1, tokens, channels), torch.randn(1, (IMAGES - 1) * tokens, channels)
    match = Match(torch.ones(1, tokens), torch.randint(others.shape[1], (1, tokens)))
    return {
        "block_flops": flops,
        "block": seconds(lambda: run(torch.float32, "cpu"), repeats),
        "search": seconds(lambda: negtome_match(x, others), repeats),
        "push": seconds(lambda: negtome_push(x, others, match, 0.9, 0.7), repeats),
    }


def main() -> None:
    args = arguments("Time of a whole run with NegToMe whose modules share matches.", repeats=3)
    gpu = {
        row["model"]: row
        for row in json.loads((RESULTS / "gpu.json").read_text())["rows"]
        if GPU_ROWS.get(row["model"]) == row["name"]
    }
    rows: list[dict[str, Any]] = []
    settings: dict[str, Any] = {"images": IMAGES, "size": 8 * LATENT, "repeats": args.repeats, "timed": {}}
    for name in tqdm(MODELS, desc="models"):
        step, window = step_of(name), MODELS[name].window
        timed = {shape: parts(name, shape, block, args.repeats) for shape, block in step.blocks.items()}
        settings["timed"][name] = {f"{n}x{c}": values for (n, c), values in timed.items()}
        # of a step, at the rate of its blocks
        rate = sum(t["block_flops"] for t in timed.values()) / sum(t["block"] for t in timed.values())
        step_seconds = step.flops / rate
        all_searches = search_flops(step, step.modules)
        pushes = step.rows * sum(timed[shape]["push"] for shape in step.modules)
        for every in EVERY:
            found = searches(step, every)
            products = search_flops(step, found)
            cpu = (step.rows * sum(timed[shape]["search"] for shape in found) + pushes) / step_seconds
            h200 = (gpu[name]["ratio"] - 1) * products / all_searches
            row = {"model": name, "match_every": every, "modules": len(step.modules), "searches": len(found)}
            row |= {"step_tflops": step.flops / 1e12, "search_tflops": products / 1e12, "window": window}
            for way, added in (("products", products / step.flops), ("cpu", cpu), ("gpu", h200)):
                row[way] = 1 + added
                row[f"{way}_whole_run"] = 1 + window * added
            rows.append(row)
        write_json(args.out / "match_reuse.json", settings, rows)
    lines = [
        (
            f"{row['model']}, every {row['match_every']}",
            f"{row['searches']} of {row['modules']}",
            *(f"{row[way]:.3f} / {row[f'{way}_whole_run']:.3f}" for way in ("products", "cpu", "gpu")),
        )
        for row in rows
    ]
    print_table(
        "Time over plain: an acting step / a whole run with the published window",
        ("model, match_every", "modules that search", "products", "CPU", "GPU"),
        lines,
    )


if __name__ == "__main__":
    main()
