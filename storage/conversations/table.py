"""The `conversation` table: one row a conversation, every number of it a typed column that reports can add up."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final

from sqlalchemy import BigInteger, Double, Index, UniqueConstraint, func, literal_column, text
from sqlmodel import Field

from storage.database.metadata import Table
from storage.database.types import JSONValue, PlainText, Sealed, UTCDateTime
from storage.encryption.registry import SealedColumn, register


class ConversationTable(Table, table=True):
    """A conversation's metadata. Unknown fields of callers are kept in `extra`, secret ones in `sealed_extra`."""

    __tablename__ = "conversation"
    # An id names one conversation in the whole database, whoever owns it: links and file paths carry only the id.
    __table_args__ = (UniqueConstraint("conversation_id"),)

    user_id: str = Field(primary_key=True, sa_type=PlainText)
    conversation_id: str = Field(primary_key=True, sa_type=PlainText)
    title: str | None = Field(sa_type=PlainText)
    selected_repository: str | None = Field(sa_type=PlainText)
    selected_branch: str | None = Field(sa_type=PlainText)
    git_provider: str | None = Field(sa_type=PlainText)
    trigger: str | None = Field(sa_type=PlainText)
    llm_model: str | None = Field(sa_type=PlainText)
    pr_number: list[int] = Field(sa_type=JSONValue)
    tags: list[str] = Field(sa_type=JSONValue)
    accumulated_cost: float = Field(sa_type=Double)
    max_budget_per_task: float | None = Field(sa_type=Double)
    prompt_tokens: int = Field(sa_type=BigInteger)
    completion_tokens: int = Field(sa_type=BigInteger)
    total_tokens: int = Field(sa_type=BigInteger)
    cache_read_tokens: int = Field(sa_type=BigInteger)
    cache_write_tokens: int = Field(sa_type=BigInteger)
    reasoning_tokens: int = Field(sa_type=BigInteger)
    context_window: int = Field(sa_type=BigInteger)
    per_turn_token: int = Field(sa_type=BigInteger)
    conversation_version: str | None = Field(sa_type=PlainText)
    sandbox_id: str | None = Field(sa_type=PlainText)
    parent_conversation_id: str | None = Field(sa_type=PlainText)
    public: bool | None
    created_at: datetime = Field(sa_type=UTCDateTime)
    last_updated_at: datetime | None = Field(sa_type=UTCDateTime)
    version: int
    extra: dict[str, Any] = Field(sa_type=JSONValue)
    sealed_extra: bytes | None = Field(sa_type=Sealed)


_columns = ConversationTable.__table__.c  # type: ignore[attr-defined]

UPDATED = func.coalesce(_columns.last_updated_at, _columns.created_at)
"""When a conversation last changed; one that never did counts from its creation."""

TITLE = func.substr(
    func.coalesce(_columns.title, literal_column("''")), literal_column("1"), literal_column("200"), type_=PlainText()
)
"""The title to sort by: its first 200 characters, because PostgreSQL refuses an index entry of more than 2.7 kB.

Literals and not parameters, because an index serves only the very same expression."""

# One index a sort order of `search`, each with the id as the tie-breaker of its keyset and readable both ways.
Index("ix_conversation_created", _columns.user_id, _columns.created_at, _columns.conversation_id)
Index("ix_conversation_updated", _columns.user_id, UPDATED, _columns.conversation_id)
Index("ix_conversation_title", _columns.user_id, TITLE, _columns.conversation_id)
Index("ix_conversation_cost", _columns.user_id, _columns.accumulated_cost, _columns.conversation_id)
Index("ix_conversation_parent", _columns.user_id, _columns.parent_conversation_id)
# Masking asks for a user's sealed values at every event that is written, and few conversations have any.
Index(
    "ix_conversation_sealed",
    _columns.user_id,
    sqlite_where=text("sealed_extra IS NOT NULL"),
    postgresql_where=text("sealed_extra IS NOT NULL"),
)

SEALED_EXTRA: Final = register(
    SealedColumn("conversation", "sealed_extra", "conversation.sealed_extra/1", row_id="conversation_id")
)
