"""The requests of the seed system's web hook stores, as its receivers expect them; of files only.

The seed system appends a path to the URL as it stands (`base_url + path`), and its HTTP client then escapes what no URL
may hold but reads `?`, `#` and `%2F` in a path as syntax: such a file arrives under another name. Its receivers decode
the path once. So each segment is percent-encoded here, whole and once: for every path that the seed system delivers
correctly the receiver sees the same path, and for the others the true one.

Likewise nothing is put between URL and path, `https://host/hook/` needs its slash; only where the URL ends with the
host does the path get a `/` in front, because `https://host` and `.example.net/x` would be another host.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Sequence
from typing import Any, Final
from urllib.parse import quote, urlsplit

import orjson

from storage.errors import InvalidInput
from storage.webhooks.endpoints.model import Endpoint
from storage.webhooks.formats import facts
from storage.webhooks.message import Event, Included, Message

WRITTEN: Final = "file.written"
DELETED: Final = "file.deleted"

ANY_MEDIA_TYPE: Final = "application/octet-stream"
"""Of a content of which nothing is known. The seed system sends no Content-Type; its receivers read the bytes alone."""

_BATCH_HEADERS: Final = {"Content-Type": "application/json"}

_MEDIA_TYPE: Final = re.compile(r"[\w.+!#$&^-]+/[\w.+!#$&^-]+(; ?[\w-]+=[\w.:+-]+)*", re.ASCII)
"""What is safe in a header (RFC 9110 section 8.3.1); the type of a file is whatever its writer called it."""


def render(endpoint: Endpoint, event: Event, included: Included) -> Message:
    """POST {url}{path} with the file's bytes, or DELETE {url}{path}.

    Raises:
        InvalidInput: it is no event of a file, or the content of a written one is not there.
    """
    url = address(endpoint.url, event.key)
    if _is_deletion(event):
        return Message(str(event.id), "DELETE", url, {}, b"")
    content = _content(event, included)
    return Message(str(event.id), "POST", url, {"Content-Type": _media_type(event)}, content)


def render_batch(endpoint: Endpoint, batch_id: uuid.UUID, items: Sequence[tuple[Event, Included]]) -> Message:
    """POST {url} with an array of `{"method", "path", "content", "encoding"}`, in the order of the events.

    A write that another write of the same user's path follows in the batch is left out, unless a deletion of the path
    lies between: the receiver ends with the same files, and a deletion never changes places with a write. Names are
    written in the seed system's order, so that the bytes are those that it would send.

    Raises:
        InvalidInput: one of them is no event of a file, or a content that has to be sent is not there.
    """
    operations: list[dict[str, Any]] = []
    overwritten: set[tuple[str, str]] = set()
    for event, included in reversed(items):
        file = (event.user_id, event.key)
        if _is_deletion(event):
            overwritten.discard(file)
            operations.append({"method": "DELETE", "path": event.key})
        elif file not in overwritten:
            overwritten.add(file)
            operations.append(_write(event, included))
    operations.reverse()
    return Message(str(batch_id), "POST", endpoint.url, dict(_BATCH_HEADERS), orjson.dumps(operations))


def address(url: str, path: str) -> str:
    """The URL of a file: the path percent-encoded by segment, and appended as the module's text says."""
    parts = urlsplit(url)
    slash = "" if parts.path or parts.query else "/"
    return f"{url}{slash}{quote(path, safe='/')}"


def _write(event: Event, included: Included) -> dict[str, Any]:
    text, encoding = facts.text_of(_content(event, included))
    operation = {"method": "POST", "path": event.key, "content": text}
    return operation if encoding is None else {**operation, "encoding": encoding}


def _is_deletion(event: Event) -> bool:
    if event.type not in (WRITTEN, DELETED):
        raise InvalidInput(
            f"the format 'openhands' cannot express {event.type!r}, only {WRITTEN!r} and {DELETED!r}; narrow the event"
            " types of the endpoint, or add one of the format 'standard'"
        )
    return event.type == DELETED


def _content(event: Event, included: Included) -> bytes:
    if included.content is None:
        raise InvalidInput(f"the content of {event.key!r} is not there, and the format 'openhands' sends nothing else")
    return included.content


def _media_type(event: Event) -> str:
    found = event.payload.get("media_type")
    return found if isinstance(found, str) and _MEDIA_TYPE.fullmatch(found) else ANY_MEDIA_TYPE
