"""How web hooks are doing: what waits for each endpoint and since when, what is dead, and which breakers are open."""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Literal, TypeAlias

from sqlalchemy import Integer, bindparam, func, literal_column, select, union_all

from storage.clock import now
from storage.database.statement import Statement
from storage.database.unit import Executor
from storage.webhooks.endpoints.model import Endpoint, EndpointState
from storage.webhooks.queue.retry import FAILURES_TO_OPEN
from storage.webhooks.queue.statements import DELIVERY, ENDPOINT, EVENT

BreakerState: TypeAlias = Literal["closed", "open", "half-open"]
"""`open`: nothing is sent. `half-open`: one event at a time tries whether the receiver is back."""


def _counted(state: str) -> Any:
    # A literal each, so that the partial index of that state serves it.
    return (
        select(
            DELIVERY.c.endpoint_id,
            literal_column(f"'{state}'").label("state"),
            func.count().label("number"),
            func.min(DELIVERY.c.event_seq).label("first"),
        )
        .where(DELIVERY.c.state == literal_column(f"'{state}'"))
        .group_by(DELIVERY.c.endpoint_id)
    )


_undelivered: Final = union_all(_counted("pending"), _counted("dead")).subquery()
UNDELIVERED: Final = Statement(
    "report.webhook_undelivered",
    select(_undelivered.c.endpoint_id, _undelivered.c.state, _undelivered.c.number, EVENT.c.created_at).select_from(
        _undelivered.join(EVENT, EVENT.c.seq == _undelivered.c.first)
    ),
)
_to_fan_out: Final = select(func.count(type_=Integer), func.min(EVENT.c.created_at)).where(
    EVENT.c.to_fan_out.is_not(None)
)
TO_FAN_OUT: Final = Statement("report.webhook_to_fan_out", _to_fan_out)
TO_FAN_OUT_OF: Final = Statement(
    "report.webhook_to_fan_out_of", _to_fan_out.where(EVENT.c.user_id == bindparam("owner"))
)


_answered: Final = (
    select(DELIVERY.c.last_status, func.count())
    .select_from(DELIVERY.join(ENDPOINT, ENDPOINT.c.id == DELIVERY.c.endpoint_id))
    .where(DELIVERY.c.attempts > literal_column("0"))
    .group_by(DELIVERY.c.last_status)
)
ANSWERED: Final = Statement("report.webhook_answered", _answered)
ANSWERED_OF: Final = Statement("report.webhook_answered_of", _answered.where(ENDPOINT.c.user_id == bindparam("owner")))


@dataclass(frozen=True, slots=True)
class EndpointStatus:
    """How one endpoint is doing.

    Attributes:
        id: of the endpoint.
        user_id: whose, None for the operator's.
        state: see storage.webhooks.endpoints.model.EndpointState.
        breaker: see BreakerState.
        blocked_until: nothing is sent before; None if nothing holds it back.
        pending: events that wait.
        oldest_pending_at: when the oldest of them happened; None if there is none.
        dead: events that were given up and may be replayed.
    """

    id: uuid.UUID
    user_id: str | None
    state: EndpointState
    breaker: BreakerState
    blocked_until: datetime | None
    pending: int
    oldest_pending_at: datetime | None
    dead: int


@dataclass(frozen=True, slots=True)
class WebhookStatus:
    """How web hooks are doing.

    Attributes:
        endpoints: each of them, the operator's first.
        to_fan_out: events that no dispatcher has looked at yet.
        oldest_to_fan_out_at: when the oldest of them happened; None if there is none.
        attempts: attempts that this process has made, by `2xx` to `5xx`, and `none` where there was no answer. For the
            operator; they are everyone's.
    """

    endpoints: tuple[EndpointStatus, ...]
    to_fan_out: int
    oldest_to_fan_out_at: datetime | None
    attempts: dict[str, int]


async def read_status(
    executor: Executor, endpoints: Iterable[Endpoint], attempts: dict[str, int], owner: str | None
) -> WebhookStatus:
    """Count what waits; reads all that is not delivered.

    Args:
        executor: where.
        endpoints: which endpoints are to be told of.
        attempts: counts of this process.
        owner: whose events; everyone's if None.

    Raises:
        DatabaseError: the database cannot be read.
    """
    # In this order, so that an event which is fanned out meanwhile is seen twice rather than not at all.
    statement = TO_FAN_OUT if owner is None else TO_FAN_OUT_OF
    ((to_fan_out, oldest),) = await executor.read(statement, {"owner": owner}, scan=True)
    rows = await executor.read(UNDELIVERED, {}, scan=True)
    found = {(endpoint_id, state): (int(number), created_at) for endpoint_id, state, number, created_at in rows}
    statuses = []
    for endpoint in endpoints:
        pending, since = found.get((endpoint.id, "pending"), (0, None))
        dead, _ = found.get((endpoint.id, "dead"), (0, None))
        statuses.append(
            EndpointStatus(
                endpoint.id,
                endpoint.user_id,
                endpoint.state,
                _breaker(endpoint),
                endpoint.blocked_until,
                pending,
                since,
                dead,
            )
        )
    statuses.sort(key=lambda status: (status.user_id is not None, status.user_id or "", status.id))
    return WebhookStatus(tuple(statuses), int(to_fan_out), oldest, dict(attempts))


async def read_answers(executor: Executor, owner: str | None) -> dict[str, int]:
    """The last answers to all deliveries that are kept, by `2xx` to `5xx`, and `none` without one; reads all of them.

    Args:
        executor: where.
        owner: whose endpoints; everyone's if None.

    Raises:
        DatabaseError: the database cannot be read.
    """
    statement = ANSWERED if owner is None else ANSWERED_OF
    found: Counter[str] = Counter()
    for status, number in await executor.read(statement, {"owner": owner}, scan=True):
        found["none" if status is None else f"{status // 100}xx"] += int(number)
    return dict(sorted(found.items()))


def _breaker(endpoint: Endpoint) -> BreakerState:
    if endpoint.failures < FAILURES_TO_OPEN:
        return "closed"
    return "open" if endpoint.blocked_until is not None and endpoint.blocked_until > now() else "half-open"
