"""The receiver for trying things out: what it verifies, answers and hands over, spoken to by our sender and by hand."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from datetime import timedelta

import pytest

from storage.clock import now
from storage.errors import InvalidInput
from storage.webhooks.message import Answer, Message
from storage.webhooks.sending.egress import Egress
from storage.webhooks.sending.receiver import LONGEST_BODY, Received, Receiver
from storage.webhooks.sending.sender import Sender
from storage.webhooks.sending.signature import new_secret, signature_headers

SECRET, OTHER = new_secret(), new_secret()
BODY = '{"type": "file.written", "größe": 1}'.encode()


class Listening:
    """A receiver and a sender to it."""

    def __init__(self, receiver: Receiver, sender: Sender, received: list[Received]) -> None:
        self.receiver = receiver
        self.sender = sender
        self.received = received

    async def send(self, secrets: Sequence[str], *, body: bytes = BODY, age: timedelta = timedelta()) -> Answer:
        message = Message("evt_1", "POST", f"{self.receiver.url}/hook?x=1", {"Content-Type": "application/json"}, body)
        return await self.sender.send(message, signature_headers(secrets, message.id, now() - age, BODY))

    async def raw(self, request: bytes) -> bytes:
        """Everything that is answered to these bytes, until the connection ends."""
        port = int(self.receiver.url.rpartition(":")[2])
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(request)
        writer.write_eof()
        answer = await reader.read()
        writer.close()
        await writer.wait_closed()
        return answer


@pytest.fixture(params=[(SECRET,)], ids=["one secret"])
async def listening(request: pytest.FixtureRequest) -> AsyncIterator[Listening]:
    received: list[Received] = []
    async with Receiver(received.append, secrets=request.param) as receiver:
        sender = Sender(Egress(["127.0.0.0/8"]), timeout=20)
        yield Listening(receiver, sender, received)
        await sender.close()


async def test_a_signed_request_is_handed_over_as_it_came(listening: Listening) -> None:
    assert await listening.send([SECRET]) == Answer(204, "")
    (request,) = listening.received
    assert (request.method, request.path, request.body) == ("POST", "/hook?x=1", BODY)
    assert (request.is_signed, request.reason) == (True, "")
    assert request.headers["webhook-id"] == "evt_1"
    assert request.headers["content-type"] == "application/json"


@pytest.mark.parametrize("listening", [(SECRET, OTHER)], indirect=True, ids=["two secrets"])
async def test_each_of_several_secrets_may_have_signed(listening: Listening) -> None:
    for secrets in ([SECRET], [OTHER], [new_secret(), OTHER]):
        assert (await listening.send(secrets)).status == 204


@pytest.mark.parametrize("how", ["another secret", "another body", "unsigned", "too old"])
async def test_a_request_that_is_not_signed_is_refused_and_shown(listening: Listening, how: str) -> None:
    match how:
        case "another secret":
            answer = await listening.send([OTHER])
        case "another body":
            answer = await listening.send([SECRET], body=BODY + b" ")
        case "unsigned":
            answer = await listening.send([])
        case _:
            answer = await listening.send([SECRET], age=timedelta(minutes=6))
    assert answer.status == 401
    (request,) = listening.received
    assert request.is_signed is False
    assert request.reason


@pytest.mark.parametrize("listening", [()], indirect=True, ids=["no secret"])
async def test_without_a_secret_nothing_is_verified(listening: Listening) -> None:
    assert (await listening.send([])).status == 204
    assert listening.received[0].is_signed is None


async def test_a_secret_that_is_none_is_refused_at_once() -> None:
    with pytest.raises(InvalidInput):
        Receiver(lambda _: None, secrets=["hunter2"])


@pytest.mark.parametrize("listening", [()], indirect=True, ids=["no secret"])
async def test_requests_on_one_connection_are_answered_in_turn(listening: Listening) -> None:
    one = b"POST /%d HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}"
    chunked = b"POST /3 HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n{\r\n1\r\n}\r\n0\r\n\r\n"
    gone = b"DELETE /4 HTTP/1.1\r\nHost: x\r\n\r\n"
    answer = await listening.raw(one % 1 + one % 2 + chunked + gone)
    assert answer.count(b"HTTP/1.1 204") == 4
    assert [(request.method, request.path, request.body) for request in listening.received] == [
        ("POST", "/1", b"{}"),
        ("POST", "/2", b"{}"),
        ("POST", "/3", b"{}"),
        ("DELETE", "/4", b""),
    ]


@pytest.mark.parametrize("listening", [()], indirect=True, ids=["no secret"])
async def test_a_sender_that_waits_for_100_continue_gets_it(listening: Listening) -> None:
    port = int(listening.receiver.url.rpartition(":")[2])
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n")
    assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 100")
    writer.write(b"{}")
    assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 204")
    writer.close()
    await writer.wait_closed()


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", 405),
        (b"nonsense\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n{}", 400),
        (b"POST / HTTP/1.1\r\nHost: x\r\nX: " + b"y" * 200_000, 431),
    ],
    ids=["another method", "no HTTP", "no host", "two lengths", "endless headers"],
)
async def test_what_is_no_web_hook_is_refused(listening: Listening, request_: bytes, status: int) -> None:
    assert (await listening.raw(request_)).startswith(b"HTTP/1.1 %d" % status)
    assert listening.received == []
    assert (await listening.send([SECRET])).status == 204


@pytest.mark.parametrize(
    "request_",
    [b"", b"POST / HT", b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\n{}"],
    ids=["nothing", "half a line", "half a body"],
)
async def test_a_sender_that_goes_away_leaves_nothing(listening: Listening, request_: bytes) -> None:
    await listening.raw(request_)
    assert listening.received == []
    assert (await listening.send([SECRET])).status == 204


@pytest.mark.parametrize("listening", [()], indirect=True, ids=["no secret"])
async def test_a_body_that_is_too_long_is_refused(listening: Listening, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("storage.webhooks.sending.receiver.LONGEST_BODY", 1000)
    assert LONGEST_BODY > 1000
    assert (await listening.send([], body=b"x" * 1000)).status == 204
    assert (await listening.send([], body=b"x" * 1001)).status == 413
    assert (await listening.send([], body=b"x" * 5_000_000)).status == 413
    assert len(listening.received) == 1


async def test_an_error_of_the_handler_is_answered_with_500(caplog: pytest.LogCaptureFixture) -> None:
    def fail(request: Received) -> None:
        raise ZeroDivisionError(request.path)

    async with Receiver(fail) as receiver:
        sender = Sender(Egress(["127.0.0.0/8"]), timeout=20)
        for _ in range(2):
            answer = await sender.send(Message("evt_1", "POST", f"{receiver.url}/hook", {}, b"{}"), {})
            assert answer == Answer(500, "")
        await sender.close()
    assert "could not be handled" in caplog.text


async def test_a_port_that_is_taken_is_an_error_that_says_so(listening: Listening) -> None:
    port = int(listening.receiver.url.rpartition(":")[2])
    for taken in (port, 70_000):
        with pytest.raises(InvalidInput, match=str(taken)):
            await Receiver(lambda _: None, port=taken).start()


async def test_closing_ends_open_connections(listening: Listening) -> None:
    port = int(listening.receiver.url.rpartition(":")[2])
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"POST / HTTP/1.1\r\n")
    assert (await listening.send([SECRET])).status == 204
    await listening.receiver.close()
    await listening.receiver.close()
    assert await reader.read() == b""
    writer.close()
    await writer.wait_closed()
    with pytest.raises(OSError, match="Connect call failed"):
        await asyncio.open_connection("127.0.0.1", port)
