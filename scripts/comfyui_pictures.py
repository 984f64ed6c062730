"""Pictures of the example workflows of the ComfyUI nodes, as ComfyUI's own page shows them.

python scripts/comfyui_environment.py .comfyui
python scripts/comfyui_pictures.py .comfyui            # beside the workflows, in comfyui/example_workflows/

Needs playwright, and a Chromium (that of the system, or playwright's own).
"""

import argparse
import json
import shutil
import sys
import tempfile
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import sync_playwright

ROOT = Path(__file__).parents[1]
WORKFLOWS = ROOT / "comfyui" / "example_workflows"
sys.path.append(str(ROOT / "tests" / "helpers"))

from comfyui_server import Server  # noqa: E402

WIDTH, HEIGHT, MARGIN = 1600, 800, 20
# the page as one sees it who has been there before
SETTINGS = {
    "Comfy.TutorialCompleted": True,
    "Comfy.InstalledVersion": "1.47.12",
    "Comfy.Minimap.Visible": False,
}
# the page shows all of a workflow that it loads; nodes are drawn on a canvas, which is the whole page
LOAD = "async (workflow) => { await window.app.loadGraphData(workflow) }"
LOOK = """() => {
    const app = window.app, view = app.canvas.ds
    const boxes = app.graph.nodes.map((node) => node.getBounding())
    const x = (value) => (value + view.offset[0]) * view.scale, y = (value) => (value + view.offset[1]) * view.scale
    return {
        wrong: app.graph.nodes.filter((node) => node.has_errors).map((node) => node.type),
        box: [
            x(Math.min(...boxes.map((b) => b[0]))), y(Math.min(...boxes.map((b) => b[1]))),
            x(Math.max(...boxes.map((b) => b[0] + b[2]))), y(Math.max(...boxes.map((b) => b[1] + b[3]))),
        ],
    }
}"""


def checkpoints(workflow: dict[str, Any]) -> list[str]:
    """The files that a workflow names."""
    return [
        node["widgets_values"][0] for node in workflow["nodes"] if node["type"] == "CheckpointLoaderSimple"
    ]


def take(page: Any, workflow: dict[str, Any]) -> Image.Image:
    """A workflow on the page, without what stands around it."""
    page.evaluate(LOAD, workflow)
    page.wait_for_timeout(5000)
    seen = page.evaluate(LOOK)
    if seen["wrong"]:
        raise RuntimeError(f"ComfyUI's page finds something wrong with {seen['wrong']}")
    left, top, right, bottom = (round(edge) for edge in seen["box"])
    image = Image.open(BytesIO(page.screenshot())).convert("RGB")
    return image.crop((left - MARGIN, top - MARGIN, right + MARGIN, bottom + MARGIN))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--version", default="0.30.0")
    folder, version = vars(parser.parse_args()).values()
    workflows = {file: json.loads(file.read_text()) for file in sorted(WORKFLOWS.glob("*.json"))}
    with tempfile.TemporaryDirectory() as scratch:
        base = Path(scratch) / "comfyui"
        models = base / "models" / "checkpoints"
        models.mkdir(parents=True)
        for workflow in workflows.values():
            for name in checkpoints(workflow):
                (models / name).touch()
        packs = {"negguide": ROOT / "comfyui"}
        with Server(folder.resolve(), version, base, packs) as server, sync_playwright() as playwright:
            server.post("/settings", SETTINGS)
            browser = playwright.chromium.launch(executable_path=shutil.which("chromium"))
            page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT})
            page.goto(server.address, timeout=300_000)
            page.wait_for_function("window.app?.graph?.nodes !== undefined", timeout=300_000)
            page.wait_for_timeout(10_000)
            page.keyboard.press("Escape")
            for file, workflow in workflows.items():
                image = take(page, workflow)
                image.save(file.with_suffix(".jpg"), quality=85)
                print(file.with_suffix(".jpg"))
            browser.close()


if __name__ == "__main__":
    main()
