"""A receiver of web hooks for the tests: a real HTTP server, in a process of its own, that misbehaves on order.

It records every request in the order of arrival. Orders and records go over its standard input and output; it ends with
its input, which comes when the tests close it, exit, or are killed.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import socket
import ssl
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import TYPE_CHECKING, Any, Final, Literal

if TYPE_CHECKING:
    from typing import Self

HOST = "127.0.0.1"
TLS_NAME = "localhost"
"""What its certificate is for, beside 127.0.0.1."""

STOP_LIMIT_S = 10.0
WAIT_LIMIT_S = 20.0
POLL_S = 0.005

_RESET_ON_CLOSE = struct.pack("ii", 1, 0)  # SO_LINGER: on, 0 s; closing then sends RST
_PIECE = b"x" * 16_384

Kind = Literal[
    "answer", "answer and close", "slow headers", "slow body", "reset", "reset mid-body", "endless body", "silence"
]


class ServerFailed(Exception):
    """The receiver did not start, or answered an order with an error."""


@dataclass(frozen=True, slots=True)
class Behaviour:
    """What happens to a request after it was read and recorded.

    Attributes:
        kind: `answer`: `status`, `headers` and `body`. `answer and close`: then the connection is closed, which was
            not announced. `slow headers`, `slow body`: one byte of them every `seconds`. `reset`: instead of an answer.
            `reset mid-body`: after half of it. `endless body`: as fast as it is taken. `silence`: no answer at all.
        status: of HTTP.
        headers: of the answer, besides Content-Length.
        body: of the answer.
        seconds: for the slow ones; for `answer` a pause before it.
    """

    kind: Kind = "answer"
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    body: str = ""
    seconds: float = 0.0

    def __str__(self) -> str:
        return f"{self.status}" if self.kind == "answer" else self.kind


OK: Final = Behaviour()
SERVER_ERROR: Final = Behaviour(status=500, body="out of order")
UNAVAILABLE: Final = Behaviour(status=503)
GONE: Final = Behaviour(status=410)
BAD_REQUEST: Final = Behaviour(status=400, body="not like this")
SLOW_HEADERS: Final = Behaviour("slow headers", seconds=0.2)
SLOW_BODY: Final = Behaviour("slow body", body="x" * 1000, seconds=0.2)
RESET: Final = Behaviour("reset")
RESET_MID_BODY: Final = Behaviour("reset mid-body", body="x" * 1000)
ENDLESS_BODY: Final = Behaviour("endless body")
SILENCE: Final = Behaviour("silence")
CLOSE_AFTER: Final = Behaviour("answer and close")


def moved(location: str, status: int = 301) -> Behaviour:
    """A redirect."""
    return Behaviour(status=status, headers={"Location": location})


def too_many(seconds: float, *, as_date: bool = False, status: int = 429) -> Behaviour:
    """Too Many Requests, with Retry-After in seconds or as a date so many seconds from now."""
    until = format_datetime(datetime.now(UTC) + timedelta(seconds=seconds), usegmt=True)
    return Behaviour(status=status, headers={"Retry-After": until if as_date else f"{seconds:g}"})


@dataclass(frozen=True, slots=True)
class Recorded:
    """A request as it arrived.

    Attributes:
        method: of HTTP.
        path: the target, as it was sent: percent-encoded, with its query.
        headers: names in lower case.
        body: its bytes.
        connection: number of the connection that it came on.
        at: time.monotonic() when it was complete; comparable between processes of one machine.
        behaviour: what was done with it, as str(Behaviour): `200` for instance.
    """

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes
    connection: int
    at: float
    behaviour: str

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def id(self) -> str:
        """The header `webhook-id`; empty if there is none."""
        return self.headers.get("webhook-id", "")


class ReceiverProcess:
    """A running receiver. Use it as a context manager, or call `start` and `stop`.

    Attributes:
        url: without a slash at its end.
        tls_url: the same over TLS, with a certificate that nobody knows.
        certificate: that certificate, in PEM: who trusts it as an authority gets through.
    """

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None
        self._guard = threading.Lock()
        self.url = ""
        self.tls_url = ""
        self.certificate = ""

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    @property
    def tls_port(self) -> int:
        return int(self.tls_url.rpartition(":")[2])

    def start(self) -> Self:
        """Serve; returns when connections are accepted.

        Raises:
            ServerFailed: with what the process said.
        """
        self._process = subprocess.Popen(
            [sys.executable, "-I", __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            # Ctrl-C in a terminal reaches the tests only; the receiver then sees its input end.
            start_new_session=True,
        )
        ready = self._order("start")
        self.url = f"http://{HOST}:{ready['port']}"
        self.tls_url = f"https://{HOST}:{ready['tls_port']}"
        self.certificate = ready["certificate"]
        return self

    def stop(self) -> None:
        """End it. A second call does nothing."""
        process, self._process = self._process, None
        if process is None:
            return
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.close()
        process.stdout.close()
        try:
            process.wait(timeout=STOP_LIMIT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def behave(self, path: str, behaviour: Behaviour, times: int | None = None) -> None:
        """Do this with requests whose path begins so ("" for all); the latest order that fits and is not used up wins.

        Args:
            path: of the URL, up to where it matters.
            behaviour: what to do.
            times: with how many requests; with all if None.
        """
        self._order("behave", path=path, times=times, behaviour=asdict(behaviour))

    def reset(self) -> None:
        """As new: it accepts, answers 200, remembers nothing, and connections from before are closed."""
        self._order("reset")

    def refuse(self) -> None:
        """Close the ports and all connections: whoever connects is refused."""
        self._order("refuse")

    def recover(self) -> None:
        """Accept again, at the same ports."""
        self._order("recover")

    def close_idle(self) -> None:
        """Close connections on which no request is under way, as servers do after a while."""
        self._order("close_idle")

    def count(self, path: str = "") -> int:
        """How many requests came in (whose path begins so)."""
        found: int = self._order("count", path=path)
        return found

    def connections(self) -> int:
        """How many connections are open now."""
        found: int = self._order("connections")
        return found

    def requests(self, path: str = "") -> list[Recorded]:
        """All that came in (whose path begins so), in the order of arrival."""
        return [
            Recorded(**{**record, "body": base64.b64decode(record["body"])})
            for record in self._order("requests", path=path)
        ]

    async def wait_for(self, number: int, timeout: float = WAIT_LIMIT_S, *, path: str = "") -> list[Recorded]:
        """Wait until so many requests have come in, without holding up the event loop; returns all of them.

        Raises:
            AssertionError: they did not come.
        """
        deadline = time.monotonic() + timeout
        while (count := self.count(path)) < number:
            assert time.monotonic() < deadline, f"{count} of {number} requests arrived within {timeout:g} s"
            await asyncio.sleep(POLL_S)
        return self.requests(path)

    def _order(self, name: str, **arguments: Any) -> Any:
        if self._process is None:
            raise ServerFailed("the receiver is not running; call start() first")
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with self._guard:
            self._process.stdin.write(json.dumps([name, arguments]) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        if not line:
            raise ServerFailed("the receiver ended; its standard error says why")
        answer = json.loads(line)
        if "error" in answer:
            raise ServerFailed(f"{name}: {answer['error']}")
        return answer["result"]


# --- below: the process of the receiver ------------------------------------------------------------------


@dataclass(slots=True)
class _Rule:
    path: str
    left: int | None
    behaviour: Behaviour


class _Server:
    """What is remembered, and how to behave."""

    def __init__(self) -> None:
        self.records: list[dict[str, Any]] = []
        self.rules: list[_Rule] = []
        self.open: set[_Connection] = set()
        self.accepted = 0
        self._ports = (0, 0)
        self._listeners: list[asyncio.Server] = []
        self._certificate, self._tls = _self_signed()

    async def listen(self) -> None:
        """Accept, at the ports that it had before if there were any."""
        if self._listeners:
            return
        loop = asyncio.get_running_loop()
        options: dict[str, Any] = {"host": HOST, "backlog": 1024}
        for port, context in zip(self._ports, (None, self._tls), strict=True):
            listener = await loop.create_server(lambda: _Connection(self), port=port, ssl=context, **options)
            self._listeners.append(listener)
        self._ports = tuple(listener.sockets[0].getsockname()[1] for listener in self._listeners)

    def next_behaviour(self, path: str) -> Behaviour:
        """What to do with a request, counted against the order that it comes from."""
        for rule in reversed(self.rules):
            if path.startswith(rule.path) and rule.left != 0:
                if rule.left is not None:
                    rule.left -= 1
                return rule.behaviour
        return OK

    # ---- orders

    async def start(self) -> dict[str, Any]:
        await self.listen()
        return {"port": self._ports[0], "tls_port": self._ports[1], "certificate": self._certificate}

    async def behave(self, path: str, times: int | None, behaviour: dict[str, Any]) -> None:
        self.rules.append(_Rule(path, times, Behaviour(**behaviour)))

    async def reset(self) -> None:
        for connection in tuple(self.open):
            connection.abort()
        self.rules.clear()
        self.records.clear()
        await self.listen()

    async def refuse(self) -> None:
        for listener in self._listeners:
            listener.close()
        self._listeners.clear()
        for connection in tuple(self.open):
            connection.abort()

    async def recover(self) -> None:
        await self.listen()

    async def close_idle(self) -> None:
        for connection in tuple(self.open):
            if connection.is_idle:
                connection.transport.close()

    async def count(self, path: str) -> int:
        return sum(record["path"].startswith(path) for record in self.records) if path else len(self.records)

    async def connections(self) -> int:
        return len(self.open)

    async def requests(self, path: str) -> list[dict[str, Any]]:
        return [
            {**record, "body": base64.b64encode(record["body"]).decode()}
            for record in self.records
            if record["path"].startswith(path)
        ]


class _Connection(asyncio.Protocol):
    """One connection: HTTP/1.1 with Content-Length, which is what a sender of web hooks speaks."""

    def __init__(self, server: _Server) -> None:
        self._server = server
        self._buffer = bytearray()
        self._task: asyncio.Task[None] | None = None
        self._may_write = asyncio.Event()
        self._may_write.set()
        self._number = 0
        self.transport: asyncio.Transport

    @property
    def is_idle(self) -> bool:
        return self._task is None and not self._buffer

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]
        self._server.accepted += 1
        self._number = self._server.accepted
        self._server.open.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._server.open.discard(self)
        self._may_write.set()
        if self._task is not None:
            self._task.cancel()

    def pause_writing(self) -> None:
        self._may_write.clear()

    def resume_writing(self) -> None:
        self._may_write.set()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        self._serve()

    def _serve(self) -> None:
        """Answer what is complete, one after the other."""
        while self._task is None and not self.transport.is_closing():
            end = self._buffer.find(b"\r\n\r\n")
            if end < 0:
                return
            first, *lines = self._buffer[:end].decode("latin-1").split("\r\n")
            headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
            length = int(headers.get("content-length", 0))
            if len(self._buffer) < end + 4 + length:
                return
            body = bytes(self._buffer[end + 4 : end + 4 + length])
            del self._buffer[: end + 4 + length]
            method, path, _ = first.split(" ")
            behaviour = self._server.next_behaviour(path)
            self._server.records.append(
                {
                    "method": method,
                    "path": path,
                    "headers": headers,
                    "body": body,
                    "connection": self._number,
                    "at": time.monotonic(),
                    "behaviour": str(behaviour),
                }
            )
            if behaviour.kind == "answer" and not behaviour.seconds:
                self.transport.write(_head(behaviour) + behaviour.body.encode())
            else:
                self._task = asyncio.get_running_loop().create_task(self._misbehave(behaviour))
                self._task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._task = None
        if not task.cancelled():
            task.result()
            self._serve()

    async def _misbehave(self, behaviour: Behaviour) -> None:
        head, body = _head(behaviour), behaviour.body.encode()
        match behaviour.kind:
            case "answer":
                await asyncio.sleep(behaviour.seconds)
                self.transport.write(head + body)
            case "answer and close":
                self.transport.write(head + body)
                self.transport.close()
            case "slow headers":
                await self._drip(head + body, behaviour.seconds)
            case "slow body":
                self.transport.write(head)
                await self._drip(body, behaviour.seconds)
            case "reset":
                self.abort()
            case "reset mid-body":
                self.transport.write(head + body[: len(body) // 2])
                await asyncio.sleep(0.05)  # a reset overtakes what was sent just before it
                self.abort()
            case "endless body":
                self.transport.write(_head(behaviour, length="Transfer-Encoding: chunked"))
                while not self.transport.is_closing():
                    self.transport.write(b"%x\r\n%b\r\n" % (len(_PIECE), _PIECE))
                    await asyncio.sleep(0)
                    await self._may_write.wait()
            case "silence":
                await asyncio.Event().wait()

    async def _drip(self, data: bytes, seconds: float) -> None:
        for index in range(len(data)):
            self.transport.write(data[index : index + 1])
            await asyncio.sleep(seconds)

    def abort(self) -> None:
        """Reset the connection."""
        connection = self.transport.get_extra_info("socket")
        if connection is not None:
            with contextlib.suppress(OSError):
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        self.transport.abort()


def _head(behaviour: Behaviour, length: str = "") -> bytes:
    length = length or f"Content-Length: {len(behaviour.body.encode())}"
    lines = [
        f"HTTP/1.1 {behaviour.status} -",
        length,
        *(f"{name}: {value}" for name, value in behaviour.headers.items()),
    ]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def _self_signed() -> tuple[str, ssl.SSLContext]:
    """A certificate for 127.0.0.1 and localhost that signs itself, and a context that shows it."""
    import ipaddress

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "receiver of these tests")])
    today = datetime.now(UTC)
    names = [x509.DNSName(TLS_NAME), x509.IPAddress(ipaddress.ip_address(HOST))]
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(today - timedelta(days=1))
        .not_valid_after(today + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        # From Python 3.13 on, contexts insist on what RFC 5280 asks of an authority.
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = certificate.public_bytes(serialization.Encoding.PEM)
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with tempfile.NamedTemporaryFile() as file:
        file.write(private + pem)
        file.flush()
        context.load_cert_chain(file.name)
    return pem.decode(), context


async def _run() -> None:
    server = _Server()
    loop = asyncio.get_running_loop()
    # A client that goes away in the middle of TLS is no news.
    loop.set_exception_handler(
        lambda loop, context: (
            None if isinstance(context.get("exception"), OSError) else loop.default_exception_handler(context)
        )
    )
    orders = asyncio.StreamReader(limit=2**24)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(orders), os.fdopen(0, "rb"))
    while line := await orders.readline():
        name, arguments = json.loads(line)
        try:
            answer = {"result": await getattr(server, name)(**arguments)}
        except OSError as error:
            answer = {"error": str(error)}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    asyncio.run(_run())
