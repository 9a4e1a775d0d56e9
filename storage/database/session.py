"""SQLModel sessions for an application's own queries, on the same database, through SQLAlchemy's async engines.

Slower than the repositories' way (see storage.database.statement), and in exchange every query is possible.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

from sqlalchemy import event
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool
from sqlmodel.ext.asyncio.session import AsyncSession

from storage.database.per_loop import PerLoop
from storage.database.sqlite_connection import BUSY_TIMEOUT_SECONDS, CONNECTION_PRAGMAS, is_memory
from storage.database.types import dump_json, load_json
from storage.database.url import DatabaseURL


class SessionMaker:
    """Engines by event loop and mode, made when first asked for."""

    def __init__(self, url: DatabaseURL, *, prepared_statements: bool) -> None:
        self._url = url
        self._prepared_statements = prepared_statements
        self._engines = {
            read_only: PerLoop(partial(self._make, read_only), AsyncEngine.dispose) for read_only in (False, True)
        }

    @asynccontextmanager
    async def session(self, *, read_only: bool) -> AsyncIterator[AsyncSession]:
        """A session whose objects stay readable after commit: an expired one would load itself without await."""
        engine = await self._engines[read_only].get()
        async with AsyncSession(engine, expire_on_commit=False) as session:
            yield session

    async def _make(self, read_only: bool) -> AsyncEngine:  # noqa: FBT001 - private, and a key of a mapping
        make = _sqlite_engine if self._url.dialect == "sqlite" else self._postgresql_engine
        return make(self._url, read_only)

    def _postgresql_engine(self, url: DatabaseURL, read_only: bool) -> AsyncEngine:  # noqa: FBT001 - as above
        import asyncpg

        cache_size = 100 if self._prepared_statements else 0

        async def connect(*_arguments: Any, **_options: Any) -> Any:
            # By asyncpg itself: it reads DSNs (sockets, sslmode, passfile) as libpq does, SQLAlchemy's URL does not.
            return await asyncpg.connect(
                url.location,
                statement_cache_size=cache_size,
                server_settings={
                    "application_name": "agent-storage session",
                    "timezone": "UTC",
                    "default_transaction_read_only": "on" if read_only else "off",
                },
            )

        return create_async_engine(
            "postgresql+asyncpg://",
            async_creator=connect,
            connect_args={"prepared_statement_cache_size": cache_size},
            json_serializer=dump_json,
            json_deserializer=load_json,
            pool_pre_ping=True,
            hide_parameters=True,
        )

    async def close(self) -> None:
        """Close the pooled connections of this event loop."""
        for engines in self._engines.values():
            await engines.close()


def _sqlite_engine(url: DatabaseURL, read_only: bool) -> AsyncEngine:  # noqa: FBT001 - as above
    import aiosqlite

    def connect(*_arguments: Any, **_options: Any) -> Any:
        return aiosqlite.connect(
            url.location, uri=is_memory(url.location), timeout=BUSY_TIMEOUT_SECONDS, isolation_level=None
        )

    # Never pooled: opening a file costs less than a connection that keeps the WAL from being checkpointed.
    engine = create_async_engine("sqlite+aiosqlite://", async_creator=connect, poolclass=NullPool, hide_parameters=True)

    @event.listens_for(engine.sync_engine, "connect")
    def _set_pragmas(connection: Any, record: Any) -> None:
        cursor = connection.cursor()
        for pragma in CONNECTION_PRAGMAS:
            cursor.execute(pragma)
        if read_only:
            cursor.execute("PRAGMA query_only=ON")
        cursor.close()

    @event.listens_for(engine.sync_engine, "begin")
    def _begin(connection: Any) -> None:
        connection.exec_driver_sql("BEGIN" if read_only else "BEGIN IMMEDIATE")

    return engine
