"""The actions as tools, called by a real client of the Model Context Protocol."""

import asyncio
import base64
import io
import threading
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from PIL import Image

from negguide.demo import Limits
from negguide.demo.server import Server

mcp = pytest.importorskip("mcp", reason='MCP needs its package: pip install ".[demo-mcp]"')

TOOLS = {
    "leave_out",
    "push_apart",
    "keep_away",
    "draw_scene",
    "hard_negatives",
    "download_set",
    "compare",
    "turn_around",
    "words",
}


def _with_session(server: Server, act: Callable[[Any], Awaitable[Any]]) -> Any:
    from mcp.client.streamable_http import streamablehttp_client

    async def run() -> Any:
        async with (
            streamablehttp_client(f"{server.url}gradio_api/mcp/") as (read, write, _),
            mcp.ClientSession(read, write) as session,
        ):
            await session.initialize()
            return await act(session)

    return asyncio.run(run())


def _called(server: Server, tool: str, arguments: dict[str, Any], steps: list[str]) -> Any:
    """The result of a tool, called by a client that listens to its progress."""

    async def heard(_done: float, _total: float | None, message: str | None) -> None:
        steps.append(message or "")

    return _with_session(server, lambda session: session.call_tool(tool, arguments, progress_callback=heard))


def test_every_action_but_stop_is_a_tool_that_says_what_it_takes(server: Server) -> None:
    listed = _with_session(server, lambda session: session.list_tools()).tools
    # tools of all clients share one session of Gradio, so a tool that stops would stop others' runs
    assert {tool.name for tool in listed} == TOOLS
    for tool in listed:
        assert tool.description and len(tool.description) > 40
        properties = tool.inputSchema["properties"]
        assert all(value.get("description") for value in properties.values()), tool.name
    (leave_out,) = (tool for tool in listed if tool.name == "leave_out")
    assert leave_out.inputSchema["properties"]["method"]["enum"][:3] == [
        "plain",
        "negative-prompt",
        "perp-neg",
    ]


def test_a_tool_gives_the_picture_and_what_happened(server: Server) -> None:
    arguments = {"prompt": "a bear wearing glasses", "negative_1": "black glasses", "images": 1, "steps": 2}
    steps: list[str] = []
    result = _called(server, "leave_out", arguments, steps)
    assert not result.isError
    assert any("Perp-Neg" in step or "Plain" in step for step in steps)
    pictures = [part for part in result.content if part.type == "image"]
    with Image.open(io.BytesIO(base64.b64decode(pictures[0].data))) as sheet:
        # three columns and the labels
        assert sheet.width > 3 * 160
    texts = " ".join(part.text for part in result.content if part.type == "text")
    assert "overlaps the prompt by" in texts and "PerpNeg(" in texts


def test_a_client_that_does_not_listen_to_progress_gets_pictures_and_names_too(server: Server) -> None:
    arguments = {"prompt": "a bear wearing glasses", "negative_1": "black glasses", "images": 1, "steps": 2}
    result = _with_session(server, lambda session: session.call_tool("leave_out", arguments))
    assert not result.isError
    pictures = [part for part in result.content if part.type == "image"]
    with Image.open(io.BytesIO(base64.b64decode(pictures[0].data))) as sheet:
        assert sheet.width > 3 * 160
    texts = [part.text for part in result.content if part.type == "text"]
    assert [text.partition(": ")[0] for text in texts][:2] == ["All as one PNG", "What happened"]
    assert any(text.startswith("Python: ") and "PerpNeg(" in text for text in texts)
    (seeds,) = (text for text in texts if text.startswith("All seeds"))
    assert "seed 0 · Plain: http" in seeds
    drawn = _with_session(server, lambda session: session.call_tool("draw_scene", {"seed": 2}))
    assert drawn.content[0].type == "image"


def test_descriptions_say_the_bounds_and_where_the_words_are(server: Server, limits: Limits) -> None:
    listed = _with_session(server, lambda session: session.list_tools()).tools
    (leave_out,) = (tool for tool in listed if tool.name == "leave_out")
    properties = leave_out.inputSchema["properties"]
    assert properties["images"]["description"].endswith(f"From 1 to {limits.max_images}, whole numbers.")
    assert properties["weight_1"]["description"].endswith("From 0 to 5.")
    assert properties["prompt"]["description"].endswith("At most 300 characters.")
    assert "'words'" in leave_out.description
    words = _with_session(server, lambda session: session.call_tool("words", {}))
    assert "glasses" in words.content[0].text and "rabbit" in words.content[0].text


def test_a_tool_whose_client_has_gone_is_not_gone_on_with(
    server: Server, backend: Any, gate: threading.Event
) -> None:
    gate.clear()
    backend.prompts.clear()

    async def act(session: Any) -> None:
        arguments = {"prompt": "a bear", "method": "plain", "images": 1, "steps": 4}
        call = asyncio.create_task(session.call_tool("leave_out", arguments))
        while not backend.prompts:
            await asyncio.sleep(0.05)
        call.cancel()

    _with_session(server, act)
    end = time.monotonic() + 180
    running = server.page._queue.active_jobs
    while any(event.alive for job in running for event in job or ()) and time.monotonic() < end:
        time.sleep(0.05)
    gate.set()
    while any(running) and time.monotonic() < end:
        time.sleep(0.05)
    assert not any(running) and backend.prompts == ["a bear"]
    # and the next one is served
    assert not _with_session(server, lambda session: session.call_tool("draw_scene", {"seed": 1})).isError


def test_sets_are_made_and_packed_by_tools(server: Server) -> None:
    made = _called(server, "hard_negatives", {"edits": 1, "steps": 2}, [])
    name, _, set_id = made.content[-1].text.partition(": ")
    assert name == "Set"
    assert set_id.startswith("call-")
    keep = {"set_id": set_id, "keep": ["1"]}
    packed = _called(server, "download_set", keep, [])
    assert "hard-negatives.zip" in packed.content[0].text


def test_bad_input_comes_back_as_the_message(server: Server) -> None:
    result = _with_session(server, lambda session: session.call_tool("leave_out", {"prompt": "a dragon"}))
    assert result.isError
    assert "does not know “dragon”" in result.content[0].text
