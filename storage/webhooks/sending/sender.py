"""Sends one request to a receiver and says what came back; whatever the network does, an Answer and no exception.

The connection goes to an address that Egress has judged, redirects and proxies are not followed, and a receiver gets
neither more time nor more memory than it is allowed.
"""

from __future__ import annotations

import asyncio
import re
import ssl
from collections.abc import Mapping
from functools import cache, cached_property
from typing import TYPE_CHECKING, Any, Final

from storage.clock import now
from storage.errors import InvalidInput
from storage.webhooks.message import Answer
from storage.webhooks.queue.retry import parse_retry_after

if TYPE_CHECKING:
    import httpcore2

    from storage.webhooks.message import Message
    from storage.webhooks.sending.egress import Egress, Target
    from storage.webhooks.sending.pinned import Attempt

LONGEST_BODY: Final = 64 * 1024
"""Bytes of an answer's body that are read; then its connection is closed, because the rest would have to be read before
the next answer."""

LONGEST_TEXT: Final = 1024
"""Bytes of them that are kept, for whoever looks for the reason of a failure."""

KEEP_SECONDS: Final = 4.0
"""How long a connection is kept without use: less than the 5 s after which Node.js and uvicorn close it."""

USER_AGENT: Final = "agent-storage"

FRAMING: Final = frozenset({"host", "content-length", "transfer-encoding", "connection"})
"""Headers that say where a request goes and where it ends; two opinions about that are how requests are smuggled."""

_SUCCESS: Final = 2
"""First digit of a status."""

_TOKEN: Final = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
"""RFC 9110 section 5.6.2: what a header's name consists of."""


class Sender:
    """Sends over connections that are kept, on one event loop.

    How many requests are under way at once is up to the caller; none waits for another's connection, so that receivers
    which do not answer take nothing from those that do.

    Args:
        egress: says which addresses may be connected to.
        timeout: seconds for one request in all, from the look-up of the name to the end of the answer.
        ssl_context: how receivers are verified; by the system's authorities if None.
        connections: kept open without a request under way, all receivers together.
    """

    def __init__(
        self, egress: Egress, *, timeout: float, ssl_context: ssl.SSLContext | None = None, connections: int = 64
    ) -> None:
        self._egress = egress
        self._timeout = timeout
        self._ssl_context = ssl_context
        self._connections = connections
        self._under_way: dict[asyncio.Task[Answer], Attempt] = {}

    async def send(self, message: Message, extra_headers: Mapping[str, str]) -> Answer:
        """Send a message once.

        A redirect is an answer like any other. An answer that breaks off counts as none if it began with success: the
        receiver may have broken off as well.

        Args:
            message: what to send.
            extra_headers: of this attempt: the signature, and the endpoint's own. They replace those of the message.

        Raises:
            EgressRefused: the address is not one that web hooks may be sent to.
            InvalidInput: the URL is none, or a header's name or value would break the request.
        """
        from storage.webhooks.sending.pinned import Attempt

        target = self._egress.target(message.url)
        attempt = Attempt(target)
        headers = _headers(target, message, extra_headers)
        # The pool bears to be cancelled once, and not while it lets go of a connection. So this is a task of its own.
        task = asyncio.create_task(self._exchange(attempt, message, headers), name="storage-webhooks-send")
        self._under_way[task] = attempt
        task.add_done_callback(self._ended)
        try:
            await asyncio.wait({task}, timeout=self._timeout)
        finally:
            is_given_up = self._give_up(task)
        if is_given_up:
            return attempt.refusal or Answer(None, f"no answer within {self._timeout:g} s ({attempt.stage})")
        if not task.done():
            await asyncio.wait({task})
        if task.cancelled():
            return Answer(None, "the sender was closed")
        return task.result()

    async def close(self) -> None:
        """Give up what is under way, and let go of the connections."""
        for task in tuple(self._under_way):
            self._give_up(task)
        if self._under_way:
            await asyncio.wait(self._under_way)
        if "_pool" in self.__dict__:
            await self._pool.aclose()
            await asyncio.sleep(0)  # sockets are closed by the loop

    def _give_up(self, task: asyncio.Task[Answer]) -> bool:
        attempt = self._under_way.get(task)
        return attempt is not None and not attempt.is_ending and not task.cancelling() and task.cancel()

    def _ended(self, task: asyncio.Task[Answer]) -> None:
        del self._under_way[task]
        if not task.cancelled():
            task.exception()  # raised by send(), unless that was cancelled: then nobody is left to hear of it

    async def _exchange(self, attempt: Attempt, message: Message, headers: list[tuple[bytes, bytes]]) -> Answer:
        import httpcore2

        from storage.webhooks.sending.pinned import ATTEMPT

        ATTEMPT.set(attempt)
        target = attempt.target
        url = httpcore2.URL(
            scheme=target.scheme.encode(), host=target.host.encode(), port=target.port, target=target.path.encode()
        )
        failures = (httpcore2.NetworkError, httpcore2.ProtocolError, httpcore2.TimeoutException, OSError)
        while True:
            attempt.is_fresh = False
            attempt.stage = "waiting for the answer"
            try:
                request = httpcore2.Request(message.method, url, headers=headers, content=message.body)
                response = await self._pool.handle_async_request(request)
            except failures as error:
                # The receiver may close a kept connection just when it is used again. Each such try costs one of them,
                # so the last is on a new one.
                if attempt.is_fresh:
                    return Answer(None, _reason(attempt, error))
            else:
                return await _answer(attempt, response, failures)

    @cached_property
    def _pool(self) -> httpcore2.AsyncConnectionPool:
        import httpcore2

        from storage.webhooks.sending.pinned import PinnedNetwork

        return httpcore2.AsyncConnectionPool(
            ssl_context=self._ssl_context or _system_authorities(),
            max_connections=None,
            max_keepalive_connections=self._connections,
            keepalive_expiry=KEEP_SECONDS,
            network_backend=PinnedNetwork(self._egress),
        )


async def _answer(attempt: Attempt, response: httpcore2.Response, failures: tuple[type[Exception], ...]) -> Answer:
    """Read what may be read of the body, and let go of the connection."""
    attempt.stage = f"reading the answer's body, status {response.status}"
    retry_after = _retry_after(response)
    if response.status // 100 != _SUCCESS:
        attempt.refusal = Answer(response.status, "", retry_after)
    body = bytearray()
    stream: Any = response.stream
    try:
        async for chunk in stream:
            body += chunk
            if len(body) > LONGEST_BODY:
                break
    except failures as error:
        if attempt.refusal is None:
            return Answer(None, _reason(attempt, error))
    finally:
        attempt.is_ending = True
        await stream.aclose()
    return Answer(response.status, _shown(bytes(body[:LONGEST_TEXT])), retry_after)


def _retry_after(response: httpcore2.Response) -> float | None:
    for name, value in response.headers:
        if name.lower() == b"retry-after":
            return parse_retry_after(value.decode("latin-1"), now())
    return None


def _headers(target: Target, message: Message, extra: Mapping[str, str]) -> list[tuple[bytes, bytes]]:
    found: dict[str, tuple[bytes, bytes]] = {"user-agent": (b"User-Agent", USER_AGENT.encode())}
    for headers in (message.headers, extra):
        for name, value in headers.items():
            if not _TOKEN.fullmatch(name) or name.lower() in FRAMING:
                raise InvalidInput(f"{name!r} is no header that a web hook may be given")
            if not value.isascii() or not value.isprintable():
                raise InvalidInput(f"the value of the header {name!r} must be printable ASCII text")
            found[name.lower()] = (name.encode(), value.encode())
    length = (b"Content-Length", str(len(message.body)).encode())
    return [(b"Host", target.authority.encode()), *found.values(), length]


def _reason(attempt: Attempt, error: Exception) -> str:
    return _shown(f"{str(error) or type(error).__name__} ({attempt.stage})".encode()[:LONGEST_TEXT])


def _shown(data: bytes) -> str:
    """Text for a log, a terminal and a database: one line, nothing that steers any of them."""
    text = data.decode("utf-8", "ignore")
    return "".join(letter if letter.isprintable() else " " for letter in text).strip()


@cache
def _system_authorities() -> ssl.SSLContext:
    """One for the process: reading them takes longer than most requests."""
    return ssl.create_default_context()
