"""The actions as tools of the Model Context Protocol: what Gradio's own server leaves open of them.

Every client gets pictures, also one that does not listen to progress; what comes back has names; the descriptions say
the bounds; a tool that is called in the name of a client has that client's place in the queue, and ends with it.
"""

from __future__ import annotations

import asyncio
from contextvars import ContextVar
from typing import Any

import gradio as gr
from gradio.mcp import GradioMCPServer
from gradio.processing_utils import add_root_url

from negguide.demo.clients import Clients
from negguide.demo.limits import MAX_TEXT
from negguide.demo.messages import WORDS_TOOL

_outputs: ContextVar[tuple[str, ...]] = ContextVar("outputs")
"""The names of what the tool gives back that is being called."""
_READS_WORDS = frozenset({"prompt", "caption"})


def complete(page: gr.Blocks, clients: Clients) -> None:
    """Make the MCP server of a launched page a `Tools`."""
    server: Any = page.mcp_server_obj
    server.__class__ = Tools
    server.clients = clients


class Tools(GradioMCPServer):
    """Gradio's MCP server of a page, with what the text of this module says."""

    clients: Clients

    def _prepare_tool_call_args(self, name: str, arguments: dict[str, Any]) -> tuple[Any, ...]:
        endpoint, values, headers, function = super()._prepare_tool_call_args(name, arguments)
        _outputs.set(tuple(component.label or "result" for component in function.outputs))
        request: Any = self.mcp_server.request_context.request
        # the call comes from this machine then, which says for whom, as a proxy does
        headers = {key: value for key, value in headers.items() if key.lower() != "x-forwarded-for"}
        if request.client is not None:
            headers["x-forwarded-for"] = request.client.host
        return endpoint, values, headers, function

    async def _execute_tool_without_progress(self, job: Any) -> list[Any]:
        try:
            async for update in job:
                if update.type == "output" and update.final:
                    if not update.success:
                        raise RuntimeError(_message(update.outputs))
                    found: list[Any] = update.outputs["data"]
                    return found
            raise job.exception() or RuntimeError("The call ended without a result.")
        except asyncio.CancelledError:
            self.clients.give_up(job.communicator.event_id)
            raise

    async def _execute_tool_with_progress(self, job: Any, progress_token: str | int) -> Any:
        try:
            return await super()._execute_tool_with_progress(job, progress_token)
        except asyncio.CancelledError:
            self.clients.give_up(job.communicator.event_id)
            raise

    def postprocess_output_data(self, data: Any, root_url: str) -> list[Any]:
        """What an action gives, as the content of an answer of MCP."""
        content: list[Any] = []
        for name, output in zip(_outputs.get(), data, strict=True):
            if output is None or output in ("", []):
                continue
            if isinstance(output, list | tuple):
                lines = [_line(one) for one in add_root_url(list(output), root_url, None)]
                found = [self.types.TextContent(type="text", text="\n".join(lines))]
            else:
                found = super().postprocess_output_data([output], root_url)
            for part in found:
                if part.type == "text":
                    part.text = f"{name}: {part.text}"
            content += found
        return content

    def get_fn_description(self, block_fn: Any, tool_name: str) -> tuple[str, dict[str, str]]:
        """Gradio's description of a tool, with the bounds of its numbers."""
        description, parameters = super().get_fn_description(block_fn, tool_name)
        endpoint = self.api_info["named_endpoints"][self.tool_to_endpoint[tool_name]]
        for info, component in zip(endpoint["parameters"], block_fn.inputs, strict=True):
            name = info["parameter_name"]
            if bounds := _bounds(component):
                parameters[name] = f"{parameters.get(name, '').rstrip()} {bounds}".strip()
        if WORDS_TOOL in self.tool_to_endpoint and _READS_WORDS & set(parameters):
            description = f"{description} The model reads few words; the tool {WORDS_TOOL!r} lists them."
        return description, parameters


def _message(outputs: Any) -> str:
    said = [outputs.get("title"), outputs.get("error")] if isinstance(outputs, dict) else []
    return ": ".join(filter(None, said)) or "Error!"


def _line(one: Any) -> str:
    """A picture of a gallery with its caption, or a file, by its address."""
    file = one.get("image") or one if isinstance(one, dict) else one
    where = file.get("url") or file.get("path") if isinstance(file, dict) else str(file)
    caption = one.get("caption") if isinstance(one, dict) else None
    return f"{caption}: {where}" if caption else str(where)


def _bounds(component: Any) -> str:
    """What an input may hold, for a description."""
    low, high = getattr(component, "minimum", None), getattr(component, "maximum", None)
    if low is not None and high is not None:
        return f"From {low:g} to {high:g}{', whole numbers' if _is_whole(component) else ''}."
    return f"At most {MAX_TEXT} characters." if isinstance(component, gr.Textbox) else ""


def _is_whole(component: Any) -> bool:
    return getattr(component, "step", None) == 1 or getattr(component, "precision", None) == 0
