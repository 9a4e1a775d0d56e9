"""How much is stored: conversations, files and bytes of each user, and the conversations that take the most room."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import BigInteger, bindparam, cast, func, select

from storage.database.statement import Statement
from storage.database.unit import Executor
from storage.identity import user_key
from storage.tables import ConversationTable, FileTable

TOP_CONVERSATIONS: Final = 10
"""How many of the largest conversations a report names."""

_conversation: Final[Any] = ConversationTable.__table__  # type: ignore[attr-defined]
_file: Final[Any] = FileTable.__table__  # type: ignore[attr-defined]


@dataclass(frozen=True, slots=True)
class UserUsage:
    """What one user stores; `bytes` is the sum of the files' sizes."""

    user_id: str
    conversations: int
    files: int
    bytes: int


@dataclass(frozen=True, slots=True)
class ConversationUsage:
    """What one conversation's files take; `title` is None if it has none, or only its files are left."""

    user_id: str
    conversation_id: str
    title: str | None
    files: int
    bytes: int


@dataclass(frozen=True, slots=True)
class UsageReport:
    """How much is stored; the users by name, the conversations with the largest first."""

    users: list[UserUsage]
    largest_conversations: list[ConversationUsage]


async def usage_report(executor: Executor, user_id: str | None = None, *, top: int = TOP_CONVERSATIONS) -> UsageReport:
    """Measure what one user stores, or everybody if `user_id` is None. Reads whole tables.

    Args:
        executor: a Database or an open Transaction.
        user_id: the user; None is everybody (and not the local user).
        top: the most conversations to name.

    Raises:
        InvalidInput: a user id that cannot be one.
        DatabaseError: the database failed.
    """
    statements = _EVERYBODY if user_id is None else _ONE_USER
    parameters = {} if user_id is None else {"user_id": user_key(user_id)}
    users: dict[str, tuple[int, int, int]] = {}
    for user, conversations in await executor.read(statements["conversations"], parameters, scan=True):
        users[user] = (conversations, 0, 0)
    for user, files, size in await executor.read(statements["files"], parameters, scan=True):
        users[user] = (users.get(user, (0, 0, 0))[0], files, size)
    largest = await executor.read(statements["largest"], {**parameters, "top": top}, scan=True)
    return UsageReport(
        [UserUsage(user, *numbers) for user, numbers in sorted(users.items())],
        [ConversationUsage(*row) for row in largest],
    )


async def conversation_usage(executor: Executor, user_id: str | None, conversation_id: str) -> tuple[int, int]:
    """How many files a conversation of this user has, and their bytes together.

    Raises:
        InvalidInput: a user id that cannot be one.
        DatabaseError: the database failed.
    """
    parameters = {"user_id": user_key(user_id), "conversation_id": conversation_id}
    [(files, size)] = await executor.read(_OF_CONVERSATION, parameters)
    return files, size


def _statements(*, of_one_user: bool) -> dict[str, Statement]:
    size = cast(func.coalesce(func.sum(_file.c.size), 0), BigInteger).label("bytes")
    queries = {
        "conversations": select(_conversation.c.user_id, func.count()).group_by(_conversation.c.user_id),
        "files": select(_file.c.user_id, func.count(), size).group_by(_file.c.user_id),
        "largest": select(_file.c.user_id, _file.c.conversation_id, func.max(_conversation.c.title), func.count(), size)
        .select_from(
            _file.outerjoin(
                _conversation,
                (_conversation.c.user_id == _file.c.user_id)
                & (_conversation.c.conversation_id == _file.c.conversation_id),
            )
        )
        .where(_file.c.conversation_id.is_not(None))
        .group_by(_file.c.user_id, _file.c.conversation_id)
        .order_by(size.desc(), _file.c.user_id, _file.c.conversation_id)
        .limit(bindparam("top")),
    }
    if of_one_user:
        for name, query in queries.items():
            owner = _conversation.c.user_id if name == "conversations" else _file.c.user_id
            queries[name] = query.where(owner == bindparam("user_id"))
    whose = "of_user" if of_one_user else "of_everybody"
    return {name: Statement(f"report.usage_{name}_{whose}", query) for name, query in queries.items()}


_OF_CONVERSATION: Final = Statement(
    "file.usage_of_conversation",
    select(func.count(), cast(func.coalesce(func.sum(_file.c.size), 0), BigInteger)).where(
        _file.c.user_id == bindparam("user_id"), _file.c.conversation_id == bindparam("conversation_id")
    ),
)
_EVERYBODY: Final = _statements(of_one_user=False)
_ONE_USER: Final = _statements(of_one_user=True)
