"""The catalogue's tables. A row of `file` is the truth about a path; the blob it names is immutable and opaque."""

from __future__ import annotations

from datetime import datetime
from typing import Final

from sqlalchemy import BigInteger, CheckConstraint, Index, LargeBinary, text
from sqlmodel import Field

from storage.database.metadata import Table
from storage.database.types import PlainText, Sealed, UTCDateTime
from storage.encryption.registry import SealedColumn, register

_IS_SEALED: Final = text("content_key IS NOT NULL")


class FileTable(Table, table=True):
    """A file of a user: its path, where its bytes are, and what they must hash to."""

    __tablename__ = "file"
    __table_args__ = (
        CheckConstraint("size >= 0", name="size"),
        Index(None, "user_id", "conversation_id"),
        # Not unique: a copy may share the immutable blob. The collector asks whether any row still names one.
        Index(None, "blob_key"),
        # What a search is ordered or narrowed by, besides the path; the second one also gives sums without the rows.
        Index(None, "user_id", "media_type", "path"),
        Index(None, "user_id", "size", "path"),
        Index(None, "user_id", "updated_at", "path"),
        # Rotation asks for a user's sealed values.
        Index("ix_file_sealed", "user_id", sqlite_where=_IS_SEALED, postgresql_where=_IS_SEALED),
    )

    user_id: str = Field(primary_key=True, sa_type=PlainText)
    path: str = Field(primary_key=True, sa_type=PlainText)
    blob_key: str = Field(sa_type=PlainText)
    size: int = Field(sa_type=BigInteger)
    sha256: bytes = Field(sa_type=LargeBinary)
    media_type: str | None = Field(sa_type=PlainText)
    conversation_id: str | None = Field(sa_type=PlainText)
    version: int
    created_at: datetime = Field(sa_type=UTCDateTime)
    updated_at: datetime = Field(sa_type=UTCDateTime)
    content_key: bytes | None = Field(sa_type=Sealed)
    """The key of the blob's own bytes where they are sealed. Rotation re-seals this, and leaves the blob as it is."""


class FileContentTable(Table, table=True):
    """A small blob that is kept in the database instead of the backend; as immutable as any, and named like one."""

    __tablename__ = "file_content"

    user_id: str = Field(primary_key=True, sa_type=PlainText)
    blob_key: str = Field(primary_key=True, sa_type=PlainText)
    content: bytes = Field(sa_type=LargeBinary)


CONTENT_KEY: Final = register(
    SealedColumn("file", "content_key", "file.content_key/1", row_id="blob_key", masked=False)
)
