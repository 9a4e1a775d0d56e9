"""Which blobs a web hook may still have to send: those of events that some endpoint has not received yet.

An event names the very bytes of a file's version, which may be overwritten or deleted long before the event is
delivered. Whoever removes blobs asks here, and knows nothing of endpoints and deliveries.
"""

from __future__ import annotations

from typing import Any, Final

from sqlalchemy import ColumnElement, Select, and_, exists, or_, select

from storage.database.expressions import is_any
from storage.webhooks.table import DeliveryTable, EventTable, WebhookEndpointTable

_event: Final[Any] = EventTable.__table__  # type: ignore[attr-defined]
_endpoint: Final[Any] = WebhookEndpointTable.__table__  # type: ignore[attr-defined]
_delivery: Final[Any] = DeliveryTable.__table__  # type: ignore[attr-defined]

EVENT_BLOB_KEY: Final[ColumnElement[Any]] = _event.c.blob_key
"""What a condition on needed_blobs() compares."""


def needed_blobs(condition: ColumnElement[bool]) -> Select[tuple[str]]:
    """The keys of the blobs that are still needed, once for each event that needs one.

    An event's blob is needed while there is an endpoint which is not disabled, sends more of a file than facts, and to
    which the event is yet to go: it waits to be fanned out (then types of events are not asked), or it has a delivery
    there that is not `delivered`. Dead letters can be sent again, so they need theirs too.

    Args:
        condition: on EVENT_BLOB_KEY; what makes an index find the events.
    """
    return select(_event.c.blob_key).where(condition, or_(*_waits_for_fan_out(), _is_undelivered()))


_SENDS_FILES: Final = and_(
    _endpoint.c.state != "disabled", or_(_endpoint.c.format == "openhands", _endpoint.c.include != "nothing")
)


def _waits_for_fan_out() -> list[ColumnElement[bool]]:
    # Two conditions for the two kinds of endpoints, because PostgreSQL makes one of a single OR which no index serves.
    return [
        and_(
            _event.c.to_fan_out.is_not(None),
            exists().where(whose, _SENDS_FILES, _endpoint.c.from_seq < _event.c.seq).correlate(_event),
        )
        for whose in (_endpoint.c.user_id == _event.c.user_id, _endpoint.c.user_id.is_(None))
    ]


def _is_undelivered() -> ColumnElement[bool]:
    return is_any(
        select(_delivery.c.event_seq)
        .select_from(_delivery.join(_endpoint, _endpoint.c.id == _delivery.c.endpoint_id))
        .where(_delivery.c.event_seq == _event.c.seq, _delivery.c.state != "delivered", _SENDS_FILES)
        .correlate(_event)
    )
