"""Many calls to a backend at once, but not all of them: a batch must not open a thousand connections."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


async def each(work: Callable[[T], Awaitable[R]], items: Sequence[T], limit: int) -> list[R]:
    """The results of `work` for each item, in the items' order, with at most `limit` under way at once.

    The first error cancels what is under way and is raised as it is.
    """
    results: dict[int, R] = {}
    pending = iter(enumerate(items))

    async def take_turns() -> None:
        for index, item in pending:
            results[index] = await work(item)

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(min(limit, len(items))):
                group.create_task(take_turns())
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0]  # noqa: B904 - its own cause must stay
    return [results[index] for index in range(len(items))]
