"""The `file` table: the catalogue. A row is the truth about a path; the blob it names is immutable and opaque."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import BigInteger, CheckConstraint, Index, LargeBinary
from sqlmodel import Field

from storage.database.metadata import Table
from storage.database.types import PlainText, UTCDateTime


class FileTable(Table, table=True):
    """A file of a user: its path, where its bytes are, and what they must hash to."""

    __tablename__ = "file"
    __table_args__ = (
        CheckConstraint("size >= 0", name="size"),
        Index(None, "user_id", "conversation_id"),
        # Not unique: a copy may share the immutable blob. The collector asks whether any row still names one.
        Index(None, "blob_key"),
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
