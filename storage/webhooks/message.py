"""What passes between the queue, the formats and the sender: an event, what is sent of it, and what came back."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any


@dataclass(frozen=True, slots=True)
class Event:
    """A row of the outbox; see storage.database.change.Change for the fields."""

    seq: int
    id: uuid.UUID
    user_id: str
    type: str
    key: str
    version: int | None
    payload: Mapping[str, Any]
    created_at: datetime
    blob_key: str | None = None
    content_key: bytes | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Included:
    """What an event of a written file brings along, where the endpoint asks for it and it is short enough.

    Attributes:
        content: the bytes of exactly this version.
        link: a signed URL of them.
    """

    content: bytes | None = field(default=None, repr=False)
    link: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Message:
    """A request to an endpoint, without what is added for each attempt (time, signature, secret headers).

    Attributes:
        id: `webhook-id`: of the event or of the batch, the same on every attempt.
        method: POST or DELETE.
        url: absolute.
        headers: of the format, such as Content-Type.
        body: exactly the bytes that are signed and sent.
    """

    id: str
    method: str
    url: str
    headers: Mapping[str, str]
    body: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of one attempt.

    Attributes:
        status: of HTTP; None if there was no answer.
        text: the beginning of the answer's body, at most 1 KiB, without control characters; or why there was no answer.
        retry_after: seconds that the receiver asks to wait for; None if it does not.
    """

    status: int | None
    text: str
    retry_after: float | None = None
