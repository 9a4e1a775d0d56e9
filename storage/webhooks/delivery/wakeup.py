"""Processes on one PostgreSQL tell each other that something was committed, so that nobody waits for the next poll.

NOTIFY inside the writer's transaction would take one lock of the whole server at each commit, one writer after the
other; so it is sent after the commit, once for all that was committed meanwhile. What is lost then, a poll finds.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import func, select

from storage.database.statement import Statement
from storage.database.unit import execute
from storage.errors import StorageError

if TYPE_CHECKING:
    from storage.database.change import Change
    from storage.database.database import Database

log = logging.getLogger(__name__)

CHANNEL: Final = "storage_webhooks"

RECONNECT_SECONDS: Final = 5.0
"""How long to wait before listening again after the connection broke; polling goes on meanwhile."""

# Not registered: SQLite, which is asked about every statement, has no such function.
NOTIFY: Final = Statement("webhook.notify", select(func.pg_notify(CHANNEL, "")), register=False)


class Announcer:
    """Tells dispatchers in other processes of this one's commits; for a process that does not deliver by itself."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._again = False
        self._busy = False
        database.on_commit(self._on_commit)

    async def _on_commit(self, changes: Sequence[Change]) -> None:
        if self._busy:
            self._again = True
            return
        self._busy = True
        try:
            while True:
                self._again = False
                await self._database.run(lambda: execute(NOTIFY))
                if not self._again:
                    return
        except StorageError as error:
            log.debug("nobody was woken for web hooks: %s", error)
        finally:
            self._busy = False


class Listener:
    """A connection of its own that hears of other processes' commits.

    Args:
        dsn: of the PostgreSQL database.
        wake: called on the event loop for each announcement.
    """

    def __init__(self, dsn: str, wake: Callable[[], None]) -> None:
        self._dsn = dsn
        self._wake = wake
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin, on the running event loop."""
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name="storage-webhooks-listen")

    async def close(self) -> None:
        """Let go of the connection."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        import asyncpg

        while True:
            try:
                await self._listen(asyncpg)
            except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
                log.warning("web hooks are polled for until PostgreSQL can be listened to again: %s", error)
            await asyncio.sleep(RECONNECT_SECONDS)

    async def _listen(self, asyncpg: Any) -> None:
        ended = asyncio.Event()
        connection = await asyncpg.connect(self._dsn, server_settings={"application_name": "agent-storage-webhooks"})
        try:
            connection.add_termination_listener(lambda _: ended.set())
            await connection.add_listener(CHANNEL, lambda *_: self._wake())
            self._wake()  # for what was committed while nobody listened
            await ended.wait()
        finally:
            connection.terminate()
