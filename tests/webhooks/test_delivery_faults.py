"""Deliveries to a real receiver that meet a fault on our side: a slow store, an altered key, a dead part of a batch."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from storage.cli.webhook_deliveries import _empty
from storage.webhooks.endpoints.model import Batching
from tests.servers.receiver import Behaviour, ReceiverProcess
from tests.webhooks.office import Office, office, rows, settled, until
from tests.webhooks.queue_place import own_url, place

__all__ = ["office", "own_url", "place"]


async def executed(storage: Any, sql: str) -> None:
    from sqlalchemy import text

    async with storage.session() as session:
        await (await session.connection()).execute(text(sql))
        await session.commit()


async def test_a_content_whose_key_was_altered_holds_up_nothing_but_itself(
    office: Office, receiver: ReceiverProcess
) -> None:
    async with office.open(webhook_delivery=False, seal_files=True) as storage:
        alice = storage.user("alice")
        await alice.webhooks.add(receiver.url, mode="batched", include="content", batching=Batching(seconds=0))
        await alice.files.write("bad", b"1")
        await alice.files.write("good", b"2")
        await executed(
            storage,
            "UPDATE event SET content_key = (SELECT content_key FROM event e WHERE e.key = 'good') WHERE key = 'bad'",
        )
    async with office.open(seal_files=True) as storage:
        await until(lambda: bool(receiver.requests()))
        await settled(storage)


async def fanned_out(storage: Any) -> bool:
    return await rows(storage, "SELECT COUNT(*) FROM event WHERE to_fan_out IS NOT NULL") == [(0,)]


async def until_empty(storage: Any) -> int:
    async with asyncio.timeout(4):
        return await _empty(storage, asyncio.Event())


async def test_until_empty_ends_though_every_endpoint_is_disabled(office: Office, receiver: ReceiverProcess) -> None:
    receiver.behave("", Behaviour(status=410))
    async with office.open() as storage:
        alice = storage.user("alice")
        endpoint = (await alice.webhooks.add(receiver.url)).endpoint
        await alice.files.write("a", b"1")

        async def disabled() -> bool:
            return (await alice.webhooks.get(endpoint.id)).state == "disabled"

        await until(disabled)
        await alice.files.write("a", b"2")
        await until_empty(storage)


async def test_until_empty_ends_though_a_dead_letter_blocks_its_key(office: Office, receiver: ReceiverProcess) -> None:
    receiver.behave("", Behaviour(status=400))
    async with office.open() as storage:
        alice = storage.user("alice")
        await alice.webhooks.add(receiver.url, on_dead="block")
        await alice.files.write("a", b"1")
        await alice.files.write("a", b"2")
        assert await until_empty(storage) == 1


async def test_a_dead_part_of_a_batch_blocks_the_rest_of_its_key_where_the_endpoint_says_so(
    office: Office, receiver: ReceiverProcess
) -> None:
    async with office.open(webhook_delivery=False) as storage:
        alice = storage.user("alice")
        await alice.webhooks.add(
            receiver.url,
            format="openhands",
            mode="batched",
            include_bytes=3,
            on_dead="block",
            batching=Batching(seconds=0),
        )
        await alice.files.write("a", b"too long")
        await alice.files.delete("a")
        await alice.files.write("b", b"b")
    async with office.open() as storage:
        await until(lambda: bool(receiver.requests()))
    assert [item["path"] for request in receiver.requests() for item in request.json] == ["b"]


async def test_a_batch_whose_contents_are_read_slowly_goes_all_the_same(
    office: Office, receiver: ReceiverProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    from storage.files.blobs import Contents

    read = Contents.read

    async def slowly(self: Contents, *arguments: Any) -> bytes:
        await asyncio.sleep(0.1)
        return await read(self, *arguments)

    monkeypatch.setattr(Contents, "read", slowly)
    async with office.open(webhook_delivery=False) as storage:
        alice = storage.user("alice")
        await alice.webhooks.add(receiver.url, mode="batched", include="content", batching=Batching(seconds=0))
        for number in range(6):
            await alice.files.write(str(number), b"1")
    async with office.open() as storage:
        assert storage._delivery is not None
        storage._delivery.dispatcher._lease_margin = 0.3
        await until(lambda: bool(receiver.requests()))
