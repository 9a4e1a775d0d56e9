"""One request and its answer, against a real receiver that behaves in every way a receiver can."""

from __future__ import annotations

import asyncio
import re
import socket
import ssl
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import replace
from random import Random
from typing import TypeAlias

import pytest

from storage.errors import EgressRefused, InvalidInput
from storage.webhooks.message import Answer, Message
from storage.webhooks.sending.egress import Egress
from storage.webhooks.sending.sender import FRAMING, LONGEST_TEXT, Sender
from tests.servers import receiver as behaviour
from tests.servers.receiver import Behaviour, ReceiverProcess

LOCAL = ("127.0.0.0/8",)
PLENTY_S = 20.0
SHORT_S = 0.5
"""For what never ends by itself."""

Make: TypeAlias = Callable[..., Sender]


@pytest.fixture
async def make() -> AsyncIterator[Make]:
    """Makes senders, which are closed in the end."""
    made: list[Sender] = []

    def make(egress: Egress | None = None, *, timeout: float = PLENTY_S, trusting: str | None = None) -> Sender:
        context = None if trusting is None else ssl.create_default_context(cadata=trusting)
        made.append(Sender(egress or Egress(LOCAL), timeout=timeout, ssl_context=context))
        return made[-1]

    yield make
    for sender in made:
        await sender.close()


def message(url: str, body: bytes = b'{"a":1}', headers: Mapping[str, str] | None = None) -> Message:
    return Message("evt_1", "POST", url, headers or {"Content-Type": "application/json"}, body)


class Names:
    """A resolver that gives one list of addresses after the other, and remembers what it was asked."""

    def __init__(self, *answers: Sequence[str]) -> None:
        self.answers = list(answers)
        self.asked: list[tuple[str, int]] = []

    async def __call__(self, host: str, port: int) -> Sequence[str]:
        self.asked.append((host, port))
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


async def eventually(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(PLENTY_S):
        while not condition():
            await asyncio.sleep(0.005)


# ---- what is sent


async def test_a_request_arrives_as_it_is(receiver: ReceiverProcess, make: Make) -> None:
    url = f"{receiver.url}/hook/a%20b%2F../x?y=%C3%A9&z"
    answer = await make().send(message(url), {"webhook-id": "evt_1", "Authorization": "Bearer t0ken"})
    assert answer == Answer(200, "")
    (request,) = receiver.requests()
    assert (request.method, request.path, request.body) == ("POST", "/hook/a%20b%2F../x?y=%C3%A9&z", b'{"a":1}')
    assert request.headers == {
        "host": receiver.url.removeprefix("http://"),
        "user-agent": "agent-storage",
        "content-type": "application/json",
        "webhook-id": "evt_1",
        "authorization": "Bearer t0ken",
        "content-length": "7",
    }


async def test_a_delete_without_a_body_arrives(receiver: ReceiverProcess, make: Make) -> None:
    await make().send(Message("evt_1", "DELETE", f"{receiver.url}/a/b.txt", {}, b""), {})
    (request,) = receiver.requests()
    assert (request.method, request.path, request.headers["content-length"]) == ("DELETE", "/a/b.txt", "0")


async def test_a_large_body_arrives_whole(receiver: ReceiverProcess, make: Make) -> None:
    body = Random(1).randbytes(5_000_000)
    assert (await make().send(message(receiver.url, body), {})).status == 200
    assert receiver.requests()[0].body == body


async def test_headers_of_the_attempt_replace_those_of_the_message_whatever_their_case(
    receiver: ReceiverProcess, make: Make
) -> None:
    headers = {"content-type": "text/plain", "USER-AGENT": "mine"}
    await make().send(message(receiver.url), headers)
    (request,) = receiver.requests()
    assert (request.headers["content-type"], request.headers["user-agent"]) == ("text/plain", "mine")


@pytest.mark.parametrize(
    "headers",
    [
        *({name: "x"} for name in sorted(FRAMING)),
        {"Transfer-Encoding": "chunked"},
        {"X-A": "b\r\nX-C: d"},
        {"X-A": "b\nX-C: d"},
        {"X-A": "b\x00"},
        {"X-A": "b\t"},
        {"X-A": "b\x7f"},
        {"X-A": "é"},
        {"X-A\r\nX-C": "d"},
        {"X A": "b"},
        {"X-A:": "b"},
        {"": "b"},
    ],
    ids=ascii,
)
async def test_a_header_that_would_break_the_request_is_refused(
    receiver: ReceiverProcess, make: Make, headers: dict[str, str]
) -> None:
    for in_message, extra in (({}, headers), (headers, {})):
        with pytest.raises(InvalidInput) as refused:
            await make().send(message(receiver.url, headers=in_message or {"Accept": "*/*"}), extra)
        assert "X-C: d" not in str(refused.value), "values are not quoted"
    assert receiver.count() == 0


# ---- what comes back


@pytest.mark.parametrize("status", [200, 201, 204, 304, 400, 404, 410, 418, 500, 503, 599])
async def test_the_status_and_the_beginning_of_the_body_are_told(
    receiver: ReceiverProcess, make: Make, status: int
) -> None:
    body = "" if status in (204, 304) else "because"
    receiver.behave("", Behaviour(status=status, body=body))
    assert await make().send(message(receiver.url), {}) == Answer(status, body)


@pytest.mark.parametrize("status", [429, 503])
async def test_retry_after_is_read_in_both_forms(receiver: ReceiverProcess, make: Make, status: int) -> None:
    sender = make()
    receiver.behave("/seconds", behaviour.too_many(120, status=status))
    receiver.behave("/date", behaviour.too_many(120, status=status, as_date=True))
    assert await sender.send(message(f"{receiver.url}/seconds"), {}) == Answer(status, "", 120.0)
    answer = await sender.send(message(f"{receiver.url}/date"), {})
    assert answer.retry_after is not None
    assert 60 < answer.retry_after <= 120


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_is_not_followed(receiver: ReceiverProcess, make: Make, status: int) -> None:
    for location in (f"{receiver.url}/elsewhere", "/elsewhere", "http://169.254.169.254/latest/meta-data/"):
        receiver.behave("/hook", behaviour.moved(location, status))
        assert await make().send(message(f"{receiver.url}/hook"), {}) == Answer(status, "")
    assert {request.path for request in receiver.requests()} == {"/hook"}


async def test_a_cookie_is_not_kept(receiver: ReceiverProcess, make: Make) -> None:
    sender = make()
    receiver.behave("", Behaviour(headers={"Set-Cookie": "a=b; Path=/"}))
    for _ in range(2):
        await sender.send(message(receiver.url), {})
    assert [request.headers.get("cookie") for request in receiver.requests()] == [None, None]


async def test_an_endless_body_is_cut_and_its_connection_closed(receiver: ReceiverProcess, make: Make) -> None:
    receiver.behave("", behaviour.ENDLESS_BODY)
    assert await make().send(message(receiver.url), {}) == Answer(200, "x" * LONGEST_TEXT)
    await eventually(lambda: receiver.connections() == 0)


async def test_a_body_within_the_limit_leaves_the_connection_open(receiver: ReceiverProcess, make: Make) -> None:
    sender = make()
    receiver.behave("", Behaviour(status=500, body="x" * 60_000))
    for _ in range(2):
        assert (await sender.send(message(receiver.url), {})).text == "x" * LONGEST_TEXT
    assert len({request.connection for request in receiver.requests()}) == 1


async def test_a_body_becomes_one_line_that_steers_nothing(receiver: ReceiverProcess, make: Make) -> None:
    receiver.behave(
        "", Behaviour(status=500, body="\x1b[31mred\x00\r\nb\u202ec\x85 \u2028é\n", headers={"X-Secret": "s"})
    )
    assert await make().send(message(receiver.url), {}) == Answer(500, "[31mred   b c   é")
    receiver.behave("", Behaviour(status=500, body="a" + "é" * 600))
    assert (await make().send(message(receiver.url), {})).text == "a" + "é" * 511


# ---- what does not come back


async def test_a_receiver_that_takes_too_long_has_not_answered(receiver: ReceiverProcess, make: Make) -> None:
    sender = make(timeout=SHORT_S)
    ways = {
        "/headers": (behaviour.SLOW_HEADERS, "waiting for the answer"),
        "/silence": (behaviour.SILENCE, "waiting for the answer"),
        "/body": (behaviour.SLOW_BODY, "reading the answer's body, status 200"),
    }
    for path, (how, _) in ways.items():
        receiver.behave(path, how)
    answers = await asyncio.gather(*(sender.send(message(receiver.url + path), {}) for path in ways))
    assert answers == [Answer(None, f"no answer within {SHORT_S} s ({stage})") for _, stage in ways.values()]
    assert receiver.count() == 3
    await eventually(lambda: receiver.connections() == 0)


async def test_a_name_server_that_takes_too_long_is_within_the_limit(make: Make) -> None:
    class Silent(Names):
        async def __call__(self, host: str, port: int) -> Sequence[str]:
            await asyncio.Event().wait()
            return []

    answer = await make(Egress([], resolver=Silent()), timeout=SHORT_S).send(message("https://example.com/"), {})
    assert answer == Answer(None, f"no answer within {SHORT_S} s (looking its name up)")


async def test_a_receiver_that_does_not_begin_tls_is_within_the_limit(receiver: ReceiverProcess, make: Make) -> None:
    url = receiver.url.replace("http://", "https://")
    answer = await make(timeout=SHORT_S).send(message(url), {})
    assert answer == Answer(None, f"no answer within {SHORT_S} s (starting TLS)")
    await eventually(lambda: receiver.connections() == 0)


@pytest.mark.parametrize(
    ("how", "why"),
    [
        (behaviour.RESET, "reset"),
        (behaviour.RESET_MID_BODY, "reset"),
        (Behaviour("answer and close", headers={"Content-Length": "5"}), "conflicting Content-Length"),
        (Behaviour(status=99), "illegal status line"),
        (Behaviour(headers={"X": "y" * 200_000}), "Receive buffer too long"),
        (Behaviour(headers={"X Y": "z"}), "[Ii]llegal header"),
    ],
    ids=["reset", "reset mid-body", "contradictory lengths", "no status", "endless headers", "illegal header"],
)
async def test_a_broken_answer_is_none(receiver: ReceiverProcess, make: Make, how: Behaviour, why: str) -> None:
    receiver.behave("", how)
    answer = await make().send(message(receiver.url), {})
    assert answer.status is None
    assert re.search(why, answer.text), answer.text
    assert [len(receiver.requests()), receiver.requests()[0].body] == [1, b'{"a":1}']
    await eventually(lambda: receiver.connections() == 0)


@pytest.mark.parametrize("kind", ["slow body", "reset mid-body"])
async def test_a_refusal_stands_though_its_body_breaks_off(receiver: ReceiverProcess, make: Make, kind: str) -> None:
    broken = behaviour.SLOW_BODY if kind == "slow body" else behaviour.RESET_MID_BODY
    receiver.behave("", replace(broken, status=429, headers={"Retry-After": "7"}))
    answer = await make(timeout=SHORT_S).send(message(receiver.url), {})
    assert (answer.status, answer.retry_after) == (429, 7.0)


async def test_a_receiver_that_refuses_connections_may_recover(receiver: ReceiverProcess, make: Make) -> None:
    sender = make()
    assert (await sender.send(message(receiver.url), {})).status == 200
    receiver.refuse()
    for _ in range(2):
        answer = await sender.send(message(receiver.url), {})
        assert answer.status is None
        assert "connecting" in answer.text
    receiver.recover()
    assert (await sender.send(message(receiver.url), {})).status == 200
    assert receiver.count() == 2


async def test_a_name_without_address_is_no_exception(make: Make) -> None:
    class Unknown(Names):
        async def __call__(self, host: str, port: int) -> Sequence[str]:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    answer = await make(Egress([], resolver=Unknown())).send(message("https://example.com/"), {})
    assert answer.status is None
    assert "Name or service not known (looking its name up)" in answer.text


# ---- TLS


async def test_a_certificate_that_nobody_knows_is_refused(receiver: ReceiverProcess, make: Make) -> None:
    answer = await make().send(message(receiver.tls_url), {})
    assert answer.status is None
    assert "CERTIFICATE_VERIFY_FAILED" in answer.text
    assert receiver.count() == 0


async def test_a_certificate_of_a_trusted_authority_is_accepted(receiver: ReceiverProcess, make: Make) -> None:
    sender = make(trusting=receiver.certificate)
    for _ in range(2):
        assert (await sender.send(message(f"{receiver.tls_url}/x"), {})).status == 200
    assert [request.path for request in receiver.requests()] == ["/x", "/x"]
    assert len({request.connection for request in receiver.requests()}) == 1


async def test_the_certificate_must_be_for_the_name_and_not_for_the_address(
    receiver: ReceiverProcess, make: Make
) -> None:
    egress = Egress(LOCAL, resolver=Names(["127.0.0.1"]))
    sender = make(egress, trusting=receiver.certificate)
    answer = await sender.send(message(f"https://other.example:{receiver.tls_port}/"), {})
    assert answer.status is None
    assert "CERTIFICATE_VERIFY_FAILED" in answer.text
    assert receiver.count() == 0
    assert (await sender.send(message(f"https://LOCALHOST.:{receiver.tls_port}/"), {})).status == 200
    assert receiver.requests()[0].headers["host"] == f"localhost:{receiver.tls_port}"


async def test_a_reset_under_tls_is_no_exception(receiver: ReceiverProcess, make: Make) -> None:
    sender = make(trusting=receiver.certificate)
    for how in (behaviour.RESET, behaviour.RESET_MID_BODY):
        receiver.behave("", how)
        assert (await sender.send(message(receiver.tls_url), {})).status is None
    receiver.behave("", behaviour.ENDLESS_BODY)
    assert (await sender.send(message(receiver.tls_url), {})).status == 200
    await eventually(lambda: receiver.connections() == 0)


# ---- where it connects to


async def test_an_address_that_is_not_allowed_is_refused_before_anything_is_sent(
    receiver: ReceiverProcess, make: Make
) -> None:
    for url in (receiver.url, receiver.tls_url):
        with pytest.raises(EgressRefused):
            await make(Egress([])).send(message(url), {})
        with pytest.raises(EgressRefused):
            await make(Egress([], resolver=Names(["127.0.0.1"]))).send(
                message(url.replace("127.0.0.1", "rebind.example").replace("http:", "https:")), {}
            )
    assert receiver.connections() == 0


async def test_the_address_that_was_judged_is_the_one_connected_to(receiver: ReceiverProcess, make: Make) -> None:
    names = Names(["127.0.0.1"], ["169.254.169.254"])
    sender = make(Egress(LOCAL, resolver=names))
    url = f"http://rebind.example:{receiver.port}/"
    for _ in range(3):
        assert (await sender.send(message(url), {})).status == 200
    assert names.asked == [("rebind.example", receiver.port)], "looked up once for a connection"
    receiver.close_idle()
    await eventually(lambda: receiver.connections() == 0)
    with pytest.raises(EgressRefused):
        await sender.send(message(url), {})
    assert len(names.asked) == 2
    assert [request.headers["host"] for request in receiver.requests()] == [f"rebind.example:{receiver.port}"] * 3


async def test_without_tls_a_name_must_have_an_allowed_address(receiver: ReceiverProcess, make: Make) -> None:
    names = Names(["93.184.216.34"])
    with pytest.raises(EgressRefused, match="https://"):
        await make(Egress(LOCAL, resolver=names)).send(message("http://example.com/"), {})


async def test_the_next_address_is_tried_if_one_refuses(receiver: ReceiverProcess, make: Make) -> None:
    sender = make(Egress(LOCAL, resolver=Names(["127.0.0.2", "127.0.0.1", "127.0.0.3"])))
    assert (await sender.send(message(f"http://several.example:{receiver.port}/"), {})).status == 200


async def test_proxies_of_the_environment_see_nothing(
    receiver: ReceiverProcess, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []

    async def proxy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append((await reader.readline()).decode())
        writer.write(b"HTTP/1.1 502 -\r\nContent-Length: 0\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(proxy, "127.0.0.1", 0)
    async with server:
        address = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
            monkeypatch.setenv(name, address)
            monkeypatch.setenv(name.lower(), address)
        for name in ("NO_PROXY", "no_proxy", "REQUEST_METHOD"):
            monkeypatch.delenv(name, raising=False)
        sender = make(trusting=receiver.certificate)
        for url in (receiver.url, receiver.tls_url):
            assert (await sender.send(message(url), {})).status == 200
        assert seen == []
        with pytest.raises(urllib.error.HTTPError, match="502"):
            # Not urlopen, which keeps what it found in the environment when it was called first.
            opener = urllib.request.build_opener()
            await asyncio.to_thread(opener.open, f"{receiver.url}/control", timeout=PLENTY_S)
        assert seen == [f"GET {receiver.url}/control HTTP/1.1\r\n"], "the proxy is a real one"


# ---- connections


async def test_connections_are_kept_and_used_again(receiver: ReceiverProcess, make: Make) -> None:
    sender = make()
    for _ in range(5):
        await asyncio.gather(*(sender.send(message(receiver.url), {}) for _ in range(4)))
    assert receiver.count() == 20
    assert len({request.connection for request in receiver.requests()}) == 4


async def test_a_kept_connection_that_the_receiver_closed_is_no_failure(receiver: ReceiverProcess, make: Make) -> None:
    sender = make()
    for _ in range(10):
        await asyncio.gather(*(sender.send(message(receiver.url), {}) for _ in range(3)))
        receiver.close_idle()  # whether or not this side has noticed by the next request
    assert [request.behaviour for request in receiver.requests()] == ["200"] * 30


async def test_a_kept_connection_that_is_reset_by_a_request_is_replaced_once(
    receiver: ReceiverProcess, make: Make
) -> None:
    sender = make()
    await asyncio.gather(*(sender.send(message(receiver.url), {}) for _ in range(2)))
    receiver.behave("", behaviour.RESET)
    answer = await sender.send(message(receiver.url), {})
    assert answer.status is None
    assert receiver.count() == 5, "two kept ones were in doubt, a new one is not"


async def test_an_unannounced_close_after_each_answer_is_no_failure(receiver: ReceiverProcess, make: Make) -> None:
    sender = make()
    receiver.behave("", behaviour.CLOSE_AFTER)
    answers = [await sender.send(message(receiver.url), {}) for _ in range(5)]
    assert answers == [Answer(200, "")] * 5


async def test_receivers_that_do_not_answer_take_nothing_from_others(receiver: ReceiverProcess, make: Make) -> None:
    sender = make()
    receiver.behave("/silent", behaviour.SILENCE)
    silent = [asyncio.create_task(sender.send(message(f"{receiver.url}/silent"), {})) for _ in range(100)]
    await receiver.wait_for(100)
    assert (await sender.send(message(receiver.url), {})).status == 200
    for task in silent:
        task.cancel()
    await asyncio.gather(*silent, return_exceptions=True)
    await eventually(lambda: receiver.connections() == 1)


# ---- cancellation


async def test_however_often_a_request_is_cancelled_nothing_is_left_of_it(
    receiver: ReceiverProcess, make: Make
) -> None:
    sender = make()
    receiver.behave("/silent", behaviour.SILENCE)
    tasks = [asyncio.create_task(sender.send(message(f"{receiver.url}/silent"), {})) for _ in range(20)]
    await receiver.wait_for(20)
    for _ in range(3):
        for task in tasks:
            task.cancel()
        await asyncio.sleep(0)
    assert all(
        isinstance(each, asyncio.CancelledError) for each in await asyncio.gather(*tasks, return_exceptions=True)
    )
    await eventually(lambda: receiver.connections() == 0 and not sender._under_way)
    assert (sender._pool.connections, sender._pool._requests) == ([], [])
    assert (await sender.send(message(receiver.url), {})).status == 200


@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_wherever_a_request_is_cancelled_the_sender_goes_on(
    receiver: ReceiverProcess, make: Make, scheme: str
) -> None:
    sender = make(trusting=receiver.certificate)
    url = receiver.url if scheme == "http" else receiver.tls_url
    receiver.behave("", behaviour.ENDLESS_BODY)
    receiver.behave("/fine", behaviour.OK)
    random = Random(3)
    for _ in range(60):
        paths = [random.choice(["/fine", "/fine", "/endless"]) for _ in range(4)]
        tasks = [asyncio.create_task(sender.send(message(url + path), {})) for path in paths]
        for _ in range(random.randint(0, 30)):
            await asyncio.sleep(0)
        for task in random.sample(tasks, 2):
            for _ in range(random.randint(1, 2)):
                task.cancel()
        for result in await asyncio.gather(*tasks, return_exceptions=True):
            if not isinstance(result, asyncio.CancelledError):
                assert isinstance(result, Answer)
                assert result.status == 200
    await eventually(lambda: not sender._under_way)
    assert sender._pool._requests == []
    assert all(connection.is_idle() for connection in sender._pool.connections)
    await eventually(lambda: receiver.connections() == len(sender._pool.connections))


async def test_closing_gives_up_what_is_under_way(receiver: ReceiverProcess, make: Make) -> None:
    sender = make()
    receiver.behave("", behaviour.SILENCE)
    task = asyncio.create_task(sender.send(message(receiver.url), {}))
    await receiver.wait_for(1)
    await sender.close()
    assert await task == Answer(None, "the sender was closed")
    await eventually(lambda: receiver.connections() == 0)
    await sender.close()


async def test_a_sender_that_never_sent_can_be_closed() -> None:
    await Sender(Egress([]), timeout=1).close()
