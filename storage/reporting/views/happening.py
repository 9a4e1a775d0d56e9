"""Views of what happens: web hooks and their deliveries, and events by day."""

from __future__ import annotations

from typing import Any, Final

from sqlalchemy import and_, case, distinct, func, literal_column, select

from storage.reporting.views.conversations import owned
from storage.reporting.views.expressions import day_of, number_where, or_zero, origin_of, readable_time, uuid_text
from storage.reporting.views.view import View, columns
from storage.webhooks.table import DeliveryTable, EventTable, WebhookEndpointTable

_EVENT: Final[Any] = EventTable.__table__  # type: ignore[attr-defined]
_ENDPOINT: Final[Any] = WebhookEndpointTable.__table__  # type: ignore[attr-defined]
_DELIVERY: Final[Any] = DeliveryTable.__table__  # type: ignore[attr-defined]


def _in_state(state: str) -> Any:
    # A literal, so that the partial index of that state serves it.
    return _DELIVERY.c.state == literal_column(f"'{state}'")


def _webhook(user_id: str | None) -> Any:
    c, d = _ENDPOINT.c, _DELIVERY.c
    mine = owned(c.user_id, user_id)
    to_mine = (d.endpoint_id.in_(select(c.id).where(*mine)),) if mine else ()
    sums = (
        select(
            d.endpoint_id,
            number_where(_in_state("pending")).label("pending"),
            number_where(_in_state("delivered")).label("delivered"),
            number_where(_in_state("dead")).label("dead"),
            func.min(case((_in_state("pending"), d.event_seq))).label("oldest"),
            func.max(case((_in_state("delivered"), d.updated_at))).label("last"),
        )
        .where(*to_mine)
        .group_by(d.endpoint_id)
        .subquery("sums")
    )
    return (
        select(
            uuid_text(c.id).label("webhook_id"),
            c.user_id,
            origin_of(c.url).label("origin"),
            c.description,
            c.mode,
            c.format,
            c.state,
            c.state_reason,
            or_zero(sums.c.pending).label("pending"),
            or_zero(sums.c.delivered).label("delivered"),
            or_zero(sums.c.dead).label("dead"),
            c.failures,
            readable_time(_EVENT.c.created_at).label("oldest_pending_at"),
            readable_time(sums.c.last).label("last_delivered_at"),
            readable_time(c.blocked_until).label("blocked_until"),
            readable_time(c.created_at).label("created_at"),
        )
        .select_from(
            _ENDPOINT.outerjoin(sums, sums.c.endpoint_id == c.id).outerjoin(_EVENT, _EVENT.c.seq == sums.c.oldest)
        )
        .where(*mine)
    )


def _event_daily(user_id: str | None) -> Any:
    c, d = _EVENT.c, _DELIVERY.c
    deliveries: Any = _DELIVERY
    if user_id is not None:
        # What an operator's web hook gets of a user's events is the operator's.
        mine = and_(_ENDPOINT.c.id == d.endpoint_id, *owned(_ENDPOINT.c.user_id, user_id))
        deliveries = select(_DELIVERY).select_from(_DELIVERY.join(_ENDPOINT, mine)).subquery("own_delivery")
        d = deliveries.c
    day = day_of(c.created_at)
    by = (day, c.user_id, c.type)

    def number(state: str) -> Any:
        return number_where(d.state == literal_column(f"'{state}'")).label(state)

    return (
        select(
            day.label("day"),
            c.user_id,
            c.type,
            func.count(distinct(c.seq)).label("events"),
            func.count(d.event_seq).label("deliveries"),
            number("delivered"),
            number("pending"),
            number("dead"),
        )
        .select_from(_EVENT.outerjoin(deliveries, d.event_seq == c.seq))
        .where(*owned(c.user_id, user_id))
        .group_by(*by)
    )


WEBHOOK: Final = View(
    "report_webhook",
    "A web hook's endpoint and how it is doing.",
    columns(
        ("webhook_id", "text", "its id, a UUID"),
        ("user_id", "text", "whose; null is the operator's, which hears of all users"),
        ("origin", "text", "scheme, host and port of its URL; a path may be a secret, and is left out"),
        ("description", "text", "as its owner wrote it"),
        ("mode", "text", "`standard` or `batched`"),
        ("format", "text", "`standard`, `cloudevents` or `openhands`"),
        ("state", "text", "`active`, `paused` or `disabled`"),
        ("state_reason", "text", "why it is not active"),
        ("pending", "integer", "events that wait to be delivered"),
        ("delivered", "integer", "events that were delivered and are still kept"),
        ("dead", "integer", "events that were given up, and can be replayed"),
        ("failures", "integer", "attempts that failed since the last one that did not"),
        ("oldest_pending_at", "time", "when the oldest waiting event happened"),
        ("last_delivered_at", "time", "when an event was last delivered, of those still kept"),
        ("blocked_until", "time", "nothing is sent before; null if nothing holds it back"),
        ("created_at", "time", "when it was added"),
    ),
    _webhook,
)
EVENT_DAILY: Final = View(
    "report_event_daily",
    "The events of one day, user and type that are still kept, and what became of their deliveries.",
    columns(
        ("day", "day", "when they happened"),
        ("user_id", "text", "whose"),
        ("type", "text", "such as `conversation.updated`"),
        ("events", "integer", "how many"),
        ("deliveries", "integer", "how many times one of them was to be delivered"),
        ("delivered", "integer", "of these, delivered"),
        ("pending", "integer", "of these, waiting"),
        ("dead", "integer", "of these, given up"),
    ),
    _event_daily,
)
