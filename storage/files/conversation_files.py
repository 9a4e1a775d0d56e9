"""The files of conversations, for retention: how much they are, whether they are in use, and the removal of some."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from sqlalchemy import BigInteger, Integer, bindparam, cast, delete, func, select

from storage.database.expressions import any_of
from storage.database.statement import Statement
from storage.database.types import UTCDateTime
from storage.database.unit import Executor, Unit, execute
from storage.files.rows import record_deleted
from storage.files.sql import FILE, OF_USER

AT_ONCE: Final = 500
"""Conversations asked about with one statement."""

_of_these: Final = any_of(FILE.c.conversation_id, bindparam("conversation_ids"))

SUMS: Final = Statement(
    "report.files_of_conversations",
    select(
        FILE.c.conversation_id,
        func.count(),
        cast(func.coalesce(func.sum(FILE.c.size), 0), BigInteger),
        func.max(FILE.c.updated_at, type_=UTCDateTime()),
    )
    .where(OF_USER, _of_these)
    .group_by(FILE.c.conversation_id),
)
WRITTEN_SINCE: Final = Statement(
    "file.of_conversations_since",
    select(FILE.c.path)
    .where(OF_USER, FILE.c.updated_at >= bindparam("since", type_=UTCDateTime()), _of_these)
    .limit(1),
)
_SOME: Final = (
    select(FILE.c.path)
    .where(OF_USER, FILE.c.conversation_id == bindparam("conversation_id"))
    .limit(bindparam("limit", type_=Integer))
)
REMOVE_SOME: Final = Statement(
    "file.remove_some_of_conversation",
    delete(FILE).where(OF_USER, FILE.c.path.in_(_SOME)).returning(FILE.c.path, FILE.c.version),
)


@dataclass(frozen=True, slots=True)
class ConversationFiles:
    """The files of one conversation.

    Attributes:
        files: how many they are.
        bytes: the sum of their sizes.
        updated_at: when one of them was last written.
    """

    files: int
    bytes: int
    updated_at: datetime


async def sums(executor: Executor, user_id: str, conversation_ids: Sequence[str]) -> dict[str, ConversationFiles]:
    """How much the files of each of these conversations are; those without files are left out."""
    found: dict[str, ConversationFiles] = {}
    for start in range(0, len(conversation_ids), AT_ONCE):
        some = list(conversation_ids[start : start + AT_ONCE])
        rows = await executor.read(SUMS, {"user_id": user_id, "conversation_ids": some}, scan=True)
        found.update((name, ConversationFiles(int(files), int(size), last)) for name, files, size, last in rows)
    return found


def written_since(user_id: str, conversation_ids: Sequence[str], since: datetime) -> Unit[bool]:
    """Whether a file of one of these conversations was written at that time or later."""
    parameters = {"user_id": user_id, "conversation_ids": list(conversation_ids), "since": since}
    return bool((yield from execute(WRITTEN_SINCE, **parameters)))


def remove_some(user_id: str, conversation_id: str, limit: int) -> Unit[int]:
    """Delete at most `limit` files of a conversation within the caller's unit; returns how many they were."""
    rows = yield from execute(REMOVE_SOME, user_id=user_id, conversation_id=conversation_id, limit=limit)
    yield from record_deleted(user_id, rows)
    return len(rows)
