"""PostgreSQL by asyncpg directly: a pool for each event loop, prepared statements, no reset query."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final
from weakref import WeakKeyDictionary

import asyncpg

from storage.database.change import Change
from storage.database.per_loop import PerLoop
from storage.database.postgresql_drive import (
    DRIVER_ERRORS,
    MUTUAL_WAITING,
    begin,
    commit,
    drive,
    roll_back,
    select,
    translate,
)
from storage.database.postgresql_transaction import PostgreSQLTransaction
from storage.database.statement import Row, Statement
from storage.database.types import load_json
from storage.database.unit import T, Unit
from storage.errors import DatabaseUnavailable, ForkDetected, StorageClosed, StorageError, UniqueViolation

log = logging.getLogger(__name__)

RETRIES: Final = 4
"""How often a unit is run after a deadlock, a serialisation failure, a migration that outdated a prepared statement, or
an upsert that lost a race on an index that is not its arbiter (https://www.postgresql.org/docs/current/sql-insert.html#SQL-ON-CONFLICT)."""

_TRY_AGAIN: Final = (*MUTUAL_WAITING, asyncpg.InvalidCachedStatementError)

CONNECT_SECONDS: Final = 10.0
"""How long to wait for a connection to be made before the server counts as unreachable."""


if TYPE_CHECKING:
    _Connection = asyncpg.Connection[asyncpg.Record]
else:  # generic only to type checkers
    _Connection = asyncpg.Connection


CLOSE_SECONDS: Final = 5.0
"""How long a pool may take to say good-bye to the server before its sockets are simply closed."""


class LaneConnection(_Connection):
    """A connection that a lane may hand on as it is: no unit sets anything that outlives its transaction."""

    def get_reset_query(self) -> str:
        """Nothing: saves a round trip at each release."""
        return ""


class PostgreSQLLane:
    """Reads and units of work on one PostgreSQL database."""

    dialect: Final = "postgresql"
    reads_wait_for_transaction: bool
    """With a single connection, a read outside an open transaction waits until it ends."""

    def __init__(
        self,
        dsn: str,
        *,
        pool_size: int,
        command_timeout: float,
        prepared_statements: bool,
        announce: Callable[[Sequence[Change]], None],
    ) -> None:
        self._dsn = dsn
        self._pool_size = pool_size
        self.reads_wait_for_transaction = pool_size == 1
        self._command_timeout = command_timeout
        self._prepared_statements = prepared_statements
        self._announce = announce
        self._pools: PerLoop[Any] = PerLoop(self._make_pool, _close_pool)
        self._open_transactions: set[PostgreSQLTransaction] = set()
        self._pid = os.getpid()
        self._closing = False
        self._traffic: WeakKeyDictionary[asyncio.AbstractEventLoop, _Traffic] = WeakKeyDictionary()

    async def read(self, statement: Statement, parameters: Mapping[str, Any], *, scan: bool = False) -> list[Row]:
        """Rows of a SELECT. See Executor.read."""
        async with self._connection() as connection:
            return await select(connection, statement, parameters)

    async def run(self, unit: Callable[[], Unit[T]]) -> T:
        """Run a unit in a transaction of its own. See Executor.run."""
        for attempt in range(1, RETRIES + 1):
            try:
                return await self._run_once(unit)
            except StorageError as error:
                if attempt == RETRIES or not _worth_another_try(error):
                    raise
                log.debug("restarting a unit of work: %s", error)
        raise AssertionError  # pragma: no cover - the loop above returns or raises

    async def _run_once(self, unit: Callable[[], Unit[T]]) -> T:
        async with self._connection() as connection:
            changes: list[Change] = []
            try:
                await begin(connection)
                result = await drive(connection, unit(), changes)
                await commit(connection, lambda: self._announce(changes) if changes else None)
            except BaseException:
                await roll_back(connection)
                raise
            return result

    async def begin(self, deadline: float) -> PostgreSQLTransaction:
        """Take a connection for an interactive transaction of at most `deadline` seconds."""
        async with self._admitted():
            pool = await self._pool()
            connection = await self._acquire(pool)
            transaction = PostgreSQLTransaction(
                pool, connection, deadline, self._announce, self._open_transactions.discard
            )
            await transaction.start()
            self._open_transactions.add(transaction)
            if self._closing:
                await transaction.abandon()
            return transaction

    async def close(self) -> None:
        """Wait for what is under way on this event loop, roll back open transactions, and close its pool."""
        if os.getpid() != self._pid:
            return
        self._closing = True
        for transaction in list(self._open_transactions):
            await transaction.abandon()
        traffic = self._traffic.get(asyncio.get_running_loop())
        if traffic is not None:
            await traffic.ended.wait()
        await self._pools.close()

    def check_usable(self) -> None:
        """Raises StorageClosed or ForkDetected."""
        if self._closing:
            raise StorageClosed("the storage is closed; open it again with Storage.open()")
        if os.getpid() != self._pid:
            raise ForkDetected(
                "this process was forked after the storage was opened, and a PostgreSQL connection cannot serve two"
                " processes; call Storage.open() in the child"
            )

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[Any]:
        async with self._admitted():
            pool = await self._pool()
            connection = await self._acquire(pool)
            try:
                yield connection
            finally:
                await pool.release(connection)

    @asynccontextmanager
    async def _admitted(self) -> AsyncIterator[None]:
        """close() waits for what is inside; nothing enters after it."""
        self.check_usable()
        loop = asyncio.get_running_loop()
        traffic = self._traffic.get(loop)
        if traffic is None:
            traffic = self._traffic[loop] = _Traffic()
        traffic.enter()
        try:
            yield
        finally:
            traffic.leave()

    async def _acquire(self, pool: Any) -> Any:
        try:
            return await pool.acquire(timeout=self._command_timeout)
        except TimeoutError as error:
            if pool.get_size() < self._pool_size or pool.get_idle_size():
                raise translate(error, "connect") from error
            raise DatabaseUnavailable(
                f"no connection to PostgreSQL was free within {self._command_timeout:g} s: all {self._pool_size} are in"
                " use. End transactions sooner, or raise postgres_pool_size"
            ) from error
        except DRIVER_ERRORS as error:
            raise translate(error, "connect") from error

    async def _pool(self) -> Any:
        try:
            return await self._pools.get()
        except (*DRIVER_ERRORS, ValueError) as error:
            raise translate(error, "connect") from error

    async def _make_pool(self) -> Any:
        return await asyncpg.create_pool(
            self._dsn,
            min_size=0,
            max_size=self._pool_size,
            command_timeout=self._command_timeout,
            timeout=CONNECT_SECONDS,
            # Behind a pooler that hands out another server connection for each transaction, a prepared statement is
            # not there the next time.
            statement_cache_size=256 if self._prepared_statements else 0,
            connection_class=LaneConnection,
            init=_set_codecs,
            server_settings={"application_name": "agent-storage", "timezone": "UTC"},
        )


async def _close_pool(pool: Any) -> None:
    try:
        async with asyncio.timeout(CLOSE_SECONDS):
            await pool.close()
    except TimeoutError:
        pool.terminate()


async def _set_codecs(connection: Any) -> None:
    await connection.set_type_codec("jsonb", schema="pg_catalog", encoder=str, decoder=load_json, format="text")


class _Traffic:
    """What is under way on one event loop."""

    def __init__(self) -> None:
        self._number = 0
        self.ended = asyncio.Event()

    def enter(self) -> None:
        self._number += 1
        self.ended.clear()

    def leave(self) -> None:
        self._number -= 1
        if not self._number:
            self.ended.set()


def _worth_another_try(error: StorageError) -> bool:
    return isinstance(error, UniqueViolation) or isinstance(error.__cause__, _TRY_AGAIN)
