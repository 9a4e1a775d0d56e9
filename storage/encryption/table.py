"""The tables of keys: data keys, wrapped, one active a user; and what is known of the master keys, never the keys."""

from __future__ import annotations

import uuid
from datetime import datetime

from sqlalchemy import CheckConstraint, ForeignKey, Index, LargeBinary, text
from sqlmodel import Field

from storage.database.metadata import Table
from storage.database.types import PlainText, UTCDateTime


class KeyEncryptionKeyTable(Table, table=True):
    """A master key (KEK) that this database has seen: its random id and a value that recognises it."""

    __tablename__ = "key_encryption_key"

    kek_id: bytes = Field(primary_key=True, sa_type=LargeBinary)
    check_value: bytes = Field(sa_type=LargeBinary)
    created_at: datetime = Field(sa_type=UTCDateTime)
    retired_at: datetime | None = Field(sa_type=UTCDateTime)


class DataKeyTable(Table, table=True):
    """A user's data key, wrapped by a master key with the user and the key's id as associated data."""

    __tablename__ = "data_key"
    __table_args__ = (
        CheckConstraint("state IN ('active', 'retired')", name="state"),
        # At most one key that new secrets are sealed with, also when two processes create the first one at once.
        Index(
            "uq_data_key_active_user_id",
            "user_id",
            unique=True,
            sqlite_where=text("state = 'active'"),
            postgresql_where=text("state = 'active'"),
        ),
        Index(None, "user_id"),
        Index(None, "kek_id"),
    )

    id: uuid.UUID = Field(primary_key=True)
    user_id: str = Field(sa_type=PlainText)
    kek_id: bytes = Field(
        sa_type=LargeBinary, sa_column_args=(ForeignKey("key_encryption_key.kek_id", ondelete="RESTRICT"),)
    )
    wrapped: bytes = Field(sa_type=LargeBinary)
    state: str = Field(sa_type=PlainText)
    created_at: datetime = Field(sa_type=UTCDateTime)
