"""SQLModel sessions for an application's own queries, on the same database, through SQLAlchemy's async engines.

Slower than the repositories' way (see storage.database.statement), and in exchange every query is possible.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

from sqlalchemy import event
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool
from sqlmodel.ext.asyncio.session import AsyncSession

from storage.database.carried_through import carried_through
from storage.database.per_loop import PerLoop
from storage.database.sqlite_connection import connect
from storage.database.types import dump_json, load_json
from storage.database.url import DatabaseURL


class SessionMaker:
    """Engines by event loop and mode, made when first asked for."""

    def __init__(self, url: DatabaseURL, *, prepared_statements: bool) -> None:
        self._url = url
        self._prepared_statements = prepared_statements
        self._closing = False
        self._open: WeakKeyDictionary[asyncio.AbstractEventLoop, int] = WeakKeyDictionary()
        self._engines = {
            read_only: PerLoop(partial(self._make, read_only), AsyncEngine.dispose) for read_only in (False, True)
        }

    @asynccontextmanager
    async def session(self, *, read_only: bool) -> AsyncIterator[AsyncSession]:
        """A session whose objects stay readable after commit: an expired one would load itself without await."""
        loop = asyncio.get_running_loop()
        self._open[loop] = self._open.get(loop, 0) + 1
        try:
            engine = await self._engines[read_only].get()
            async with AsyncSession(engine, expire_on_commit=False) as session:
                yield session
        finally:
            self._open[loop] -= 1
            if self._closing:
                await self.close()

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
        """Close the pooled connections of this event loop: now, or when its last session has given its own back."""
        self._closing = True
        if not self._open.get(asyncio.get_running_loop()):
            for engines in self._engines.values():
                await engines.close()


def _sqlite_engine(url: DatabaseURL, read_only: bool) -> AsyncEngine:  # noqa: FBT001 - as above
    import aiosqlite

    async def open_connection(*_arguments: Any, **_options: Any) -> aiosqlite.Connection:
        # With all its pragmas in one step of its thread. Carried through: a connection that is opened while its session
        # is cancelled would belong to nobody, and stay open.
        connection = aiosqlite.Connection(partial(connect, url.location, read_only=read_only), iter_chunk_size=64)

        async def opened() -> aiosqlite.Connection:
            return await connection

        try:
            return await carried_through(opened())
        except asyncio.CancelledError:
            connection.stop()
            raise

    # Never pooled: opening a file costs less than a connection that keeps the WAL from being checkpointed.
    engine = create_async_engine(
        "sqlite+aiosqlite://",
        async_creator=open_connection,
        poolclass=NullPool,
        pool_reset_on_return=None,  # it is closed, and that rolls back
        hide_parameters=True,
    )

    @event.listens_for(engine.sync_engine, "begin")
    def _begin(connection: Any) -> None:
        connection.exec_driver_sql("BEGIN" if read_only else "BEGIN IMMEDIATE")

    return engine
