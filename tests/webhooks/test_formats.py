"""What goes out in the two formats for any event: its shape, its bytes, and what it never says."""

from __future__ import annotations

import base64
import json
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from typing import Any, Final, cast

import pytest
from cloudevents.core.bindings.http import HTTPMessage, from_structured_event
from hypothesis import given
from hypothesis import strategies as st

from storage.errors import InvalidInput
from storage.webhooks.endpoints.model import Batching, Endpoint, Format
from storage.webhooks.formats import render, render_batch
from storage.webhooks.message import Event, Included, Message

NOON: Final = datetime(2026, 5, 1, 12, 0, 0, 1, tzinfo=UTC)
BATCH_ID: Final = uuid.UUID(int=99)
NOTHING: Final = Included()
ANY_FORMAT: Final = pytest.mark.parametrize("format_", ["standard", "cloudevents"])

ENDPOINT: Final = Endpoint(
    id=uuid.UUID(int=1),
    user_id=None,
    url="https://receiver.example.com/hook?tenant=1",
    description="",
    event_types=("*",),
    format="standard",
    mode="standard",
    batching=Batching(),
    include="nothing",
    include_bytes=1024,
    secret_names=False,
    on_dead="skip",
    is_signed=True,
    has_headers=False,
    state="active",
    state_reason=None,
    failures=0,
    blocked_until=None,
    created_at=NOON,
    updated_at=NOON,
)

PATH: Final = "notes/é 😀%2F?#.txt"
FACTS: Final = {"path": PATH, "size": 5, "sha256": "ab" * 32, "media_type": "text/plain"}

WRITTEN: Final = Event(
    seq=7,
    id=uuid.UUID(int=7),
    user_id="alice@example.com/ü",
    type="file.written",
    key=PATH,
    version=3,
    payload=FACTS,
    created_at=NOON,
    blob_key="files/where-the-bytes-are",
    content_key=b"what-opens-them",
)


def event(number: int, type_: str, key: str, payload: Mapping[str, Any], version: int | None = 1) -> Event:
    moment = NOON + timedelta(seconds=number)
    return Event(number, uuid.UUID(int=number), "alice", type_, key, version, payload, moment)


# One of each kind that the repositories record, with the facts that they record.
EVENTS: Final = (
    WRITTEN,
    event(8, "file.deleted", "a.txt", {"path": "a.txt"}),
    event(9, "conversation.saved", "c1", {"created": False, "changed": ["title"]}),
    event(10, "conversation.deleted", "c1", {}, version=None),
    event(11, "settings.updated", "settings", {"changed": ["llm_api_key"]}),
    event(12, "secret.updated", "DEPLOY_TOKEN", {"kind": "custom"}, version=None),
    event(13, "secret.deleted", "DEPLOY_TOKEN", {"kind": "custom"}, version=None),
    event(14, "webhook.test", "endpoint", {}, version=None),
)


def to(format_: str, **changes: Any) -> Endpoint:
    return replace(ENDPOINT, format=cast("Format", format_), **changes)


def said(message: Message) -> Any:
    return json.loads(message.body)


def data_of(format_: str, message: Message) -> dict[str, Any]:
    assert format_ in ("standard", "cloudevents")
    return cast("dict[str, Any]", said(message)["data"])


def test_the_standard_format_says_type_time_and_facts() -> None:
    message = render(ENDPOINT, WRITTEN, NOTHING)
    assert (message.id, message.method, message.url) == (str(WRITTEN.id), "POST", ENDPOINT.url)
    assert message.headers == {"Content-Type": "application/json"}
    assert said(message) == {
        "type": "file.written",
        "timestamp": "2026-05-01T12:00:00.000001Z",
        "data": {"user_id": WRITTEN.user_id, "key": WRITTEN.key, "version": 3, **FACTS},
    }


def test_a_batch_of_the_standard_format_holds_the_events_in_their_order() -> None:
    items = [(item, NOTHING) for item in (EVENTS[2], EVENTS[1], EVENTS[1])]
    message = render_batch(ENDPOINT, BATCH_ID, items)
    assert message.id == str(BATCH_ID)
    body = said(message)
    assert (body["type"], body["timestamp"]) == ("batch", "2026-05-01T12:00:09.000001Z")
    assert body["data"] == [{"id": str(item.id), **said(render(ENDPOINT, item, included))} for item, included in items]


def check_cloud_event(body: bytes) -> None:
    """By the rules of the independent package, which raises what is wrong."""
    content_type = {"Content-Type": "application/cloudevents+json; charset=UTF-8"}
    found = from_structured_event(HTTPMessage(headers=content_type, body=body))
    assert found.get_specversion() == "1.0"


def test_a_cloud_event_is_one_to_the_independent_package() -> None:
    message = render(to("cloudevents"), WRITTEN, NOTHING)
    assert message.headers["Content-Type"] == "application/cloudevents+json; charset=UTF-8"
    found = from_structured_event(HTTPMessage(headers=dict(message.headers), body=message.body))
    assert found.get_attributes() == {
        "specversion": "1.0",
        "id": str(WRITTEN.id),
        "source": "/users/alice%40example.com%2F%C3%BC",
        "type": "agent-storage.file.written",
        "subject": WRITTEN.key,
        "time": NOON,
        "datacontenttype": "application/json",
    }
    assert found.get_data() == said(render(ENDPOINT, WRITTEN, NOTHING))["data"]


@pytest.mark.parametrize("item", EVENTS, ids=lambda item: item.type)
def test_every_event_is_a_valid_cloud_event(item: Event) -> None:
    for changes in ({}, {"secret_names": True}):
        check_cloud_event(render(to("cloudevents", **changes), item, NOTHING).body)


def test_a_batch_of_cloud_events_is_an_array_of_them() -> None:
    endpoint = to("cloudevents")
    message = render_batch(endpoint, BATCH_ID, [(item, NOTHING) for item in EVENTS])
    assert message.headers["Content-Type"] == "application/cloudevents-batch+json; charset=UTF-8"
    assert message.id == str(BATCH_ID)
    assert said(message) == [said(render(endpoint, item, NOTHING)) for item in EVENTS]


def test_an_event_without_a_key_has_no_subject() -> None:
    message = render(to("cloudevents"), replace(EVENTS[3], key="", user_id=""), NOTHING)
    assert "subject" not in said(message)
    check_cloud_event(message.body)


@ANY_FORMAT
@pytest.mark.parametrize("item", EVENTS, ids=lambda item: item.type)
@pytest.mark.parametrize("in_batch", [False, True], ids=["single", "batch"])
def test_where_a_content_is_kept_and_what_opens_it_are_never_said(format_: str, item: Event, in_batch: bool) -> None:
    careless = {**item.payload, "blob_key": "files/where-the-bytes-are", "content_key": "d2hhdC1vcGVucy10aGVt"}
    item = replace(item, payload=careless, blob_key="files/where-the-bytes-are", content_key=b"what-opens-them")
    endpoint = to(format_, include="content", secret_names=True)
    included = Included(content=b"hello")
    message = render_batch(endpoint, BATCH_ID, [(item, included)]) if in_batch else render(endpoint, item, included)
    for unsaid in (b"blob_key", b"content_key", b"where-the-bytes-are", b"what-opens-them", b"d2hhdC1v"):
        assert unsaid not in message.body


@ANY_FORMAT
@pytest.mark.parametrize("item", EVENTS[5:7], ids=lambda item: item.type)
@pytest.mark.parametrize("in_batch", [False, True], ids=["single", "batch"])
def test_the_name_of_a_secret_is_said_only_if_asked_for(format_: str, item: Event, in_batch: bool) -> None:
    # Should a fact ever repeat the name, it stays here as well.
    item = replace(item, payload={**item.payload, "renamed_from": "DEPLOY_TOKEN"})

    def body(endpoint: Endpoint) -> bytes:
        if in_batch:
            return render_batch(endpoint, BATCH_ID, [(item, NOTHING)]).body
        return render(endpoint, item, NOTHING).body

    assert b"DEPLOY_TOKEN" not in body(to(format_))
    assert b'"kind":"custom"' in body(to(format_))
    assert b'"key":"DEPLOY_TOKEN"' in body(to(format_, secret_names=True))


@ANY_FORMAT
@pytest.mark.parametrize(
    ("content", "text", "encoding"),
    [
        ("é😀\x00\n".encode(), "é😀\x00\n", "utf-8"),
        (b"", "", "utf-8"),
        (b"\xef\xbb\xbfa", "\ufeffa", "utf-8"),
        (b"\xff\xfe", "//4=", "base64"),
        (b"\xed\xa0\x80", "7aCA", "base64"),
    ],
    ids=["text", "empty", "byte-order-mark", "bytes", "surrogate"],
)
def test_an_included_content_is_text_or_base64(format_: str, content: bytes, text: str, encoding: str) -> None:
    data = data_of(format_, render(to(format_), WRITTEN, Included(content=content)))
    assert (data["content"], data["encoding"]) == (text, encoding)
    assert "url" not in data


@ANY_FORMAT
def test_an_included_link_is_the_url(format_: str) -> None:
    link = "https://bucket.example.com/x?signature=a%2Bb&c=d"
    data = data_of(format_, render(to(format_), WRITTEN, Included(link=link)))
    assert data["url"] == link
    assert "content" not in data


@ANY_FORMAT
def test_no_fact_takes_the_place_of_whose_and_which(format_: str) -> None:
    item = replace(WRITTEN, payload={"user_id": "mallory", "key": "other", "version": 9})
    data = data_of(format_, render(to(format_), item, NOTHING))
    assert (data["user_id"], data["key"], data["version"]) == (WRITTEN.user_id, WRITTEN.key, 3)


@ANY_FORMAT
def test_the_bytes_do_not_depend_on_the_order_of_facts_or_the_zone_of_the_time(format_: str) -> None:
    turned = dict(reversed(FACTS.items()))
    same = replace(WRITTEN, payload=turned, created_at=NOON.astimezone(timezone(timedelta(hours=-9))))
    assert render(to(format_), same, NOTHING) == render(to(format_), WRITTEN, NOTHING)


@pytest.mark.parametrize("format_", ["standard", "cloudevents", "openhands"])
def test_a_batch_of_nothing_is_refused(format_: str) -> None:
    with pytest.raises(InvalidInput, match="at least one"):
        render_batch(to(format_), BATCH_ID, [])


JSON_FACTS = st.dictionaries(
    st.text(max_size=8),
    st.recursive(
        st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=8),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
        max_leaves=5,
    ),
    max_size=4,
)
ANY_EVENT = st.builds(
    Event,
    seq=st.integers(1),
    id=st.uuids(),
    user_id=st.text(min_size=1, max_size=10),
    type=st.sampled_from(["file.written", "file.deleted", "conversation.saved", "settings.updated"]),
    key=st.text(max_size=20),
    version=st.none() | st.integers(1, 2**62),
    payload=JSON_FACTS,
    created_at=st.datetimes(datetime(1970, 1, 2), timezones=st.just(UTC)),  # noqa: DTZ001 - the zone is beside it
    blob_key=st.none() | st.text(),
    content_key=st.none() | st.binary(),
)
ANY_INCLUDED = st.builds(Included, content=st.none() | st.binary(), link=st.none() | st.text())


@given(
    items=st.lists(st.tuples(ANY_EVENT, ANY_INCLUDED), min_size=1, max_size=4),
    format_=st.sampled_from(["standard", "cloudevents"]),
)
def test_rendered_again_it_is_the_same_and_nothing_is_lost(
    items: Sequence[tuple[Event, Included]], format_: str
) -> None:
    endpoint = to(format_)
    first, again = (render_batch(endpoint, BATCH_ID, items) for _ in range(2))
    assert first == again
    whole = said(first)
    parts = whole["data"] if format_ == "standard" else whole
    assert [part["id"] for part in parts] == [str(item.id) for item, _ in items]
    for part, (item, included) in zip(parts, items, strict=True):
        alone = render(endpoint, item, included)
        assert alone == render(endpoint, item, included)
        assert said(alone)["data"] == part["data"]
        data = part["data"]
        taken = {"user_id", "key", "version", "url", "content", "encoding"}
        for name in item.payload.keys() - taken:
            assert data[name] == item.payload[name]
        if included.content is not None:
            content = data["content"]
            decoded = base64.b64decode(content) if data["encoding"] == "base64" else content.encode()
            assert decoded == included.content
        if format_ == "cloudevents":
            check_cloud_event(alone.body)
