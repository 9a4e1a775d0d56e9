"""What the tests of the floor write and count: events, the one table that needs no feature above it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sqlalchemy import func, select

from storage.database import Database, Executor, Statement, Unit, parse_url
from storage.database.migrate import ensure
from storage.tables import EventTable
from storage.webhooks.outbox import record

EVENT: Any = EventTable.__table__  # type: ignore[attr-defined]
COUNT = Statement("test.count", select(func.count()).select_from(EVENT), register=False)


async def opened(url: str, **options: Any) -> Database:
    """A database whose schema is current."""
    database = Database(parse_url(url), **options)
    await ensure(database, database.url)
    return database


async def count(executor: Executor) -> int:
    """How many events there are."""
    return int((await executor.read(COUNT, {}))[0][0])


def one(key: str) -> Callable[[], Unit[None]]:
    """A unit that writes one event."""
    return lambda: record("u", "test.happened", key=key)
