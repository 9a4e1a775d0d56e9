"""The queue alone, without a network: who gets which event, in which order, how often, and who holds it meanwhile."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import asyncpg
import pytest

from storage.clock import now
from storage.database import Database, parse_url
from storage.errors import DeliveryNotFound
from storage.webhooks import outbox
from storage.webhooks.queue import dead_letters
from storage.webhooks.queue.exchange import Settled
from storage.webhooks.queue.retention import prune
from storage.webhooks.queue.retry import FAILURES_TO_OPEN
from tests.webhooks.queue_place import QueuePlace, keys_of, own_url, place

__all__ = ["own_url", "place"]


# ---- fan out


async def test_an_event_goes_to_the_operator_and_to_its_own_user_and_to_nobody_else(place: QueuePlace) -> None:
    operator = await place.add_endpoint()
    alice = await place.add_endpoint(user_id="alice")
    bob = await place.add_endpoint(user_id="bob")
    await place.record("a.txt")
    assert (await place.fan_out()).deliveries == 2
    assert [len(await place.deliveries(one)) for one in (operator, alice, bob)] == [1, 1, 0]
    assert (await place.fan_out()).events == 0, "once is enough"


async def test_an_endpoint_hears_of_the_types_that_it_names(place: QueuePlace) -> None:
    files = await place.add_endpoint(event_types=["file.*", "settings.updated"])
    await place.record("1", type_="file.written")
    await place.record("2", type_="conversation.saved")
    await place.record("3", type_="settings.updated")
    await place.fan_out()
    assert keys_of(await place.claim(files)) == ["1", "3"]


async def test_a_new_endpoint_hears_of_nothing_that_was_there_before(place: QueuePlace) -> None:
    await place.record("before")
    late = await place.add_endpoint()
    await place.record("after")
    while (await place.fan_out()).more:
        pass
    assert keys_of(await place.claim(late)) == ["after"]


async def test_without_endpoints_events_wait_and_a_disabled_endpoint_hears_of_nothing(place: QueuePlace) -> None:
    await place.record("a")
    assert (await place.fan_out()).events == 0
    disabled = await place.add_endpoint(state="disabled")
    paused = await place.add_endpoint(state="paused")
    await place.record("b")
    while (await place.fan_out()).more:
        pass
    assert await place.deliveries(disabled) == []
    assert len(await place.deliveries(paused)) == 1
    assert await place.claim(paused) == [], "kept for it, and not sent"


async def test_what_is_rolled_back_is_no_event(place: QueuePlace) -> None:
    endpoint = await place.add_endpoint()
    with pytest.raises(RuntimeError):
        async with place.database.transaction() as transaction:
            await transaction.run(lambda: outbox.record("alice", "file.deleted", key="never"))
            raise RuntimeError
    await place.fan_out()
    assert await place.deliveries(endpoint) == []


async def test_an_event_that_commits_after_a_younger_one_is_fanned_out_too(postgres_url: str) -> None:
    place = QueuePlace(postgres_url)
    endpoint = await place.add_endpoint()
    async with place.database.transaction() as slow:
        await slow.run(lambda: outbox.record("alice", "file.deleted", key="older"))
        other = Database(parse_url(postgres_url))
        await other.run(lambda: outbox.record("bob", "file.deleted", key="younger"))
        await other.close()
        assert (await place.fan_out_elsewhere()).events == 1
    await place.fan_out()
    assert sorted(keys_of(await place.claim(endpoint))) == ["older", "younger"]
    await place.database.close()


async def test_two_that_fan_out_at_once_make_each_delivery_once(place: QueuePlace) -> None:
    endpoint = await place.add_endpoint()
    others = [QueuePlace(place.url) for _ in range(3)]
    await place.record(*(str(number) for number in range(20)))
    await asyncio.gather(*(one.fan_out() for one in (place, *others)))
    assert len(await place.deliveries(endpoint)) == 20
    for other in others:
        await other.database.close()


# ---- claims


async def test_only_the_first_event_of_a_key_is_claimed_and_the_next_after_it_has_arrived(place: QueuePlace) -> None:
    endpoint = await place.add_endpoint()
    await place.record("a", "b", "a", "a")
    await place.fan_out()
    claims = await place.claim(endpoint)
    assert keys_of(claims) == ["a", "b"]
    assert await place.claim(endpoint) == [], "leased, and the rest waits behind"
    following = await place.exchange(endpoint, [Settled(claims[0], "delivered", status=200)])
    assert keys_of(following.claims) == ["a"]
    assert [row["state"] for row in await place.deliveries(endpoint)] == ["delivered", "pending", "pending", "pending"]


async def test_things_of_one_name_but_another_kind_or_user_do_not_wait_for_each_other(place: QueuePlace) -> None:
    endpoint = await place.add_endpoint()
    await place.record("x", type_="file.written")
    await place.record("x", type_="conversation.saved")
    await place.record("x", user_id="bob")
    await place.fan_out()
    assert len(await place.claim(endpoint)) == 3


async def test_what_a_dispatcher_that_died_held_is_another_ones_when_the_lease_has_ended(place: QueuePlace) -> None:
    endpoint = await place.add_endpoint()
    await place.record("a")
    await place.fan_out()
    [lost] = await place.claim(endpoint)
    await place.end_lease(endpoint)
    [found] = await place.claim(endpoint)
    assert found.items[0].event.id == lost.items[0].event.id
    assert found.items[0].attempts == 2
    await place.exchange(endpoint, [Settled(lost, "dead", status=400)])
    assert [row["state"] for row in await place.deliveries(endpoint)] == ["pending"], "its token is worth nothing now"
    await place.exchange(endpoint, [Settled(found, "delivered", status=200)])
    assert [row["state"] for row in await place.deliveries(endpoint)] == ["delivered"]


async def test_what_was_not_tried_is_not_counted(place: QueuePlace) -> None:
    endpoint = await place.add_endpoint()
    await place.record("a")
    await place.fan_out()
    [claim] = await place.claim(endpoint)
    await place.exchange(endpoint, [Settled(claim, "released", 30.0, text="waits for the master key")])
    [row] = await place.deliveries(endpoint)
    assert (row["attempts"], row["state"], row["last_error"]) == (0, "pending", "waits for the master key")
    assert row["next_at"] > now() + timedelta(seconds=20)


async def test_claims_of_many_dispatchers_at_once_are_of_different_events(place: QueuePlace) -> None:
    endpoint = await place.add_endpoint()
    others = [QueuePlace(place.url) for _ in range(3)]
    await place.record(*(str(number) for number in range(40)))
    await place.fan_out()
    claims = await asyncio.gather(*(one.claim(endpoint, slots=10) for one in (place, *others)))
    found = [key for some in claims for key in keys_of(some)]
    assert len(found) == len(set(found)) == 40
    for other in others:
        await other.database.close()


# ---- what comes back


async def test_a_failure_is_tried_again_later_and_holds_back_its_own_key_only(place: QueuePlace) -> None:
    endpoint = await place.add_endpoint()
    await place.record("a", "a", "b")
    await place.fan_out()
    first, _ = await place.claim(endpoint)
    after = await place.exchange(endpoint, [Settled(first, "retry", 100.0, status=500, text="oh")])
    assert after.claims == ()
    row = (await place.deliveries(endpoint))[0]
    assert (row["state"], row["attempts"], row["last_status"], row["last_error"]) == ("pending", 1, 500, "oh")
    await place.make_due(endpoint)
    assert keys_of(await place.claim(endpoint)) == ["a", "b"]


@pytest.mark.parametrize(("on_dead", "expected"), [("skip", ["a", "b"]), ("block", ["b"])])
async def test_after_a_dead_letter_its_key_goes_on_or_waits(
    place: QueuePlace, on_dead: str, expected: list[str]
) -> None:
    endpoint = await place.add_endpoint(on_dead=on_dead)
    await place.record("a", "a", "b")
    await place.fan_out()
    first, _ = await place.claim(endpoint)
    await place.exchange(endpoint, [Settled(first, "dead", status=400)], slots=0)
    await place.end_lease(endpoint)
    assert keys_of(await place.claim(endpoint)) == expected


async def test_410_disables_the_endpoint_and_nothing_is_lost(place: QueuePlace) -> None:
    endpoint = await place.add_endpoint()
    await place.record("a", "b")
    await place.fan_out()
    first, _ = await place.claim(endpoint)
    exchanged = await place.exchange(endpoint, [Settled(first, "gone", status=410)])
    assert exchanged.endpoint is not None
    assert exchanged.endpoint["state"] == "disabled"
    assert [row["state"] for row in await place.deliveries(endpoint)] == ["pending", "pending"]
    [(state, reason)] = await place.rows("SELECT state, state_reason FROM webhook_endpoint")
    assert (state, reason) == ("disabled", "the receiver answered 410 Gone")


async def test_an_endpoint_that_was_removed_takes_its_queue_along(place: QueuePlace) -> None:
    endpoint = await place.add_endpoint()
    await place.record("a")
    await place.fan_out()
    [claim] = await place.claim(endpoint)
    await place.rows("DELETE FROM webhook_endpoint")
    exchanged = await place.exchange(endpoint, [Settled(claim, "delivered", status=200)])
    assert exchanged.endpoint is None
    assert await place.count("delivery") == 0


# ---- the breaker


async def test_after_some_failures_nothing_is_sent_for_a_while_and_then_one_event_tries(place: QueuePlace) -> None:
    endpoint = await place.add_endpoint()
    await place.record(*(str(number) for number in range(FAILURES_TO_OPEN + 3)))
    await place.fan_out()
    claims = await place.claim(endpoint, slots=FAILURES_TO_OPEN)
    exchanged = await place.exchange(endpoint, [Settled(claim, "retry", 0.0, status=500) for claim in claims])
    assert exchanged.claims == ()
    assert exchanged.endpoint is not None
    assert exchanged.endpoint["failures"] == FAILURES_TO_OPEN
    assert await place.claim(endpoint) == [], "open"
    await place.make_due(endpoint)
    [probe] = await place.claim(endpoint)
    assert await place.claim(endpoint) == [], "half open: one at a time"
    after = await place.exchange(endpoint, [Settled(probe, "retry", 0.0, status=500)])
    assert after.endpoint is not None
    assert after.endpoint["failures"] == FAILURES_TO_OPEN + 1
    await place.make_due(endpoint)
    [probe] = await place.claim(endpoint)
    closed = await place.exchange(endpoint, [Settled(probe, "delivered", status=200)])
    assert closed.endpoint is not None
    assert (closed.endpoint["failures"], closed.endpoint["blocked_until"]) == (0, None)
    assert len(closed.claims) == FAILURES_TO_OPEN + 2


async def test_a_receiver_that_refuses_events_is_there_so_its_breaker_stays_closed(place: QueuePlace) -> None:
    endpoint = await place.add_endpoint()
    await place.record(*(str(number) for number in range(20)))
    await place.fan_out()
    claims = await place.claim(endpoint, slots=10)
    exchanged = await place.exchange(endpoint, [Settled(claim, "dead", status=422) for claim in claims])
    assert len(exchanged.claims) == 10


async def test_a_receiver_that_asks_to_wait_is_left_alone(place: QueuePlace) -> None:
    endpoint = await place.add_endpoint()
    await place.record("a", "b")
    await place.fan_out()
    [first] = await place.claim(endpoint, slots=1)
    exchanged = await place.exchange(endpoint, [Settled(first, "retry", 60.0, hold=60.0, status=429)])
    assert exchanged.claims == ()
    assert exchanged.endpoint is not None
    assert exchanged.endpoint["blocked_until"] > now() + timedelta(seconds=50)


# ---- batches


async def test_a_batch_is_complete_by_number_and_one_goes_at_a_time(place: QueuePlace) -> None:
    endpoint = await place.add_endpoint(mode="batched")
    await place.record("a", "b", "a", "c", "d", "e", "f")
    await place.fan_out()
    [first] = await place.claim(endpoint)
    assert keys_of([first]) == ["a", "b", "a"]
    assert first.batch_id is not None
    assert await place.claim(endpoint) == []
    exchanged = await place.exchange(endpoint, [Settled(first, "delivered", status=200)])
    assert keys_of(exchanged.claims) == ["c", "d", "e"]
    exchanged = await place.exchange(endpoint, [Settled(exchanged.claims[0], "delivered", status=200)])
    assert (exchanged.claims, exchanged.due is not None) == ((), True), "one is left, and not complete"


async def test_a_batch_is_complete_by_the_age_of_its_oldest_event(place: QueuePlace) -> None:
    endpoint = await place.add_endpoint(mode="batched", batch_events=100, batch_seconds=3600.0)
    await place.record("a")
    await place.fan_out()
    waiting = await place.exchange(endpoint)
    assert waiting.claims == ()
    assert waiting.due is not None
    assert timedelta(minutes=59) < waiting.due - now() < timedelta(minutes=61)
    await place.rows("UPDATE webhook_endpoint SET batch_seconds = 0")
    assert keys_of(await place.claim(endpoint)) == ["a"]


async def test_a_batch_is_complete_by_bytes_and_a_larger_event_goes_alone(place: QueuePlace) -> None:
    endpoint = await place.add_endpoint(mode="batched", batch_events=100, batch_bytes=700)
    await place.record("a", "b", "c")
    await place.fan_out()
    assert keys_of(await place.claim(endpoint)) == ["a", "b"]
    alone = await place.add_endpoint(mode="batched", batch_events=100, batch_bytes=1)
    await place.record("d", "e")
    await place.fan_out()
    assert keys_of(await place.claim(alone)) == ["d"]


@pytest.mark.parametrize("zero", ["batch_events", "batch_bytes", "batch_seconds"])
async def test_a_limit_of_0_means_0_so_what_is_there_goes_at_once(place: QueuePlace, zero: str) -> None:
    endpoint = await place.add_endpoint(mode="batched", **{zero: 0})
    await place.record("a")
    await place.fan_out()
    assert keys_of(await place.claim(endpoint)) == ["a"]


async def test_a_batch_is_tried_again_with_the_same_events_under_the_same_id(place: QueuePlace) -> None:
    endpoint = await place.add_endpoint(mode="batched")
    await place.record("a", "b", "c")
    await place.fan_out()
    [first] = await place.claim(endpoint)
    await place.record("d", "e", "f", "g")
    await place.fan_out()
    await place.exchange(endpoint, [Settled(first, "retry", 0.0, status=500)])
    await place.make_due(endpoint)
    [again] = await place.claim(endpoint)
    assert (again.batch_id, keys_of([again])) == (first.batch_id, ["a", "b", "c"])
    await place.end_lease(endpoint)
    [third] = await place.claim(endpoint)
    assert (third.batch_id, keys_of([third])) == (first.batch_id, ["a", "b", "c"]), "also after a crash"


async def test_a_part_of_a_batch_that_cannot_be_sent_is_dead_alone(place: QueuePlace) -> None:
    endpoint = await place.add_endpoint(mode="batched")
    await place.record("a", "b", "c")
    await place.fan_out()
    [claim] = await place.claim(endpoint)
    bad = type(claim)(claim.token, claim.items[1:2], claim.batch_id)
    rest = type(claim)(claim.token, (claim.items[0], claim.items[2]), claim.batch_id)
    settled = [Settled(bad, "dead", text="missing", is_attempt=False), Settled(rest, "retry", 0.0, status=500)]
    await place.exchange(endpoint, settled)
    await place.make_due(endpoint)
    [again] = await place.claim(endpoint)
    assert keys_of([again]) == ["a", "c"]


# ---- dead letters


async def dead(place: QueuePlace, endpoint: Any, *keys: str) -> None:
    await place.record(*keys)
    await place.fan_out()
    claims = await place.claim(endpoint)
    await place.exchange(endpoint, [Settled(claim, "dead", status=400, text="no") for claim in claims], slots=0)


async def test_dead_letters_are_listed_in_pages_with_what_the_receiver_said(place: QueuePlace) -> None:
    endpoint = await place.add_endpoint()
    await dead(place, endpoint, "a", "b", "c")
    first = await dead_letters.page(place.database, endpoint, limit=2)
    rest = await dead_letters.page(place.database, endpoint, after=first[-1].seq)
    assert [(one.key, one.status, one.error, one.attempts) for one in (*first, *rest)] == [
        (key, 400, "no", 1) for key in "abc"
    ]


async def test_a_dead_letter_is_replayed_by_its_id_under_that_id(place: QueuePlace) -> None:
    endpoint = await place.add_endpoint()
    await dead(place, endpoint, "a", "b")
    letter = (await dead_letters.page(place.database, endpoint))[1]
    assert await place.database.run(lambda: dead_letters.replay(endpoint, [letter.id])) == 1
    [claim] = await place.claim(endpoint)
    assert (claim.items[0].event.id, claim.items[0].attempts) == (letter.id, 1)
    with pytest.raises(DeliveryNotFound, match="has no dead letter"):
        await place.database.run(lambda: dead_letters.replay(endpoint, [letter.id]))


async def test_dead_letters_are_replayed_by_the_time_of_their_events(place: QueuePlace) -> None:
    endpoint = await place.add_endpoint()
    await dead(place, endpoint, "a")
    middle = now()
    await dead(place, endpoint, "b", "c")
    late = now() + timedelta(days=1)
    assert await place.database.run(lambda: dead_letters.replay_range(endpoint, middle, late)) == 2
    assert keys_of(await place.claim(endpoint)) == ["b", "c"]


async def test_a_dead_batch_is_replayed_as_a_whole_under_its_id(place: QueuePlace) -> None:
    endpoint = await place.add_endpoint(mode="batched")
    await dead(place, endpoint, "a", "b", "c")
    letters = await dead_letters.page(place.database, endpoint)
    assert await place.database.run(lambda: dead_letters.replay(endpoint, [letters[1].id])) == 3
    [claim] = await place.claim(endpoint)
    assert (claim.batch_id, keys_of([claim])) == (letters[0].batch_id, ["a", "b", "c"])


# ---- retention


async def test_events_that_nobody_waits_for_are_pruned_and_the_others_stay(place: QueuePlace) -> None:
    endpoint = await place.add_endpoint()
    await place.record("delivered")
    await place.fan_out()
    [claim] = await place.claim(endpoint)
    await place.exchange(endpoint, [Settled(claim, "delivered", status=200)])
    await dead(place, endpoint, "dead")
    await place.record("pending")
    await place.fan_out()
    await place.record("waiting")
    assert await prune(place.database, now() - timedelta(hours=1)) == 0, "too young"
    assert await prune(place.database, now() + timedelta(seconds=1)) == 1
    assert [key for (key,) in await place.rows('SELECT "key" FROM event ORDER BY seq')] == [
        "dead",
        "pending",
        "waiting",
    ]
    await place.rows("DELETE FROM webhook_endpoint")
    assert await prune(place.database, now() + timedelta(seconds=1)) == 3
    assert await place.count("delivery") == 0


async def test_pruning_goes_through_more_events_than_one_transaction_takes(
    place: QueuePlace, monkeypatch: pytest.MonkeyPatch
) -> None:
    for bound in ("FIRST", "FEWEST", "MOST"):
        monkeypatch.setattr(f"storage.database.pace.{bound}", 3)
    endpoint = await place.add_endpoint()
    await dead(place, endpoint, "dead", "dead2")
    await place.rows("DELETE FROM webhook_endpoint")
    other = await place.add_endpoint()
    await dead(place, other, "kept", "kept2", "kept3", "kept4")
    await place.record(*(str(number) for number in range(8)))
    await place.rows("UPDATE event SET to_fan_out = NULL")
    assert await prune(place.database, now() + timedelta(seconds=1)) == 10
    assert await place.count("event") == 4


async def test_an_endpoint_that_is_being_removed_or_changed_holds_up_nobody_else(postgres_url: str) -> None:
    place = QueuePlace(postgres_url)
    going = await place.add_endpoint(user_id="alice")
    stays = await place.add_endpoint(user_id="bob")
    await place.record("a", user_id="alice")
    await place.record("b", user_id="bob")
    other = await asyncpg.connect(parse_url(postgres_url).location)
    for change in ("UPDATE webhook_endpoint SET description = 'x'", "DELETE FROM webhook_endpoint"):
        transaction = other.transaction()
        await transaction.start()
        await other.execute(f"{change} WHERE id = $1", going)
        async with asyncio.timeout(10):
            fanned = await place.fan_out()
        assert fanned.events == (2 if change.startswith("UPDATE") else 1)
        await transaction.rollback()
        await place.fan_out()
        assert len(await place.deliveries(going)) == len(await place.deliveries(stays))
        await place.record("a", user_id="alice")
        await place.record("b", user_id="bob")
    await other.close()
    await place.database.close()


async def test_an_endpoint_that_comes_and_goes_while_events_are_fanned_out_breaks_nothing(own_url: str) -> None:
    place, other = QueuePlace(own_url), QueuePlace(own_url)
    stays = await place.add_endpoint()

    async def churn() -> None:
        for _ in range(15):
            await other.add_endpoint(user_id="alice")
            await other.rows("DELETE FROM webhook_endpoint WHERE user_id = 'alice'")

    churning = asyncio.create_task(churn())
    number = 0
    while not churning.done():
        await place.record(str(number))
        await place.fan_out()
        number += 1
    await churning
    await place.fan_out()
    assert len(await place.deliveries(stays)) == number
    await place.empty()
    for one in (place, other):
        await one.database.close()
