"""The ComfyUI nodes beside ComfyUI's own: how far latents are from the right ones, and what a run costs.

    python scripts/comfyui_environment.py .comfyui
    python benchmarks/comfyui.py

Right is what negguide computes for each image alone on diffusers, with the embedded model. Cost is the processor time
of ComfyUI's process for one run, relative to that of a run without the node just before it: the median over the pairs.
"""

import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import psutil
import torch
from diffusers import DDIMScheduler
from report import arguments, plot_rates, print_table, write_json
from safetensors.torch import save_file
from tqdm import tqdm

from negguide import Negative, PerpNeg
from negguide._utils.stats import Rate
from negguide.models import load_pipeline

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "tests" / "helpers"))

from comfyui_server import Graph, Link, Server  # noqa: E402
from comfyui_toy import NEGATIVES, PROMPT, SCALE, Toy, in_attention, negative, perp_neg, rms  # noqa: E402


def embedded() -> Any:
    """The embedded model, with the noise schedule of Stable Diffusion, as in the tests."""
    pipe = load_pipeline("toyworld")
    pipe.scheduler = DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        prediction_type="v_prediction",
        timestep_spacing="trailing",
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


class Files:
    """Texts and tensors for the server."""

    def __init__(self, folder: Path, pipe: Any) -> None:
        self.folder, self.pipe, self.count = folder, pipe, 0
        self.texts: dict[str, str] = {}

    def __call__(self, words: str | None = None, **tensors: torch.Tensor) -> str:
        if words in self.texts:
            return self.texts[words]
        self.count += 1
        file = str(self.folder / f"{self.count}.safetensors")
        if words is not None:
            self.texts[words] = file
            tensors["text"], _ = self.pipe.encode_prompt([words], "cpu", 1, False)
        save_file({key: value.contiguous() for key, value in tensors.items()}, file)
        return file


def guider(graph: Graph, toy: Toy, model: Link) -> Link:
    """ComfyUI's own Perp-Neg."""
    texts = {"positive": PROMPT, "negative": NEGATIVES[0], "empty_conditioning": ""}
    given = {name: toy.text(graph, text) for name, text in texts.items()}
    return graph("PerpNegGuider", model=model, cfg=SCALE, neg_scale=1.0, **given)


def values(toy: Toy, pipe: Any, batch: int) -> tuple[float, float]:
    """(ComfyUI's, ours): distance of a batch from its images alone on diffusers."""
    noise = torch.randn(batch, 8, 16, 16, generator=torch.manual_seed(3))
    guidance = PerpNeg(Negative(NEGATIVES[0], stop=1.0))
    right = torch.cat(
        [
            pipe(
                PROMPT,
                negative_prompt="",
                num_inference_steps=5,
                latents=one,
                guidance_scale=SCALE,
                output_type="latent",
                negative_guidance=[guidance],
            ).images
            for one in noise.split(1)
        ]
    )
    graph, model = toy.graph()
    ours = perp_neg(graph, model, negative(graph, toy, NEGATIVES[0], stop=1.0))
    theirs, own = toy.server.latents(
        graph, toy.sampled_by(graph, guider(graph, toy, model), model, batch), toy.sampled(graph, ours, batch)
    )
    return rms(theirs, right), rms(own, right)


def runs(
    graph: Graph, toy: Toy, model: Link, size: int, steps: int, seed: int
) -> dict[str, tuple[Link, str]]:
    """{what: (samples, which plain run to compare with)}."""
    latent = graph("EmptyLatentImage", width=8 * size, height=8 * size, batch_size=1)
    common: dict[str, Any] = {"latent_image": latent, "steps": steps, "seed": seed}

    def one(model: Link, cfg: float = SCALE) -> Link:
        return toy.sampled(graph, model, cfg=cfg, **common)

    def negatives(count: int, stop: float) -> Link:
        chain: dict[str, Link] = {}
        for text in NEGATIVES[:count]:
            chain = {"negatives": negative(graph, toy, text, stop=stop, **chain)}
        return chain["negatives"]

    def by_guider() -> Link:
        return graph(
            "SamplerCustomAdvanced",
            noise=graph("RandomNoise", noise_seed=seed),
            guider=guider(graph, toy, model),
            sampler=graph("KSamplerSelect", sampler_name="euler"),
            sigmas=graph("BasicScheduler", model=model, scheduler="simple", steps=steps, denoise=1.0),
            latent_image=latent,
        )

    text = toy.text(graph, NEGATIVES[0])
    found = {
        "cfg": (one(model), "cfg"),
        "`PerpNegGuider` of ComfyUI": (by_guider(), "cfg"),
    }
    for count, stop, every in ((1, 1.0, 1), (1, 0.5, 1), (1, 1.0, 3), (2, 1.0, 1), (2, 0.5, 1), (2, 1.0, 3)):
        what = f"Perp-Neg, {count} negative{'s' * (count > 1)}, stop {stop:g}"
        what += f", refresh_every {every}" if every > 1 else ""
        patched = perp_neg(graph, model, negatives(count, stop), refresh_every=every)
        found[what] = (one(patched), "cfg")
    for option in ("adaptive", "economy"):
        patched = perp_neg(graph, model, negatives(2, 1.0), **{option: True})
        found[f"Perp-Neg, 2 negatives, stop 1, {option}"] = (one(patched), "cfg")
    ends = perp_neg(graph, model, negatives(1, 1.0), guidance_stop=0.6)
    found["Perp-Neg, 1 negative, stop 1, guidance_stop 0.6"] = (one(ends), "cfg")
    found["no cfg"] = (one(model, 1.0), "no cfg")
    own = graph("NAGuidance", model=model, nag_scale=5.0, nag_alpha=0.25, nag_tau=2.5)
    found["`NAGuidance` of ComfyUI"] = (one(own, 1.0), "no cfg")
    for name in ("NAG", "ONG", "VSF"):
        found[name] = (one(in_attention(graph, name, model, text), 1.0), "no cfg")
    return found


def cost(toy: Toy, what: str, size: int, steps: int, seed: int) -> float:
    """Seconds of processor time of one run, with the model loaded and the texts read before."""
    graph, model = toy.graph()
    # another seed each time: ComfyUI keeps what it has computed
    link = runs(graph, toy, model, size, steps, seed)[what][0]
    process = psutil.Process(toy.server.process.pid)
    before = process.cpu_times()
    toy.server.latents(graph, link)
    after = process.cpu_times()
    return float(after.user + after.system - before.user - before.system)


def paired(toy: Toy, size: int, steps: int, pairs: int) -> list[dict[str, Any]]:
    """A row for each run: its ratios to the plain run before it in every pair."""
    graph, model = toy.graph()
    plain_of = {what: plain for what, (_, plain) in runs(graph, toy, model, size, steps, 0).items()}
    others = {what: plain for what, plain in plain_of.items() if what != plain}
    # loads the model and reads the texts
    for what in plain_of:
        cost(toy, what, size, steps, 0)
    ratios: dict[str, list[float]] = {what: [] for what in others}
    for pair in tqdm(range(pairs), desc="pairs"):
        for number, (what, plain) in enumerate(others.items()):
            seed = 1 + pair * len(others) + number
            base = cost(toy, plain, size, steps, seed)
            ratios[what].append(cost(toy, what, size, steps, seed) / base)
    return [{"run": what, "over": others[what], "ratios": found} for what, found in ratios.items()]


def main() -> None:
    args = arguments(
        "The ComfyUI nodes beside ComfyUI's own.",
        comfyui=".comfyui",
        version="0.30.0",
        size=32,
        steps=10,
        pairs=7,
    )
    if args.pairs < 2:
        raise SystemExit(f"--pairs must be at least 2, got {args.pairs}: quartiles need two")
    pipe = embedded()
    with tempfile.TemporaryDirectory() as scratch:
        base = Path(scratch) / "comfyui"
        base.mkdir()
        (base / "model").mkdir()
        pipe.unet.save_pretrained(base / "model" / "unet", safe_serialization=True)
        alphas = {"alphas_cumprod": pipe.scheduler.alphas_cumprod.contiguous()}
        save_file(alphas, base / "model" / "alphas_cumprod.safetensors")
        packs = {"negguide": ROOT / "comfyui", "tests": ROOT / "tests" / "comfyui" / "pack"}
        with Server(Path(args.comfyui).resolve(), args.version, base, packs) as server:
            toy = Toy(server, Files(base, pipe), str(base / "model"))
            far = {batch: values(toy, pipe, batch) for batch in (1, 3)}
            rows = paired(toy, args.size, args.steps, args.pairs)
    settings = {name: getattr(args, name) for name in ("version", "size", "steps", "pairs", "threads")}
    distances = [
        {"batch": batch, "PerpNegGuider": theirs, "Perp-Neg": ours} for batch, (theirs, ours) in far.items()
    ]
    path = args.out / "comfyui.json"
    write_json(path, settings, [*distances, *rows])
    lines = [(batch, f"{theirs:.1e}", f"{ours:.1e}") for batch, (theirs, ours) in far.items()]
    print_table("rms from the right latents", ("images a batch", "`PerpNegGuider`", "Perp-Neg"), lines)
    bars = {}
    for row in rows:
        low, median, high = statistics.quantiles(row["ratios"], n=4)
        bars[row["run"]] = {"ratio": Rate(median, low, high, len(row["ratios"]))}
    times = [
        (row["run"], row["over"], f"{rate.value:.2f} [{rate.low:.2f}, {rate.high:.2f}]")
        for row, found in zip(rows, bars.values(), strict=True)
        for rate in found.values()
    ]
    print_table("Processor time of a run (median, quartiles)", ("run", "over", "ratio"), times)
    plot_rates(path.with_suffix(".png"), "ComfyUI: processor time of a run over one without the node", bars)


if __name__ == "__main__":
    main()
