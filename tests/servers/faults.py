"""A proxy in front of an HTTP server that fails on order: errors, lost answers, resets half-way, delays.

It runs in threads of the test's own process and passes everything else through unchanged, so that signatures hold.
"""

from __future__ import annotations

import http.client
import socket
import struct
import sys
import threading
import time
from dataclasses import dataclass, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Final, Literal
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from typing import Self

HOST = "127.0.0.1"
UPSTREAM_LIMIT_S = 60.0

_RESET_ON_CLOSE = struct.pack("ii", 1, 0)  # SO_LINGER: on, 0 s; closing then sends RST


@dataclass(frozen=True, slots=True)
class Fault:
    """What happens to the next requests.

    Attributes:
        kind: `status`: the request is answered with an error and not passed on. `lost`: it is passed on, and the
            connection is reset instead of the answer. `cut answer`: half of the answer's body comes, then a reset.
            `cut request`: a reset when half of the request's body was read; it is not passed on. `delay`: it is
            passed on after a pause.
        times: of how many requests.
        method: only of these; all if empty.
        query: only where the query contains this.
        status: for `status`.
        code: of S3's error document, for `status`.
        delay_s: for `delay`.
    """

    kind: Literal["status", "lost", "cut answer", "cut request", "delay"]
    times: int = 1
    method: str = ""
    query: str = ""
    status: int = 500
    code: str = "InternalError"
    delay_s: float = 0.0

    def __str__(self) -> str:
        return f"{self.kind} {self.status} {self.code}" if self.kind == "status" else self.kind


PASSING: Final = (
    Fault("status", status=500, times=2),
    Fault("status", status=503, code="SlowDown", times=2),
    Fault("lost"),
    Fault("cut answer"),
    Fault("cut request"),
)
"""What a client gets over by sending its request again."""


def in_short(value: object) -> str:
    """A fault or an error as part of a test's name."""
    return value.__name__ if isinstance(value, type) else str(value)


class FaultProxy:
    """A running proxy. Use it as a context manager.

    Attributes:
        url: where it serves.
        requests: how many it saw since `inject`.
        targets: the path and query of each of them.
        hits: how many of them failed on order.
    """

    def __init__(self, upstream: str) -> None:
        address = urlsplit(upstream)
        assert address.hostname is not None
        assert address.port is not None
        self.upstream = (address.hostname, address.port)
        self.requests = 0
        self.targets: list[str] = []
        self.hits = 0
        self._faults: list[Fault] = []
        self._guard = threading.Lock()
        proxy = self

        class Handler(_Handler):
            owner = proxy

        self._server = _Server((HOST, 0), Handler)
        self.url = f"http://{HOST}:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def inject(self, *faults: Fault) -> None:
        """Fail on these orders from now on, the first that matches at each request; replaces earlier ones."""
        with self._guard:
            self._faults = list(faults)
            self.requests = self.hits = 0
            self.targets = []

    def take(self, method: str, target: str) -> Fault | None:
        """The fault for this request, used up by one."""
        query = target.partition("?")[2]
        with self._guard:
            self.requests += 1
            self.targets.append(target)
            for index, fault in enumerate(self._faults):
                if fault.times and fault.method in ("", method) and fault.query in query:
                    self._faults[index] = replace(fault, times=fault.times - 1)
                    self.hits += 1
                    return fault
        return None


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """Silence where a client is gone: after a fault it gives up its other connections too."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    owner: FaultProxy

    def log_message(self, *_: object) -> None:
        """Silence: a test says itself what went wrong."""

    def _handle(self) -> None:
        fault = self.owner.take(self.command, self.path)
        length = int(self.headers.get("Content-Length") or 0)
        if fault is not None and fault.kind == "cut request":
            self.rfile.read(length // 2)
            self._reset()
            return
        body = self.rfile.read(length)
        if fault is not None and fault.kind == "status":
            text = f"<?xml version='1.0'?><Error><Code>{fault.code}</Code><Message>on order</Message></Error>".encode()
            self._answer(fault.status, [("Content-Type", "application/xml")], b"" if self.command == "HEAD" else text)
            return
        if fault is not None and fault.kind == "delay":
            time.sleep(fault.delay_s)
        upstream = http.client.HTTPConnection(*self.owner.upstream, timeout=UPSTREAM_LIMIT_S)
        try:
            upstream.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                upstream.putheader(name, value)
            upstream.endheaders(body or None)
            response = upstream.getresponse()
            content = response.read()
            headers = response.getheaders()
            status = response.status
        finally:
            upstream.close()
        if fault is not None and fault.kind == "lost":
            self._reset()
            return
        self._answer(status, headers, content, cut=fault is not None and fault.kind == "cut answer")

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _handle  # noqa: N815 - the names http.server looks for

    def _answer(self, status: int, headers: list[tuple[str, str]], content: bytes, *, cut: bool = False) -> None:
        self.send_response_only(status)
        told = {name.lower(): value for name, value in headers}
        for name, value in headers:
            if name.lower() not in ("content-length", "transfer-encoding", "connection"):
                self.send_header(name, value)
        # Of a HEAD request's answer only the length is told.
        length = told.get("content-length", "0") if self.command == "HEAD" else str(len(content))
        self.send_header("Content-Length", length)
        self.end_headers()
        self.wfile.write(content[: len(content) // 2] if cut else content)
        self.wfile.flush()
        if cut:
            self._reset()

    def _reset(self) -> None:
        """End the connection by RST, as a crashed server or a broken line does."""
        self.close_connection = True
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        # Not shut down politely before it is closed.
        self.connection.close()
