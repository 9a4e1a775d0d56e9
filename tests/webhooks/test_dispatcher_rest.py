"""The dispatcher rests while nothing can be claimed: each look in vain would take the writer's lock on SQLite."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from storage.webhooks.delivery.dispatcher import Dispatcher
from storage.webhooks.queue.exchange import Settled
from tests.webhooks.queue_place import QueuePlace, own_url, place
from tests.webhooks.test_dispatcher import Postman, postman

__all__ = ["own_url", "place", "postman"]

pytestmark = pytest.mark.slow


@pytest.fixture
async def dispatcher(place: QueuePlace, postman: Postman) -> AsyncIterator[Dispatcher]:
    dispatcher = Dispatcher(place.database, postman.make, attempt_seconds=30, poll_seconds=3600, close_seconds=0.2)
    yield dispatcher
    await dispatcher.close()


async def looks(dispatcher: Dispatcher, monkeypatch: pytest.MonkeyPatch, seconds: float = 0.5) -> int:
    """How often it looks for work within a while in which nothing happens."""
    step = dispatcher._step
    number = 0

    async def counted() -> None:
        nonlocal number
        number += 1
        await step()

    monkeypatch.setattr(dispatcher, "_step", counted)
    await asyncio.sleep(seconds)
    return number


async def claimed(postman: Postman, number: int) -> None:
    async with asyncio.timeout(10):
        while len(postman.keys) < number:
            await asyncio.sleep(0.01)
    await asyncio.sleep(0.1)


async def test_it_rests_while_the_head_of_a_line_waits_to_be_tried_again(
    place: QueuePlace, postman: Postman, dispatcher: Dispatcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    await place.add_endpoint()
    postman.settle = lambda claim: [Settled(claim, "retry", after=3600, status=500)]
    await place.record("a", "a")
    dispatcher.start()
    await claimed(postman, 1)
    assert await looks(dispatcher, monkeypatch) <= 3


async def test_it_rests_while_a_dead_letter_blocks_its_line(
    place: QueuePlace, postman: Postman, dispatcher: Dispatcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    await place.add_endpoint(on_dead="block")
    postman.settle = lambda claim: [Settled(claim, "dead", status=400)]
    await place.record("a", "a")
    dispatcher.start()
    await claimed(postman, 1)
    assert await looks(dispatcher, monkeypatch) <= 3


async def test_it_rests_while_a_batch_is_not_complete(
    place: QueuePlace, postman: Postman, dispatcher: Dispatcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    await place.add_endpoint(mode="batched", batch_seconds=3600)
    await place.record("a")
    dispatcher.start()
    await asyncio.sleep(0.2)
    assert await looks(dispatcher, monkeypatch) <= 3


@pytest.mark.parametrize("what", ["paused", "removed", "sent by another"])
async def test_it_rests_when_a_batch_that_was_due_is_not_its_own_any_more(
    place: QueuePlace, postman: Postman, dispatcher: Dispatcher, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    await place.add_endpoint(mode="batched", batch_seconds=0.6)
    await place.record("a")
    dispatcher.start()
    await asyncio.sleep(0.2)
    if what == "paused":
        await place.rows("UPDATE webhook_endpoint SET state = 'paused'")
    elif what == "removed":
        await place.rows("DELETE FROM webhook_endpoint WHERE mode = 'batched'")
        await place.add_endpoint()
    else:
        await place.rows("UPDATE delivery SET state = 'delivered'")
    await asyncio.sleep(0.6)
    assert await looks(dispatcher, monkeypatch) <= 3


async def test_it_rests_while_another_dispatcher_holds_the_head_of_a_line(
    place: QueuePlace, postman: Postman, dispatcher: Dispatcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    endpoint = await place.add_endpoint()
    await place.record("a", "a")
    await place.fan_out()
    assert await place.claim(endpoint)
    dispatcher.start()
    await asyncio.sleep(0.2)
    assert await looks(dispatcher, monkeypatch) <= 3


class Broken(Exception):
    pass


async def test_a_settlement_that_the_database_refused_once_is_made_soon_after(
    place: QueuePlace, postman: Postman, dispatcher: Dispatcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    from storage.errors import DatabaseError

    await place.add_endpoint()
    exchange = dispatcher.exchange
    failed = 0

    async def failing(endpoint_id: Any, settled: list[Settled], under_way: int) -> Any:
        nonlocal failed
        if settled and not failed:
            failed += 1
            raise DatabaseError("once")
        return await exchange(endpoint_id, settled, under_way)

    monkeypatch.setattr(dispatcher, "exchange", failing)
    await place.record("a")
    dispatcher.start()
    async with asyncio.timeout(5):
        while (await place.rows("SELECT COUNT(*) FROM delivery WHERE state = 'delivered'")) != [(1,)]:
            await asyncio.sleep(0.05)


async def test_a_worker_that_fails_does_not_spin(
    place: QueuePlace, postman: Postman, dispatcher: Dispatcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    await place.add_endpoint()

    async def failing(endpoint_id: Any, settled: list[Settled], under_way: int) -> Any:
        raise ValueError("poison")

    monkeypatch.setattr(dispatcher, "exchange", failing)
    await place.record("a")
    dispatcher.start()
    await asyncio.sleep(0.2)
    assert await looks(dispatcher, monkeypatch) <= 3
