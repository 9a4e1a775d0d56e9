"""Standard Webhooks 1.0: `{"type", "timestamp", "data"}`, with the id and the signature in headers.

Thin, as its section "Payload structure" advises: facts that a receiver decides by, and the content only if asked for.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import Any, Final

from storage.webhooks.endpoints.model import Endpoint
from storage.webhooks.formats import facts
from storage.webhooks.message import Event, Included, Message

BATCH_TYPE: Final = "batch"
"""The type of a message that holds events; no event has a type without a dot."""

_HEADERS: Final = {"Content-Type": "application/json"}


def render(endpoint: Endpoint, event: Event, included: Included) -> Message:
    """POST with one object."""
    body = facts.json_bytes(_object(endpoint, event, included))
    return Message(str(event.id), "POST", endpoint.url, dict(_HEADERS), body)


def render_batch(endpoint: Endpoint, batch_id: uuid.UUID, items: Sequence[tuple[Event, Included]]) -> Message:
    """POST with one object of type `batch`: `data` is the list of the events, each with its `id`.

    The time is that of the newest event. A receiver must remember the ids of events, not of batches: an event may come
    alone after it came in a batch.
    """
    body = facts.json_bytes(
        {
            "type": BATCH_TYPE,
            "timestamp": facts.timestamp(max(event.created_at for event, _ in items)),
            "data": [{"id": str(event.id), **_object(endpoint, event, included)} for event, included in items],
        }
    )
    return Message(str(batch_id), "POST", endpoint.url, dict(_HEADERS), body)


def _object(endpoint: Endpoint, event: Event, included: Included) -> dict[str, Any]:
    return {
        "type": event.type,
        "timestamp": facts.timestamp(event.created_at),
        "data": facts.data(endpoint, event, included),
    }
