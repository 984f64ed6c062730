"""The actions as tools, called by a real client of the Model Context Protocol."""

import asyncio
import base64
import io
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from PIL import Image

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


def test_a_client_that_does_not_listen_to_progress_gets_the_same_as_text(server: Server) -> None:
    result = _with_session(server, lambda session: session.call_tool("draw_scene", {"seed": 2}))
    assert not result.isError
    (text,) = {part.text for part in result.content if part.type == "text" and " " in part.text}
    assert "scene.png" in text


def test_sets_are_made_and_packed_by_tools(server: Server) -> None:
    made = _called(server, "hard_negatives", {"edits": 1, "steps": 2}, [])
    set_id = made.content[-1].text
    assert set_id.startswith("call-")
    keep = {"set_id": set_id, "keep": ["1"]}
    packed = _called(server, "download_set", keep, [])
    assert "hard-negatives.zip" in packed.content[0].text


def test_bad_input_comes_back_as_the_message(server: Server) -> None:
    result = _with_session(server, lambda session: session.call_tool("leave_out", {"prompt": "a dragon"}))
    assert result.isError
    assert "does not know “dragon”" in result.content[0].text
