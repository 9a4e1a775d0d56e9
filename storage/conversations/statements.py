"""The repository's statements; every one asks for one user's rows, so that ownership is enforced by the database."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Final

from sqlalchemy import BigInteger, bindparam, delete, func, insert, literal_column, select, update
from sqlalchemy.sql.elements import ColumnElement

from storage.conversations.row import COLUMNS
from storage.conversations.table import ConversationTable
from storage.database.expressions import any_of
from storage.database.statement import Statement
from storage.database.upsert import excluded, upsert

table: Final = ConversationTable.__table__  # type: ignore[attr-defined]

OWN: Final = table.c.user_id == bindparam("user_id")
ONE: Final = table.c.conversation_id == bindparam("conversation_id")
MANY: Final = any_of(table.c.conversation_id, bindparam("conversation_ids"))
NEXT_VERSION: Final = {"version": table.c.version + literal_column("1")}

GET: Final = Statement("conversation.get", select(*COLUMNS).where(OWN, ONE))
GET_FOR_UPDATE: Final = Statement("conversation.get_for_update", select(*COLUMNS).where(OWN, ONE).with_for_update())
GET_MANY: Final = Statement("conversation.get_many", select(*COLUMNS).where(OWN, MANY))
EXISTS: Final = Statement("conversation.exists", select(literal_column("1")).where(OWN, ONE))
SUBS: Final = Statement(
    "conversation.subs",
    select(*COLUMNS).where(OWN, table.c.parent_conversation_id == bindparam("conversation_id")),
)

# The only look beyond one user: whether an id is taken, and by nobody in particular.
TAKEN: Final = Statement(
    "conversation.taken", select(table.c.conversation_id).where(MANY, table.c.user_id != bindparam("user_id"))
)


def _save(*kept: str) -> Any:
    fixed = {"user_id", "conversation_id", "version", *kept}
    return upsert(
        table,
        conflict=["conversation_id"],
        update=[name for name in table.c.keys() if name not in fixed],
        expressions=NEXT_VERSION,
        where=table.c.user_id == excluded(table).user_id,
        returning=["version"],
    )


SAVE: Final = Statement("conversation.save", _save())
SAVE_BUT_SEALED: Final = Statement("conversation.save_but_sealed", _save("sealed_extra"))
"""The same, but sealed fields that are in the row already stay as they are there."""
INSERT: Final = Statement(
    "conversation.insert", insert(table).values({name: bindparam(name) for name in table.c.keys()}).inline()
)

_ADDED: Final = (
    "accumulated_cost",
    "prompt_tokens",
    "completion_tokens",
    "total_tokens",
    "cache_read_tokens",
    "cache_write_tokens",
    "reasoning_tokens",
)
_REPLACED: Final = ("context_window", "per_turn_token")

ADD_USAGE: Final = Statement(
    "conversation.add_usage",
    update(table)
    # SQLite would make an inexact number of an overflow, and PostgreSQL an error of no use to the caller.
    .where(OWN, ONE, *(table.c[name] <= bindparam(f"most_{name}", type_=table.c[name].type) for name in _ADDED))
    .values(
        {name: table.c[name] + bindparam(f"add_{name}", type_=table.c[name].type) for name in _ADDED}
        | {name: func.coalesce(bindparam(f"new_{name}", type_=BigInteger()), table.c[name]) for name in _REPLACED}
        | {"last_updated_at": bindparam("now", type_=table.c.last_updated_at.type)}
        | NEXT_VERSION
    )
    .returning(table.c.version),
)


def _delete_tree() -> Any:
    """UNION and not UNION ALL: it ends also where conversations are each other's parents."""
    doomed = select(table.c.conversation_id).where(OWN, ONE).cte("doomed", recursive=True)
    doomed = doomed.union(
        select(table.c.conversation_id).where(OWN, table.c.parent_conversation_id == doomed.c.conversation_id)
    )
    return (
        delete(table)
        .where(OWN, table.c.conversation_id.in_(select(doomed.c.conversation_id)))
        .returning(table.c.conversation_id)
    )


DELETE: Final = Statement("conversation.delete", _delete_tree())


@lru_cache(maxsize=256)
def update_of(columns: tuple[str, ...]) -> Statement:
    """The UPDATE that sets these columns, from parameters `new_…`, and counts the version up."""
    values: dict[str, ColumnElement[Any]] = {
        name: bindparam(f"new_{name}", type_=table.c[name].type) for name in columns
    }
    changed = update(table).where(OWN, ONE).values(values | NEXT_VERSION).returning(table.c.version)
    return Statement("conversation.update", changed, register=False)
