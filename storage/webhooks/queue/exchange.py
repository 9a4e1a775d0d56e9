"""The queue of one endpoint: what is claimed under a lease, and what became of it.

One unit settles what has come back and claims what comes next, under a lock of the endpoint's row. So however many
dispatchers there are, each endpoint's queue changes by one of them at a time, and its circuit breaker with it.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final, Literal, TypeAlias

from storage.clock import now
from storage.database.statement import Row
from storage.database.unit import Unit, execute, execute_many
from storage.identity import new_id
from storage.webhooks.message import Event
from storage.webhooks.queue import statements as sql
from storage.webhooks.queue.retry import FAILURES_TO_OPEN, breaker_pause

Outcome: TypeAlias = Literal["delivered", "retry", "dead", "gone", "released", "waits"]
"""What became of an attempt. `released`: it was not made, so it is not counted. `waits`: nor was it, and it belongs to
its batch no longer."""

EVENT_OVERHEAD_BYTES: Final = 256
"""What an event adds to a batch besides its payload and content: its id, type, time and key."""

GONE: Final = "the receiver answered 410 Gone"

_STATES: Final[Mapping[Outcome, str]] = {
    "delivered": "delivered",
    "dead": "dead",
    "retry": "pending",
    "gone": "pending",
}


@dataclass(frozen=True, slots=True)
class Claimed:
    """An event to deliver.

    Attributes:
        event: the event.
        attempts: with the one to be made now.
    """

    event: Event
    attempts: int


@dataclass(frozen=True, slots=True)
class Claim:
    """What is to be sent with one request, leased by one token: one event, or a batch of them in order.

    Attributes:
        token: of the lease.
        items: the events.
        batch_id: of the batch; None for one event.
        url: where the endpoint was when it was claimed.
    """

    token: uuid.UUID
    items: tuple[Claimed, ...]
    batch_id: uuid.UUID | None = None
    url: str | None = None


@dataclass(frozen=True, slots=True)
class Settled:
    """What became of a claim.

    Attributes:
        claim: the claim.
        outcome: see Outcome.
        after: seconds until the next attempt.
        hold: seconds that the receiver asked to be left alone for; None if it did not ask.
        status: of HTTP; None without an answer.
        text: of the answer, or why there is none.
        is_attempt: whether a request was made; False for what is dead because it cannot be made.
    """

    claim: Claim
    outcome: Outcome
    after: float = 0.0
    hold: float | None = None
    status: int | None = None
    text: str = ""
    is_attempt: bool = True


@dataclass(frozen=True, slots=True)
class Exchanged:
    """What a dispatcher gets.

    Attributes:
        endpoint: the row, None if the endpoint was removed.
        claims: what to send now.
        due: when a batch that is not complete goes all the same; None if there is none.
    """

    endpoint: Mapping[str, Any] | None = field(repr=False)
    claims: tuple[Claim, ...] = ()
    due: datetime | None = None


def exchange(
    endpoint_id: uuid.UUID,
    settled: Sequence[Settled],
    *,
    slots: int,
    lease: timedelta,
    random: Callable[[], float],
) -> Unit[Exchanged]:
    """Settle what has come back and claim what comes next.

    Args:
        endpoint_id: whose queue.
        settled: claims of this queue; those whose lease another dispatcher has taken over since are left alone.
        slots: requests that may be claimed at most; 0 claims nothing.
        lease: how long the claims are the caller's.
        random: between 0 and 1, for the pauses of the breaker.
    """
    rows = yield from execute(sql.LOCK_ENDPOINT, endpoint_id=endpoint_id)
    if not rows:
        return Exchanged(None)  # and its deliveries went with it
    endpoint = dict(zip(sql.ENDPOINT.c.keys(), rows[0], strict=True))
    moment = now()
    yield from _settle(endpoint_id, settled, moment)
    # What a receiver has answered says nothing of the one at the URL to which the endpoint has moved since.
    of_now = [item for item in settled if item.claim.url in (None, endpoint["url"])]
    breaker = _breaker(endpoint, of_now, moment, random)
    if any(item.outcome == "gone" for item in of_now):
        yield from execute(sql.DISABLE, endpoint_id=endpoint_id, state_reason=GONE, now=moment)
        endpoint["state"] = "disabled"
    failures, blocked_until = breaker
    claims: tuple[Claim, ...] = ()
    due = None
    if endpoint["state"] == "active" and slots and not (blocked_until is not None and blocked_until > moment):
        is_probe = failures >= FAILURES_TO_OPEN
        if endpoint["mode"] == "batched":
            claims, due = yield from _claim_batch(endpoint, moment, lease)
        else:
            claims = yield from _claim_heads(endpoint, moment, lease, 1 if is_probe else slots)
        if is_probe and claims:
            blocked_until = moment + lease  # half open: nobody else tries until this one is settled
    if (failures, blocked_until) != (endpoint["failures"], endpoint["blocked_until"]):
        yield from execute(sql.BREAKER, endpoint_id=endpoint_id, failures=failures, blocked_until=blocked_until)
        endpoint.update(failures=failures, blocked_until=blocked_until)
    return Exchanged(endpoint, claims, due)


def renew(endpoint_id: uuid.UUID, claim: Claim, lease: timedelta) -> Unit[bool]:
    """Keep a claim for another `lease`; whether all of it is still the caller's."""
    seqs = [item.event.seq for item in claim.items]
    renewed = yield from execute(
        sql.RENEW, endpoint_id=endpoint_id, event_seqs=seqs, token=claim.token, lease_until=now() + lease
    )
    return len(renewed) == len(seqs)


def _settle(endpoint_id: uuid.UUID, settled: Sequence[Settled], moment: datetime) -> Unit[None]:
    """One statement for all of which the same is to be said, which mostly is that they were delivered."""
    together: dict[tuple[Any, ...], list[int]] = {}
    for item in settled:
        error = None if item.outcome == "delivered" else item.text
        said = (item.claim.token, item.outcome, item.is_attempt, item.after, item.status, error)
        together.setdefault(said, []).extend(claimed.event.seq for claimed in item.claim.items)
    tried, unsent, released = [], [], []
    for (token, outcome, is_attempt, after, status, error), seqs in together.items():
        values = {
            "endpoint_id": endpoint_id,
            "event_seqs": seqs,
            "token": token,
            "next_at": moment + timedelta(seconds=after),
            "last_error": error,
            "now": moment,
        }
        if outcome == "released":
            released.append(values)
        elif not is_attempt:
            unsent.append(values | {"state": _STATES[outcome]})
        else:
            tried.append(values | {"state": _STATES[outcome], "last_status": status})
    yield from execute_many(sql.SETTLE, tried)
    yield from execute_many(sql.SETTLE_UNSENT, unsent)
    yield from execute_many(sql.RELEASE, released)


def _breaker(
    endpoint: Mapping[str, Any], settled: Sequence[Settled], moment: datetime, random: Callable[[], float]
) -> tuple[int, datetime | None]:
    """The failures in a row, and until when nothing is sent.

    A receiver that refuses an event is there and answers, so that is no failure. Some that failed together open the
    breaker no further than one: they say the same thing once.
    """
    failures, blocked_until = int(endpoint["failures"]), endpoint["blocked_until"]
    failed = sum(_has_failed(item) for item in settled)
    if any(item.outcome in ("delivered", "dead") and item.is_attempt and not _has_failed(item) for item in settled):
        # Below that number it was the receiver itself that asked to be left alone, and it has not taken that back.
        failures, blocked_until = 0, None if failures >= FAILURES_TO_OPEN else blocked_until
    elif failed:
        failures = failures + 1 if failures >= FAILURES_TO_OPEN else min(failures + failed, FAILURES_TO_OPEN)
        pause = breaker_pause(failures, random)
        if pause is not None:
            blocked_until = moment + timedelta(seconds=pause)
    holds = [item.hold for item in settled if item.hold is not None]
    if holds:
        asked = moment + timedelta(seconds=max(holds))
        blocked_until = asked if blocked_until is None else max(blocked_until, asked)
    return failures, blocked_until


def _has_failed(item: Settled) -> bool:
    """Whether the receiver did; also at the last attempt, after which an event is dead."""
    is_refusal = item.status is not None and 400 <= item.status < 500  # noqa: PLR2004 - the class of client errors
    return item.outcome == "retry" or (item.outcome == "dead" and not is_refusal and item.is_attempt)


def _claim_heads(
    endpoint: Mapping[str, Any], moment: datetime, lease: timedelta, slots: int
) -> Unit[tuple[Claim, ...]]:
    rows = yield from execute(sql.HEADS[endpoint["on_dead"]], endpoint_id=endpoint["id"], now=moment, limit=slots)
    token = new_id()
    claims = tuple(Claim(token, (_claimed(row),), url=endpoint["url"]) for row in rows)
    yield from _lease(endpoint, claims, moment, lease)
    return claims


def _claim_batch(
    endpoint: Mapping[str, Any], moment: datetime, lease: timedelta
) -> Unit[tuple[tuple[Claim, ...], datetime | None]]:
    """One batch at a time: the one that was made and has not arrived, as it was made, or a new one if it is complete.

    Its events are marked with its id, so a retry sends the same ones in the same order, and the same bytes.
    """
    open_batch = yield from execute(sql.OPEN_BATCH, endpoint_id=endpoint["id"])
    if open_batch:
        batch_id, next_at, lease_until = open_batch[0]
        if next_at > moment or (lease_until is not None and lease_until > moment):
            return (), None
        rows = yield from execute(sql.OF_BATCH, endpoint_id=endpoint["id"], batch_id=batch_id)
    else:
        most = max(endpoint["batch_events"], 1)
        rows = yield from execute(sql.NEXT[endpoint["on_dead"]], endpoint_id=endpoint["id"], limit=most)
        rows = _free(rows, moment)
        rows, due = _complete(endpoint, rows, moment)
        if due is not None or not rows:
            return (), due
        batch_id = new_id()
    claim = Claim(new_id(), tuple(_claimed(row) for row in rows), batch_id, endpoint["url"])
    yield from _lease(endpoint, (claim,), moment, lease)
    return (claim,), None


def _free(rows: list[Row], moment: datetime) -> list[Row]:
    """Those of the rows that may go now, and are not behind one of their line that may not."""
    free: list[Row] = []
    held: set[int] = set()
    for line, next_at, lease_until, *row in rows:
        if line in held or next_at > moment or (lease_until is not None and lease_until > moment):
            held.add(line)
        else:
            free.append(tuple(row))
    return free


def _complete(endpoint: Mapping[str, Any], rows: list[Row], moment: datetime) -> tuple[list[Row], datetime | None]:
    """The rows that make a batch; or when they do, if no limit is reached yet. At least one, however large it is."""
    taken: list[Row] = []
    total = 0
    is_full = len(rows) >= endpoint["batch_events"]
    for row in rows:
        total += _size(endpoint, _claimed(row).event)
        if taken and total > endpoint["batch_bytes"]:
            is_full = True
            break
        taken.append(row)
    is_full = is_full or total >= endpoint["batch_bytes"]
    if is_full or not taken:
        return taken, None
    due = _claimed(taken[0]).event.created_at + timedelta(seconds=endpoint["batch_seconds"])
    return taken, due if due > moment else None


def _size(endpoint: Mapping[str, Any], event: Event) -> int:
    """Bytes that an event adds to a batch, about."""
    size = EVENT_OVERHEAD_BYTES + len(event.key)
    if event.blob_key is not None and (endpoint["format"] == "openhands" or endpoint["include"] == "content"):
        content = event.payload.get("size")
        if isinstance(content, int) and content <= endpoint["include_bytes"]:
            size += content
    return size


def _claimed(row: Row) -> Claimed:
    attempts, _, *event = row
    return Claimed(Event(*event), int(attempts) + 1)


def _lease(endpoint: Mapping[str, Any], claims: Sequence[Claim], moment: datetime, lease: timedelta) -> Unit[None]:
    """Of one exchange: all have one token, and one batch if any."""
    if not claims:
        return
    yield from execute(
        sql.LEASE,
        endpoint_id=endpoint["id"],
        event_seqs=[item.event.seq for claim in claims for item in claim.items],
        batch_id=claims[0].batch_id,
        lease_until=moment + lease,
        lease_token=claims[0].token,
        now=moment,
    )
