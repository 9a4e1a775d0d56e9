"""Which blobs a web hook may still have to send: those of events that some endpoint has not received yet.

An event names the very bytes of a file's version, which may be overwritten or deleted long before the event is
delivered. Whoever removes blobs asks here, and knows nothing of endpoints and deliveries.
"""

from __future__ import annotations

from typing import Any, Final

from sqlalchemy import ColumnElement, Select, exists, or_, select

from storage.webhooks.table import DeliveryTable, EventTable, WebhookEndpointTable

_event: Final[Any] = EventTable.__table__  # type: ignore[attr-defined]
_endpoint: Final[Any] = WebhookEndpointTable.__table__  # type: ignore[attr-defined]
_delivery: Final[Any] = DeliveryTable.__table__  # type: ignore[attr-defined]

EVENT_BLOB_KEY: Final[ColumnElement[Any]] = _event.c.blob_key
"""What a condition on needed_blobs() compares."""


def needed_blobs(condition: ColumnElement[bool]) -> Select[tuple[str]]:
    """The keys of the blobs that are still needed, once for each event that needs one.

    An event's blob is needed while there is an endpoint which is not disabled, hears of the event's user, is not
    younger than the event, and has no delivery of it in state `delivered`. Dead letters can be sent again, so they
    need theirs too. Which types of events an endpoint wants is not asked.

    Args:
        condition: on EVENT_BLOB_KEY; what makes an index find the events.
    """
    return select(_event.c.blob_key).where(condition, _undelivered())


def _undelivered() -> ColumnElement[bool]:
    # Two conditions for the two kinds of endpoints, because PostgreSQL makes one of a single OR which no index serves.
    return or_(_lacks(_endpoint.c.user_id == _event.c.user_id), _lacks(_endpoint.c.user_id.is_(None)))


def _lacks(whose: ColumnElement[bool]) -> ColumnElement[bool]:
    """Whether one of these endpoints has not received the event."""
    received = exists().where(
        _delivery.c.endpoint_id == _endpoint.c.id,
        _delivery.c.event_seq == _event.c.seq,
        _delivery.c.state == "delivered",
    )
    return (
        exists()
        .where(
            whose,
            _endpoint.c.created_at <= _event.c.created_at,
            _endpoint.c.state != "disabled",
            ~received.correlate(_endpoint, _event),
        )
        .correlate(_event)
    )
