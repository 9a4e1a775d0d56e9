"""The seed system's own format: the exact requests, odd paths, merged writes, and its own clients as the measure."""

from __future__ import annotations

import base64
import json
import uuid
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import unquote, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.errors import InvalidInput
from storage.webhooks.endpoints.model import FILE_TYPES, Batching, Endpoint
from storage.webhooks.formats import render, render_batch
from storage.webhooks.message import Event, Included, Message
from storage.webhooks.sending.egress import parse

NOON: Final = datetime(2026, 5, 1, 12, tzinfo=UTC)
BATCH_ID: Final = uuid.UUID(int=99)
BASE: Final = "https://receiver.example.com/event-webhook/"

ENDPOINT: Final = Endpoint(
    id=uuid.UUID(int=1),
    user_id=None,
    url=BASE,
    description="",
    event_types=FILE_TYPES,
    format="openhands",
    mode="standard",
    batching=Batching(),
    include="nothing",
    include_bytes=1024,
    secret_names=False,
    on_dead="skip",
    is_signed=False,
    has_headers=False,
    state="active",
    state_reason=None,
    failures=0,
    blocked_until=None,
    created_at=NOON,
    updated_at=NOON,
)

Item = tuple[Event, Included]

SEGMENT = st.text(st.sampled_from("a.-_~%2Fé😀 ?#&=+:@;,!$'()*[]|\"<>^`{}"), min_size=1, max_size=8).filter(
    lambda name: name.strip(".")
)
PATH = st.lists(SEGMENT, min_size=1, max_size=4).map("/".join)
CONTENT = st.binary() | st.text().map(str.encode)


def written(path: str, content: bytes | None, *, user: str = "alice", media_type: str | None = None) -> Item:
    size = 0 if content is None else len(content)
    facts = {"path": path, "size": size, "sha256": "00" * 32, "media_type": media_type}
    event = Event(1, uuid.UUID(int=1), user, "file.written", path, 1, facts, NOON, "files/the-place", b"the-key")
    return event, Included(content=content)


def deleted(path: str, *, user: str = "alice") -> Item:
    return Event(2, uuid.UUID(int=2), user, "file.deleted", path, 2, {"path": path}, NOON), Included()


def batch(*items: Item) -> Message:
    return render_batch(ENDPOINT, BATCH_ID, items)


def test_a_written_file_is_posted_to_its_path_with_its_bytes() -> None:
    content = b"\x00\xff raw"
    event, included = written("sessions/c1/agent_state.pkl", content)
    assert render(ENDPOINT, event, included) == Message(
        str(event.id),
        "POST",
        f"{BASE}sessions/c1/agent_state.pkl",
        {"Content-Type": "application/octet-stream"},
        content,
    )


def test_a_deleted_file_is_deleted_at_its_path() -> None:
    event, included = deleted("sessions/c1/events/1.json")
    assert render(ENDPOINT, event, included) == Message(
        str(event.id), "DELETE", f"{BASE}sessions/c1/events/1.json", {}, b""
    )


def test_an_empty_file_is_posted_without_a_body() -> None:
    message = render(ENDPOINT, *written("a", b""))
    assert (message.method, message.body) == ("POST", b"")


@pytest.mark.parametrize(
    ("media_type", "sent"),
    [
        ("application/json", "application/json"),
        ("text/plain; charset=utf-8", "text/plain; charset=utf-8"),
        (None, "application/octet-stream"),
        ("", "application/octet-stream"),
        ("text/plain\r\nX-Evil: 1", "application/octet-stream"),
        ("text/plain\n", "application/octet-stream"),
        ("text/plä", "application/octet-stream"),
        ("text", "application/octet-stream"),
    ],
    ids=["json", "parameter", "none", "empty", "injection", "line-end", "unicode", "half"],
)
def test_a_media_type_is_sent_if_a_header_can_hold_it(media_type: str | None, sent: str) -> None:
    assert render(ENDPOINT, *written("a", b"x", media_type=media_type)).headers == {"Content-Type": sent}


@pytest.mark.parametrize(
    ("path", "encoded"),
    [
        ("a b/ü.txt", "a%20b/%C3%BC.txt"),
        ("a%2Fb", "a%252Fb"),
        ("100%/what?#.txt", "100%25/what%3F%23.txt"),
        ("😀/x+y&z=1;2", "%F0%9F%98%80/x%2By%26z%3D1%3B2"),
        ("~a/.b/c-d_e", "~a/.b/c-d_e"),
        ("@evil.example/:80", "%40evil.example/%3A80"),
    ],
    ids=["space", "escaped-slash", "syntax", "emoji", "unreserved", "authority"],
)
def test_a_path_is_percent_encoded_by_segment(path: str, encoded: str) -> None:
    assert render(ENDPOINT, *written(path, b"")).url == BASE + encoded
    assert render(ENDPOINT, *deleted(path)).url == BASE + encoded


@pytest.mark.parametrize(
    ("base", "url"),
    [
        ("https://host.example/hook/", "https://host.example/hook/a/b%20c"),
        ("https://host.example/hook", "https://host.example/hooka/b%20c"),
        ("https://host.example/?file=", "https://host.example/?file=a/b%20c"),
        ("https://host.example?file=", "https://host.example?file=a/b%20c"),
        ("https://host.example", "https://host.example/a/b%20c"),
        ("https://host.example:80", "https://host.example:80/a/b%20c"),
    ],
    ids=["folder", "no-slash", "query", "bare-query", "host", "port"],
)
def test_a_path_is_appended_to_the_url_as_the_seed_system_does_but_never_to_a_host(base: str, url: str) -> None:
    assert render(replace(ENDPOINT, url=base), *written("a/b c", b"")).url == url


@given(path=PATH, base=st.sampled_from([BASE, "https://receiver.example.com", "https://receiver.example.com:80"]))
def test_a_receiver_that_decodes_once_has_the_path_and_the_host_stays(path: str, base: str) -> None:
    url = render(replace(ENDPOINT, url=base), *written(path, b"")).url
    parts, before = urlsplit(url), urlsplit(base)
    assert (parts.scheme, parts.netloc, parts.query, parts.fragment) == (before.scheme, before.netloc, "", "")
    assert unquote(parts.path, errors="strict") == (before.path or "/") + path
    assert parse(url).host == "receiver.example.com"


def test_a_batch_is_one_array_to_the_url_itself() -> None:
    message = batch(
        written("sessions/c1/metadata.json", b'{"a": "\xc3\xa9"}'),
        written("a b/%2F?#.bin", b"\xff\xfe"),
        deleted("sessions/c1/events/1.json"),
        written("empty", b""),
    )
    assert (message.id, message.method, message.url) == (str(BATCH_ID), "POST", BASE)
    assert message.headers == {"Content-Type": "application/json"}
    expected = (
        r'[{"method":"POST","path":"sessions/c1/metadata.json","content":"{\"a\": \"é\"}"},'
        r'{"method":"POST","path":"a b/%2F?#.bin","content":"//4=","encoding":"base64"},'
        r'{"method":"DELETE","path":"sessions/c1/events/1.json"},'
        r'{"method":"POST","path":"empty","content":""}]'
    )
    assert message.body == expected.encode()


def brief(message: Message) -> list[str]:
    """`path=content`, and `-path` for a deletion."""
    return [
        f"-{item['path']}" if item["method"] == "DELETE" else f"{item['path']}={item['content']}"
        for item in json.loads(message.body)
    ]


@pytest.mark.parametrize(
    ("steps", "left"),
    [
        ("a=1 a=2 a=3", "a=3"),
        ("a=1 b=1 a=2", "b=1 a=2"),
        ("a=1 -a a=2", "a=1 -a a=2"),
        ("a=1 a=2 -a a=3 a=4", "a=2 -a a=4"),
        ("-a -a", "-a -a"),
        ("a=1 -b a=2", "-b a=2"),
        ("a=1 -a", "a=1 -a"),
        ("b=1 a=1 b=2 -a b=3", "a=1 -a b=3"),
    ],
)
def test_writes_of_one_path_become_the_last_unless_a_deletion_lies_between(steps: str, left: str) -> None:
    items = [
        deleted(step[1:]) if step.startswith("-") else written(step[0], step[2:].encode()) for step in steps.split()
    ]
    assert brief(batch(*items)) == left.split()


def test_files_of_two_users_are_two_files() -> None:
    items = [written("a", b"1"), written("a", b"2", user="bob"), deleted("a", user="bob"), written("a", b"3")]
    assert brief(batch(*items)) == ["a=2", "-a", "a=3"]


def test_a_write_that_is_left_out_needs_no_content() -> None:
    assert brief(batch(written("a", None), written("a", b"2"))) == ["a=2"]


def test_a_written_file_without_its_content_cannot_be_sent() -> None:
    item = written("a", None)
    with pytest.raises(InvalidInput, match="content of 'a' is not there"):
        render(ENDPOINT, *item)
    with pytest.raises(InvalidInput, match="content of 'a' is not there"):
        batch(written("b", b""), item)


@pytest.mark.parametrize("type_", ["conversation.saved", "secret.updated", "file.moved", "webhook.test"])
def test_what_is_no_event_of_a_file_cannot_be_expressed(type_: str) -> None:
    other = (replace(deleted("a")[0], type=type_), Included())
    with pytest.raises(InvalidInput, match=type_):
        render(ENDPOINT, *other)
    with pytest.raises(InvalidInput, match=type_):
        batch(deleted("b"), other)


def test_where_a_content_is_kept_and_what_opens_it_are_never_said() -> None:
    item = written("a", b"x")
    for message in (render(ENDPOINT, *item), batch(item)):
        whole = repr((message.url, message.headers, message.body))
        assert "the-place" not in whole
        assert "the-key" not in whole


STEP = st.tuples(st.booleans(), st.sampled_from(["a", "b/c", "b/%2F"]), CONTENT, st.sampled_from(["alice", "bob"]))


def apply(operations: Sequence[dict[str, Any]]) -> dict[str, bytes]:
    """What a receiver that does what it is told has in the end."""
    files: dict[str, bytes] = {}
    for item in operations:
        if item["method"] == "DELETE":
            assert set(item) == {"method", "path"}
            files.pop(item["path"], None)
            continue
        is_binary = item.get("encoding") == "base64"
        assert set(item) - {"encoding"} == {"method", "path", "content"}
        files[item["path"]] = base64.b64decode(item["content"]) if is_binary else item["content"].encode()
    return files


@given(steps=st.lists(STEP, min_size=1, max_size=12))
def test_a_batch_leaves_the_files_that_its_events_left(steps: list[tuple[bool, str, bytes, str]]) -> None:
    items, files = [], dict[str, bytes]()
    for is_written, path, content, user in steps:
        name = f"{user}/{path}"
        items.append(written(name, content, user=user) if is_written else deleted(name, user=user))
        if is_written:
            files[name] = content
        else:
            files.pop(name, None)
    message = batch(*items)
    assert message == batch(*items)
    assert apply(json.loads(message.body)) == files
    told = [item["path"] for item in json.loads(message.body) if item["method"] == "DELETE"]
    assert told == [item.key for item, _ in items if item.type == "file.deleted"]


class _Recorder:
    """Stands where the seed system's stores hold their HTTP client: keeps the request that httpx would have sent."""

    def __init__(self, httpx: Any) -> None:
        self.requests: list[Any] = []
        self.client = httpx.Client(transport=httpx.MockTransport(self._answer))

    def _answer(self, request: Any) -> Any:
        import httpx

        self.requests.append(request)
        return httpx.Response(200)


ORDINARY: Final = ["sessions/c1/metadata.json", "sessions/c1/events/1.json", "users/u@x/a b/é😀.txt", "a/(b)+c=d;e,f"]


@pytest.fixture
def seed_system(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The seed system's module of stores; only with the `openhands` extra, otherwise the test is skipped."""
    # Otherwise a library of it asks GitHub for the prices of models.
    monkeypatch.setenv("LITELLM_LOCAL_MODEL_COST_MAP", "True")
    return pytest.importorskip("openhands.storage", reason="needs the openhands extra")


@pytest.fixture
def recorder(seed_system: Any) -> _Recorder:
    return _Recorder(pytest.importorskip("httpx"))


# What the modules of another project warn of is not for these tests to judge.
@pytest.mark.filterwarnings("ignore")
def test_batches_are_the_bytes_that_the_seed_system_sends(seed_system: Any, recorder: _Recorder) -> None:
    files = dict(zip(ORDINARY, [b"{}", b"\xff\xfe", "é".encode(), b""], strict=True))
    store = seed_system.BatchedWebHookFileStore(None, BASE, recorder.client)
    store._send_batch_request({**{path: ("write", content) for path, content in files.items()}, "x": ("delete", None)})
    message = batch(*(written(path, content) for path, content in files.items()), deleted("x"))
    [sent] = recorder.requests
    assert (sent.method, str(sent.url), sent.content) == (message.method, message.url, message.body)
    assert sent.headers["content-type"] == message.headers["Content-Type"]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("path", ORDINARY, ids=["metadata", "event", "unicode", "sub-delimiters"])
def test_a_receiver_sees_the_path_that_the_seed_system_sends(seed_system: Any, recorder: _Recorder, path: str) -> None:
    """Compared as a receiver reads it: decoded once."""
    store = seed_system.WebHookFileStore(None, BASE, recorder.client)
    store._on_write(path, b"\xffcontent")
    store._on_delete(path)
    ours = [render(ENDPOINT, *written(path, b"\xffcontent")), render(ENDPOINT, *deleted(path))]
    for sent, message in zip(recorder.requests, ours, strict=True):
        assert (sent.method, sent.content) == (message.method, message.body)
        assert (sent.url.host, sent.url.query) == (urlsplit(message.url).hostname, b"")
        assert sent.url.path == unquote(urlsplit(message.url).path)
