"""A small receiver of web hooks, for trying things out: it verifies signatures and hands over what came.

What a receiver of one's own has to do is here in full: read the bytes, verify them as they are, answer soon.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Self

from storage.errors import InvalidInput, SignatureInvalid
from storage.webhooks.sending.signature import checked_secret, verify

if TYPE_CHECKING:
    import h11

log = logging.getLogger(__name__)

LONGEST_BODY: Final = 64 * 1024 * 1024
"""Bytes of a request's body: more than a batch of default size, and what a developer's machine has to spare."""

READ_SECONDS: Final = 60.0
"""How long a connection may stay silent."""

LINGER_SECONDS: Final = 2.0
"""How long what is left of a refused request is read and forgotten."""

_PIECE: Final = 64 * 1024

_METHODS: Final = frozenset({"POST", "DELETE"})
"""What web hooks are sent with; DELETE by the format `openhands`."""


_NO_CONTENT: Final = 204
_NOT_ALLOWED: Final = 405


@dataclass(frozen=True, slots=True)
class Received:
    """A request, after it was verified.

    Attributes:
        method: POST or DELETE.
        path: the target as it was sent: percent-encoded, with its query.
        headers: names in lower case.
        body: its bytes.
        is_signed: whether one of the secrets has signed it; None if there are none to verify with.
        reason: why it is not, for people; empty otherwise.
    """

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes = field(repr=False)
    is_signed: bool | None
    reason: str = ""


class Receiver:
    """Listens on one event loop. Use it with `async with`, or call `start` and `close`.

    It answers 204, or 401 where a signature is wrong or missing. Requests that are refused are handed over as well, so
    that one sees why.

    Args:
        on_request: called with every request whose body was read; what it raises is answered with 500, and raised by
            nobody.
        secrets: `whsec_…`, each of which may have signed; nothing is verified if there are none.
        host: where to listen.
        port: where to listen; a free one is chosen if 0.

    Attributes:
        url: where it listens, once it does.

    Raises:
        InvalidInput: a secret that is none.
    """

    def __init__(
        self,
        on_request: Callable[[Received], None],
        *,
        secrets: Sequence[str] = (),
        host: str = "127.0.0.1",
        port: int = 0,
    ) -> None:
        self._on_request = on_request
        self._secrets = tuple(checked_secret(secret) for secret in secrets)
        self._address = (host, port)
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()
        self.url = ""

    async def start(self) -> Self:
        """Listen.

        Raises:
            InvalidInput: the address cannot be listened on, for example because another program does.
        """
        host, port = self._address
        try:
            self._server = await asyncio.start_server(self._accepted, host, port)
        except (OSError, OverflowError) as error:
            raise InvalidInput(f"cannot listen on {host} port {port}: {error}") from error
        bound = self._server.sockets[0].getsockname()[1]
        self.url = f"http://{f'[{host}]' if ':' in host else host}:{bound}"
        return self

    async def close(self) -> None:
        """Stop listening, and drop the connections. A second call does nothing."""
        if self._server is None:
            return
        self._server.close()
        for task in self._connections:
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)
        await self._server.wait_closed()
        self._server = None

    async def __aenter__(self) -> Self:
        return await self.start()

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # Not a coroutine: the task that asyncio makes of one logs an error when it is cancelled (before Python 3.12).
        task = asyncio.create_task(self._converse(reader, writer), name="storage-webhooks-receive")
        self._connections.add(task)
        task.add_done_callback(self._connections.discard)

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            # A sender that goes away, or says nothing for too long, is nobody who could be told.
            with contextlib.suppress(OSError):
                await self._serve(reader, writer)
        finally:
            writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer the requests of a connection, one after the other."""
        import h11

        connection = h11.Connection(h11.SERVER)
        while True:
            try:
                request, body = await _read(connection, reader, writer)
                if request is None:
                    return
                status = 413 if body is None else self._status(request, body)
            except h11.RemoteProtocolError as error:
                status = error.error_status_hint
            headers = [("Allow", ", ".join(sorted(_METHODS)))] if status == _NOT_ALLOWED else []
            if status != _NO_CONTENT:
                headers.append(("Content-Length", "0"))
            writer.write(connection.send(h11.Response(status_code=status, headers=headers)) or b"")
            writer.write(connection.send(h11.EndOfMessage()) or b"")
            await writer.drain()
            if (connection.our_state, connection.their_state) != (h11.DONE, h11.DONE):
                await _linger(reader, writer)
                return
            connection.start_next_cycle()

    def _status(self, request: h11.Request, body: bytes) -> int:
        """Verify and hand over a request; what to answer."""
        method = request.method.decode("ascii")
        if method not in _METHODS:
            return _NOT_ALLOWED
        headers = {name.decode("ascii"): value.decode("latin-1") for name, value in request.headers}
        is_signed, reason = (True if self._secrets else None), ""
        if self._secrets:
            try:
                verify(self._secrets, headers, body)
            except SignatureInvalid as error:
                is_signed, reason = False, str(error)
        try:
            self._on_request(Received(method, request.target.decode("ascii"), headers, body, is_signed, reason))
        except Exception:
            log.exception("the request could not be handled")
            return 500
        return 401 if is_signed is False else _NO_CONTENT


async def _linger(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Let the rest of a refused request come: closing at once would reset the connection, and the answer be lost."""
    writer.write_eof()
    async with asyncio.timeout(LINGER_SECONDS):
        while await reader.read(_PIECE):
            pass


async def _read(
    connection: h11.Connection, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> tuple[h11.Request | None, bytes | None]:
    """The next request and its body; no request if there is none, no body if it is too long."""
    import h11

    request: h11.Request | None = None
    body = bytearray()
    while True:
        event = connection.next_event()
        if event is h11.NEED_DATA:
            if connection.they_are_waiting_for_100_continue:
                go_on = h11.InformationalResponse(status_code=100, headers=[])
                writer.write(connection.send(go_on) or b"")
            async with asyncio.timeout(READ_SECONDS):
                connection.receive_data(await reader.read(_PIECE))
        elif isinstance(event, h11.Request):
            request = event
        elif isinstance(event, h11.Data):
            body += event.data
            if len(body) > LONGEST_BODY:
                return request, None
        elif isinstance(event, h11.EndOfMessage):
            return request, bytes(body)
        else:  # closed, between two requests
            return None, None
