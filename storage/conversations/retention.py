"""What retention asks and does of conversations: their outlines, and the removal of some of them at a time.

A conversation goes with its sub-conversations and all their files, as when it is deleted; but some rows at a time, so
that nobody waits for a large one, and never one that was used since it was decided upon.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, TypeAlias

from sqlalchemy import Integer, bindparam, delete, select

from storage.conversations.statements import MANY, OWN, table
from storage.conversations.table import UPDATED
from storage.database.expressions import any_of
from storage.database.statement import Statement
from storage.database.types import PlainText
from storage.database.unit import Executor, Unit, execute
from storage.webhooks import outbox

RemoveFiles: TypeAlias = Callable[[str, str, int], Unit[int]]
"""Removes at most so many files of a conversation of a user; returns how many it has removed."""

UsedSince: TypeAlias = Callable[[str, Sequence[str], datetime], Unit[bool]]
"""Whether a file of these conversations of a user was written since."""

PAGE_ROWS: Final = 1000

NEXT_OWNER: Final = Statement(
    "conversation.next_owner",
    select(table.c.user_id)
    .where(table.c.user_id > bindparam("after", type_=PlainText()))
    .order_by(table.c.user_id)
    .limit(1),
)
OUTLINES: Final = Statement(
    "conversation.outlines",
    select(
        table.c.conversation_id,
        table.c.parent_conversation_id,
        table.c.created_at,
        UPDATED.label("updated_at"),
        table.c.version,
    )
    .where(OWN, table.c.conversation_id > bindparam("after", type_=PlainText()))
    .order_by(table.c.conversation_id)
    .limit(bindparam("limit", type_=Integer)),
)
HOLD: Final = Statement(
    "conversation.hold_versions",
    select(table.c.conversation_id, table.c.version).where(OWN, MANY).with_for_update(),
)
SUBS_OF: Final = Statement(
    "conversation.subs_of",
    select(table.c.conversation_id).where(OWN, any_of(table.c.parent_conversation_id, bindparam("conversation_ids"))),
)
DELETE_ALL: Final = Statement(
    "conversation.delete_all", delete(table).where(OWN, MANY).returning(table.c.conversation_id)
)


@dataclass(frozen=True, slots=True)
class Outline:
    """As much of a conversation as decides how long it is kept.

    Attributes:
        conversation_id: its id.
        parent_id: of the conversation that it is a part of; None if it is none's.
        created_at: when it began.
        updated_at: when it last changed.
        version: counts its changes.
    """

    conversation_id: str
    parent_id: str | None
    created_at: datetime
    updated_at: datetime
    version: int


@dataclass(frozen=True, slots=True)
class Tree:
    """A conversation with all its sub-conversations.

    Attributes:
        root_id: the conversation.
        versions: of each of them by its id, the deepest first.
        created_at: when the youngest of them began.
        updated_at: when one of them last changed.
    """

    root_id: str
    versions: dict[str, int]
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class Removal:
    """What a unit has removed.

    Attributes:
        done: how many of the trees that it was given are settled: removed whole, or left.
        conversations: removed.
        files: removed.
        left: trees that were used since it was decided, and stay.
    """

    done: int
    conversations: int
    files: int
    left: int


async def next_owner(executor: Executor, after: str) -> str | None:
    """The first user behind `after`, by id, who has conversations."""
    rows = await executor.read(NEXT_OWNER, {"after": after})
    return str(rows[0][0]) if rows else None


async def trees(executor: Executor, user_id: str) -> list[Tree]:
    """All of a user's conversations, each with its sub-conversations. Reads all of the user's rows."""
    outlines: dict[str, Any] = {}
    after = ""
    while True:
        parameters = {"user_id": user_id, "after": after, "limit": PAGE_ROWS}
        rows = await executor.read(OUTLINES, parameters, scan=True)
        outlines.update((row[0], Outline(*row)) for row in rows)
        if len(rows) < PAGE_ROWS:
            return _trees(outlines)
        after = rows[-1][0]


def _trees(outlines: dict[str, Outline]) -> list[Tree]:
    children: dict[str, list[str]] = {}
    roots = []
    for name, outline in outlines.items():
        if outline.parent_id in outlines:
            children.setdefault(str(outline.parent_id), []).append(name)
        else:
            roots.append(name)
    seen: set[str] = set()
    found = [_tree(root, outlines, children, seen) for root in roots]
    # Those that are each other's parents have no root among them.
    found += [_tree(name, outlines, children, seen) for name in outlines if name not in seen]
    return [tree for tree in found if tree.versions]


def _tree(root: str, outlines: dict[str, Outline], children: dict[str, list[str]], seen: set[str]) -> Tree:
    members = []
    pending = [root]
    while pending:
        name = pending.pop()
        if name in seen:
            continue
        seen.add(name)
        members.append(outlines[name])
        pending.extend(children.get(name, ()))
    return Tree(
        root,
        # Each was found before those below it.
        {member.conversation_id: member.version for member in reversed(members)},
        max((member.created_at for member in members), default=outlines[root].created_at),
        max((member.updated_at for member in members), default=outlines[root].updated_at),
    )


def remove_some(
    user_id: str,
    doomed: Sequence[Tree],
    at_once: int,
    decided_at: datetime,
    *,
    remove_files: RemoveFiles,
    used_since: UsedSince,
) -> Unit[Removal]:
    """Remove the first of these trees, and of the last one that there is room for a part: its files, then its subs.

    To be run again with what is not done until nothing is left. A conversation is there until its last file has gone,
    so that after an interruption the next run finds it again.

    Args:
        user_id: the owner, in stored form.
        doomed: what is to be removed.
        at_once: rows that may be removed, at least 1; bounds how long others wait.
        decided_at: what was changed since, or has got a file since, is left.
        remove_files: removes files of a conversation.
        used_since: whether some were written.
    """
    done = conversations = files = left = 0
    for tree in doomed:
        names = list(tree.versions)
        held: dict[str, int] = dict((yield from execute(HOLD, user_id=user_id, conversation_ids=names)))
        subs = {name for (name,) in (yield from execute(SUBS_OF, user_id=user_id, conversation_ids=names))}
        is_used = any(tree.versions[name] != version for name, version in held.items()) or not subs <= set(names)
        if is_used or (held and (yield from used_since(user_id, names, decided_at))):
            done, left = done + 1, left + 1
            continue
        for name in names:
            if name not in held:
                continue  # by the run before
            removed = yield from remove_files(user_id, name, at_once - files - conversations)
            files += removed
            if files + conversations >= at_once:
                return Removal(done, conversations, files, left)
            gone = yield from execute(DELETE_ALL, user_id=user_id, conversation_ids=[name])
            yield from outbox.record_all([outbox.change(user_id, "conversation.deleted", key=key) for (key,) in gone])
            conversations += len(gone)
            if files + conversations >= at_once and name != names[-1]:
                return Removal(done, conversations, files, left)
        done += 1
        if files + conversations >= at_once:
            break
    return Removal(done, conversations, files, left)
