"""What must not be left half done: run to its end even if the caller is cancelled, who then hears of it afterwards."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

R = TypeVar("R")


async def carried_through(work: Coroutine[Any, Any, R]) -> R:
    """The result of `work`; a cancellation of the caller is raised once `work` has ended, however it ended.

    A COMMIT that was sent cannot be called back, and a connection whose ROLLBACK was cut short is in no known state.
    """
    task = asyncio.ensure_future(work)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait({task})
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is None:
        return task.result()
    if not task.cancelled():
        task.exception()  # seen: the cancellation is what the caller hears
    raise cancelled
