"""Who may ask: whoever has the address that was printed, and no page of another site.

Every program and user of this machine can connect to its loopback address, and so can a web page, by a name of its own
that resolves to it (DNS rebinding). So a request has to name this server as its host, and to know a token.
"""

from __future__ import annotations

import hmac
from collections.abc import Awaitable, Callable, MutableMapping
from http.cookies import CookieError, SimpleCookie
from typing import Any, Final, TypeAlias
from urllib.parse import parse_qsl, urlencode

Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
Application: TypeAlias = Callable[[Message, Receive, Send], Awaitable[None]]

PARAMETER: Final = "token"

_REFUSED: Final = "Open the whole address that `storage report serve` has printed."
_MISDIRECTED: Final = "This is another server than the one that was asked for."


class Gate:
    """An ASGI application in front of another one.

    Args:
        inner: the other one.
        port: where it listens, on the loopback address.
        token: what a request has to know, as a cookie, as a bearer token, or once in the address.
        before: awaited before a request goes through.
    """

    def __init__(self, inner: Application, port: int, token: str, before: Callable[[], Awaitable[None]]) -> None:
        self._inner = inner
        self._hosts = {f"127.0.0.1:{port}", f"localhost:{port}"}
        # Cookies do not know ports: two reports on one machine need two names.
        self._cookie = f"storage-report-{port}"
        self._token = token
        self._before = before

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer one request, or let it through."""
        if scope["type"] != "http":
            await self._inner(scope, receive, send)
            return
        headers = {name.lower(): value.decode("latin-1") for name, value in scope["headers"]}
        if headers.get(b"host", "").lower() not in self._hosts:
            await _answer(send, 421, _MISDIRECTED)
            return
        query = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)
        if any(name == PARAMETER and self._is_token(value) for name, value in query):
            await self._let_in(scope, query, send)
        elif self._is_known(headers):
            await self._before()
            await self._inner(scope, receive, send)
        else:
            await _answer(send, 403, _REFUSED)

    async def _let_in(self, scope: Message, query: list[tuple[str, str]], send: Send) -> None:
        """Put the token into a cookie and take it out of the address, where history and copies would have it."""
        left = urlencode([pair for pair in query if pair[0] != PARAMETER])
        where = scope.get("raw_path", scope["path"].encode()).partition(b"?")[0].decode("latin-1")
        where = f"/{where.lstrip('/')}"  # two slashes would begin the name of another host
        cookie = f"{self._cookie}={self._token}; Path=/; HttpOnly; SameSite=Lax"
        await _answer(send, 303, "", [("location", f"{where}?{left}" if left else where), ("set-cookie", cookie)])

    def _is_known(self, headers: dict[bytes, str]) -> bool:
        scheme, _, bearer = headers.get(b"authorization", "").partition(" ")
        if scheme.lower() == "bearer" and self._is_token(bearer.strip()):
            return True
        try:
            cookie = SimpleCookie(headers.get(b"cookie", "")).get(self._cookie)
        except CookieError:
            return False
        return cookie is not None and self._is_token(cookie.value)

    def _is_token(self, value: str) -> bool:
        return hmac.compare_digest(value.encode(), self._token.encode())


async def _answer(send: Send, status: int, text: str, headers: list[tuple[str, str]] | None = None) -> None:
    fields = [("content-type", "text/plain; charset=utf-8"), ("cache-control", "no-store"), *(headers or [])]
    encoded = [(name.encode(), value.encode("latin-1")) for name, value in fields]
    await send({"type": "http.response.start", "status": status, "headers": encoded})
    await send({"type": "http.response.body", "body": text.encode()})
