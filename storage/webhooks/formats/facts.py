"""What the formats for any event say of it: the facts that a receiver may learn, and how they are written down.

Only what is named here leaves: where a content is kept and what opens it are no facts of an event.
"""

from __future__ import annotations

import base64
from datetime import UTC, datetime
from typing import Any, Final

import orjson

from storage.webhooks.endpoints.model import Endpoint
from storage.webhooks.message import Event, Included

_SECRET_FACTS: Final = frozenset({"kind"})
"""What an event of a secret may say to an endpoint that must not learn names."""

_INTERNAL: Final = frozenset({"blob_key", "content_key"})
"""Columns of an event that are for this library alone; no fact may go by these names."""


def subject(endpoint: Endpoint, event: Event) -> str | None:
    """Which one it is that changed; None where that is a secret's name, and the endpoint does not ask for names."""
    return None if _is_nameless(endpoint, event) else event.key


def data(endpoint: Endpoint, event: Event, included: Included) -> dict[str, Any]:
    """`user_id`, `key`, `version` and the event's own facts, with what is included of a file.

    A content is text as it is, anything else in base64: `content`, and `encoding` `utf-8` or `base64`. A link is `url`.
    """
    nameless = _is_nameless(endpoint, event)
    found = {
        name: value
        for name, value in event.payload.items()
        if name not in _INTERNAL and (not nameless or name in _SECRET_FACTS)
    }
    found["user_id"] = event.user_id
    found["version"] = event.version
    if not nameless:
        found["key"] = event.key
    if included.link is not None:
        found["url"] = included.link
    if included.content is not None:
        found["content"], encoding = text_of(included.content)
        found["encoding"] = encoding or "utf-8"
    return found


def text_of(content: bytes) -> tuple[str, str | None]:
    """The content as text and None, or in base64 and `base64` where it is no UTF-8."""
    try:
        return content.decode(), None
    except UnicodeDecodeError:
        return base64.b64encode(content).decode(), "base64"


def timestamp(moment: datetime) -> str:
    """RFC 3339, in UTC, to the microsecond: `2026-01-31T12:00:00.000000Z`."""
    return moment.astimezone(UTC).replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"


def json_bytes(value: Any) -> bytes:
    """The one way to write this value as JSON: compact, names sorted, UTF-8."""
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)


def _is_nameless(endpoint: Endpoint, event: Event) -> bool:
    return not endpoint.secret_names and event.type.startswith("secret.")
