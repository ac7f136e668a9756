"""A small OpenAI-compatible server for tests: real HTTP on 127.0.0.1, with faults to order.

A model of words or a real tiny model is behind it.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

MODEL = "org/served"


class Fault(Exception):
    """What the server does in place of an answer.

    A status with its headers, raw bytes, a broken connection, or silence until the server ends.
    """

    def __init__(
        self,
        status: int = 200,
        body: bytes = b"{}",
        headers: dict[str, str] | None = None,
        *,
        drop: bool = False,
        hang: bool = False,
    ) -> None:
        super().__init__(status)
        self.status, self.body, self.headers, self.drop, self.hang = status, body, headers or {}, drop, hang


class Server:
    """`answer(path, body)` gives the JSON to send or raises a Fault. `requests` keeps all requests with headers."""

    def __init__(self, answer: Callable[[str, dict[str, Any]], dict[str, Any]]) -> None:
        self.answer = answer
        self.requests: list[tuple[str, dict[str, Any], dict[str, str]]] = []
        self.at_once = self.most_at_once = 0
        self._lock = threading.Lock()
        self._ended = threading.Event()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self._reply({})

            def do_POST(self) -> None:
                self._reply(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

            def _reply(self, body: dict[str, Any]) -> None:
                with outer._lock:
                    outer.requests.append(
                        (self.path, body, {name.title(): value for name, value in self.headers.items()})
                    )
                    outer.at_once += 1
                    outer.most_at_once = max(outer.most_at_once, outer.at_once)
                try:
                    self._send(200, json.dumps(outer.answer(self.path, body)).encode(), {})
                except Fault as fault:
                    if fault.hang:
                        outer._ended.wait(30)
                        self.close_connection = True
                    else:
                        self._send(fault.status, fault.body, fault.headers, drop=fault.drop)
                finally:
                    with outer._lock:
                        outer.at_once -= 1

            def _send(self, status: int, body: bytes, headers: dict[str, str], *, drop: bool = False) -> None:
                self.send_response(status)
                for name, value in ({"Content-Type": "application/json"} | headers).items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body[: len(body) // 2] if drop else body)
                self.close_connection = drop

            def log_message(self, *_: object) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}/v1"
        self._thread = threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        self._thread.start()

    def asked(self, path: str) -> list[dict[str, Any]]:
        """Bodies of the requests to a path."""
        return [body for name, body, _ in self.requests if name == f"/v1{path}"]

    def close(self) -> None:
        self._ended.set()
        self.http.shutdown()
        self.http.server_close()
        self._thread.join()


@contextmanager
def serving(answer: Callable[[str, dict[str, Any]], dict[str, Any]]) -> Iterator[Server]:
    server = Server(answer)
    try:
        yield server
    finally:
        server.close()


def listed(model: str = MODEL, **more: Any) -> dict[str, Any]:
    """The answer to `/models`."""
    return {"object": "list", "data": [{"id": model, "object": "model", "created": 1, "owned_by": "tests", **more}]}


def said(
    text: str | None, *, model: str = MODEL, finish: str | None = "stop", chat: bool = True, **more: Any
) -> dict[str, Any]:
    """An answer of the protocol; `more` goes into the message."""
    content: dict[str, Any] = (
        {"message": {"role": "assistant", "content": text, **more}} if chat else {"text": text, **more}
    )
    usage = {"prompt_tokens": 7, "completion_tokens": len((text or "").split()), "total_tokens": 9}
    return {"model": model, "choices": [{"index": 0, "finish_reason": finish, **content}], "usage": usage}


def plain(path: str, body: dict[str, Any]) -> dict[str, Any]:
    """A server that answers every prompt with its own words, back to front."""
    if path == "/v1/models":
        return listed()
    if path == "/v1/completions":
        return said(" ".join(reversed(body["prompt"].split())), chat=False)
    return said(" ".join(reversed(body["messages"][-1]["content"].split())))
