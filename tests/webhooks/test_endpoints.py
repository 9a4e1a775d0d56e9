"""Endpoints are added, changed, paused and removed, by whom they belong to and nobody else, on both databases."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest

from storage.clock import now
from storage.database import Database, parse_url
from storage.database.change import Change
from storage.encryption.keyring import KeyRing
from storage.errors import (
    Conflict,
    EgressRefused,
    EndpointNotFound,
    InvalidInput,
)
from storage.webhooks.endpoints.model import Batching
from storage.webhooks.endpoints.store import Endpoints
from storage.webhooks.sending.egress import Egress
from storage.webhooks.sending.signature import new_secret
from tests.databases import Query
from tests.webhooks.endpoint_desk import (
    TOKEN,
    URL,
    add_event,
    alice,
    database,
    edit,
    egress,
    keyring,
    migrated_url,
    query,
    row_of,
    secrets,
    user_id,
)

__all__ = [
    "alice",
    "database",
    "egress",
    "keyring",
    "migrated_url",
    "query",
    "user_id",
]


# ---- adding


async def test_a_new_endpoint_has_the_defaults_and_a_secret_that_is_told_once(alice: Endpoints, user_id: str) -> None:
    added = await alice.add(URL)
    found = added.endpoint
    assert added.secret is not None
    assert added.secret.get_secret_value().startswith("whsec_")
    assert added.secret.get_secret_value() not in repr(added)
    assert (found.user_id, found.url, found.event_types) == (user_id, URL, ("*",))
    assert (found.format, found.mode, found.state, found.include) == ("standard", "standard", "active", "nothing")
    assert (found.is_signed, found.has_headers, found.secret_names) == (True, False, False)
    assert await alice.get(found.id) == found
    assert await alice.list() == [found]


async def test_every_option_is_stored(alice: Endpoints) -> None:
    added = await alice.add(
        URL,
        event_types=["file.*", "secret.updated", "file.*"],
        format="cloudevents",
        mode="batched",
        secret=new_secret(),
        headers=TOKEN,
        include="content",
        include_bytes=0,
        secret_names=True,
        on_dead="block",
        batching=Batching(events=0, bytes=0, seconds=0),
        description="the archive",
    )
    found = await alice.get(added.endpoint.id)
    assert found == added.endpoint
    assert found.event_types == ("file.*", "secret.updated")
    assert (found.format, found.mode, found.include, found.include_bytes) == ("cloudevents", "batched", "content", 0)
    assert (found.secret_names, found.on_dead, found.description) == (True, "block", "the archive")
    assert found.batching == Batching(0, 0, 0.0)
    assert (found.is_signed, found.has_headers) == (True, True)


async def test_it_hears_of_what_comes_after_it_was_added(database: Database, alice: Endpoints) -> None:
    before = await add_event(database)
    added = await alice.add(URL)
    row = await row_of(database, added.endpoint.id)
    assert row["from_seq"] >= before
    assert await add_event(database) > row["from_seq"]


async def test_only_the_openhands_format_does_without_a_secret(alice: Endpoints) -> None:
    added = await alice.add(URL, format="openhands", signed=False)
    assert added.secret is None
    assert (added.endpoint.is_signed, added.endpoint.event_types) == (False, ("file.*",))
    with pytest.raises(InvalidInput, match="only the format 'openhands'"):
        await alice.add(URL, signed=False)
    with pytest.raises(InvalidInput, match="has no secret"):
        await alice.add(URL, format="openhands", signed=False, secret=new_secret())


NO_OPTIONS: tuple[dict[str, Any], ...] = (
    {"event_types": []},
    {"event_types": "file.*"},
    {"event_types": ["File.*"]},
    {"event_types": ["conversation.*"], "format": "openhands"},
    {"event_types": ["*"], "format": "openhands"},
    {"format": "json"},
    {"mode": "batch"},
    {"secret": ""},
    {"secret": "whsec_short"},
    {"include": "everything"},
    {"include_bytes": -1},
    {"include_bytes": 2**63},
    {"include_bytes": 1.5},
    {"secret_names": 1},
    {"on_dead": "stop"},
    {"batching": Batching(events=3)},
    {"mode": "batched", "batching": Batching(events=-1)},
    {"mode": "batched", "batching": Batching(bytes=2**40)},
    {"mode": "batched", "batching": Batching(seconds=float("nan"))},
    {"mode": "batched", "batching": Batching(seconds=-0.1)},
    {"mode": "batched", "batching": 5},
    {"description": "a\0b"},
    {"description": "x" * 1001},
    {"description": None},
)


async def test_what_is_not_acceptable_is_refused(alice: Endpoints) -> None:
    for options in NO_OPTIONS:
        with pytest.raises(InvalidInput):
            raise AssertionError(f"accepted: {await alice.add(URL, **options)}")
    assert await alice.list() == []


NO_URLS: tuple[Any, ...] = (
    "",
    "ftp://receiver.example.com/",
    "receiver.example.com",
    "https://a.example/ b",
    "https://" + "a" * 2048,
    None,
)


async def test_what_is_no_url_is_refused(alice: Endpoints) -> None:
    added = await alice.add(URL)
    for url in NO_URLS:
        with pytest.raises(InvalidInput):
            raise AssertionError(f"accepted: {await alice.add(url)}")
        with pytest.raises(InvalidInput):
            raise AssertionError(f"accepted: {await alice.update(added.endpoint.id, url=url)}")
    assert await alice.list() == [added.endpoint]


async def test_an_address_that_is_not_allowed_is_refused(alice: Endpoints) -> None:
    added = await alice.add("http://127.0.0.1:8000/")
    for url in ("http://10.0.0.1/", "https://169.254.169.254/latest/meta-data", "https://[::1]/"):
        with pytest.raises(EgressRefused):
            await alice.add(url)
        with pytest.raises(EgressRefused):
            await alice.update(added.endpoint.id, url=url)
    assert [found.url for found in await alice.list()] == ["http://127.0.0.1:8000/"]


NO_HEADERS: tuple[Any, ...] = (
    {"": "a"},
    {"A B": "a"},
    {"A:": "a"},
    {"A": "a\r\nB: c"},
    {"A": "a\0"},
    {"A": "ä"},
    {"A": " a"},
    {"A": None},
    {"A": "a", "a": "b"},
    {"Host": "a"},
    {"content-length": "1"},
    {"Transfer-Encoding": "chunked"},
    {"connection": "close"},
    {"Webhook-Signature": "v1,a"},
    {f"A{number}": "a" for number in range(51)},
    {"A": "a" * 20_000},
    ["A"],
)


async def test_a_header_that_is_none_or_is_ours_is_refused_and_not_quoted(alice: Endpoints) -> None:
    added = await alice.add(URL)
    for headers in NO_HEADERS:
        with pytest.raises(InvalidInput) as refused:
            raise AssertionError(f"accepted: {await alice.add(URL, headers=headers)}")
        assert "\r\nB: c" not in str(refused.value)
        with pytest.raises(InvalidInput):
            raise AssertionError(f"accepted: {await alice.update(added.endpoint.id, headers=headers)}")
    assert await alice.list() == [added.endpoint]


# ---- changing


async def test_only_what_is_named_changes(alice: Endpoints) -> None:
    added = await alice.add(URL, mode="batched", description="one")
    found = await alice.update(added.endpoint.id, description="two", on_dead="block", secret_names=True)
    assert (found.description, found.on_dead, found.secret_names, found.url) == ("two", "block", True, URL)
    found = await alice.update(
        added.endpoint.id,
        event_types=["file.written"],
        include="link",
        include_bytes=5,
        batching=Batching(1, 2, 3),
        url=f"{URL}/2",
    )
    assert (found.event_types, found.include, found.include_bytes) == (("file.written",), "link", 5)
    assert (found.batching, found.url, found.description) == (Batching(1, 2, 3.0), f"{URL}/2", "two")
    assert found.updated_at > added.endpoint.updated_at
    assert await alice.get(added.endpoint.id) == found
    assert await alice.update(added.endpoint.id) == found


NO_CHANGES: tuple[Any, ...] = (
    {"format": "openhands"},
    {"mode": "batched"},
    {"user_id": "bob"},
    {"state": "active"},
    {"event_types": []},
    {"include": "all"},
    {"include_bytes": -1},
    {"on_dead": None},
    {"secret_names": "yes"},
    {"batching": Batching(events=1)},
    {"headers": {"Host": "a"}},
)


async def test_a_change_that_is_not_acceptable_changes_nothing(alice: Endpoints) -> None:
    added = await alice.add(URL)
    for changes in NO_CHANGES:
        with pytest.raises(InvalidInput):
            raise AssertionError(await alice.update(added.endpoint.id, **{"description": "x", **changes}))
    assert await alice.get(added.endpoint.id) == added.endpoint


async def test_headers_do_not_go_to_another_origin_unasked(
    database: Database, keyring: KeyRing, alice: Endpoints
) -> None:
    added = await alice.add(URL, headers=TOKEN)
    its = added.endpoint.id
    for url in (
        "https://other.example.com/hook",
        "https://receiver.example.com:8443/hook",
        "https://receiver.example.com.other.example/hook",
    ):
        with pytest.raises(InvalidInput, match="give headers again"):
            await alice.update(its, url=url)
    same = "https://RECEIVER.example.com:443/elsewhere"
    await alice.update(its, url=same)
    assert (await secrets(database, keyring, its)).headers == TOKEN
    found = await alice.update(its, url="https://other.example.com/", headers={})
    assert not found.has_headers
    await alice.update(its, url="https://third.example.com/")
    await alice.update(its, url="https://fourth.example.com/", headers={"B": "c"})
    opened = await secrets(database, keyring, its)
    assert added.secret is not None
    assert (opened.secrets, opened.headers) == ((added.secret.get_secret_value(),), {"B": "c"})


async def test_two_who_change_different_things_at_once_both_succeed(
    migrated_url: str, keyring: KeyRing, alice: Endpoints, egress: Egress, user_id: str
) -> None:
    added = await alice.add(URL, headers=TOKEN)
    other = Database(parse_url(migrated_url))
    try:
        there = Endpoints(other, keyring, egress, user_id)
        for number in range(5):
            await asyncio.gather(
                alice.update(added.endpoint.id, url=f"{URL}/{number}"),
                there.update(added.endpoint.id, description=str(number)),
                there.rotate_secret(added.endpoint.id),
            )
            found = await alice.get(added.endpoint.id)
            assert (found.url, found.description) == (f"{URL}/{number}", str(number))
            opened = await secrets(other, keyring, added.endpoint.id)
            assert (len(opened.secrets), opened.headers) == (2, TOKEN)
    finally:
        await other.close()


# ---- states


async def test_what_is_paused_is_resumed_with_what_was_kept(database: Database, alice: Endpoints) -> None:
    added = await alice.add(URL)
    its = added.endpoint.id
    assert (await alice.pause(its)).state == "paused"
    assert (await alice.pause(its)).state == "paused"
    from_seq = (await row_of(database, its))["from_seq"]
    await add_event(database)
    assert (await alice.resume(its)).state == "active"
    assert (await row_of(database, its))["from_seq"] == from_seq
    assert (await alice.resume(its)).state == "active"


async def test_what_was_disabled_is_resumed_with_what_comes_now(database: Database, alice: Endpoints) -> None:
    added = await alice.add(URL)
    its = added.endpoint.id
    held = {"failures": 7, "blocked_until": now() + timedelta(days=1)}
    await edit(database, its, state="disabled", state_reason="the receiver answered 410 Gone", **held)
    with pytest.raises(Conflict, match=r"410 Gone.*resume it first"):
        await alice.pause(its)
    last = await add_event(database)
    found = await alice.resume(its)
    assert (found.state, found.state_reason, found.failures, found.blocked_until) == ("active", None, 0, None)
    assert (await row_of(database, its))["from_seq"] >= last


async def test_what_is_removed_takes_its_deliveries_along(
    database: Database, alice: Endpoints, query: Query, user_id: str
) -> None:
    from storage.webhooks.outbox import record
    from storage.webhooks.queue.fan_out import fan_out

    added = await alice.add(URL)
    await database.run(lambda: record(user_id, "file.deleted", key="a"))
    while (await database.run(fan_out)).more:
        pass
    column = added.endpoint.id.hex if database.dialect == "sqlite" else str(added.endpoint.id)
    count = f"SELECT COUNT(*) AS n FROM delivery WHERE endpoint_id = '{column}'"
    assert (await query(count))[0]["n"] == 1
    await alice.remove(added.endpoint.id)
    assert (await query(count))[0]["n"] == 0
    with pytest.raises(EndpointNotFound):
        await alice.remove(added.endpoint.id)


# ---- within what surrounds it


async def test_in_a_transaction_that_is_rolled_back_nothing_was_added(
    database: Database, keyring: KeyRing, egress: Egress, alice: Endpoints, user_id: str
) -> None:
    kept = await alice.add(URL)
    with pytest.raises(ZeroDivisionError):
        async with database.transaction() as transaction:
            inside = Endpoints(transaction, keyring, egress, user_id)
            await inside.add(URL, headers=TOKEN)
            await inside.update(kept.endpoint.id, url="https://other.example.com/", description="x")
            assert len(await inside.list()) == 2
            raise ZeroDivisionError
    assert await alice.list() == [kept.endpoint]


async def test_a_dispatcher_is_woken_and_a_users_hooks_hear_of_it(
    database: Database, keyring: KeyRing, egress: Egress, user_id: str
) -> None:
    woken = 0
    heard: list[tuple[str, str, str]] = []

    def wake() -> None:
        nonlocal woken
        woken += 1

    def hook(changes: list[Change]) -> None:
        heard.extend((change.user_id, change.type, change.key) for change in changes)

    database.on_commit(hook)  # type: ignore[arg-type]
    alice = Endpoints(database, keyring, egress, user_id, wake=wake)
    added = await alice.add(URL)
    await alice.pause(added.endpoint.id)
    await alice.remove(added.endpoint.id)
    assert woken == 3
    operator = Endpoints(database, keyring, egress, None)
    await operator.add(URL)
    while len(heard) < 3:
        await asyncio.sleep(0)
    its = str(added.endpoint.id)
    assert heard == [(user_id, f"webhook.{verb}", its) for verb in ("added", "updated", "removed")]
