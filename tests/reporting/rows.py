"""Rows as the stores write them, for tests that need more or other ones than the stores would write at once."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime
from typing import Any

from storage import Storage
from storage.tables import ConversationTable, DeliveryTable, EventTable, FileTable, WebhookEndpointTable

DAY = datetime(2026, 3, 1, 23, 59, 59, 999_999, tzinfo=UTC)
"""The last microsecond of a day."""


async def save(storage: Storage, *rows: Any) -> None:
    async with storage.session() as session:
        session.add_all(rows)
        await session.commit()


def conversation(user_id: str, name: str, **given: Any) -> ConversationTable:
    numbers = ["prompt", "completion", "total", "cache_read", "cache_write", "reasoning"]
    zeros = {f"{number}_tokens": 0 for number in numbers} | {"context_window": 0, "per_turn_token": 0}
    rest = {"accumulated_cost": 0.0, "created_at": DAY, "version": 1, "pr_number": [], "tags": [], "extra": {}}
    return ConversationTable(user_id=user_id, conversation_id=name, **{**zeros, **rest, **given})


def file(user_id: str, path: str, size: int, **given: Any) -> FileTable:
    rest = {"blob_key": f"blobs/{path}", "sha256": bytes(32), "version": 1, "created_at": DAY, "updated_at": DAY}
    return FileTable(user_id=user_id, path=path, size=size, **{**rest, **given})


def endpoint(user_id: str | None, url: str, **given: Any) -> WebhookEndpointTable:
    rest = {
        "id": uuid.UUID(int=1),
        "description": "",
        "event_types": ["*"],
        "mode": "standard",
        "format": "standard",
        "include": "nothing",
        "include_bytes": 1,
        "secret_names": False,
        "on_dead": "skip",
        "batch_events": 1,
        "batch_bytes": 1,
        "batch_seconds": 1.0,
        "state": "active",
        "from_seq": 0,
        "failures": 0,
        "created_at": DAY,
        "updated_at": DAY,
    }
    return WebhookEndpointTable(user_id=user_id, url=url, **{**rest, **given})


def happened(user_id: str, seq: int, **given: Any) -> EventTable:
    rest = {"type": "file.created", "key": "a", "payload": {}, "created_at": DAY}
    return EventTable(seq=seq, id=uuid.UUID(int=seq), user_id=user_id, **{**rest, **given})


def delivery(number: int, seq: int, state: str, **given: Any) -> DeliveryTable:
    rest = {"line": 1, "attempts": 1, "next_at": DAY, "updated_at": DAY}
    return DeliveryTable(endpoint_id=uuid.UUID(int=number), event_seq=seq, state=state, **{**rest, **given})
