"""Images and items of which a suite can be laid out."""

from pathlib import Path
from typing import Any

from PIL import Image

from negguide.mining.item import Item

RED, BLUE, GREEN = (255, 0, 0), (0, 0, 255), (0, 128, 0)


def picture(path: Path, color: tuple[int, int, int], size: tuple[int, int] = (20, 10)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, color).save(path)


def item(number: int, category: str, **more: Any) -> Item:
    values: dict[str, Any] = {
        "id": str(number), "source_id": "s", "image_file_name": f"{number}.png",
        "negative_image_file_name": f"{number}-n.png", "caption": f"caption {number}",
        "negative_caption": f"negative {number}", "category": category, "start": 0, "end": 1, "before": "c",
        "after": "n", "backend": "rules", "scores": (1.0, 0.0, 0.0, 1.0), "judge": "toyworld", "prompt": "p",
        "model": "toyworld", "revision": None, "methods": [], "seed": 0, "tries": 1,
    }  # fmt: skip
    return Item(**(values | more))
