"""CloudEvents 1.0 in JSON, structured (HTTP binding section 3.2) or batched (section 3.3).

`source` and `id` together name an event for good: the user whose data changed, and the event's own id.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import Any, Final
from urllib.parse import quote

from storage.webhooks.endpoints.model import Endpoint
from storage.webhooks.formats import facts
from storage.webhooks.message import Event, Included, Message

TYPE_PREFIX: Final = "agent-storage."
"""Says whose types these are (CloudEvents 1.0, "type"): other systems have a `file.written` of their own."""

_ONE: Final = {"Content-Type": "application/cloudevents+json; charset=UTF-8"}
_MANY: Final = {"Content-Type": "application/cloudevents-batch+json; charset=UTF-8"}


def render(endpoint: Endpoint, event: Event, included: Included) -> Message:
    """POST with one CloudEvent."""
    return Message(
        str(event.id), "POST", endpoint.url, dict(_ONE), facts.json_bytes(_cloud_event(endpoint, event, included))
    )


def render_batch(endpoint: Endpoint, batch_id: uuid.UUID, items: Sequence[tuple[Event, Included]]) -> Message:
    """POST with an array of CloudEvents."""
    body = facts.json_bytes([_cloud_event(endpoint, event, included) for event, included in items])
    return Message(str(batch_id), "POST", endpoint.url, dict(_MANY), body)


def _cloud_event(endpoint: Endpoint, event: Event, included: Included) -> dict[str, Any]:
    found = {
        "specversion": "1.0",
        "id": str(event.id),
        "source": f"/users/{quote(event.user_id, safe='')}",
        "type": TYPE_PREFIX + event.type,
        "time": facts.timestamp(event.created_at),
        "datacontenttype": "application/json",
        "data": facts.data(endpoint, event, included),
    }
    # An attribute that is there must not be empty.
    if subject := facts.subject(endpoint, event):
        found["subject"] = subject
    return found
