"""The tables of web hooks: events (the outbox), who wants them, and how far each delivery has come."""

from __future__ import annotations

import uuid
from datetime import datetime
from typing import Any, Final

from sqlalchemy import CheckConstraint, ForeignKey, Index, UniqueConstraint, text
from sqlmodel import Field

from storage.database.metadata import Table
from storage.database.types import JSONValue, PlainText, Sealed, Sequence, UTCDateTime
from storage.encryption.registry import SealedColumn, register

_IS_SEALED: Final = text("content_key IS NOT NULL")


class EventTable(Table, table=True):
    """A committed change, written by the transaction that made it. `payload` never holds a secret's value."""

    __tablename__ = "event"
    # AUTOINCREMENT: a plain SQLite row number is used again once the last row is pruned, and a consumer that remembers
    # how far it came would pass over the new row.
    __table_args__ = (
        UniqueConstraint("id"),
        Index(None, "user_id", "seq"),
        Index(
            "ix_event_blob_key",
            "blob_key",
            sqlite_where=text("blob_key IS NOT NULL"),
            postgresql_where=text("blob_key IS NOT NULL"),
        ),
        Index("ix_event_sealed", "user_id", sqlite_where=_IS_SEALED, postgresql_where=_IS_SEALED),
        {"sqlite_autoincrement": True},
    )

    seq: int | None = Field(primary_key=True, sa_type=Sequence)
    id: uuid.UUID
    user_id: str = Field(sa_type=PlainText)
    type: str = Field(sa_type=PlainText)
    key: str = Field(sa_type=PlainText)
    version: int | None
    payload: dict[str, Any] = Field(sa_type=JSONValue)
    created_at: datetime = Field(sa_type=UTCDateTime)
    blob_key: str | None = Field(sa_type=PlainText)
    """Where the very bytes of this version of a file are; kept while a web hook may still have to send them."""
    content_key: bytes | None = Field(sa_type=Sealed)
    """What opens them where they are sealed: the file's own row may have another content by then."""


class WebhookEndpointTable(Table, table=True):
    """A receiver of events: of one user, or of the operator (`user_id` NULL), which hears of all users."""

    __tablename__ = "webhook_endpoint"
    __table_args__ = (
        CheckConstraint("mode IN ('standard', 'batched')", name="mode"),
        CheckConstraint("state IN ('active', 'paused', 'disabled')", name="state"),
        Index(None, "user_id"),
    )

    id: uuid.UUID = Field(primary_key=True)
    user_id: str | None = Field(sa_type=PlainText)
    url: str = Field(sa_type=PlainText)
    secret: bytes | None = Field(sa_type=Sealed)
    headers: bytes | None = Field(sa_type=Sealed)
    event_types: list[str] = Field(sa_type=JSONValue)
    mode: str = Field(sa_type=PlainText)
    format: str = Field(sa_type=PlainText)
    state: str = Field(sa_type=PlainText)
    created_at: datetime = Field(sa_type=UTCDateTime)
    updated_at: datetime = Field(sa_type=UTCDateTime)


class DeliveryTable(Table, table=True):
    """One event (or batch of them) on its way to one endpoint, with its lease while a dispatcher holds it."""

    __tablename__ = "delivery"
    __table_args__ = (
        CheckConstraint("state IN ('pending', 'delivered', 'dead')", name="state"),
        UniqueConstraint("endpoint_id", "event_seq"),
        Index(None, "state", "next_at"),
        Index(None, "event_seq"),
    )

    id: uuid.UUID = Field(primary_key=True)
    endpoint_id: uuid.UUID = Field(sa_column_args=(ForeignKey("webhook_endpoint.id", ondelete="CASCADE"),))
    event_seq: int = Field(sa_type=Sequence, sa_column_args=(ForeignKey("event.seq", ondelete="CASCADE"),))
    batch_id: uuid.UUID | None
    state: str = Field(sa_type=PlainText)
    attempts: int
    next_at: datetime = Field(sa_type=UTCDateTime)
    lease_until: datetime | None = Field(sa_type=UTCDateTime)
    lease_token: uuid.UUID | None
    last_status: int | None
    last_error: str | None = Field(sa_type=PlainText)
    created_at: datetime = Field(sa_type=UTCDateTime)
    updated_at: datetime = Field(sa_type=UTCDateTime)


CONTENT_KEY: Final = register(
    SealedColumn(
        "event", "content_key", "file.content_key/1", row_id="blob_key", masked=False, repeats="file.content_key"
    )
)
SECRET: Final = register(SealedColumn("webhook_endpoint", "secret", "webhook_endpoint.secret/1", destination="url"))
HEADERS: Final = register(SealedColumn("webhook_endpoint", "headers", "webhook_endpoint.headers/1", destination="url"))
