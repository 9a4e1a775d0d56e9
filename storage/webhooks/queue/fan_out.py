"""Each committed event gets a delivery for every endpoint that wants it: after the commit, and exactly once.

Not in the writer's transaction, which would pay for it with every write, and not by remembering how far one came: on
PostgreSQL a transaction that began earlier may commit later, and its events appear behind that mark.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

from storage.clock import now
from storage.database.unit import Unit, execute, execute_many
from storage.webhooks.endpoints.model import wants
from storage.webhooks.queue import statements as sql

AT_ONCE: Final = 500
"""Events of one transaction: some 10 ms on SQLite, for which other writers wait."""

PASSED_OVER_AT_ONCE: Final = 5000
"""Events older than any endpoint, which need no delivery: a first endpoint may come after very many of them."""


@dataclass(frozen=True, slots=True)
class FannedOut:
    """What one step has done.

    Attributes:
        events: that have their deliveries now.
        deliveries: how many these are.
        more: whether events are left.
    """

    events: int
    deliveries: int
    more: bool


NOTHING: Final = FannedOut(0, 0, more=False)


def fan_out() -> Unit[FannedOut]:
    """Give the oldest events that wait their deliveries. One process at a time; another one does nothing meanwhile."""
    ((is_ours,),) = yield from execute(sql.TRY_FAN_OUT)
    if not is_ours:
        return NOTHING
    ((oldest,),) = yield from execute(sql.OLDEST_ENDPOINT)
    if oldest is None:
        return NOTHING  # events wait until there is an endpoint, or until they are pruned
    events = yield from execute(sql.WAITING, limit=AT_ONCE)
    if not events:
        return NOTHING
    if events[0][0] <= oldest:
        yield from execute(sql.PASS_OVER, last=oldest, limit=PASSED_OVER_AT_ONCE)
        return FannedOut(0, 0, more=True)
    listeners = yield from _listeners(user_id for _, user_id, _, _ in events)
    if None in listeners.going:
        return NOTHING  # the operator's endpoint is just being removed, or not: at the next look it is known
    ready = [event for event in events if event[1] not in listeners.going]
    moment = now()
    deliveries = [
        {"endpoint_id": endpoint_id, "event_seq": seq, "line": line_of(user_id, type_, key), "now": moment}
        for seq, user_id, type_, key in ready
        for endpoint_id, patterns, from_seq in (*listeners.of(None), *listeners.of(user_id))
        if seq > from_seq and wants(patterns, type_)
    ]
    yield from execute_many(sql.ADD_DELIVERY, deliveries)
    yield from execute(sql.FANNED_OUT, event_seqs=[seq for seq, *_ in ready])
    return FannedOut(len(ready), len(deliveries), more=bool(ready) and len(events) == AT_ONCE)


@dataclass(frozen=True, slots=True)
class _Listeners:
    """Who hears of some events.

    Attributes:
        by_owner: the endpoints as (id, patterns, from_seq), by whom they belong to; None is the operator.
        going: owners of an endpoint that an open transaction is removing. Their events wait for its end; nobody else's
            do.
    """

    by_owner: dict[str | None, list[tuple[Any, tuple[str, ...], int]]]
    going: set[str | None]

    def of(self, owner: str | None) -> list[tuple[Any, tuple[str, ...], int]]:
        return self.by_owner.get(owner, [])


def _listeners(user_ids: Iterable[str]) -> Unit[_Listeners]:
    users = sorted(set(user_ids))
    there = (yield from execute(sql.OPERATORS)) + (yield from execute(sql.USERS, users=users))
    held = (yield from execute(sql.HOLD_OPERATORS)) + (yield from execute(sql.HOLD_USERS, users=users))
    found: dict[str | None, list[tuple[Any, tuple[str, ...], int]]] = {}
    for endpoint_id, user_id, patterns, from_seq in held:
        found.setdefault(user_id, []).append((endpoint_id, tuple(patterns), from_seq))
    stay = {row[0] for row in held}
    return _Listeners(found, {row[1] for row in there if row[0] not in stay})


def line_of(user_id: str, type_: str, key: str) -> int:
    """The line of an event: those of one thing of one user arrive in their order.

    64 bits of a hash, as a signed number. Two things of one hash wait for each other, which harms nobody.
    """
    noun = type_.partition(".")[0]
    digest = hashlib.blake2b(f"{user_id}\0{noun}\0{key}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big", signed=True)
