"""Which conversations of a user a policy removes, and why; the same for a trial and for the removal itself."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Literal, TypeAlias

from storage.conversations.retention import Tree, trees
from storage.files.conversation_files import sums

if TYPE_CHECKING:
    from storage.database.database import Database
    from storage.retention.policy import RetentionPolicy

Reason: TypeAlias = Literal["age", "idle", "cap"]
"""The first rule that applies, in this order."""


@dataclass(frozen=True, slots=True)
class Doomed:
    """A conversation that is to go, with its sub-conversations, and why."""

    tree: Tree
    reason: Reason


async def decide(database: Database, user_id: str, policy: RetentionPolicy, moment: datetime) -> list[Doomed]:
    """The conversations of a user that are to go, those that changed longest ago first.

    Args:
        database: where.
        user_id: whose, in stored form.
        policy: by which rules.
        moment: now, for ages.
    """
    every = sorted(await trees(database, user_id), key=lambda tree: (tree.updated_at, tree.root_id))
    by_age = policy.conversation_age
    doomed = {tree.root_id: Doomed(tree, "age") for tree in every if by_age and tree.created_at < moment - by_age}
    if policy.conversation_idle is not None:
        before = moment - policy.conversation_idle
        idle = [tree for tree in every if tree.root_id not in doomed and tree.updated_at < before]
        used = await _used_files(database, user_id, idle, before)
        doomed |= {tree.root_id: Doomed(tree, "idle") for tree in idle if used.isdisjoint(tree.versions)}
    if policy.conversations_per_user is not None:
        kept = [tree for tree in every if tree.root_id not in doomed]
        too_many = kept[: max(len(kept) - policy.conversations_per_user, 0)]
        doomed |= {tree.root_id: Doomed(tree, "cap") for tree in too_many}
    return [doomed[tree.root_id] for tree in every if tree.root_id in doomed]


async def _used_files(database: Database, user_id: str, idle: list[Tree], before: datetime) -> set[str]:
    """The conversations that got a file since, which their own row does not tell."""
    names = [name for tree in idle for name in tree.versions]
    found = await sums(database, user_id, names)
    return {name for name, files in found.items() if files.updated_at >= before}
