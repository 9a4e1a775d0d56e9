"""The dispatcher without a network: what it claims, when it looks, and what it leaves behind when it is closed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

import pytest

from storage.webhooks.delivery.attempts import MaySend
from storage.webhooks.delivery.dispatcher import Dispatcher
from storage.webhooks.queue.exchange import Claim, Settled
from tests.webhooks.queue_place import QueuePlace, own_url, place

__all__ = ["own_url", "place"]

SECONDS = 20.0
"""After so long a test fails that waits for something; none takes a tenth of it."""


class Postman:
    """Makes attempts, and remembers them; each answer can be held back and decided."""

    def __init__(self) -> None:
        self.keys: list[str] = []
        self.answers: list[Any] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.settle: Callable[[Claim], list[Settled]] = lambda claim: [Settled(claim, "delivered", status=200)]
        self.under_way = 0
        self.most_under_way = 0

    async def make(self, row: Mapping[str, Any], claim: Claim, may_send: MaySend) -> list[Settled]:
        self.keys += [item.event.key for item in claim.items]
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        try:
            await self.gate.wait()
        finally:
            self.under_way -= 1
        return self.settle(claim)


@pytest.fixture
def postman() -> Postman:
    return Postman()


@pytest.fixture
async def dispatcher(place: QueuePlace, postman: Postman) -> AsyncIterator[Dispatcher]:
    """Not started yet; it polls so seldom that a test sees what wakes it."""
    dispatcher = Dispatcher(place.database, postman.make, attempt_seconds=30, poll_seconds=3600, close_seconds=0.2)
    yield dispatcher
    await dispatcher.close()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(SECONDS):
        while not condition():
            await asyncio.sleep(0.005)


async def delivered(place: QueuePlace, number: int) -> None:
    async with asyncio.timeout(SECONDS):
        while (await place.rows("SELECT COUNT(*) FROM delivery WHERE state = 'delivered'")) != [(number,)]:
            await asyncio.sleep(0.01)


async def test_a_commit_of_this_process_wakes_it(place: QueuePlace, postman: Postman, dispatcher: Dispatcher) -> None:
    await place.add_endpoint()
    dispatcher.start()
    await place.record("a")
    await delivered(place, 1)
    await place.record("b", "a")
    await delivered(place, 3)
    assert postman.keys == ["a", "b", "a"]


async def test_what_was_committed_before_it_began_is_delivered(
    place: QueuePlace, postman: Postman, dispatcher: Dispatcher
) -> None:
    await place.add_endpoint()
    await place.record("a", "b")
    dispatcher.start()
    await delivered(place, 2)


async def test_what_another_process_committed_is_found_by_polling(place: QueuePlace, postman: Postman) -> None:
    await place.add_endpoint()
    polling = Dispatcher(place.database, postman.make, attempt_seconds=30, poll_seconds=0.01)
    polling.start()
    other = QueuePlace(place.url)
    await other.record("a")
    await other.database.close()
    await delivered(place, 1)
    await polling.close()


async def test_an_endpoint_that_is_slow_delays_no_other(
    place: QueuePlace, postman: Postman, dispatcher: Dispatcher
) -> None:
    slow = await place.add_endpoint(user_id="slow")
    await place.add_endpoint(user_id="quick")
    held = asyncio.Event()
    quick: list[str] = []

    async def make(row: Mapping[str, Any], claim: Claim, may_send: MaySend) -> list[Settled]:
        if row["id"] == slow:
            await held.wait()
        else:
            quick.extend(item.event.key for item in claim.items)
        return [Settled(claim, "delivered", status=200)]

    both = Dispatcher(place.database, make, attempt_seconds=30, poll_seconds=3600)
    both.start()
    await place.record(*(str(number) for number in range(20)), user_id="slow")
    await place.record(*(str(number) for number in range(20)), user_id="quick")
    await until(lambda: len(quick) == 20)
    held.set()
    await delivered(place, 40)
    await both.close()


async def test_one_endpoint_gets_some_requests_at_once_and_no_more(
    place: QueuePlace, postman: Postman, dispatcher: Dispatcher
) -> None:
    await place.add_endpoint()
    await place.record(*(str(number) for number in range(30)))
    postman.gate.clear()
    dispatcher.start()
    await until(lambda: postman.under_way == 8)
    await place.record("one more")
    postman.gate.set()
    await delivered(place, 31)
    assert postman.most_under_way == 8


async def test_new_events_do_not_wait_for_an_attempt_that_hangs(
    place: QueuePlace, postman: Postman, dispatcher: Dispatcher
) -> None:
    await place.add_endpoint()
    postman.gate.clear()
    dispatcher.start()
    await place.record("hangs")
    await until(lambda: postman.under_way == 1)
    await place.record("later")
    await until(lambda: postman.under_way == 2)
    postman.gate.set()
    await delivered(place, 2)


async def test_closing_waits_a_while_and_leaves_what_is_under_way_leased(
    place: QueuePlace, postman: Postman, dispatcher: Dispatcher
) -> None:
    endpoint = await place.add_endpoint()
    await place.record(*(str(number) for number in range(12)))
    postman.gate.clear()
    dispatcher.start()
    await until(lambda: postman.under_way == 8)
    await dispatcher.close()
    assert postman.under_way == 0
    rows = await place.deliveries(endpoint)
    assert [row["lease_token"] is not None for row in rows] == [True] * 8 + [False] * 4
    assert {row["state"] for row in rows} == {"pending"}
    assert postman.keys == [str(number) for number in range(8)], "nothing was claimed after it"


async def test_closing_settles_what_ends_in_time(place: QueuePlace, postman: Postman) -> None:
    endpoint = await place.add_endpoint()
    await place.record(*(str(number) for number in range(12)))
    postman.gate.clear()
    patient = Dispatcher(place.database, postman.make, attempt_seconds=30, poll_seconds=3600, close_seconds=SECONDS)
    patient.start()
    await until(lambda: postman.under_way == 8)
    closing = asyncio.create_task(patient.close())
    await asyncio.sleep(0)
    postman.gate.set()
    await closing
    rows = await place.deliveries(endpoint)
    assert [row["state"] for row in rows] == ["delivered"] * 8 + ["pending"] * 4


async def test_a_batch_that_is_not_complete_goes_when_its_oldest_event_is_old_enough(
    place: QueuePlace, postman: Postman, dispatcher: Dispatcher
) -> None:
    await place.add_endpoint(mode="batched", batch_events=100, batch_seconds=0.3)
    dispatcher.start()
    await place.record("a", "b")
    await delivered(place, 2)
    assert postman.keys == ["a", "b"]


async def test_steady_writes_do_not_keep_a_batch_from_going(
    place: QueuePlace, postman: Postman, dispatcher: Dispatcher
) -> None:
    await place.add_endpoint(mode="batched", batch_events=10_000, batch_seconds=0.2)
    dispatcher.start()
    async with asyncio.timeout(SECONDS):
        number = 0
        while not postman.keys:
            await place.record(str(number))
            number += 1
    assert postman.keys[0] == "0"


async def test_an_attempt_that_raises_is_logged_and_the_others_go_on(
    place: QueuePlace, caplog: pytest.LogCaptureFixture
) -> None:
    endpoint = await place.add_endpoint()
    await place.record("bad", "good")

    async def make(row: Mapping[str, Any], claim: Claim, may_send: MaySend) -> list[Settled]:
        if claim.items[0].event.key == "bad":
            raise ZeroDivisionError
        return [Settled(claim, "delivered", status=200)]

    dispatcher = Dispatcher(place.database, make, attempt_seconds=30, poll_seconds=0.01)
    dispatcher.start()
    await delivered(place, 1)
    await dispatcher.close()
    states = {row["event_seq"]: row["state"] for row in await place.deliveries(endpoint)}
    assert list(states.values()) == ["pending", "delivered"]
    assert "ZeroDivisionError" in caplog.text


async def test_an_endpoint_that_is_added_or_resumed_is_seen_when_it_is_woken(
    place: QueuePlace, postman: Postman, dispatcher: Dispatcher
) -> None:
    dispatcher.start()
    await place.record("nobody listens")
    await place.add_endpoint()
    dispatcher.wake()
    await place.record("a")
    await delivered(place, 1)
    assert postman.keys == ["a"]


async def test_it_outlives_a_database_that_fails(place: QueuePlace, postman: Postman, caplog: Any) -> None:
    """The table is gone for a while: as when a server restarts, each statement fails."""
    await place.add_endpoint()
    dispatcher = Dispatcher(place.database, postman.make, attempt_seconds=30, poll_seconds=0.01)
    await place.rows("ALTER TABLE webhook_endpoint RENAME TO away")
    dispatcher.start()
    await until(lambda: "web hooks wait for the database" in caplog.text)
    await place.rows("ALTER TABLE away RENAME TO webhook_endpoint")
    await place.record("a")
    await delivered(place, 1)
    await dispatcher.close()


async def test_many_endpoints_that_hang_share_what_one_process_may_have_under_way(
    place: QueuePlace, postman: Postman, dispatcher: Dispatcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("storage.webhooks.delivery.dispatcher.REQUESTS", 8)
    for _ in range(4):
        await place.add_endpoint()
    postman.gate.clear()
    await place.record(*(str(number) for number in range(20)))
    dispatcher.start()
    await until(lambda: postman.under_way >= 8)
    for number in range(5):
        await place.record(f"later {number}")
    assert postman.most_under_way == 8
    postman.gate.set()
    await delivered(place, 100)
