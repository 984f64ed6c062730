"""Every supported pipeline, tiny and random, built once for all tests; each test gets it as it was built."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import PIL.Image
import pytest
import torch
from tiny_pipelines import OLDER, PROMPT, SCALE, TINY, build

from negguide import from_pipe

HERE = Path(__file__).parent
WHOLE = (
    *("sd", "sdxl", "sd3", "pixart-sigma", "sana", "wan"),
    *("flux", "flux2-dev", "flux2-klein", "qwen-image", "z-image"),
)
"""On which the quick run runs every test: one of each kind of denoiser. The others have the main ones, each with the
first of its parameters."""
_built: dict[str, Any] = {}


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "families(*names): run on these tiny pipelines only")
    config.addinivalue_line("markers", "representatives(*names): in the quick run on these only")
    config.addinivalue_line("markers", "guided_only: run on pipelines with classifier-free guidance only")


def _quick(test: pytest.Function | Any) -> list[str]:
    """The tiny pipelines on which the quick run runs a test."""
    for marker in ("families", "representatives"):
        named = test.get_closest_marker(marker)
        if named is not None:
            # an older diffusers has not all of them
            known = {tiny.name for tiny in TINY}
            return [name for name in named.args if name in known or not OLDER]
    everywhere = test.get_closest_marker("main") is not None
    return [tiny.name for tiny in TINY if everywhere or tiny.name in WHOLE]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "tiny" in metafunc.fixturenames:
        by_name = {tiny.name: tiny for tiny in TINY}
        names = _quick(metafunc.definition)
        own = metafunc.definition.get_closest_marker("families") is not None
        if not own and metafunc.config.getoption("--pipelines") != "quick":
            names = list(by_name)
        if metafunc.definition.get_closest_marker("guided_only") is not None:
            names = [name for name in names if by_name[name].guided]
        if "two" in metafunc.fixturenames:
            names = [name for name in names if not by_name[name].one_each]
        metafunc.parametrize("tiny", [by_name[name] for name in names], ids=names)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[Any]) -> None:
    seen: set[tuple[str, str]] = set()
    for item in items:
        if HERE not in item.path.parents or "tiny" not in item.fixturenames:
            continue
        name = item.callspec.params["tiny"].name
        named = any(item.get_closest_marker(marker) for marker in ("families", "representatives"))
        # the first one of a test on a pipeline has the first of every other parameter
        key = (item.nodeid.partition("[")[0], name)
        first = key not in seen
        seen.add(key)
        if name not in _quick(item) or not (named or name in WHOLE or first):
            item.add_marker("rest")


def _base(tiny: Any) -> Any:
    if tiny.name not in _built:
        _built[tiny.name] = build(tiny)
    return _built[tiny.name]


@pytest.fixture
def base(tiny: Any) -> Any:
    """The diffusers pipeline."""
    return _base(tiny)


@pytest.fixture
def bases() -> list[Any]:
    """All of them."""
    return [_base(tiny) for tiny in TINY]


@pytest.fixture
def pipe(base: Any) -> Any:
    """The same with `negative_guidance=`."""
    return from_pipe(base)


@pytest.fixture
def guided(tiny: Any) -> dict[str, Any]:
    """The arguments with which guidance combines uncond and cond by SCALE; a distilled model is told it."""
    if "true_cfg_scale" in tiny.call():
        return {"true_cfg_scale": SCALE, "negative_prompt": ""}
    return {"guidance_scale": SCALE - tiny.scale_offset}


@pytest.fixture
def two(tiny: Any) -> dict[str, int]:
    """The argument for two images, or videos, of each prompt."""
    return {"num_videos_per_prompt" if tiny.video else "num_images_per_prompt": 2}


@pytest.fixture
def unguided(tiny: Any) -> dict[str, Any]:
    """The arguments with which a call runs without classifier-free guidance."""
    if "true_cfg_scale" in tiny.call():
        return {"true_cfg_scale": 1.0}
    return {"guidance_scale": 1.0 - tiny.scale_offset}


@pytest.fixture
def alike(tiny: Any) -> dict[str, Any]:
    """The arguments with which a prompt and a negative of the same words are encoded and conditioned alike."""
    return tiny.alike()


@pytest.fixture
def run(tiny: Any, guided: dict[str, Any]) -> Callable[..., Any]:
    """One small run: the latents of every image, or with whole=True all that the pipeline returns."""

    def run(
        pipe: Any,
        prompt: str | list[str] = PROMPT,
        steps: int = 2,
        seed: int = 0,
        whole: bool = False,
        **changes: Any,
    ) -> Any:
        prompts = prompt if isinstance(prompt, list) else [prompt]
        if tiny.one_prompt and len(prompts) > 1:
            pytest.skip("this pipeline takes one prompt a call")
        images = changes.get("num_images_per_prompt", changes.get("num_videos_per_prompt", 1))
        own = tiny.call()
        if steps == 1 and "strength" in own:
            own["strength"] = 1.0
        arguments = {
            # Z-Image writes its chat template into the list that it is given
            "prompt": list(prompt) if isinstance(prompt, list) else prompt,
            "num_inference_steps": steps,
            "output_type": "latent",
            "return_dict": False,
            "generator": [torch.Generator().manual_seed(seed + i) for i in range(len(prompts) * images)],
        }
        if tiny.one_prompt and tiny.one_each:
            # nor a list of generators
            (arguments["generator"],) = arguments["generator"]
        arguments = {**own, **arguments, **guided, **changes}
        if tiny.mask_each:
            arguments["mask_image"] = arguments["mask_image"].expand(len(prompts) * images, -1, -1, -1)
        if tiny.image_each:
            arguments["image"] = arguments["image"].expand(len(prompts) * images, -1, -1, -1)
        if tiny.image_of_each_prompt and isinstance(arguments["image"], PIL.Image.Image):
            arguments["image"] = [arguments["image"]] * len(prompts)
        elif tiny.image_of_each_prompt and len(arguments["image"]) == 1:
            arguments["image"] = arguments["image"].repeat(len(prompts), 1, 1, 1)
        if arguments.get("negative_prompt") is not None and isinstance(prompt, list):
            arguments["negative_prompt"] = [arguments["negative_prompt"]] * len(prompt)
        output = pipe(**arguments)
        if not isinstance(output, tuple):
            # inpainting ignores return_dict=False for latents
            output = tuple(output.values())
        return output if whole else output[0]

    return run
