"""A SQLite connection that one thread has to itself, from the first statement to the end."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from storage.database.carried_through import carried_through
from storage.database.sqlite_connection import connect

R = TypeVar("R")


class SQLiteThread:
    """Work for a connection, done one piece after the other.

    One thread, not any of a pool: the driver shares a prepared statement between cursors, and a cursor that is let go
    of in one thread resets the statement that another is at. And the end waits for what a cancelled caller has left
    under way: closing a connection at which a thread is working ends the process.

    Args:
        location: see storage.database.sqlite_connection.connect.
        options: of `connect`, too.
    """

    def __init__(self, location: str, **options: Any) -> None:
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="storage-backup")
        self._location = location
        self._options = options
        self._connection: sqlite3.Connection | None = None

    async def run(self, work: Callable[[sqlite3.Connection], R]) -> R:
        """What `work` gives. A cursor among that is used, and closed, by further work only.

        Raises:
            DatabaseUnavailable: the database cannot be opened, which the first call does.
            sqlite3.Error: what `work` raises.
        """
        return await asyncio.get_running_loop().run_in_executor(self._pool, self._run, work)

    def _run(self, work: Callable[[sqlite3.Connection], R]) -> R:
        if self._connection is None:
            self._connection = connect(self._location, **self._options)
        return work(self._connection)

    async def close(self) -> None:
        """Finish what is under way, roll back what was not committed, and close; also if the caller is cancelled."""
        await carried_through(self._close())

    async def _close(self) -> None:
        await asyncio.get_running_loop().run_in_executor(self._pool, self._end)
        self._pool.shutdown(wait=False)  # its one thread has nothing left to do

    def _end(self) -> None:
        if self._connection is not None:
            self._connection.close()  # which also rolls back
