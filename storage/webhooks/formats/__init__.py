"""What a receiver is sent, in the format that its endpoint names.

Nothing here reads a clock, a database or a file: what is rendered again for a retry has the same bytes.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import Final, Protocol

from storage.errors import InvalidInput
from storage.webhooks.endpoints.model import Endpoint, Format
from storage.webhooks.formats import cloudevents, openhands, standard
from storage.webhooks.message import Event, Included, Message


class _Renderer(Protocol):
    def render(self, endpoint: Endpoint, event: Event, included: Included) -> Message: ...

    def render_batch(
        self, endpoint: Endpoint, batch_id: uuid.UUID, items: Sequence[tuple[Event, Included]]
    ) -> Message: ...


_RENDERERS: Final[dict[Format, _Renderer]] = {
    "standard": standard,
    "cloudevents": cloudevents,
    "openhands": openhands,
}


def render(endpoint: Endpoint, event: Event, included: Included) -> Message:
    """The request that tells of one event; its id is the event's.

    Args:
        endpoint: its format, address, and whether it may learn the names of secrets.
        event: what happened.
        included: what goes along; see storage.webhooks.delivery.included.

    Raises:
        InvalidInput: the format cannot express this event.
    """
    return _RENDERERS[endpoint.format].render(endpoint, event, included)


def render_batch(endpoint: Endpoint, batch_id: uuid.UUID, items: Sequence[tuple[Event, Included]]) -> Message:
    """The request that tells of many events, in the order given; its id is the batch's.

    Raises:
        InvalidInput: there are no events, or the format cannot express one of them.
    """
    if not items:
        raise InvalidInput("a batch holds at least one event")
    return _RENDERERS[endpoint.format].render_batch(endpoint, batch_id, items)
