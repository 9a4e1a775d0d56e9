"""Datasette itself, put together: the copied views, what it is told of them, and the gate in front."""

from __future__ import annotations

import asyncio
import secrets
import sqlite3
import tempfile
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from time import monotonic
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final

from storage.errors import ConfigurationError
from storage.reporting.serve.copied import CopiedViews
from storage.reporting.serve.described import NAME, STATIC, metadata
from storage.reporting.serve.gate import Application, Gate

if TYPE_CHECKING:
    from storage.database.database import Database

SETTINGS: Final = {
    "allow_download": False,
    # A query may read all of the copy; whoever sees the page waits for it.
    "sql_time_limit_ms": 5_000,
    "max_returned_rows": 5_000,
    # What was read belongs to whoever has the token, and into no cache.
    "default_cache_ttl": 0,
}
"""Of Datasette."""

_PLUGIN: Final = "storage-report"
"""Datasette's plugins are the whole process's."""


class Site:
    """What is served. `application` is the ASGI application with the gate, which `token` opens."""

    def __init__(self, copied: CopiedViews, about: dict[str, Any], *, port: int, refresh_seconds: float) -> None:
        self.token = secrets.token_urlsafe(24)
        self._copied = copied
        self._refresh_seconds = refresh_seconds
        self._lock = asyncio.Lock()
        self._copied_at: float | None = None
        self._datasette = _datasette(copied.path, about)
        self._connections = _recorded(self._datasette.databases.values())
        self.application: Application = Gate(self._datasette.app(), port, self.token, self.refresh)

    async def refresh(self) -> None:
        """Copy the rows again if the copy is older than refresh_seconds.

        Raises:
            DatabaseError: the database failed.
        """
        async with self._lock:
            if self._copied_at is None or monotonic() - self._copied_at > self._refresh_seconds:
                await self._copied.renew()
                self._copied_at = monotonic()

    def close(self) -> None:
        """Let go of the file."""
        if self._datasette.executor is not None:
            self._datasette.executor.shutdown()
        for connection in self._connections:
            connection.close()


@asynccontextmanager
async def site(source: Database, user_id: str | None, *, port: int, refresh_seconds: float) -> AsyncIterator[Site]:
    """A Datasette of one user's report, or everybody's, with a first copy of the rows.

    Args:
        source: the database.
        user_id: the user; None is everybody (and not the local user).
        port: where it will listen, on the loopback address.
        refresh_seconds: how old the copy may be when somebody asks.

    Raises:
        ConfigurationError: Datasette is not installed.
        DatabaseError: the database failed.
    """
    with tempfile.TemporaryDirectory(prefix="storage-report-") as folder:  # 0700
        copied = CopiedViews(source, user_id, Path(folder) / f"{NAME}.db")
        whose = "all users" if user_id is None else f"the user {user_id}"
        served = Site(copied, metadata(source.url.display, whose), port=port, refresh_seconds=refresh_seconds)
        try:
            await served.refresh()
            yield served
        finally:
            served.close()


def _datasette(path: Path, about: dict[str, Any]) -> Any:
    try:
        from datasette import hookimpl
        from datasette.app import Datasette
        from datasette.plugins import pm
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            f"the report is served by Datasette, and {error.name} is not installed; install agent-storage[reporting]"
        ) from error

    if not pm.has_plugin(_PLUGIN):
        plugin = ModuleType(_PLUGIN)
        plugin.prepare_connection = hookimpl(_guard)  # type: ignore[attr-defined]
        pm.register(plugin, name=_PLUGIN)
    static = str(Path(__file__).parent / "static")
    return Datasette(files=[str(path)], metadata=about, settings=SETTINGS, static_mounts=[(STATIC, static)])


def _recorded(databases: Iterable[Any]) -> list[sqlite3.Connection]:
    """What these databases of Datasette will have opened; it forgets those to the one that it keeps in memory."""
    opened: list[sqlite3.Connection] = []

    def record(connect: Callable[..., sqlite3.Connection], **options: bool) -> sqlite3.Connection:
        opened.append(connect(**options))
        return opened[-1]

    for database in databases:
        database.connect = partial(record, database.connect)
    return opened


def _guard(conn: sqlite3.Connection) -> None:
    """No other file can be read, even if a statement that is no SELECT came through."""
    conn.set_authorizer(_refuse_files)


def _refuse_files(
    action: int, first: str | None, second: str | None, _database: str | None, _within: str | None
) -> int:
    refused = (sqlite3.SQLITE_ATTACH, sqlite3.SQLITE_DETACH)
    function = (second or "").lower()
    if action in refused or (action == sqlite3.SQLITE_FUNCTION and function in ("load_extension", "fts3_tokenizer")):
        return sqlite3.SQLITE_DENY
    return sqlite3.SQLITE_OK
