"""Removes events that nobody waits for any more, some at a time, so that the outbox does not grow for ever."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Final

from storage.database.pace import Pace
from storage.database.unit import Unit, execute
from storage.webhooks.queue import statements as sql

if TYPE_CHECKING:
    from storage.database.database import Database

MOST_DAYS: Final = 36_500
"""A hundred years; much more would reach back behind the year 1."""


async def prune(database: Database, before: datetime) -> int:
    """Remove the events of before `before`, with their deliveries; returns how many.

    What waits for an endpoint stays, and so does what is dead: it may be replayed. What waits for an endpoint that is
    disabled goes. Can be interrupted at any moment, and two at once do no harm.

    Args:
        database: where.
        before: aware; by the time at which the event was recorded.

    Raises:
        DatabaseError: the database cannot be written; some may have gone.
    """
    pace = Pace()
    removed = after = 0
    while True:
        at_once = pace.at_once
        rows = await database.read(sql.OLDEST, {"after": after, "limit": at_once})
        old = [seq for seq, created_at, _ in rows if created_at < before]
        if not old:
            return removed
        last = old[-1]
        removed += await database.run(pace.timed(lambda after=after, last=last: _prune(after, last)))  # type: ignore[misc]
        if len(old) < at_once:
            return removed
        after = last
        await pace.rest()


def _prune(after: int, last: int) -> Unit[int]:
    return len((yield from execute(sql.PRUNE, after=after, last=last)))
