"""The ComfyUI node pack without ComfyUI: its copy of the guidance, its nodes' definitions, and what it refuses."""

import importlib
import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from negguide import Negative, Timestep
from negguide.integration.hooks.step_tracking import Step
from negguide.integration.runtime import economy
from negguide.methods.window import Window

ROOT = Path(__file__).parents[2]
PACK = ROOT / "comfyui"


@pytest.fixture(scope="module")
def pack() -> ModuleType:
    """The pack as ComfyUI imports it, under a name of its own."""
    places = [str(PACK)]
    spec = importlib.util.spec_from_file_location(
        "comfyui_pack", PACK / "__init__.py", submodule_search_locations=places
    )
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def part(name: str) -> ModuleType:
    return sys.modules[f"comfyui_pack.{name}"]


@pytest.mark.parametrize("script", ["comfyui_guidance.py", "comfyui_workflows.py"])
def test_what_scripts_write_is_up_to_date(script: str) -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "scripts" / script, "--check"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout


def test_the_pack_imports_neither_comfyui_nor_negguide() -> None:
    code = (
        "import importlib.util, sys\n"
        f"spec = importlib.util.spec_from_file_location('p', {str(PACK / '__init__.py')!r}, "
        f"submodule_search_locations=[{str(PACK)!r}])\n"
        "module = importlib.util.module_from_spec(spec); sys.modules['p'] = module\n"
        "spec.loader.exec_module(module)\n"
        "print(sorted({'comfy', 'negguide', 'diffusers', 'transformers'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr
    for file in PACK.rglob("*.py"):
        assert not re.search(r"^\s*(from|import) negguide", file.read_text(), re.MULTILINE), file


def test_every_node_has_a_name_a_help_page_tooltips_and_a_category(pack: ModuleType) -> None:
    nodes = pack.NODE_CLASS_MAPPINGS
    assert nodes.keys() == pack.NODE_DISPLAY_NAME_MAPPINGS.keys()
    pages = {page.stem for page in (PACK / pack.WEB_DIRECTORY / "docs").glob("*.md")}
    assert pages == nodes.keys()
    for key, kind in nodes.items():
        assert kind.DESCRIPTION and kind.CATEGORY.startswith("advanced/guidance/")
        page = (PACK / pack.WEB_DIRECTORY / "docs" / f"{key}.md").read_text()
        for group in kind.INPUT_TYPES().values():
            for name, (of_type, options) in group.items():
                assert options["tooltip"].endswith("."), (key, name)
                assert f"`{name}`" in page, (key, name)
                default = options.get("default")
                if of_type == "FLOAT":
                    assert options["min"] <= default <= options["max"]
                elif isinstance(of_type, list):
                    assert default in of_type


CALLED = {
    "UNetModel": ("Stable Diffusion 1, 2, XL",),
    "OpenAISignatureMMDITWrapper": ("3 and 3.5",),
    "Flux": ("FLUX.1", "FLUX.2", "Kontext"),
    "QwenImageTransformer2DModel": ("Qwen-Image", "Qwen-Image-Edit"),
    "WanModel": ("Wan",),
    "VaceWanModel": ("VACE",),
    "NextDiT": ("Z-Image",),
}
"""What the models of a class are called."""


@pytest.mark.parametrize(
    ("node", "adapters"),
    [("NAG", "models"), ("ONG", "models"), ("VSF", "models"), ("NegToMe", "token_models")],
)
def test_pages_of_help_name_every_model_that_a_node_knows(pack: ModuleType, node: str, adapters: str) -> None:
    page = (PACK / pack.WEB_DIRECTORY / "docs" / f"Negguide{node}.md").read_text()
    (said,) = re.findall(r"For Stable Diffusion [^;]*;", page)
    known = importlib.import_module(f"comfyui_pack.{adapters}").ADAPTERS
    for kind, names in CALLED.items():
        for name in names:
            assert (re.search(rf"\b{re.escape(name)}\b", said) is not None) == (kind in known), name
    assert known.keys() <= CALLED.keys()
    assert ("Lumina 2" in said) == (node == "NegToMe")


def test_workflows_give_each_of_our_nodes_as_many_values_as_it_has_widgets(pack: ModuleType) -> None:
    widgets = ("FLOAT", "INT", "BOOLEAN")
    used = set()
    for file in (PACK / "example_workflows").glob("*.json"):
        assert file.with_suffix(".jpg").exists()
        for node in json.loads(file.read_text())["nodes"]:
            kind = pack.NODE_CLASS_MAPPINGS.get(node["type"])
            if kind is None:
                continue
            used.add(node["type"])
            inputs = kind.INPUT_TYPES()
            every = {name: spec for group in inputs.values() for name, spec in group.items()}
            own = [spec for spec in every.values() if isinstance(spec[0], list) or spec[0] in widgets]
            assert len(own) == len(node["widgets_values"])
            for (of_type, _), value in zip(own, node["widgets_values"], strict=True):
                assert value in of_type if isinstance(of_type, list) else True
            connected = {socket["name"] for socket in node["inputs"]}
            sockets = {name for name, spec in inputs["required"].items() if spec not in own}
            assert sockets <= connected <= every.keys()
    assert {"NegguideNegative", "NegguidePerpNeg", "NegguideNegToMe", "NegguideNAG"} <= used


@pytest.mark.parametrize("count", [1, 4, 5, 28])
@pytest.mark.parametrize(("start", "stop"), [(0.0, 0.5), (0.25, 1.0), (0.1, 0.2), (0.0, 1.0)])
def test_windows_are_those_of_negguide(pack: ModuleType, count: int, start: float, stop: float) -> None:
    ours = part("windows").Window
    timesteps = [1000.0 * (count - i) / count for i in range(count)]
    gone = tuple(1 - t / 1000 for t in timesteps)
    by_steps, by_noise = (
        Window("", start, stop),
        Window("", Timestep(1000 * (1 - start)), Timestep(1000 * (1 - stop))),
    )
    for unit, theirs in (("steps", by_steps), ("noise", by_noise)):
        window = ours(start, stop, unit)
        held = {i for i in range(count) if window.holds(i, count, gone[i])}
        assert held == theirs.steps(timesteps)


@pytest.mark.parametrize("count", [1, 4, 10, 28])
@pytest.mark.parametrize("from_noise", [True, False])
def test_economy_leaves_out_what_it_does_in_negguide(pack: ModuleType, count: int, from_noise: bool) -> None:
    schedule = tuple(1000.0 * (1 - i / count) for i in range(count))
    gone = tuple(1 - t / 1000 for t in schedule)
    for index in range(count):
        ours = part("windows").Step(index, count, gone, from_noise)
        theirs = Step(index, count, schedule=schedule, from_noise=from_noise)
        assert part("schedule").evaluates_uncond(ours) == economy.evaluates_uncond(index, count)
        for negatives in (1, 2, 5):
            for turn in range(negatives):
                given = (turn, negatives)
                assert part("schedule").evaluates_negative(*given, ours) == economy.evaluates_negative(
                    *given, theirs
                )


BAD_PERP_NEG = [
    ({"guidance_stop": 0.0}, "guidance_stop must be a fraction of the steps"),
    ({"economy": True, "refresh_every": 3}, "refresh_every=3 cannot be given beside economy"),
    ({"joint": "maybe"}, "joint must be one of"),
]


@pytest.mark.parametrize(("given", "said"), BAD_PERP_NEG)
def test_bad_options_of_perp_neg_are_refused(pack: ModuleType, given: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        part("schedule").Options(**given)


@pytest.mark.parametrize(("start", "stop"), [(0.5, 0.5), (0.6, 0.5), (-0.1, 0.5), (0.0, 1.1)])
def test_windows_that_end_before_they_begin_are_refused(pack: ModuleType, start: float, stop: float) -> None:
    with pytest.raises(ValueError, match="negative 2: start and stop must satisfy"):
        part("windows").Window(start, stop, "steps", "negative 2")


def test_defaults_are_those_of_negguide(pack: ModuleType) -> None:
    import negguide

    def default(node: str, name: str) -> Any:
        return pack.NODE_CLASS_MAPPINGS[f"Negguide{node}"].INPUT_TYPES()["required"][name][1]["default"]

    for node, names in (("NAG", ["scale", "tau", "alpha"]), ("ONG", ["scale"]), ("VSF", ["scale", "bias"])):
        method = getattr(negguide, node)("x")
        for name in names:
            assert default(node, name) == getattr(method, name)
    for name in ("auto_weight", "refresh_every", "adaptive", "economy", "guidance_stop"):
        assert default("PerpNeg", name) == getattr(negguide.PerpNeg("x"), name)
    assert default("NegToMe", "alpha") == negguide.NegToMe().alpha
    assert default("Negative", "weight") == Negative("x").weight


CONDITIONING = [[torch.ones(1, 3, 4), {}]]
BAD_NEGATIVES = {
    "empty": ({"conditioning": []}, "conditioning of a negative is empty"),
    "area": (
        {"conditioning": [[torch.ones(1), {"area": (1, 1, 0, 0)}]]},
        "has area, .* use mask of the node",
    ),
    "range": (
        {"conditioning": [[torch.ones(1), {"end_percent": 0.5}]]},
        "has end_percent, .* start and stop",
    ),
    "hooks": ({"conditioning": [[torch.ones(1), {"hooks": 1}]]}, "has hooks"),
    "weight": ({"weight": -1.0}, "weight must be a number >= 0, got -1.0"),
    "nan": ({"weight": float("nan")}, "weight must be a number >= 0, got nan"),
    "values": ({"mask": torch.full((4, 4), 2.0)}, "from 0 to 1"),
}


@pytest.mark.parametrize("name", BAD_NEGATIVES)
def test_bad_negatives_are_refused(pack: ModuleType, name: str) -> None:
    given, said = BAD_NEGATIVES[name]
    options = {"conditioning": CONDITIONING, "weight": 1.0, "automatic": False, "start": 0.0, "stop": 0.5}
    with pytest.raises(ValueError, match=said):
        pack.NODE_CLASS_MAPPINGS["NegguideNegative"]().make(**{**options, "unit": "steps", **given})


def test_negatives_are_chained_in_their_order(pack: ModuleType) -> None:
    node = pack.NODE_CLASS_MAPPINGS["NegguideNegative"]()
    (first,) = node.make(CONDITIONING, 1.0, True, 0.0, 0.5, "steps")
    (both,) = node.make(CONDITIONING, 2.0, False, 0.1, 0.5, "noise", torch.ones(4, 4), first)
    assert [negative.weight for negative in both] == ["auto", 2.0] and len(first) == 1
    assert [negative.window.owner for negative in both] == ["negative 1", "negative 2"]
    assert both[1].mask.shape == (1, 4, 4)


BAD_METHODS = {
    "NAG": [
        ({"scale": 0.5}, "scale must be >= 1"),
        ({"tau": 0}, "tau must be > 0"),
        ({"alpha": 2}, "alpha must be"),
    ],
    "ONG": [({"scale": -1}, "scale must be >= 0")],
    "VSF": [({"scale": -1}, "scale must be >= 0")],
}


@pytest.mark.parametrize("name", BAD_METHODS)
def test_bad_options_are_refused(pack: ModuleType, name: str) -> None:
    for given, said in BAD_METHODS[name]:
        with pytest.raises(ValueError, match=said):
            getattr(part("methods"), name)(**given)


def test_masks_of_another_aspect_are_refused(pack: ModuleType) -> None:
    over = part("negatives").mask_over
    assert over(torch.ones(1, 512, 770), (64, 96), "negative 1").shape == (1, 1, 64, 96)
    with pytest.raises(ValueError, match=r"mask of negative 1 is 512x512 .* and the latents are 96x64"):
        over(torch.ones(1, 512, 512), (64, 96), "negative 1")
