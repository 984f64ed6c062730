"""Every action through the real server, as a program calls it."""

import os
import re
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import gradio as gr
import httpx
import pytest
from gradio_client import Client
from gradio_client.exceptions import AppError
from PIL import Image

from negguide.demo import Limits, serve
from negguide.demo.app import TABS
from negguide.demo.server import Server
from negguide.pictures import read_settings
from negguide.toyworld import TRADEMARK, Scene, parse, render

ENDPOINTS = {
    "/leave_out",
    "/push_apart",
    "/keep_away",
    "/draw_scene",
    "/hard_negatives",
    "/download_set",
    "/compare",
    "/turn_around",
    "/words",
}
SHORT: dict[str, Any] = {"images": 1, "steps": 2}


def test_every_action_is_a_named_endpoint_with_typed_and_described_parameters(
    client: Client, server: Server
) -> None:
    named = client.view_api(return_format="dict", print_info=False)["named_endpoints"]
    assert set(named) == ENDPOINTS
    for endpoint in named.values():
        assert all(parameter["python_type"]["type"] != "Any" for parameter in endpoint["parameters"])
        # all but the first may be left out
        assert all(parameter["parameter_has_default"] for parameter in endpoint["parameters"][1:])
    documented = {fn.api_name: fn.fn.__doc__ for fn in server.page.fns.values() if f"/{fn.api_name}" in named}
    for name, endpoint in named.items():
        for parameter in endpoint["parameters"]:
            assert f"{parameter['parameter_name']}: " in documented[name[1:]]


def test_leave_out_gives_pictures_numbers_trace_and_settings(client: Client) -> None:
    sheet, said, slider, gallery, where, when, python, numbers, sides = client.predict(
        prompt="a bear wearing glasses", negative_1="black glasses", images=2, steps=2, api_name="/leave_out"
    )
    # first in plain words, and the numbers apart
    assert "“a bear wearing glasses”" in said and "of 2" in said and "overlap" not in said
    assert "overlaps the prompt by" in numbers
    assert "| still *black glasses* |" in numbers
    assert sides.startswith("Left **Negative prompt**, right **Perp-Neg**, seed 0.")
    assert [one["caption"] for one in gallery] == [
        f"seed {seed} · {name}" for seed in (0, 1) for name in ("Plain", "Negative prompt", "Perp-Neg")
    ]
    pixels = [Image.open(path).convert("RGB").tobytes() for path in slider]
    # the classic negative prompt against Perp-Neg, of the first seed
    assert pixels == [Image.open(gallery[i]["image"]).convert("RGB").tobytes() for i in (1, 2)]
    assert pixels[0] != pixels[1]
    assert Image.open(where).width > Image.open(where).height / 2
    assert Image.open(when).width > 500
    settings = read_settings(Path(sheet))
    assert [column["label"] for column in settings["columns"]] == ["Plain", "Negative prompt", "Perp-Neg"]
    assert settings["columns"][2]["methods"][0]["negatives"][0]["weight"] == 1.5
    assert 'PerpNeg(Negative("black' in python.replace("'", '"')


def test_negatives_weigh_themselves_when_asked(client: Client) -> None:
    both = dict(negative_1="black glasses", negative_2="brown fur", api_name="/leave_out", **SHORT)
    result = client.predict(prompt="a cat wearing glasses", automatic=True, **both)
    negatives = read_settings(Path(result[0]))["columns"][2]["methods"][0]["negatives"]
    assert [negative["weight"] for negative in negatives] == ["auto", "auto"]
    assert result[6].count("weight='auto'") == 2
    # nothing that was said is ignored
    with pytest.raises(Exception, match="automatic takes the place of weight_2=2"):
        client.predict(prompt="a cat wearing glasses", automatic=True, weight_2=2.0, **both)


@pytest.mark.parametrize("method", ["plain", "negative-prompt", "nag"])
def test_leave_out_by_every_other_method(client: Client, method: str) -> None:
    result = client.predict(
        prompt="a bear wearing a hat",
        negative_1="a red hat",
        negative_2="brown fur",
        weight_2=0.5,
        method=method,
        **SHORT,
        api_name="/leave_out",
    )
    columns = [column["label"] for column in read_settings(Path(result[0]))["columns"]]
    own = {"plain": ["Plain"], "negative-prompt": ["Plain", "Negative prompt"]}
    assert columns == own.get(method, ["Plain", "Negative prompt", method.upper()])
    assert (result[5] is None) == (method in own)


def test_push_apart_gives_both_batches(client: Client) -> None:
    sheet, said, before, after, where, _, python, numbers = client.predict(
        prompt="a bear", images=2, steps=2, stop=0.5, api_name="/push_apart"
    )
    assert said.startswith("**Plain: fur of")
    assert "NegToMe pushed" in numbers and "variety of the fur colours" in numbers
    assert len(before) == len(after) == 2 and Image.open(where).size[0] > 300
    assert read_settings(Path(sheet))["columns"][1]["methods"][0]["method"] == "NegToMe"
    assert "NegToMe(" in python


def test_keep_away_from_pip_and_from_a_painted_upload(client: Client, editor: dict[str, Any]) -> None:
    result = client.predict(prompt="an explorer in a meadow", stop=0.5, **SHORT, api_name="/keep_away")
    assert "show Pip himself" in result[1] and "| is Pip himself |" in result[8] and result[7] is None
    result = client.predict(
        prompt="a cat in the snow",
        character="upload",
        picture=editor,
        stop=0.5,
        **SHORT,
        api_name="/keep_away",
    )
    assert "distance to the picture" in result[8] and "Pip" not in result[1] + result[8]
    reference, mask = (Image.open(path) for path in result[7])
    assert reference.size == mask.size == (64, 64)
    assert mask.getpixel((30, 10)) == 255 and mask.getpixel((30, 40)) == 0
    assert "reference_mask=reference_mask" in result[6]


def test_compare_gives_one_png_with_its_settings(client: Client) -> None:
    sheet, said, python = client.predict(
        columns="weights", weights="0.5, 2", images=2, steps=2, api_name="/compare"
    )
    labels = [column["label"] for column in read_settings(Path(sheet))["columns"]]
    assert labels == ["Plain", "weight 0.5", "weight 2"]
    assert said.count("of 2") == 6 and python.count("pipe(") == 3
    sheet = client.predict(methods=["ong", "vsf"], **SHORT, api_name="/compare")[0]
    assert [column["label"] for column in read_settings(Path(sheet))["columns"]] == ["ONG", "VSF"]


def test_compare_sets_models_side_by_side_each_as_suits_it(client: Client) -> None:
    models = ["toyworld", "toyworld-flow-turbo"]
    sheet, said, python = client.predict(
        prompt="a cat wearing glasses",
        negative="black glasses",
        columns="models",
        models=models,
        images=1,
        api_name="/compare",
    )
    settings = read_settings(Path(sheet))
    labels = [column["label"] for column in settings["columns"]]
    assert labels == [models[0], "Perp-Neg in 4 steps", models[1], "NAG in 4 steps"]
    assert [column["guidance_scale"] for column in settings["columns"]] == [5.0, 5.0, 1.0, 1.0]
    assert [column["model"] for column in settings["columns"]] == [name for name in models for _ in "ab"]
    assert list(settings["revisions"]) == models and said.count(" of 1") == 8
    assert [line for line in python.splitlines() if "load_pipeline(" in line] == [
        f"pipe = load_pipeline({name!r})" for name in models
    ]


def test_the_code_of_several_models_writes_a_file_for_each_picture(client: Client) -> None:
    models = ["toyworld", "toyworld-flow"]
    python = client.predict(columns="models", models=models, images=1, api_name="/compare")[2]
    files = [f'image.save(f"{name}' for name in ("toyworld", "toyworld-perp-neg-in-4-steps")]
    files += [f'image.save(f"{name}' for name in ("toyworld-flow", "toyworld-flow-perp-neg-in-4-steps")]
    saved = [line.strip() for line in python.splitlines() if "image.save(" in line]
    assert saved == [f'{file}-seed{{seed}}.png")' for file in files]


def test_a_classic_negative_prompt_is_counted_by_what_was_left_out(client: Client) -> None:
    words = {"negative_1": "a bear wearing a red hat and glasses", "negative_2": "at night"}
    said = client.predict(**words, method="negative-prompt", **SHORT, api_name="/leave_out")[1]
    assert re.findall("“([^”]*)” in . of", said.partition("Gone with")[2]) == list(words.values())


BAD: list[tuple[str, dict[str, Any], str]] = [
    ("/leave_out", {"prompt": "a dragon wearing sunglasses"}, "does not know “dragon”, “sunglasses”"),
    ("/leave_out", {"prompt": " "}, "The prompt is empty"),
    ("/leave_out", {"prompt": "a bear glasses"}, "cannot read “a bear glasses” at “glasses”"),
    ("/leave_out", {"negative_1": "<b>x</b>"}, "“‹b›x‹/b›”"),
    ("/leave_out", {"negative_1": ""}, "Nothing to leave out"),
    (
        "/leave_out",
        {"negative_1": "brown fur", "negative_2": "white fur"},
        "the fur is said twice, as 'brown' and as 'white'); leave out fewer things, or untick “also draw",
    ),
    ("/leave_out", {"start_1": 0.9, "stop_1": 0.1}, "must begin to act before it ends"),
    ("/leave_out", {"steps": 999}, "greater than maximum value 4"),
    ("/leave_out", {"images": 9}, "greater than maximum value 4"),
    ("/leave_out", {"steps": 1.5}, "steps must be a whole number"),
    ("/leave_out", {"method": "magic"}, "not in the list of choices"),
    ("/leave_out", {"method": "nag", "scale": 0.5}, "scale must be finite and at least 1"),
    ("/leave_out", {"guidance_scale": 1}, "guidance_scale"),
    ("/push_apart", {"images": 1}, "less than minimum value 2"),
    ("/keep_away", {"character": "upload"}, "There is no picture to keep away from"),
    ("/hard_negatives", {"caption": "a bear", "categories": ["swap"]}, "can be edited in these ways"),
    ("/hard_negatives", {"categories": []}, "is empty"),
    ("/download_set", {"set_id": "", "keep": []}, "There is no set yet"),
    ("/download_set", {"set_id": "../../etc", "keep": ["1"]}, "not there any more"),
    ("/compare", {"columns": "weights", "weights": "1, two"}, "with commas between"),
    ("/compare", {"columns": "weights", "weights": "1, 2, 1.0"}, "Each weight can be a column once"),
    ("/compare", {"methods": []}, "no method to compare"),
    ("/compare", {"columns": "models", "models": []}, "models must be 1 to 3 different ones of toyworld,"),
    ("/compare", {"methods": ["plain"] * 9}, "can be a column once"),
]


@pytest.mark.parametrize(("endpoint", "arguments", "message"), BAD)
def test_bad_input_gives_a_clear_message(
    client: Client, endpoint: str, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(AppError) as caught:
        client.predict(**arguments, api_name=endpoint)
    assert message in str(caught.value)


def test_settings_run_as_pasted(client: Client, editor: dict[str, Any], tmp_path: Path) -> None:
    left_out = client.predict(
        prompt="a bear wearing glasses", negative_2="brown fur", **SHORT, api_name="/leave_out"
    )[6]
    away = client.predict(character="upload", picture=editor, stop=0.5, **SHORT, api_name="/keep_away")
    from_pip = client.predict(center=False, stop=0.5, **SHORT, api_name="/keep_away")[6]
    apart = client.predict(reference="first", images=2, steps=2, stop=0.5, api_name="/push_apart")[6]
    by_nag = client.predict(method="nag", scale=3, **SHORT, api_name="/leave_out")[6]
    weights = client.predict(columns="weights", weights="0.5", **SHORT, api_name="/compare")[2]
    hard = client.predict(categories=["attribute"], edits=1, steps=2, api_name="/hard_negatives")[4]
    for path in away[7]:
        (tmp_path / Path(path).name).write_bytes(Path(path).read_bytes())
    # one process for all, since importing takes longest
    codes = [left_out, away[6], from_pip, apart, by_nag, weights, hard]
    for number, code in enumerate(codes):
        (tmp_path / f"settings{number}.py").write_text(code)
    together = "\n".join(f"exec(open('settings{number}.py').read(), {{}})" for number in range(len(codes)))
    done = subprocess.run([sys.executable, "-c", together], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    written = {path.name for path in tmp_path.glob("*-seed0.png")}
    names = ("plain", "negative-prompt", "perp-neg", "before", "after", "negtome", "nag", "weight-0.5")
    assert written == {f"{name}-seed0.png" for name in (*names, "1-attribute")}


def test_visitors_wait_for_the_device_and_get_their_own_pictures(server: Server, backend: Any) -> None:
    backend.prompts.clear()
    asked = ["a bear wearing a hat", "a cat wearing a hat", "a dog wearing a hat"]

    def visit(prompt: str) -> Any:
        visitor = Client(server.url, verbose=False)
        return visitor.predict(
            prompt=prompt, negative_1="a red hat", images=1, steps=3, beside=False, api_name="/leave_out"
        )

    with ThreadPoolExecutor(3) as pool:
        results = list(pool.map(visit, asked))
    for prompt, result in zip(asked, results, strict=True):
        assert read_settings(Path(result[0]))["columns"][0]["prompt"] == prompt
        assert repr(prompt) in result[6]
    # plain and guided, three steps each, and nobody in between
    blocks = [backend.prompts[i : i + 6] for i in range(0, 18, 6)]
    assert sorted(block[0] for block in blocks) == sorted(asked)
    assert all(len(set(block)) == 1 for block in blocks)


def test_stop_ends_the_visitors_own_run_and_no_other(server: Server, backend: Any, gate: Any) -> None:
    first, second = (Client(server.url, verbose=False) for _ in range(2))
    gate.clear()
    backend.prompts.clear()
    mine = first.submit(prompt="a bear wearing a hat", **SHORT | {"steps": 3}, api_name="/leave_out")
    _until(lambda: len(backend.prompts) == 1)
    theirs = second.submit(prompt="a cat wearing glasses", **SHORT, api_name="/leave_out")
    first.predict(api_name="/stop")
    with pytest.raises(AppError, match="Stopped"):
        mine.result(timeout=30)
    gate.set()
    assert "a cat wearing glasses" in theirs.result(timeout=30)[6]
    assert backend.prompts.count("a bear wearing a hat") == 1


def test_stop_ends_hard_negatives_within_a_picture(server: Server, backend: Any, gate: Any) -> None:
    gate.clear()
    backend.prompts.clear()
    visitor = Client(server.url, verbose=False)
    job = visitor.submit(edits=3, steps=3, api_name="/hard_negatives")
    _until(lambda: len(backend.prompts) == 1)
    visitor.predict(api_name="/stop")
    with pytest.raises(AppError, match="Stopped"):
        job.result(timeout=30)
    gate.set()
    assert len(backend.prompts) == 1


def test_a_full_queue_sends_visitors_away(server: Server, backend: Any, gate: Any, limits: Limits) -> None:
    gate.clear()
    backend.prompts.clear()
    visitors = [Client(server.url, verbose=False) for _ in range(limits.max_queue + 2)]
    jobs = [visitors[0].submit(prompt="a bear", method="plain", **SHORT, api_name="/leave_out")]
    _until(lambda: len(backend.prompts) == 1)
    jobs += [
        visitor.submit(prompt="a bear", method="plain", **SHORT, api_name="/leave_out")
        for visitor in visitors[1:-1]
    ]
    _until(lambda: len(server.page._queue) == limits.max_queue)
    with pytest.raises(Exception, match="Queue is full"):
        visitors[-1].predict(prompt="a bear", method="plain", **SHORT, api_name="/leave_out")
    gate.set()
    assert all(len(job.result(timeout=60)) == 9 for job in jobs)


def test_only_what_the_demo_wrote_is_served(client: Client, server: Server) -> None:
    image, _ = client.predict(seed=1, api_name="/draw_scene")
    inside = next(server.outputs.folder.rglob("scene.png"))
    address = f"{server.url}gradio_api/file="
    assert httpx.get(f"{address}{inside}").status_code == 200
    for path in ("/etc/hostname", __file__, str(Path(serve.__code__.co_filename)), "pyproject.toml", "/"):
        assert httpx.get(f"{address}{path}").status_code in (403, 404), path
    assert httpx.get(f"{address}{server.outputs.folder}/../../etc/hostname").status_code in (403, 404)
    assert Path(image).is_file()


def test_a_direct_call_cannot_pass_the_queue(server: Server) -> None:
    answer = httpx.post(f"{server.url}gradio_api/run/leave_out", json={"data": ["a bear"]})
    assert answer.status_code == 404


def test_everything_is_gone_after_an_hour(client: Client, server: Server) -> None:
    set_id = client.predict(edits=1, steps=2, api_name="/hard_negatives")[5]
    client.predict(prompt="a bear", method="plain", **SHORT, api_name="/leave_out")
    assert any(server.outputs.folder.rglob("*.png"))
    server.outputs.delete_old(time.time() + server.outputs.keep_seconds + 1)
    left = {path for path in server.outputs.folder.rglob("*") if path.is_file()}
    assert left <= server.outputs._kept
    # whether or not the emptied folder is there
    emptied = server.outputs.folder / set_id
    for there in (True, False):
        if there:
            (emptied / "set").mkdir(parents=True, exist_ok=True)
        else:
            shutil.rmtree(emptied)
        with pytest.raises(AppError, match="deleted after an hour"):
            client.predict(set_id=set_id, keep=["1"], api_name="/download_set")


def test_nothing_is_reported_to_anybody_and_nobody_else_may_come_in(server: Server) -> None:
    config = httpx.get(f"{server.url}config").json()
    assert config["analytics_enabled"] is False
    assert not config.get("run_history", False)
    assert server.url.startswith("http://127.0.0.1:")
    assert server.page.server_name == "127.0.0.1"
    assert not re.search(
        r"https?://(?!127\.0\.0\.1)[\w.-]*(?:googleapis|gstatic)", httpx.get(server.url).text
    )
    monitoring = httpx.get(f"{server.url}monitoring/summary")
    assert monitoring.status_code >= 400


@pytest.fixture
def another_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """Gradio has one folder for a process: put the shared server's back afterwards."""
    monkeypatch.setenv("GRADIO_TEMP_DIR", os.environ.get("GRADIO_TEMP_DIR", ""))


@pytest.mark.usefixtures("another_server")
def test_with_auth_nobody_enters_without_a_password(backend: Any) -> None:
    with pytest.raises(ValueError, match="tools cannot log in"):
        serve(backend, mcp=True, auth=[("me", "secret")])
    served = serve(backend, auth=[("me", "secret")], warm_up=False, quiet=True)
    try:
        assert httpx.get(f"{served.url}config").status_code == 401
        assert httpx.post(f"{served.url}gradio_api/queue/join", json={"data": []}).status_code == 401
        visitor = Client(served.url, auth=("me", "secret"), verbose=False)
        assert parse(visitor.predict(seed=1, api_name="/draw_scene")[1])
    finally:
        served.close()
    assert not served.outputs.folder.exists()


@pytest.mark.usefixtures("another_server")
def test_every_tab_opens_with_the_results_of_its_first_example(backend: Any) -> None:
    served = serve(backend, Limits(max_steps=4, keep_seconds=60), quiet=True)
    try:
        config = httpx.get(f"{served.url}config", timeout=60).json()
        tabs = {tab.id: block_id for block_id, tab in served.page.blocks.items() if isinstance(tab, gr.Tab)}
        assert list(tabs) == list(TABS)

        def answered(dependency: dict[str, Any], visit: str) -> list[Any]:
            body = {
                "data": [None] * len(dependency["inputs"]),
                "fn_index": dependency["id"],
                "session_hash": visit,
            }
            answer = httpx.post(f"{served.url}gradio_api/run/predict", json=body, timeout=300)
            found: list[Any] = answer.json()["data"]
            return found

        def of(target: Any) -> list[dict[str, Any]]:
            """What the page asks the server when this happens."""
            found = [d for d in config["dependencies"] if target in [tuple(one) for one in d["targets"]]]
            return [d for d in found if d["backend_fn"]]

        loads = [d for d in config["dependencies"] if any(event == "load" for _, event in d["targets"])]
        begin, warm_up = (d for d in loads if d["backend_fn"])
        updates = answered(begin, "first")
        assert {"a bear wearing glasses", "black glasses", "brown fur"} <= {
            text for text in updates if isinstance(text, str)
        }
        assert [one["value"] for one in updates if isinstance(one, dict)] == [False, *[1.5] * 4]
        first = answered(warm_up, "first")
        # all four seeds; every visitor gets the same, and each but once
        assert "“a bear wearing glasses”" in first[1] and len(first[3]) == 12
        assert answered(warm_up, "second") == first
        # the turntables of the last one are made in advance
        for name, tab in list(tabs.items())[1:-1]:
            (greet,) = of((tab, "select"))
            shown = [one for one in answered(greet, "first") if isinstance(one, str) and len(one) > 20]
            assert shown, name
        # what everybody sees does not grow old
        files = set(served.outputs.folder.rglob("*.png"))
        served.outputs.delete_old(time.time() + 1000)
        assert set(served.outputs.folder.rglob("*.png")) == files
    finally:
        served.close()


def test_pip_is_the_trademark_character() -> None:
    from negguide.toyworld.page import pip

    assert pip().tobytes() == render(Scene((parse("pip in front view").characters[0],), "meadow")).tobytes()
    assert parse("pip").characters[0] == TRADEMARK


def _until(condition: Any, seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "this did not happen in time"
        time.sleep(0.05)
