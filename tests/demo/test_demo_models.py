"""The demo around other models than the embedded one, as `--model` loads them."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from PIL import Image
from tiny_parts import CLIP_LENGTH, END, PAD, START, VOCABULARY, clip_tokenizer
from tiny_pipelines import TINY, build
from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel, CLIPProcessor

from negguide import NAG, Negative, NegToMe, PerpNeg, from_pipe
from negguide.demo import Limits, serve
from negguide.demo.backend import Backend, Run
from negguide.demo.examples import USUAL_NEGATIVES
from negguide.demo.server import Server
from negguide.demo.stopping import StoppedError
from negguide.methods import Method
from negguide.pictures import read_settings

DRAWING = {
    "sd",
    "sdxl",
    "sd3",
    "sd3-without-t5",
    "flux",
    "flux-dev",
    "flux2-dev",
    "flux2-klein",
    "qwen-image",
    "z-image",
    "pixart-sigma",
    "sana",
}
"""The tiny pipelines that draw from words alone."""
_tiny = {tiny.name: tiny for tiny in TINY}


class Small(Backend):
    """Draws at the size of the tiny pipelines, without what a call of theirs must say beside it."""

    def __init__(self, tiny: Any) -> None:
        super().__init__("owner/name", pipe=from_pipe(build(tiny)))
        chosen = tiny.call()
        self.more = {
            name: value
            for name, value in chosen.items()
            if name not in ("output_type", "guidance_scale", "true_cfg_scale", "negative_prompt", "image")
        }

    def arguments(self, run: Run) -> dict[str, Any]:
        return super().arguments(run) | self.more


@pytest.mark.parametrize("name", sorted(DRAWING))
def test_every_family_draws_with_its_steps_counted_and_stops(name: str) -> None:
    tiny = _tiny[name]
    backend = Small(tiny)
    negative = Negative("a red hat", stop=1.0)
    methods: list[tuple[Method, ...]] = [(), (NAG(negative),), (NegToMe(threshold=0.0, stop=1.0),)]
    if tiny.guided:
        methods.append((PerpNeg(negative),))
    for chosen in methods:
        steps: list[int] = []
        run = Run("a bear wearing a hat", 2, 4.0, (0, 1), methods=chosen)
        drawn = backend.draw(run, lambda steps=steps: steps.append(1), threading.Event())
        assert [type(image) for image in drawn.images] == [Image.Image] * 2
        assert len(steps) == 2
    stop = threading.Event()
    with pytest.raises(StoppedError):
        backend.draw(run, stop.set, stop)


@pytest.mark.parametrize("name", ["sd-controlnet", "sdxl-img2img", "sdxl-inpaint", "sdxl-controlnet", "wan"])
def test_a_pipeline_that_draws_nothing_from_words_alone_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"starts from a picture|makes videos"):
        Backend("owner/name", pipe=from_pipe(build(_tiny[name])))


@pytest.mark.parametrize(("name", "size"), [("sd", 64), ("sdxl", 64), ("flux", 1024), ("z-image", 1024)])
def test_the_size_to_begin_with_is_the_models_own(name: str, size: int) -> None:
    assert Backend("owner/name", pipe=from_pipe(build(_tiny[name]))).size == size


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Stable Diffusion pipeline that takes any words, as `save_pretrained` writes it."""
    path = tmp_path_factory.mktemp("models") / "any-words"
    build(_tiny["sd"]).save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random CLIP that takes any words."""
    layers = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    ends = {"bos_token_id": START, "eos_token_id": END, "pad_token_id": PAD}
    words = {"vocab_size": len(VOCABULARY), "max_position_embeddings": CLIP_LENGTH}
    torch.manual_seed(0)
    config = CLIPConfig(
        text_config={**layers, **ends, **words},
        vision_config={**layers, "image_size": 32, "patch_size": 16},
        projection_dim=8,
    )
    images = CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    path = tmp_path_factory.mktemp("models") / "clip"
    CLIPModel(config).save_pretrained(path)
    CLIPProcessor(images, clip_tokenizer()).save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def start(folder: Path) -> Iterator[Callable[[str | None], Server]]:
    """Serves that pipeline, as `negguide demo --model FOLDER --judge JUDGE` does."""
    running: list[Server] = []
    patch = pytest.MonkeyPatch()

    def started(judge: str | None) -> Server:
        # Gradio has one folder for a process: put the shared server's back afterwards
        patch.setenv("GRADIO_TEMP_DIR", "")
        limits = Limits(max_size=96, max_steps=3, max_images=3)
        running.append(serve(Backend(str(folder), judge=judge), limits, quiet=True))
        return running[-1]

    yield started
    for server in running:
        server.close()
    patch.undo()


@pytest.fixture(scope="module")
def unjudged(start: Callable[[str | None], Server]) -> Server:
    return start(None)


@pytest.fixture(scope="module")
def judged(unjudged: Server, start: Callable[[str | None], Server], clip: Path) -> Server:
    # after the other one: uploads go to the folder of the server that was started last
    return start(f"clip:{clip}")


SHORT: dict[str, Any] = {"images": 2, "steps": 2}


def _texts(server: Server) -> str:
    """What stands on the page."""
    components = httpx.get(f"{server.url}config").json()["components"]
    return "\n".join(str(one["props"].get("value")) for one in components if one["type"] == "markdown")


def test_every_tab_that_needs_no_toy_world_draws_words_that_it_does_not_know(unjudged: Server) -> None:
    client = Client(unjudged.url, verbose=False)
    words = {"prompt": "a photograph of a boy wearing sunglasses", **SHORT}
    result = client.predict(**words, negative_1="a black frame", size=96, api_name="/leave_out")
    assert "overlaps the prompt by" in result[7] and "judge" not in result[1] + result[7]
    settings = read_settings(Path(result[0]))
    assert [column["size"] for column in settings["columns"]] == [96] * 3
    assert len(result[3]) == 6 and f"load_pipeline('{settings['model']}')" in result[6]

    result = client.predict(**words, stop=1.0, api_name="/push_apart")
    assert "NegToMe pushed" in result[7] and "|" not in result[7]

    result = client.predict(
        **words, negative="a black frame", methods=["perp-neg", "nag"], api_name="/compare"
    )
    columns = read_settings(Path(result[0]))["columns"]
    # its own size, unless one is asked for
    assert [(column["label"], column["size"]) for column in columns] == [("Perp-Neg", 64), ("NAG", 64)]


def test_it_keeps_away_from_an_uploaded_picture_and_knows_no_pip(unjudged: Server, picture: Path) -> None:
    client = Client(unjudged.url, verbose=False)
    painted = {"background": handle_file(str(picture)), "layers": [], "composite": None}
    result = client.predict(prompt="a boy", picture=painted, stop=1.0, **SHORT, api_name="/keep_away")
    assert "NegToMe pushed" in result[8] and "|" not in result[8]
    assert [Path(path).name for path in result[7]] == ["reference.png"]
    with pytest.raises(AppError, match="not in the list of choices"):
        client.predict(prompt="a boy", character="pip", **SHORT, api_name="/keep_away")


def test_what_needs_the_toy_world_says_so_on_the_page(unjudged: Server) -> None:
    shown = _texts(unjudged)
    assert "Drawn by **any-words**" in shown and "Distances need `--judge clip:MODEL`" in shown
    assert "needs a judge for its verdicts" in shown
    assert "most bears are brown" not in shown and "is mostly **Pip**" not in shown
    client = Client(unjudged.url, verbose=False)
    with pytest.raises(AppError, match="--judge clip:MODEL"):
        client.predict(caption="a black cat on a red chair", steps=2, api_name="/hard_negatives")


def test_what_is_left_out_of_almost_everything_is_a_button(unjudged: Server) -> None:
    presets = [
        block for block in unjudged.page.blocks.values() if str(block.elem_id).startswith("negatives-preset-")
    ]
    assert [preset.value for preset in presets] == list(USUAL_NEGATIVES)
    for preset, text in zip(presets, USUAL_NEGATIVES.values(), strict=True):
        (clicked,) = (fn for fn in unjudged.page.fns.values() if (preset._id, "click") in fn.targets)
        assert [output.elem_id for output in clicked.outputs] == ["negatives-negative-2"]
        body = {"data": [], "fn_index": clicked._id, "session_hash": "visit"}
        answer = httpx.post(f"{unjudged.url}gradio_api/run/predict", json=body, timeout=60)
        assert answer.json()["data"] == [text]


@pytest.mark.parametrize("size", [80, 128])
def test_a_size_that_the_model_cannot_draw_is_refused(unjudged: Server, size: int) -> None:
    client = Client(unjudged.url, verbose=False)
    message = "multiple of 32" if size == 80 else "greater than maximum value 96"
    with pytest.raises(AppError, match=message):
        client.predict(prompt="a boy", negative_1="a hat", size=size, **SHORT, api_name="/leave_out")


def test_a_clip_judge_measures_distances_and_judges_edits_of_english(judged: Server, picture: Path) -> None:
    pytest.importorskip("inflect", reason='edits of English need the extra: pip install ".[mining]"')
    file = handle_file(str(picture))
    client = Client(judged.url, verbose=False)
    assert "needs a judge" not in _texts(judged)
    said = client.predict(prompt="a boy", stop=1.0, **SHORT, api_name="/push_apart")[7]
    assert "| mean distance of two pictures (0: the same) |" in said and "fur" not in said
    painted = {"background": file, "layers": [], "composite": None}
    said = client.predict(prompt="a boy", picture=painted, stop=1.0, **SHORT, api_name="/keep_away")[8]
    assert "| distance to the picture (0 = the same) |" in said and "Pip" not in said
    original, table, gallery, keep, python, _ = client.predict(
        caption="a black cat on a red chair", edits=2, steps=2, image=file, api_name="/hard_negatives"
    )
    assert Image.open(original).width >= 64 and len(gallery) == len(keep["choices"]) == 2
    assert table.count("the negative:") == 2 and python.count("pipe(") == 2
