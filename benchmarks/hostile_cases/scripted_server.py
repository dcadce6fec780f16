"""An OpenAI-compatible server on 127.0.0.1 that does what a case tells it to."""

import json
import socket
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

MODEL = "m"


@dataclass(frozen=True, kw_only=True)
class Reply:
    """One answer as it goes over the wire.

    Attributes:
        body: bytes, or what is written as JSON.
        status: of HTTP.
        headers: beside Content-Type and Content-Length; they may replace these.
        wait_seconds: before the answer.
        cut: how many bytes of the body are sent before the connection ends; None: all.
    """

    body: Any = b""
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    wait_seconds: float = 0.0
    cut: int | None = None


def completion(text: Any = "</think>\n\nFinal Answer: de", **changes: Any) -> dict[str, Any]:
    """A chat completion; ``changes`` replace its parts, and a part set to ... is left out."""
    message = {"role": "assistant", "content": text, **changes.pop("message", {})}
    choice = {"index": 0, "finish_reason": "stop", "message": message, **changes.pop("choice", {})}
    usage = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}
    body = {"id": "x", "object": "chat.completion", "choices": [choice], "usage": usage, **changes}
    for part in (body, choice, message):
        for key in [key for key, value in part.items() if value is ...]:
            del part[key]
    return body


Script = Callable[[int, dict[str, Any]], Reply]
"""The number of the request, from 0, and its body; gives the answer."""


def always(reply: Reply) -> Script:
    """The same answer to every request."""
    return lambda number, body: reply


def labels(label: str = "de") -> Script:
    """A good teacher: every answer is ``label``."""
    return always(Reply(body=completion(f"</think>\n\nFinal Answer: {label}")))


def echoes() -> Script:
    """A teacher of a generation: it says what the user said."""

    def reply(number: int, body: dict[str, Any]) -> Reply:
        return Reply(body=completion("</think>\n" + body["messages"][-1]["content"]))

    return reply


class _QuietServer(ThreadingHTTPServer):
    def handle_error(self, *_: object) -> None:
        """A client that hangs up is what cases are about."""


class ScriptedServer:
    """Serves until it is closed.

    Args:
        script: answers the requests for completions.
        models: answers the request for the list of models; None: a list of one.
    """

    def __init__(self, script: Script, *, models: Reply | None = None) -> None:
        self.asked: list[dict[str, Any]] = []
        self._lock = threading.Lock()
        self._closed = threading.Event()
        listed = {"object": "list", "data": [{"id": MODEL, "object": "model"}]}
        self._models = models or Reply(body=listed)
        self._script = script
        self._http = _QuietServer(("127.0.0.1", 0), self._handler())
        self._http.daemon_threads = True
        self._http.block_on_close = False
        self.port: int = self._http.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}/v1"
        threading.Thread(target=self._http.serve_forever, args=(0.05,), daemon=True).start()

    def close(self) -> None:
        """Stop listening; answers that wait are never sent."""
        self._closed.set()
        self._http.shutdown()
        self._http.server_close()

    def _answer(self, body: bytes) -> Reply:
        if not body:
            return Reply(status=400, body={"error": {"message": "a request without a body"}})
        request = json.loads(body)
        with self._lock:
            number = len(self.asked)
            self.asked.append(request)
        return self._script(number, request)

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def do_GET(self) -> None:
                self._send(server._models)

            def do_POST(self) -> None:
                length = int(self.headers.get("Content-Length") or 0)
                self._send(server._answer(self.rfile.read(length)))

            def _send(self, reply: Reply) -> None:
                if reply.wait_seconds and server._closed.wait(reply.wait_seconds):
                    self.close_connection = True
                    return
                body = reply.body if isinstance(reply.body, bytes) else _json(reply.body)
                headers = {
                    "Content-Type": "application/json", "Content-Length": str(len(body)),
                    **reply.headers,
                }  # fmt: skip
                self.send_response(reply.status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body[: reply.cut])
                if reply.cut is not None:
                    self.wfile.flush()
                    self.connection.shutdown(socket.SHUT_RDWR)
                    self.close_connection = True

            def log_message(self, *_: object) -> None:
                """Say nothing: the client's side is what is looked at."""

            def handle(self) -> None:
                try:
                    super().handle()
                except OSError:
                    self.close_connection = True  # the client has gone

        return Handler


def _json(value: Any) -> bytes:
    return json.dumps(value).encode()


def unused_port() -> int:
    """A port of 127.0.0.1 on which nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class SilentPort:
    """Takes connections and never says a word."""

    def __init__(self) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0), backlog=256)
        self.port: int = self._socket.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}/v1"
        self._taken: list[socket.socket] = []
        threading.Thread(target=self._take, daemon=True).start()

    def _take(self) -> None:
        while True:
            try:
                self._taken.append(self._socket.accept()[0])
            except OSError:
                return

    def close(self) -> None:
        """Hang up."""
        for connection in (self._socket, *self._taken):
            connection.close()
