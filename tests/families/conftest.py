"""Every supported pipeline, tiny and random, built once for all tests; each test gets it as it was built."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from tiny_pipelines import PROMPT, SCALE, TINY, build

from negguide import from_pipe

_built: dict[str, Any] = {}


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "families(*names): run on these tiny pipelines only")
    config.addinivalue_line("markers", "representatives(*names): in the quick run on these only")
    config.addinivalue_line(
        "markers", "siblings: also in the quick run on pipelines that share another's denoiser"
    )
    config.addinivalue_line("markers", "guided_only: run on pipelines with classifier-free guidance only")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "tiny" in metafunc.fixturenames:
        marker = metafunc.definition.get_closest_marker("families")
        by_name = {tiny.name: tiny for tiny in TINY}
        few = metafunc.definition.get_closest_marker("representatives")
        if marker is not None:
            names = list(marker.args)
        elif metafunc.config.getoption("--all-pipelines"):
            names = list(by_name)
        elif few is not None:
            names = list(few.args)
        elif metafunc.definition.get_closest_marker("siblings"):
            names = list(by_name)
        else:
            names = [tiny.name for tiny in TINY if not tiny.sibling]
        if metafunc.definition.get_closest_marker("guided_only") is not None:
            names = [name for name in names if by_name[name].guided]
        metafunc.parametrize("tiny", [by_name[name] for name in names], ids=names)


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
        arguments = {**own, **arguments, **guided, **changes}
        if arguments.get("negative_prompt") is not None and isinstance(prompt, list):
            arguments["negative_prompt"] = [arguments["negative_prompt"]] * len(prompt)
        output = pipe(**arguments)
        if not isinstance(output, tuple):
            # inpainting ignores return_dict=False for latents
            output = tuple(output.values())
        return output if whole else output[0]

    return run
