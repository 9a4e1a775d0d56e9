"""Blocking work in threads that nobody leaves behind: who is cancelled waits until it has ended.

A thread that goes on after its caller would write to a folder that is being removed, or be in the way of another try.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from storage.database.carried_through import carried_through

P = ParamSpec("P")
R = TypeVar("R")


async def in_thread(work: Callable[P, R], *arguments: P.args, **options: P.kwargs) -> R:
    """What `work` gives, which has to be short: a caller that is cancelled waits for it."""
    return await carried_through(asyncio.to_thread(work, *arguments, **options))


async def in_thread_until_cancelled(work: Callable[[threading.Event], R]) -> R:
    """What `work` gives, which may be long: it ends soon after the event that it is given is set."""
    cancelled = threading.Event()
    task = asyncio.ensure_future(asyncio.to_thread(work, cancelled))
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        cancelled.set()
        await carried_through(asyncio.wait({task}))
        task.exception()  # seen: the cancellation is what the caller hears
        raise
