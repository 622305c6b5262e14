"""A chat completions endpoint on this machine whose every reply a test decides, also those that break HTTP."""

from __future__ import annotations

import json
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Reply:
    """`status` 0 hangs up without a word; `payload` replaces the chat completion; `send` writes everything itself."""

    text: str = ""
    status: int = 200
    finish_reason: str = "stop"
    headers: dict[str, str] = field(default_factory=dict)
    error: dict[str, Any] | None = None
    body: bytes | None = None
    payload: Any = None
    send: Callable[[BaseHTTPRequestHandler], None] | None = None


@dataclass
class Endpoint:
    """`requests` are the bodies received, `received` their paths with the header that may hold a key; `most_at_once` is
    the highest number of requests under way together.
    """

    url: str
    requests: list[dict[str, Any]] = field(default_factory=list)
    received: list[str] = field(default_factory=list)
    most_at_once: int = 0


@contextmanager
def endpoint(answer: Callable[[dict[str, Any], int], Reply]) -> Iterator[Endpoint]:
    """Serve `answer(body, number)`; `number` counts the requests from 0."""
    lock = threading.Lock()
    under_way = 0
    found = Endpoint("")

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            nonlocal under_way
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with lock:
                number = len(found.requests)
                found.requests.append(body)
                found.received.append(f"{self.path} {self.headers.get('Authorization')}")
                under_way += 1
                found.most_at_once = max(found.most_at_once, under_way)
            try:
                reply = answer(body, number)
            finally:
                with lock:
                    under_way -= 1
            if reply.status == 0:
                self.close_connection = True
                self.connection.close()
                return
            try:
                reply.send(self) if reply.send else self._send(reply)
            except OSError:
                self.close_connection = True

        def _send(self, reply: Reply) -> None:
            payload = reply.body if reply.body is not None else json.dumps(_payload(reply)).encode()
            self.send_response(reply.status)
            for name, value in {"Content-Type": "application/json", **reply.headers}.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(payload)))
            self.end_headers()
            self.wfile.write(payload)

        def log_message(self, *_: Any) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    found.url = f"http://127.0.0.1:{server.server_port}/v1"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield found
    finally:
        server.shutdown()
        server.server_close()


def _payload(reply: Reply) -> dict[str, Any]:
    if reply.payload is not None:
        return reply.payload
    if reply.status != 200:
        return {"error": reply.error or {"message": "no"}}
    message = {"role": "assistant", "content": reply.text}
    return {
        "id": "x",
        "object": "chat.completion",
        "created": 0,
        "model": "m",
        "choices": [{"index": 0, "message": message, "finish_reason": reply.finish_reason}],
        "usage": {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15},
    }


def completion_payload(
    message: Any = None, *, finish_reason: Any = "stop", usage: Any = None, text: Any = None
) -> dict[str, Any]:
    """A chat completion with any message (by default one with `text` as its content) and any usage."""
    message = {"role": "assistant", "content": text} if message is None else message
    return {"choices": [{"index": 0, "message": message, "finish_reason": finish_reason}], "usage": usage}


def drip(head: bytes, unit: bytes = b" ", pause: float = 0.05) -> Reply:
    """Send `head` at once and then `unit` again and again, for ever."""

    def send(handler: BaseHTTPRequestHandler) -> None:
        handler.wfile.write(head)
        while True:
            handler.wfile.write(unit)
            handler.wfile.flush()
            time.sleep(pause)

    return Reply(send=send)


def raw(data: bytes, *, reset: bool = False) -> Reply:
    """Send these bytes and close the connection; with `reset` not in the regular way."""

    def send(handler: BaseHTTPRequestHandler) -> None:
        handler.close_connection = True
        handler.wfile.write(data)
        handler.wfile.flush()
        if reset:
            handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            handler.connection.close()

    return Reply(send=send)


def prompt_of(body: dict[str, Any]) -> str:
    return body["messages"][-1]["content"]
