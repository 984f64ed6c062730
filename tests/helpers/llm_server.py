"""An OpenAI-compatible server on this machine that answers, or fails, as it is told to."""

import json
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(frozen=True)
class Reply:
    """One reply of the server.

    Attributes:
        content: of the message; None is null.
        status: of HTTP.
        body: in the place of a chat completion: JSON, or text as it is.
        headers: beside the length.
        after: seconds before it comes.
        cut: the connection is closed in the middle of the body.
        finish: why the model has ended.
    """

    content: Any = None
    status: int = 200
    body: Any = None
    headers: dict[str, str] = field(default_factory=dict)
    after: float = 0.0
    cut: bool = False
    finish: str = "stop"

    @property
    def text(self) -> bytes:
        message = {"role": "assistant", "content": self.content}
        usual = {"choices": [{"message": message, "finish_reason": self.finish}]}
        body = usual if self.body is None else self.body
        return (body if isinstance(body, str) else json.dumps(body)).encode()


class Endpoint:
    """The server.

    Attributes:
        replies: one after the other: a ``Reply``, the content of an answer, or a status.
        answer: what replies when there are no more of them, from the request.
        requests: (path, body) of all that came.
        headers: of the last request.
        key: that it wants; None = none.
    """

    def __init__(self) -> None:
        self.replies: list[Reply | str | int] = []
        self.answer: Callable[[dict[str, Any]], Reply | str | int] = lambda body: 418
        self.requests: list[tuple[str, dict[str, Any]]] = []
        self.headers: dict[str, str] = {}
        self.key: str | None = None
        endpoint = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.reply(
                    Reply(body={"data": [{"id": "talker"}]})
                    if self.allowed()
                    else Reply(status=401, body={"error": {"message": "no such key"}})
                )

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                endpoint.requests.append((self.path, body))
                endpoint.headers = dict(self.headers)
                said = endpoint.replies.pop(0) if endpoint.replies else endpoint.answer(body)
                if not self.allowed():
                    said = 401
                if isinstance(said, int):
                    said = Reply(status=said, body={"error": {"message": f"{said} as told"}})
                self.reply(Reply(said) if isinstance(said, str) else said)

            def allowed(self) -> bool:
                return endpoint.key in (None, (self.headers["Authorization"] or "").removeprefix("Bearer "))

            def reply(self, said: Reply) -> None:
                time.sleep(said.after)
                try:
                    self.send_response(said.status)
                    for name, value in said.headers.items():
                        self.send_header(name, value)
                    self.send_header("Content-Length", str(len(said.text)))
                    self.end_headers()
                    self.wfile.write(said.text[: len(said.text) // 2] if said.cut else said.text)
                    self.wfile.flush()
                    if said.cut:
                        self.connection.shutdown(socket.SHUT_RDWR)
                except OSError:  # the other side did not wait
                    pass

            def log_message(self, *arguments: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/v1"
        threading.Thread(
            target=self.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True
        ).start()

    def stop(self) -> None:
        self.server.shutdown()
        self.server.server_close()
