"""What a committed transaction changed, as told to `on_commit` hooks and written to the outbox."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any


@dataclass(frozen=True, slots=True)
class Change:
    """One change of one thing.

    Attributes:
        id: UUIDv7 of the event row that was written in the same transaction.
        user_id: whose data changed (the stored form: "local" for the local user).
        type: what happened, `noun.verb`: `conversation.saved`, `file.deleted`, `settings.updated`, `secret.rotated`.
        key: which one: a conversation id, a path, a secret's name.
        version: the row's version after the change; None where rows have none.
        payload: details for receivers; never a secret's value.
        created_at: aware UTC.
        blob_key: of a file that was written: where the bytes of this version are, also after the next write; not for
            receivers.
        content_key: what opens these bytes, sealed; None if they are not sealed.
    """

    id: uuid.UUID
    user_id: str
    type: str
    key: str
    version: int | None
    created_at: datetime
    payload: dict[str, Any] = field(default_factory=dict)
    blob_key: str | None = None
    content_key: bytes | None = field(default=None, repr=False)
