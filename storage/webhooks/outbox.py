"""The outbox: a change is an `event` row, written by the transaction that made the change, or it did not happen.

What is only announced after a commit is lost in a crash between the two; a row in the same transaction is not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from sqlalchemy import bindparam, insert, true

from storage.clock import now
from storage.database.change import Change
from storage.database.statement import Statement
from storage.database.unit import Step, Unit
from storage.identity import new_id
from storage.webhooks.table import EventTable

_table = EventTable.__table__  # type: ignore[attr-defined]

_COLUMNS: Final = tuple(column.name for column in _table.c if column.name not in ("seq", "to_fan_out"))

INSERT_EVENT: Final = Statement(
    "event.insert",
    # inline(): on PostgreSQL SQLAlchemy would otherwise ask for the new `seq` back, which nobody reads.
    insert(_table).values({name: bindparam(name) for name in _COLUMNS} | {"to_fan_out": true()}).inline(),
)


def change(
    user_id: str,
    type_: str,
    *,
    key: str,
    version: int | None = None,
    payload: Mapping[str, Any] | None = None,
    blob_key: str | None = None,
    content_key: bytes | None = None,
) -> Change:
    """A Change with a new id, now. See `storage.database.change.Change` for the fields."""
    return Change(new_id(), user_id, type_, key, version, now(), dict(payload or {}), blob_key, content_key)


def record(
    user_id: str,
    type_: str,
    *,
    key: str,
    version: int | None = None,
    payload: Mapping[str, Any] | None = None,
) -> Unit[None]:
    """Write one event, and announce it to `on_commit` hooks once the transaction has committed.

    `payload` must be JSON and must hold no secret's value.
    """
    yield from record_all([change(user_id, type_, key=key, version=version, payload=payload)])


def record_all(changes: Sequence[Change]) -> Unit[None]:
    """Write many events with one statement, in their order; nothing at all for an empty sequence."""
    if not changes:
        return
    parameters = [
        {
            "id": item.id,
            "user_id": item.user_id,
            "type": item.type,
            "key": item.key,
            "version": item.version,
            "payload": item.payload,
            "created_at": item.created_at,
            "blob_key": item.blob_key,
            "content_key": item.content_key,
        }
        for item in changes
    ]
    yield Step(INSERT_EVENT, parameters if len(parameters) > 1 else parameters[0], tuple(changes))
