"""A server between client and server that goes wrong on purpose, the same way for each seed."""

import asyncio
import itertools
import json
import logging
import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

logger = logging.getLogger(__name__)

FAULTS = ("busy", "error", "timeout", "cut", "half", "garbage", "empty")

# Takes the request's path and body; gives status and body, which may be a stream of events.
Body = bytes | AsyncIterator[bytes]
Answer = Callable[[str, bytes], Awaitable[tuple[int, Body]]]


@dataclass
class FaultyProxy:
    """Serves HTTP/1.1 on a port of its own; a share of the POST requests meets a fault.

    Attributes:
        answer: what gives the true answers.
        share: of requests that go wrong, in [0, 1].
        rng: decides which, and how.
        seen: what happened, by name.
    """

    answer: Answer
    share: float
    rng: random.Random
    seen: Counter[str] = field(default_factory=Counter)
    url: str = ""
    in_flight: int = 0
    most_in_flight: int = 0
    connections: set[asyncio.Task[None]] = field(default_factory=set)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = asyncio.current_task()
        assert connection is not None
        self.connections.add(connection)
        connection.add_done_callback(self.connections.discard)
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                start, *lines = head.decode().split("\r\n")
                method, path, _ = start.split()
                headers = dict(line.lower().split(": ", 1) for line in lines if ": " in line)
                body = await reader.readexactly(int(headers.get("content-length", 0)))
                self.in_flight += 1
                self.most_in_flight = max(self.most_in_flight, self.in_flight)
                try:
                    await self._one(method, path, body, writer)
                finally:
                    self.in_flight -= 1
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError) as error:
            # The client has gone, the fault is to go, or the test is over.
            logger.debug("a connection ended: %r", error)
        finally:
            writer.close()

    async def _one(self, method: str, path: str, body: bytes, writer: asyncio.StreamWriter) -> None:
        fault = None
        if method == "POST" and self.rng.random() < self.share:
            fault = self.rng.choice(FAULTS)
        self.seen[fault or "fine"] += 1
        extra = ""
        if fault == "busy":
            status, answer, extra = 429, b'{"error": {"message": "slow down"}}', "Retry-After: 0.05"
        elif fault == "error":
            status, answer = 500, b"<html>Internal Server Error</html>"
        elif fault == "timeout":
            await asyncio.sleep(30)
            raise ConnectionResetError
        elif fault == "cut":
            raise ConnectionResetError
        else:
            status, answer = await self.answer(path, body)
        if not isinstance(answer, bytes):
            await self._stream(status, answer, fault, writer)
            return
        if fault == "garbage":
            answer = b'{"choices": [{"mess'
        elif fault == "empty":
            answer = json.dumps(json.loads(answer) | {"choices": []}).encode()
        kind = "text/html" if answer.startswith(b"<html") else "application/json"
        head = (
            f"HTTP/1.1 {status} X\r\nContent-Type: {kind}\r\n"
            f"Content-Length: {len(answer)}\r\n" + (f"{extra}\r\n" if extra else "") + "\r\n"
        )
        if fault == "half":
            writer.write(head.encode() + answer[: len(answer) // 2])
            await writer.drain()
            raise ConnectionResetError
        writer.write(head.encode() + answer)
        await writer.drain()

    async def _stream(
        self,
        status: int,
        events: AsyncIterator[bytes],
        fault: str | None,
        writer: asyncio.StreamWriter,
    ) -> None:
        """Send events as they come, each as a chunk; a fault strikes in the middle."""
        writer.write(
            f"HTTP/1.1 {status} X\r\nContent-Type: text/event-stream\r\n"
            "Transfer-Encoding: chunked\r\n\r\n".encode()
        )
        async for event in events:
            if fault in ("garbage", "empty", "half"):
                event = event[: len(event) // 2] + b"\n\n"
            writer.write(f"{len(event):x}\r\n".encode() + event + b"\r\n")
            await writer.drain()
            if fault == "half":
                raise ConnectionResetError
        writer.write(b"0\r\n\r\n")
        await writer.drain()


@asynccontextmanager
async def faulty_proxy(
    answer: Answer, *, share: float = 0.0, seed: int = 0
) -> AsyncIterator[FaultyProxy]:
    proxy = FaultyProxy(answer, share, random.Random(seed))
    server = await asyncio.start_server(proxy.serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    proxy.url = f"http://127.0.0.1:{port}/v1"
    try:
        yield proxy
    finally:
        server.close()
        for connection in proxy.connections:
            connection.cancel()
        await asyncio.gather(*proxy.connections, return_exceptions=True)
        await server.wait_closed()


def chat_completion(content: str | None, **message: object) -> bytes:
    return json.dumps(
        {
            "id": "x",
            "choices": [
                {
                    "index": 0,
                    "finish_reason": message.pop("finish_reason", "stop"),
                    "message": {"role": "assistant", "content": content, **message},
                }
            ],
            "usage": {"prompt_tokens": 7, "completion_tokens": 3},
        }
    ).encode()


async def events(*pieces: dict[str, object] | str, pause: float = 0.0) -> AsyncIterator[bytes]:
    """A stream of server-sent events, as `chat_completion` would send it piece by piece."""
    for number, piece in enumerate(pieces):
        if number:
            await asyncio.sleep(pause)
        yield f"data: {piece if isinstance(piece, str) else json.dumps(piece)}\n\n".encode()


def piece(
    content: object, *, finish_reason: str | None = None, **delta: object
) -> dict[str, object]:
    """A piece of a streamed completion."""
    choice = {"index": 0, "delta": {"content": content, **delta}, "finish_reason": finish_reason}
    return {"choices": [choice]}


USAGE: dict[str, object] = {
    "choices": [],
    "usage": {"prompt_tokens": 7, "completion_tokens": 3},
}


def echo(*, whole: bool = False) -> Answer:
    """Answers with the user's text and how many answers there were before.

    Args:
        whole: never as a stream, whatever was asked for.
    """
    numbers = itertools.count()

    async def answer(path: str, body: bytes) -> tuple[int, bytes]:
        if path.endswith("/models"):
            return 200, b'{"object": "list", "data": [{"id": "m", "object": "model"}]}'
        await asyncio.sleep(0.002)
        text = json.loads(body)["messages"][-1]["content"]
        answer = f"{text} #{next(numbers)}"
        if json.loads(body).get("stream") and not whole:
            half = len(answer) // 2
            ends = piece(answer[half:], finish_reason="stop")
            return 200, events(piece(answer[:half]), ends, USAGE, "[DONE]")
        return 200, chat_completion(answer)

    return answer
