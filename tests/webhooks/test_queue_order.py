"""The queue where several rules meet: batches, modes, clocks, holds and dead letters."""

from __future__ import annotations

from datetime import timedelta

from sqlalchemy import func, select

from storage.clock import now
from storage.webhooks.queue import dead_letters
from storage.webhooks.queue.exchange import Claim, Settled
from storage.webhooks.queue.statements import DELIVERY
from tests.webhooks.queue_place import QueuePlace, keys_of, own_url, place

__all__ = ["own_url", "place"]


async def test_a_receiver_that_asks_to_wait_is_left_alone_also_if_another_request_succeeds(place: QueuePlace) -> None:
    endpoint = await place.add_endpoint()
    await place.record("a", "b", "c")
    await place.fan_out()
    first, second = await place.claim(endpoint, slots=2)
    await place.exchange(endpoint, [Settled(first, "retry", 60, 60, 429)], slots=0)
    exchanged = await place.exchange(endpoint, [Settled(second, "delivered", status=200)])
    assert not exchanged.claims


async def test_a_part_that_never_went_with_its_batch_is_replayed_under_another_id(place: QueuePlace) -> None:
    endpoint = await place.add_endpoint(mode="batched", batch_events=2)
    await place.record("a", "b")
    await place.fan_out()
    [batch] = await place.claim(endpoint)
    parts = [Claim(batch.token, (item,), batch.batch_id) for item in batch.items]
    await place.exchange(
        endpoint,
        [Settled(parts[0], "dead", text="too large", is_attempt=False), Settled(parts[1], "delivered", status=200)],
    )
    await place.database.run(lambda: dead_letters.replay(endpoint, [batch.items[0].event.id]))
    await place.rows("UPDATE webhook_endpoint SET batch_seconds = 0")
    [again] = await place.claim(endpoint)
    assert again.batch_id != batch.batch_id


async def test_no_event_overtakes_another_of_its_key_when_the_mode_becomes_batched(place: QueuePlace) -> None:
    endpoint = await place.add_endpoint()
    await place.record("a", "a", "b")
    await place.fan_out()
    [first, _] = await place.claim(endpoint)
    assert keys_of([first]) == ["a"]
    await place.exchange(endpoint, [Settled(first, "retry", 3600, None, 500)], slots=0)
    await place.rows("UPDATE webhook_endpoint SET mode = 'batched', batch_seconds = 0")
    claims = await place.claim(endpoint)
    assert "a" not in keys_of(claims)


async def test_no_event_goes_in_a_batch_while_an_earlier_one_of_its_key_is_under_way(place: QueuePlace) -> None:
    endpoint = await place.add_endpoint()
    await place.record("a", "a")
    await place.fan_out()
    assert await place.claim(endpoint)
    await place.rows("UPDATE webhook_endpoint SET mode = 'batched', batch_seconds = 0")
    assert not await place.claim(endpoint)


async def test_no_event_overtakes_another_in_a_batch_where_two_clocks_differ(place: QueuePlace) -> None:
    endpoint = await place.add_endpoint(mode="batched", batch_events=1)
    await place.record("a", "a")
    await place.fan_out()
    # The process that fanned the first one out was some seconds ahead.
    later = now() + timedelta(seconds=5)
    [(first,)] = await place.query(select(func.min(DELIVERY.c.event_seq)))
    await place.query(DELIVERY.update().where(DELIVERY.c.event_seq == first).values(next_at=later))
    assert not await place.claim(endpoint)


async def test_attempts_never_fall_below_zero(place: QueuePlace) -> None:
    endpoint = await place.add_endpoint()
    await place.record("a")
    await place.fan_out()
    [claim] = await place.claim(endpoint)
    released = Settled(claim, "released", is_attempt=False)
    for _ in range(3):
        await place.exchange(endpoint, [released, released], slots=0)
    [row] = await place.deliveries(endpoint)
    assert row["attempts"] == 0
