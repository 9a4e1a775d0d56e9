"""The network beneath the sender's connection pool: it connects to addresses that Egress has judged, and to no others.

The pool looks at every idle connection before every request, so a stream knows by itself whether it was closed.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Iterable
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import httpcore2

from storage.webhooks.message import Answer

if TYPE_CHECKING:
    from storage.webhooks.sending.egress import Egress, Target

ADDRESS_SECONDS: Final = 2.0
"""How long one address of several may take to accept, before the next is tried: IPv6 that leads nowhere is common."""

BUFFERED: Final = 64 * 1024
"""Bytes that are held before they are written, and beyond which no more are read until somebody takes them."""


@dataclass(slots=True)
class Attempt:
    """What is known of a request under way.

    Attributes:
        target: where to.
        is_fresh: whether its connection was made for it.
        stage: what it is about, for the error.
        refusal: its status, if that is known and says no; stands when the rest of the answer does not come.
        is_ending: whether its connection is being let go of, which the pool does not bear to be interrupted in.
    """

    target: Target
    is_fresh: bool = False
    stage: str = ""
    refusal: Answer | None = None
    is_ending: bool = False


ATTEMPT: Final[ContextVar[Attempt]] = ContextVar("ATTEMPT")
"""The request that this task is about: the pool tells the network a host and a port only."""


class _NoHeaders(logging.Filter):
    """Leaves out what httpcore2 logs of our answers' headers, which may hold a cookie; and nobody else's."""

    def filter(self, record: logging.LogRecord) -> bool:
        return ATTEMPT.get(None) is None or "headers.complete" not in record.getMessage()


logging.getLogger("httpcore2.http11").addFilter(_NoHeaders())


class PinnedNetwork(httpcore2.AsyncNetworkBackend):
    """Makes connections.

    Time limits are not its own: whoever sends has one for all.

    Args:
        egress: looks names up, once for a connection, and judges.
    """

    def __init__(self, egress: Egress) -> None:
        self._egress = egress

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore2.SOCKET_OPTION] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        attempt = ATTEMPT.get()
        is_encrypted = attempt.target.scheme == "https"
        attempt.is_fresh = True
        attempt.stage = "looking its name up"
        *others, last = await self._egress.resolve(host, port, is_encrypted=is_encrypted)
        attempt.stage = "connecting"
        stream = await _first(others, port) or await _connected(last, port)
        attempt.stage = "starting TLS" if is_encrypted else "waiting for the answer"
        return stream


async def _first(addresses: list[str], port: int) -> PinnedStream | None:
    for address in addresses:
        try:
            async with asyncio.timeout(ADDRESS_SECONDS):
                return await _connected(address, port)
        except OSError:  # a TimeoutError too
            continue
    return None


async def _connected(address: str, port: int) -> PinnedStream:
    _, stream = await asyncio.get_running_loop().create_connection(PinnedStream, address, port)
    return stream


class PinnedStream(asyncio.Protocol, httpcore2.AsyncNetworkStream):
    """A connection. What is written goes out when an answer is read, so that a small request is one packet."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport
        self._unread = bytearray()
        self._unwritten = bytearray()
        self._has_ended = False
        self._is_lost = False
        self._error: Exception | None = None
        self._is_full = False
        self._waiter: asyncio.Future[None] | None = None

    # ---- for the pool

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        await self._flush()
        while not self._unread:
            if self._error is not None:
                raise httpcore2.ReadError(str(self._error) or "the connection was reset") from self._error
            if self._has_ended:
                return b""
            await self._wait()
        data = bytes(self._unread[:max_bytes])
        del self._unread[:max_bytes]
        if not self._has_ended:
            self._transport.resume_reading()
        return data

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._unwritten += buffer
        if len(self._unwritten) > BUFFERED:
            await self._flush()

    async def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> PinnedStream:
        loop = asyncio.get_running_loop()
        encrypted = await loop.start_tls(self._transport, self, ssl_context, server_hostname=server_hostname)
        if encrypted is None:  # closed meanwhile
            raise httpcore2.ConnectError("the connection was closed before TLS had begun")
        self._transport = encrypted
        ATTEMPT.get().stage = "waiting for the answer"
        return self

    async def aclose(self) -> None:
        # The receiver has had its time: nothing is flushed, and no farewell of TLS is waited for. Without anything to
        # wait for, no cancellation can come between, and keep the pool from closing the next one.
        if not self._is_lost:  # a transport that was closed with something left to write does not bear it twice
            self._transport.abort()

    def get_extra_info(self, info: str) -> Any:
        if info == "is_readable":
            return self._has_ended or bool(self._unread)
        return self._transport.get_extra_info(info)

    # ---- for the loop

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 - narrows the type
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._unread += data
        if len(self._unread) > BUFFERED:
            self._transport.pause_reading()
        self._wake()

    def eof_received(self) -> None:
        self._has_ended = True
        self._wake()

    def connection_lost(self, exc: Exception | None) -> None:
        self._has_ended = self._is_lost = True
        self._error = exc
        self._is_full = False
        self._wake()

    def pause_writing(self) -> None:
        self._is_full = True

    def resume_writing(self) -> None:
        self._is_full = False
        self._wake()

    # ---- between the two

    async def _flush(self) -> None:
        if self._unwritten and not self._is_lost:
            # The transport keeps what it cannot write at once; this buffer is the next request's.
            unwritten, self._unwritten = self._unwritten, bytearray()
            self._transport.write(unwritten)
            while self._is_full:
                await self._wait()

    async def _wait(self) -> None:
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
