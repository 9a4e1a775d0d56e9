"""The statements of the queue. Its partial indexes hold what waits and nothing of what was delivered."""

from __future__ import annotations

import uuid
from typing import Any, Final

from sqlalchemy import (
    BigInteger,
    Integer,
    Uuid,
    and_,
    bindparam,
    delete,
    exists,
    func,
    insert,
    literal_column,
    null,
    or_,
    select,
    update,
)

from storage.database.expressions import NumberList, any_of, is_any, try_lock_until_commit
from storage.database.statement import Statement
from storage.database.types import UTCDateTime
from storage.webhooks.table import DeliveryTable, EventTable, WebhookEndpointTable

EVENT: Final[Any] = EventTable.__table__  # type: ignore[attr-defined]
ENDPOINT: Final[Any] = WebhookEndpointTable.__table__  # type: ignore[attr-defined]
DELIVERY: Final[Any] = DeliveryTable.__table__  # type: ignore[attr-defined]

EVENT_COLUMNS: Final = (
    EVENT.c.seq,
    EVENT.c.id,
    EVENT.c.user_id,
    EVENT.c.type,
    EVENT.c.key,
    EVENT.c.version,
    EVENT.c.payload,
    EVENT.c.created_at,
    EVENT.c.blob_key,
    EVENT.c.content_key,
)
"""What storage.webhooks.message.Event takes, in its order."""

# Literals: a partial index serves a condition that holds its own, not one with a parameter in the same place.
_PENDING: Final[Any] = literal_column("'pending'")
_DELIVERED: Final[Any] = literal_column("'delivered'")
_DEAD: Final[Any] = literal_column("'dead'")
_ONE: Final = literal_column("1", Integer)

_now: Final = bindparam("now", type_=UTCDateTime())
_limit: Final = bindparam("limit", type_=Integer)

# ---- fan out

_FAN_OUT: Final = int.from_bytes(b"fan-outs")
"""Tells the lock from the other advisory locks of the database."""

TRY_FAN_OUT: Final = Statement("event.try_fan_out", select(try_lock_until_commit(_FAN_OUT)))
"""True, or false while another process is at it: of two at once, the one with the younger events could commit first,
and a delivery of them be claimed before an older one of the same line exists."""

WAITING: Final = Statement(
    "event.waiting",
    select(EVENT.c.seq, EVENT.c.user_id, EVENT.c.type, EVENT.c.key)
    .where(EVENT.c.to_fan_out.is_not(None), EVENT.c.seq > literal_column("0"))
    .order_by(EVENT.c.seq)
    .limit(_limit),
)
_LISTENS: Final = (ENDPOINT.c.id, ENDPOINT.c.user_id, ENDPOINT.c.event_types, ENDPOINT.c.from_seq)
_operators: Final = select(*_LISTENS).where(ENDPOINT.c.user_id.is_(None), ENDPOINT.c.state != "disabled")
_users: Final = select(*_LISTENS).where(any_of(ENDPOINT.c.user_id, bindparam("users")), ENDPOINT.c.state != "disabled")
_held: Final[dict[str, Any]] = {"read": True, "key_share": True, "skip_locked": True}
OPERATORS: Final = Statement("webhook_endpoint.operators", _operators)
USERS: Final = Statement("webhook_endpoint.users", _users)
HOLD_OPERATORS: Final = Statement("webhook_endpoint.hold_operators", _operators.with_for_update(**_held))
HOLD_USERS: Final = Statement("webhook_endpoint.hold_users", _users.with_for_update(**_held))
"""The same, but for those that somebody is just removing; the others stay until this transaction ends."""

ADD_DELIVERY: Final = Statement(
    "delivery.add",
    insert(DELIVERY)
    .values(
        endpoint_id=bindparam("endpoint_id"),
        event_seq=bindparam("event_seq"),
        line=bindparam("line"),
        state=_PENDING,
        attempts=literal_column("0"),
        next_at=_now,
        updated_at=_now,
    )
    .inline(),
)
FANNED_OUT: Final = Statement(
    "event.fanned_out",
    update(EVENT).where(any_of(EVENT.c.seq, bindparam("event_seqs"), NumberList)).values(to_fan_out=null()),
)
_older_than_any_endpoint: Final = (
    select(EVENT.c.seq)
    .where(EVENT.c.to_fan_out.is_not(None), EVENT.c.seq <= bindparam("last", type_=BigInteger))
    .order_by(EVENT.c.seq)
    .limit(_limit)
)
PASS_OVER: Final = Statement(
    "event.pass_over", update(EVENT).where(EVENT.c.seq.in_(_older_than_any_endpoint)).values(to_fan_out=null())
)
OLDEST_ENDPOINT: Final = Statement(
    "report.webhook_oldest_endpoint", select(func.min(ENDPOINT.c.from_seq)).where(ENDPOINT.c.state != "disabled")
)
"""The first event that any endpoint may want is behind this one; NULL if there is no endpoint."""

# ---- which endpoints have something to send


def _endpoints_with_pending() -> Any:
    """A skip scan: as many index look-ups as there are endpoints for which something waits."""

    def next_from(after: Any) -> Any:
        found = DELIVERY.alias()
        return (
            select(found.c.endpoint_id)
            .where(found.c.state == _PENDING, found.c.endpoint_id > after)
            .order_by(found.c.endpoint_id)
            .limit(_ONE)
            .scalar_subquery()
        )

    before_all = bindparam("nil", uuid.UUID(int=0), type_=Uuid())
    first = select(next_from(before_all).label("id")).cte("waited_for", recursive=True)
    waited_for = first.union_all(select(next_from(first.c.id)).where(first.c.id.is_not(None)))
    due = is_any(
        select(DELIVERY.c.event_seq)
        .where(
            DELIVERY.c.endpoint_id == ENDPOINT.c.id,
            DELIVERY.c.state == _PENDING,
            DELIVERY.c.next_at <= _now,
            or_(DELIVERY.c.lease_until.is_(None), DELIVERY.c.lease_until <= _now),
        )
        .correlate(ENDPOINT)
    )
    return select(ENDPOINT.c.id).where(
        ENDPOINT.c.id == waited_for.c.id,
        ENDPOINT.c.state == literal_column("'active'"),
        or_(ENDPOINT.c.blocked_until.is_(None), ENDPOINT.c.blocked_until <= _now),
        due,
    )


READY: Final = Statement("delivery.ready", _endpoints_with_pending())


def _is_before(state: Any) -> Any:
    """Whether an earlier event of the same line is in this state: one look-up in the index of that state's lines."""
    earlier = DELIVERY.alias()
    # Not EXISTS: whoever analysed the table while the queue was empty would have PostgreSQL join all that waits.
    return is_any(
        select(earlier.c.event_seq)
        .where(
            earlier.c.endpoint_id == DELIVERY.c.endpoint_id,
            earlier.c.line == DELIVERY.c.line,
            earlier.c.event_seq < DELIVERY.c.event_seq,
            earlier.c.state == state,
        )
        .correlate(DELIVERY)
    )


_claimable: Final = (
    select(DELIVERY.c.event_seq)
    .select_from(DELIVERY.join(ENDPOINT, ENDPOINT.c.id == DELIVERY.c.endpoint_id))
    .where(
        DELIVERY.c.state == _PENDING,
        ENDPOINT.c.state == literal_column("'active'"),
        or_(ENDPOINT.c.blocked_until.is_(None), ENDPOINT.c.blocked_until <= _now),
        or_(
            DELIVERY.c.lease_until > _now,
            and_(
                DELIVERY.c.next_at <= _now,
                ~_is_before(_PENDING),
                or_(ENDPOINT.c.on_dead == literal_column("'skip'"), ~_is_before(_DEAD)),
            ),
        ),
    )
    .limit(_ONE)
)
HAS_DUE: Final = Statement("report.webhook_has_due", _claimable)
"""A row if an event is being sent or could be claimed now; exact where READY is quick."""

# ---- the queue of one endpoint

_of_endpoint: Final = DELIVERY.c.endpoint_id == bindparam("endpoint_id", type_=Uuid())
_is_free: Final = and_(
    DELIVERY.c.next_at <= _now, or_(DELIVERY.c.lease_until.is_(None), DELIVERY.c.lease_until <= _now)
)

LOCK_ENDPOINT: Final = Statement(
    "webhook_endpoint.lock_by_id",
    select(*ENDPOINT.c)
    .where(ENDPOINT.c.id == bindparam("endpoint_id", type_=Uuid()))
    # Its key stays: who adds a delivery of the endpoint meanwhile need not wait.
    .with_for_update(key_share=True),
)


_claimed: Final = (DELIVERY.c.attempts, DELIVERY.c.batch_id, *EVENT_COLUMNS)
_with_event: Final = DELIVERY.join(EVENT, EVENT.c.seq == DELIVERY.c.event_seq)
_candidates: Final = select(*_claimed).select_from(_with_event).where(_of_endpoint, DELIVERY.c.state == _PENDING)

_unblocked: Final = {"skip": (), "block": (~_is_before(_DEAD),)}

HEADS: Final = {
    on_dead: Statement(
        f"delivery.heads_{on_dead}",
        _candidates.where(_is_free, ~_is_before(_PENDING), *_unblocked[on_dead])
        .order_by(DELIVERY.c.event_seq)
        .limit(_limit),
    )
    for on_dead in ("skip", "block")
}
"""The first event of each line that is free and due."""


NEXT: Final = {
    on_dead: Statement(
        f"delivery.next_{on_dead}",
        select(DELIVERY.c.line, DELIVERY.c.next_at, DELIVERY.c.lease_until, *_claimed)
        .select_from(_with_event)
        .where(_of_endpoint, DELIVERY.c.state == _PENDING, DELIVERY.c.batch_id.is_(None), *_unblocked[on_dead])
        .order_by(DELIVERY.c.event_seq)
        .limit(_limit),
    )
    for on_dead in ("skip", "block")
}
"""The events that the next batch is made of."""

OPEN_BATCH: Final = Statement(
    "delivery.open_batch",
    select(DELIVERY.c.batch_id, DELIVERY.c.next_at, DELIVERY.c.lease_until)
    .where(_of_endpoint, DELIVERY.c.state == _PENDING, DELIVERY.c.batch_id.is_not(None))
    .order_by(DELIVERY.c.batch_id)
    .limit(_ONE),
)
"""The oldest batch that was made and has not arrived. Its ids are UUIDv7, so they sort by age."""

OF_BATCH: Final = Statement(
    "delivery.of_batch",
    _candidates.where(
        DELIVERY.c.batch_id.is_not(None), DELIVERY.c.batch_id == bindparam("batch_id", type_=Uuid())
    ).order_by(DELIVERY.c.event_seq),
)

_these: Final = and_(_of_endpoint, any_of(DELIVERY.c.event_seq, bindparam("event_seqs"), NumberList))
LEASE: Final = Statement(
    "delivery.lease",
    update(DELIVERY)
    .where(_these)
    .values(
        attempts=DELIVERY.c.attempts + _ONE,
        batch_id=bindparam("batch_id", type_=Uuid()),
        lease_until=bindparam("lease_until", type_=UTCDateTime()),
        lease_token=bindparam("lease_token", type_=Uuid()),
        updated_at=_now,
    ),
)
_leased: Final = and_(_these, DELIVERY.c.lease_token == bindparam("token", type_=Uuid()))
_released: Final[dict[str, Any]] = {"lease_until": null(), "lease_token": null(), "updated_at": _now}
SETTLE: Final = Statement(
    "delivery.settle",
    update(DELIVERY)
    .where(_leased)
    .values(
        state=bindparam("state"),
        next_at=bindparam("next_at", type_=UTCDateTime()),
        last_status=bindparam("last_status"),
        last_error=bindparam("last_error"),
        **_released,
    ),
)
"""By the token of the lease: what another dispatcher has claimed since is no longer ours to settle."""

SETTLE_UNSENT: Final = Statement(
    "delivery.settle_unsent",
    update(DELIVERY)
    .where(_leased)
    .values(
        state=bindparam("state"),
        next_at=bindparam("next_at", type_=UTCDateTime()),
        last_error=bindparam("last_error"),
        attempts=DELIVERY.c.attempts - _ONE,
        # Replayed, it is another batch's: this one may have arrived without it, under the same id.
        batch_id=null(),
        **_released,
    ),
)
"""For what cannot be sent, and so never went with its batch."""

RENEW: Final = Statement(
    "delivery.renew",
    update(DELIVERY)
    .where(_leased)
    .values(lease_until=bindparam("lease_until", type_=UTCDateTime()))
    .returning(DELIVERY.c.event_seq),
)

RELEASE: Final = Statement(
    "delivery.release",
    update(DELIVERY)
    .where(_leased)
    .values(
        attempts=DELIVERY.c.attempts - _ONE,
        next_at=bindparam("next_at", type_=UTCDateTime()),
        last_error=bindparam("last_error"),
        **_released,
    ),
)
"""It was not tried, so it is not counted."""

BREAKER: Final = Statement(
    "webhook_endpoint.breaker",
    update(ENDPOINT)
    .where(ENDPOINT.c.id == bindparam("endpoint_id", type_=Uuid()))
    .values(failures=bindparam("failures"), blocked_until=bindparam("blocked_until", type_=UTCDateTime())),
)
DISABLE: Final = Statement(
    "webhook_endpoint.disable",
    update(ENDPOINT)
    .where(ENDPOINT.c.id == bindparam("endpoint_id", type_=Uuid()))
    .values(state=literal_column("'disabled'"), state_reason=bindparam("state_reason"), updated_at=_now),
)

# ---- retention

OLDEST: Final = Statement(
    "event.oldest",
    select(EVENT.c.seq, EVENT.c.created_at, EVENT.c.to_fan_out)
    .where(EVENT.c.seq > bindparam("after", type_=BigInteger))
    .order_by(EVENT.c.seq)
    .limit(_limit),
)
_waited_for: Final = exists().where(
    DELIVERY.c.event_seq == EVENT.c.seq,
    DELIVERY.c.state != _DELIVERED,
    ENDPOINT.c.id == DELIVERY.c.endpoint_id,
    ENDPOINT.c.state != "disabled",
)
_oldest: Final = select(func.min(ENDPOINT.c.from_seq)).where(ENDPOINT.c.state != "disabled").scalar_subquery()
_AFTER_ALL: Final = str(2**62)
PRUNABLE: Final = and_(
    or_(EVENT.c.to_fan_out.is_(None), EVENT.c.seq <= func.coalesce(_oldest, literal_column(_AFTER_ALL))),
    ~_waited_for,
)
"""Nobody waits for the event."""

PRUNE: Final = Statement(
    # It looks at every endpoint once for some hundred events.
    "report.webhook_prune",
    delete(EVENT)
    .where(
        EVENT.c.seq > bindparam("after", type_=BigInteger),
        EVENT.c.seq <= bindparam("last", type_=BigInteger),
        PRUNABLE,
    )
    .returning(EVENT.c.seq),
)
