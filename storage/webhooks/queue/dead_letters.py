"""Events that could not be delivered: kept, shown, and sent again when a person asks for it."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from sqlalchemy import BigInteger, Integer, Uuid, bindparam, literal_column, null, select, update

from storage.clock import now
from storage.database.statement import Statement
from storage.database.types import UTCDateTime
from storage.database.unit import Executor, Unit, execute
from storage.errors import DeliveryNotFound, InvalidInput
from storage.webhooks.queue.statements import DELIVERY, EVENT

MOST: Final = 1000
"""Letters of one page at most."""

_DEAD: Final[Any] = literal_column("'dead'")
_of_endpoint: Final = DELIVERY.c.endpoint_id == bindparam("endpoint_id", type_=Uuid())
_is_dead: Final = DELIVERY.c.state == _DEAD

PAGE: Final = Statement(
    "delivery.dead_page",
    select(
        DELIVERY.c.endpoint_id,
        EVENT.c.id,
        EVENT.c.seq,
        EVENT.c.user_id,
        EVENT.c.type,
        EVENT.c.key,
        EVENT.c.version,
        EVENT.c.created_at,
        DELIVERY.c.batch_id,
        DELIVERY.c.attempts,
        DELIVERY.c.last_status,
        DELIVERY.c.last_error,
        DELIVERY.c.updated_at,
    )
    .select_from(DELIVERY.join(EVENT, EVENT.c.seq == DELIVERY.c.event_seq))
    .where(_of_endpoint, _is_dead, DELIVERY.c.event_seq > bindparam("after", type_=BigInteger))
    .order_by(DELIVERY.c.event_seq)
    .limit(bindparam("limit", type_=Integer)),
)
FIND: Final = Statement(
    "delivery.find_dead",
    select(DELIVERY.c.event_seq, DELIVERY.c.batch_id)
    .select_from(EVENT.join(DELIVERY, DELIVERY.c.event_seq == EVENT.c.seq))
    .where(EVENT.c.id == bindparam("event_id", type_=Uuid()), _of_endpoint, _is_dead),
)
_alive: Final[dict[str, Any]] = {
    "state": literal_column("'pending'"),
    "attempts": literal_column("0"),
    "next_at": bindparam("now", type_=UTCDateTime()),
    "lease_until": null(),
    "lease_token": null(),
    "updated_at": bindparam("now", type_=UTCDateTime()),
}
REPLAY_ONE: Final = Statement(
    "delivery.replay_one",
    update(DELIVERY)
    .where(_of_endpoint, DELIVERY.c.event_seq == bindparam("event_seq", type_=BigInteger), _is_dead)
    .values(_alive)
    .returning(DELIVERY.c.event_seq),
)
REPLAY_BATCH: Final = Statement(
    "delivery.replay_batch",
    update(DELIVERY)
    .where(_of_endpoint, _is_dead, DELIVERY.c.batch_id == bindparam("batch_id", type_=Uuid()))
    .values(_alive)
    .returning(DELIVERY.c.event_seq),
)
REPLAY_ALL: Final = Statement(
    "delivery.replay_all",
    update(DELIVERY)
    .where(
        _of_endpoint,
        _is_dead,
        DELIVERY.c.event_seq.in_(
            select(EVENT.c.seq).where(
                EVENT.c.seq == DELIVERY.c.event_seq,
                EVENT.c.created_at >= bindparam("since", type_=UTCDateTime()),
                EVENT.c.created_at < bindparam("until", type_=UTCDateTime()),
            )
        ),
    )
    .values(_alive)
    .returning(DELIVERY.c.event_seq, DELIVERY.c.batch_id),
)


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """An event that one endpoint did not take.

    Attributes:
        endpoint_id: which endpoint.
        id: of the event: its `webhook-id`, unless it went with a batch.
        seq: of the event; the next page begins after it.
        user_id: whose data changed.
        type: what happened, such as `file.written`.
        key: which one.
        version: of the row, None where rows have none.
        created_at: when it happened; aware UTC.
        batch_id: of the batch that it went with: the `webhook-id`. None if it went alone.
        attempts: how many were made.
        status: of the last answer, None if there was none.
        error: what the last answer said, at most 1 KiB, or why there was none.
        died_at: when it was given up; aware UTC.
    """

    endpoint_id: uuid.UUID
    id: uuid.UUID
    seq: int
    user_id: str
    type: str
    key: str
    version: int | None
    created_at: datetime
    batch_id: uuid.UUID | None
    attempts: int
    status: int | None
    error: str | None
    died_at: datetime


async def page(executor: Executor, endpoint_id: uuid.UUID, *, after: int = 0, limit: int = 100) -> list[DeadLetter]:
    """Dead letters of one endpoint in the order of their events, those behind `after`.

    Raises:
        InvalidInput: a limit that is not between 1 and 1,000.
    """
    if not 1 <= limit <= MOST:
        raise InvalidInput(f"limit must be between 1 and {MOST}, not {limit!r}")
    rows = await executor.read(PAGE, {"endpoint_id": endpoint_id, "after": after, "limit": limit}, scan=True)
    return [DeadLetter(*row) for row in rows]


def replay(endpoint_id: uuid.UUID, ids: Sequence[uuid.UUID]) -> Unit[int]:
    """Have events delivered again, under the same id and with the whole number of attempts; returns how many.

    One that went with a batch takes the rest of its batch along, so that the same bytes are sent under that id.

    Raises:
        DeliveryNotFound: one of them is no dead letter of this endpoint; none is replayed.
    """
    replayed: set[int] = set()
    for event_id in ids:
        found = yield from execute(FIND, event_id=event_id, endpoint_id=endpoint_id)
        if not found:
            raise DeliveryNotFound(f"endpoint {endpoint_id} has no dead letter {event_id}")
        seq, batch_id = found[0]
        if seq in replayed:
            continue
        moment = now()
        if batch_id is None:
            rows = yield from execute(REPLAY_ONE, endpoint_id=endpoint_id, event_seq=seq, now=moment)
        else:
            rows = yield from execute(REPLAY_BATCH, endpoint_id=endpoint_id, batch_id=batch_id, now=moment)
        replayed.update(row[0] for row in rows)
    return len(replayed)


def replay_range(endpoint_id: uuid.UUID, since: datetime, until: datetime) -> Unit[int]:
    """As `replay`, for all dead letters of events that happened at `since <= time < until`."""
    rows = yield from execute(REPLAY_ALL, endpoint_id=endpoint_id, since=since, until=until, now=now())
    number = len(rows)
    for batch_id in {batch_id for _, batch_id in rows if batch_id is not None}:
        number += len((yield from execute(REPLAY_BATCH, endpoint_id=endpoint_id, batch_id=batch_id, now=now())))
    return number
