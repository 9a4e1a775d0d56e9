"""The data keys of many users at once, for the work that walks all of them."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, TypeVar

from storage.database.statement import Row
from storage.database.unit import Executor
from storage.encryption import statements as sql
from storage.encryption.keyset import KeySet
from storage.encryption.master_keys import MasterKeys

T = TypeVar("T")
R = TypeVar("R")

CONCURRENCY: Final = 16
"""Questions to a provider at once: a key service answers in some 50 ms, and refuses a client that asks a thousand."""


def behind(user_id: str) -> str:
    """The first text that sorts behind a user's id, for reading page by page: neither database stores NUL."""
    return user_id + "\x01"


async def each(work: Callable[[T], Awaitable[R]], items: Sequence[T]) -> list[R]:
    """The results of `work` for each item, in the items' order, CONCURRENCY at once; others get the loop in between.

    The first error cancels what is under way and is raised as it is.
    """
    results: dict[int, R] = {}
    pending = iter(enumerate(items))

    async def take_turns() -> None:
        for index, item in pending:
            results[index] = await work(item)
            # A provider in memory answers without ever giving the loop back.
            await asyncio.sleep(0)

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(min(CONCURRENCY, len(items))):
                group.create_task(take_turns())
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0]  # noqa: B904 - its own cause must stay
    return [results[index] for index in range(len(items))]


async def key_sets(executor: Executor, masters: MasterKeys, user_ids: Sequence[str]) -> dict[str, KeySet]:
    """The key sets of users, unwrapped; users without data keys have empty ones.

    Raises:
        DatabaseError: the database cannot be read. What cannot be unwrapped is a failure inside its key set.
    """
    rows: dict[str, list[Row]] = defaultdict(list)
    for user_id, *row in await executor.read(sql.DATA_KEYS_OF_USERS, {"user_ids": list(user_ids)}, scan=True):
        rows[user_id].append(tuple(row))
    if any(row[1] not in masters.held for of_user in rows.values() for row in of_user):
        await masters.check(executor)  # perhaps another process has registered that master key since

    async def unwrapped(user_id: str) -> KeySet:
        return await masters.key_set(user_id, rows[user_id])

    return {keys.user_id: keys for keys in await each(unwrapped, list(user_ids))}
