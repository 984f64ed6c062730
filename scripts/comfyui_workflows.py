"""The example workflows of the ComfyUI nodes, in the form that ComfyUI's page loads.

python scripts/comfyui_workflows.py            # writes them to comfyui/example_workflows/
python scripts/comfyui_workflows.py --check    # exits with 1 when they differ
"""

import json
import sys
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parents[1] / "comfyui" / "example_workflows"
Output = tuple[int, int, str]


class Workflow:
    """Nodes with places on the page, and links between them."""

    def __init__(self) -> None:
        self.nodes: list[dict[str, Any]] = []
        self.links: list[list[Any]] = []

    def __call__(
        self,
        kind: str,
        place: tuple[int, int],
        size: tuple[int, int],
        values: list[Any],
        outputs: list[str],
        title: str | None = None,
        **inputs: Output,
    ) -> list[Output]:
        """Add a node; its outputs.

        Args:
            values: of its widgets, in their order.
            outputs: their types.
            inputs: what is connected to its sockets.
        """
        key = len(self.nodes) + 1
        sockets = []
        for slot, (name, (source, output, of_type)) in enumerate(inputs.items()):
            link = len(self.links) + 1
            self.links.append([link, source, output, key, slot, of_type])
            self.nodes[source - 1]["outputs"][output]["links"].append(link)
            sockets.append({"name": name, "type": of_type, "link": link})
        node = {
            "id": key,
            "type": kind,
            "pos": list(place),
            "size": list(size),
            "flags": {},
            "order": key - 1,
            "mode": 0,
            "inputs": sockets,
            "outputs": [
                {"name": name, "type": name, "links": [], "slot_index": slot}
                for slot, name in enumerate(outputs)
            ],
            "properties": {"Node name for S&R": kind},
            "widgets_values": values,
        }
        if title is not None:
            node["title"] = title
        self.nodes.append(node)
        return [(key, slot, name) for slot, name in enumerate(outputs)]

    def text(self) -> str:
        data = {
            "last_node_id": len(self.nodes),
            "last_link_id": len(self.links),
            "nodes": self.nodes,
            "links": self.links,
            "groups": [],
            "config": {},
            "extra": {},
            "version": 0.4,
        }
        return json.dumps(data, indent=1) + "\n"


def _checkpoint(flow: Workflow, name: str) -> list[Output]:
    return flow("CheckpointLoaderSimple", (20, 160), (320, 100), [name], ["MODEL", "CLIP", "VAE"])


def _encoded(flow: Workflow, place: tuple[int, int], clip: Output, text: str, title: str) -> Output:
    return flow("CLIPTextEncode", place, (360, 110), [text], ["CONDITIONING"], title, clip=clip)[0]


def _image(flow: Workflow, x: int, latent: Output, vae: Output, prefix: str) -> None:
    (image,) = flow("VAEDecode", (x, 160), (200, 50), [], ["IMAGE"], samples=latent, vae=vae)
    flow("SaveImage", (x, 270), (320, 320), [prefix], [], images=image)


def _sampled(flow: Workflow, x: int, steps: int, cfg: float, **inputs: Output) -> Output:
    values = [1, "fixed", steps, cfg, "euler", "simple", 1.0]
    return flow("KSampler", (x, 160), (320, 270), values, ["LATENT"], None, **inputs)[0]


def perp_neg() -> Workflow:
    """Two negatives with weights and windows of their own, on SDXL."""
    flow = Workflow()
    model, clip, vae = _checkpoint(flow, "sd_xl_base_1.0.safetensors")
    prompt = _encoded(flow, (380, 40), clip, "portrait of a boy wearing sunglasses", "prompt")
    empty = _encoded(flow, (380, 200), clip, "", "negative prompt (may stay empty)")
    first = _encoded(flow, (380, 360), clip, "sunglasses with a black frame", "leave out")
    second = _encoded(flow, (380, 520), clip, "brown hair", "leave out, too")
    (one,) = flow(
        *("NegguideNegative", (780, 300), (280, 200), [1.5, False, 0.0, 0.5, "steps"], ["NEGATIVES"]),
        conditioning=first,
    )
    (both,) = flow(
        *("NegguideNegative", (780, 550), (280, 200), [1.0, False, 0.0, 0.6, "steps"], ["NEGATIVES"]),
        conditioning=second,
        negatives=one,
    )
    (patched,) = flow(
        *("NegguidePerpNeg", (1100, 40), (280, 220), ["automatic", 1, 4.5, False, False, 1.0], ["MODEL"]),
        model=model,
        negative=both,
    )
    (latent,) = flow("EmptyLatentImage", (780, 40), (280, 110), [1024, 1024, 1], ["LATENT"])
    inputs = {"model": patched, "positive": prompt, "negative": empty, "latent_image": latent}
    _image(flow, 1780, _sampled(flow, 1420, 30, 6.0, **inputs), vae, "perp-neg")
    return flow


def negtome() -> Workflow:
    """Four images that differ more from one another than their seeds make them, on SDXL."""
    flow = Workflow()
    model, clip, vae = _checkpoint(flow, "sd_xl_base_1.0.safetensors")
    prompt = _encoded(flow, (380, 40), clip, "photo of a person at a market", "prompt")
    empty = _encoded(flow, (380, 200), clip, "", "negative prompt (may stay empty)")
    (patched,) = flow(
        *("NegguideNegToMe", (780, 40), (300, 280)),
        ["others", 0.9, 0.65, 0.0, 0.2, "noise", 0.0, False],
        ["MODEL"],
        model=model,
    )
    (latent,) = flow("EmptyLatentImage", (780, 380), (300, 110), [1024, 1024, 4], ["LATENT"])
    inputs = {"model": patched, "positive": prompt, "negative": empty, "latent_image": latent}
    _image(flow, 1480, _sampled(flow, 1120, 30, 6.0, **inputs), vae, "negtome")
    return flow


def nag() -> Workflow:
    """A negative without CFG, on FLUX.1 schnell."""
    flow = Workflow()
    model, clip, vae = _checkpoint(flow, "flux1-schnell-fp8.safetensors")
    prompt = _encoded(flow, (380, 40), clip, "portrait of a boy wearing sunglasses", "prompt")
    unused = _encoded(flow, (380, 200), clip, "", "without meaning at cfg 1")
    away = _encoded(flow, (380, 360), clip, "sunglasses with a black frame", "leave out")
    (patched,) = flow(
        *("NegguideNAG", (780, 40), (300, 140), [5.0, 2.5, 0.25], ["MODEL"]), model=model, negative=away
    )
    (latent,) = flow("EmptySD3LatentImage", (780, 240), (300, 110), [1024, 1024, 1], ["LATENT"])
    inputs = {"model": patched, "positive": prompt, "negative": unused, "latent_image": latent}
    _image(flow, 1480, _sampled(flow, 1120, 4, 1.0, **inputs), vae, "nag")
    return flow


WORKFLOWS = {
    "Perp-Neg with two negatives": perp_neg,
    "NegToMe for diverse seeds": negtome,
    "NAG without CFG": nag,
}


def main() -> int:
    wanted = {f"{name}.json": make().text() for name, make in WORKFLOWS.items()}
    present = {path.name: path.read_text() for path in FOLDER.glob("*.json")}
    if "--check" in sys.argv:
        if wanted != present:
            print(f"comfyui/example_workflows: run scripts/{Path(__file__).name}")
        return int(wanted != present)
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, text in wanted.items():
        (FOLDER / name).write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
