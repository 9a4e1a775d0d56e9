"""The tables of web hooks: events (the outbox), who wants them, and how far each delivery has come."""

from __future__ import annotations

import uuid
from datetime import datetime
from typing import Any, Final

from sqlalchemy import BigInteger, CheckConstraint, Double, ForeignKey, Index, UniqueConstraint, text
from sqlmodel import Field

from storage.database.metadata import Table
from storage.database.types import JSONValue, PlainText, Sealed, Sequence, UTCDateTime
from storage.encryption.registry import SealedColumn, register

_IS_SEALED: Final = text("content_key IS NOT NULL")
_TO_FAN_OUT: Final = text("to_fan_out IS NOT NULL")
_PENDING: Final = text("state = 'pending'")
_IN_BATCH: Final = text("state = 'pending' AND batch_id IS NOT NULL")
_DEAD: Final = text("state = 'dead'")


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
        Index("ix_event_to_fan_out", "seq", sqlite_where=_TO_FAN_OUT, postgresql_where=_TO_FAN_OUT),
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
    to_fan_out: bool | None
    """True until the event has its deliveries, NULL from then on: a partial index then holds only what waits."""


class WebhookEndpointTable(Table, table=True):
    """A receiver of events: of one user, or of the operator (`user_id` NULL), which hears of all users."""

    __tablename__ = "webhook_endpoint"
    __table_args__ = (
        CheckConstraint("mode IN ('standard', 'batched')", name="mode"),
        CheckConstraint("format IN ('standard', 'cloudevents', 'openhands')", name="format"),
        CheckConstraint("include IN ('nothing', 'link', 'content')", name="include"),
        CheckConstraint("on_dead IN ('skip', 'block')", name="on_dead"),
        CheckConstraint("state IN ('active', 'paused', 'disabled')", name="state"),
        Index(None, "user_id"),
    )

    id: uuid.UUID = Field(primary_key=True)
    user_id: str | None = Field(sa_type=PlainText)
    url: str = Field(sa_type=PlainText)
    description: str = Field(sa_type=PlainText)
    secret: bytes | None = Field(sa_type=Sealed)
    previous_secret: bytes | None = Field(sa_type=Sealed)
    """Signs beside `secret` until `previous_secret_until`, so that a receiver can change over at its own time."""
    previous_secret_until: datetime | None = Field(sa_type=UTCDateTime)
    headers: bytes | None = Field(sa_type=Sealed)
    event_types: list[str] = Field(sa_type=JSONValue)
    mode: str = Field(sa_type=PlainText)
    format: str = Field(sa_type=PlainText)
    include: str = Field(sa_type=PlainText)
    include_bytes: int = Field(sa_type=BigInteger)
    secret_names: bool
    on_dead: str = Field(sa_type=PlainText)
    batch_events: int
    batch_bytes: int = Field(sa_type=BigInteger)
    batch_seconds: float = Field(sa_type=Double)
    state: str = Field(sa_type=PlainText)
    state_reason: str | None = Field(sa_type=PlainText)
    from_seq: int = Field(sa_type=BigInteger)
    """The last event there was when the endpoint was added: it hears of those after it."""
    failures: int
    """Attempts that failed since the last one that did not: what opens the circuit breaker."""
    blocked_until: datetime | None = Field(sa_type=UTCDateTime)
    """Nothing is sent before: the breaker is open, or the receiver asked for it (Retry-After)."""
    created_at: datetime = Field(sa_type=UTCDateTime)
    updated_at: datetime = Field(sa_type=UTCDateTime)


class DeliveryTable(Table, table=True):
    """One event on its way to one endpoint, alone or in a batch, with its lease while a dispatcher holds it."""

    __tablename__ = "delivery"
    __table_args__ = (
        CheckConstraint("state IN ('pending', 'delivered', 'dead')", name="state"),
        Index(None, "event_seq"),
        # What waits is little; what was delivered is all the rest, and in no index that a claim walks.
        Index("ix_delivery_pending", "endpoint_id", "event_seq", sqlite_where=_PENDING, postgresql_where=_PENDING),
        Index(
            "ix_delivery_line",
            "endpoint_id",
            "line",
            "event_seq",
            sqlite_where=_PENDING,
            postgresql_where=_PENDING,
        ),
        # Two and not one: dead letters stay, and a claim would walk over all of them to find what waits.
        Index("ix_delivery_dead_line", "endpoint_id", "line", "event_seq", sqlite_where=_DEAD, postgresql_where=_DEAD),
        Index("ix_delivery_batch", "endpoint_id", "batch_id", sqlite_where=_IN_BATCH, postgresql_where=_IN_BATCH),
        Index("ix_delivery_dead", "endpoint_id", "event_seq", sqlite_where=_DEAD, postgresql_where=_DEAD),
    )

    endpoint_id: uuid.UUID = Field(
        primary_key=True, sa_column_args=(ForeignKey("webhook_endpoint.id", ondelete="CASCADE"),)
    )
    event_seq: int = Field(
        primary_key=True, sa_type=BigInteger, sa_column_args=(ForeignKey("event.seq", ondelete="CASCADE"),)
    )
    line: int = Field(sa_type=BigInteger)
    """Events of one line arrive in their order, those of different lines in any: a hash of user, noun and key."""
    batch_id: uuid.UUID | None
    state: str = Field(sa_type=PlainText)
    attempts: int
    next_at: datetime = Field(sa_type=UTCDateTime)
    lease_until: datetime | None = Field(sa_type=UTCDateTime)
    lease_token: uuid.UUID | None
    last_status: int | None
    last_error: str | None = Field(sa_type=PlainText)
    updated_at: datetime = Field(sa_type=UTCDateTime)


CONTENT_KEY: Final = register(
    SealedColumn(
        "event", "content_key", "file.content_key/1", row_id="blob_key", masked=False, repeats="file.content_key"
    )
)
SECRET: Final = register(SealedColumn("webhook_endpoint", "secret", "webhook_endpoint.secret/1", destination="url"))
PREVIOUS_SECRET: Final = register(
    SealedColumn("webhook_endpoint", "previous_secret", "webhook_endpoint.previous_secret/1", destination="url")
)
HEADERS: Final = register(SealedColumn("webhook_endpoint", "headers", "webhook_endpoint.headers/1", destination="url"))
