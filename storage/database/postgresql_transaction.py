"""An interactive transaction on PostgreSQL: one connection, held until it ends or its time is up."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final, TypeVar

import asyncpg

from storage.database.change import Change
from storage.database.postgresql_drive import commit, drive, select, translate
from storage.database.statement import Row, Statement
from storage.database.unit import T, Unit
from storage.errors import StorageClosed, StorageError, TransactionClosed, TransactionTimeout

R = TypeVar("R")


class PostgreSQLTransaction:
    """Calls run one after the other, whoever makes them: a connection does one thing at a time."""

    dialect: Final = "postgresql"
    in_transaction: Final = True

    def __init__(
        self,
        pool: Any,
        connection: Any,
        deadline: float,
        announce: Callable[[Sequence[Change]], None],
        forget: Callable[[PostgreSQLTransaction], None],
    ) -> None:
        self._pool = pool
        self._connection = connection
        self._seconds = deadline
        self._announce = announce
        self._forget = forget
        self._transaction = connection.transaction()
        self._lock = asyncio.Lock()
        self._ended: StorageError | None = None
        self._changes: list[Change] = []
        self._expires = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._expiring: asyncio.Task[None] | None = None

    @property
    def is_open(self) -> bool:
        """Whether it can still be used."""
        return self._ended is None

    async def start(self) -> None:
        """Begin; from here the deadline runs."""
        try:
            await self._transaction.start()
        except BaseException as error:
            await self._pool.release(self._connection)
            if isinstance(error, asyncpg.PostgresError | asyncpg.InterfaceError | OSError):
                raise translate(error, "BEGIN") from error
            raise
        loop = asyncio.get_running_loop()
        self._expires = loop.time() + self._seconds
        self._timer = loop.call_at(self._expires, self._expire)

    async def read(self, statement: Statement, parameters: Mapping[str, Any], *, scan: bool = False) -> list[Row]:
        """Rows of a SELECT, which sees this transaction's own writes. See Executor.read."""

        async def call() -> list[Row]:
            async with self._connection.transaction():
                return await select(self._connection, statement, parameters)

        return await self._call(call)

    async def run(self, unit: Callable[[], Unit[T]]) -> T:
        """Run a unit in a savepoint: one that fails is undone and leaves the transaction usable."""

        async def call() -> T:
            changes: list[Change] = []
            async with self._connection.transaction():
                result = await drive(self._connection, unit(), changes)
            self._changes.extend(changes)
            return result

        return await self._call(call)

    async def commit(self) -> None:
        """Make everything durable; returns once it is. See SQLiteTransaction.commit."""
        async with self._lock:
            self._check_open()
            if asyncio.get_running_loop().time() >= self._expires:
                await self._end(self._timeout(), rollback=True)
                raise self._timeout()
            try:
                await commit(self._transaction, lambda: self._announce(self._changes) if self._changes else None)
            except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError) as error:
                raise translate(error, "COMMIT") from error
            finally:
                await self._end(TransactionClosed("the transaction has ended; open another one"), rollback=False)

    async def rollback(self) -> None:
        """Undo everything. Does nothing if the transaction has ended already."""
        await self._finish(TransactionClosed("the transaction has ended; open another one"))

    async def abandon(self) -> None:
        """Roll back because the storage is being closed."""
        await self._finish(StorageClosed("the storage was closed while the transaction was open; it was rolled back"))

    async def _finish(self, reason: StorageError) -> None:
        async with self._lock:
            if self._ended is None:
                await self._end(reason, rollback=True)

    async def _call(self, work: Callable[[], Awaitable[R]]) -> R:
        async with self._lock:
            self._check_open()
            try:
                async with asyncio.timeout_at(self._expires):
                    return await work()
            except TimeoutError as error:
                await self._end(self._timeout(), rollback=True)
                raise self._timeout() from error
            except StorageError:
                raise  # some of ours are OSErrors too: not found
            except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError) as error:
                raise translate(error, "transaction") from error

    def _check_open(self) -> None:
        if self._ended is not None:
            raise self._ended

    def _timeout(self) -> TransactionTimeout:
        return TransactionTimeout(
            f"the transaction was open for more than {self._seconds:g} s and was rolled back;"
            " do slow work before it, or raise transaction_timeout"
        )

    def _expire(self) -> None:
        self._expiring = asyncio.get_running_loop().create_task(self._finish(self._timeout()))

    async def _end(self, reason: StorageError, *, rollback: bool) -> None:
        """From here on every call gets `reason`; the connection goes back to the pool whatever happens."""
        self._ended = reason
        if self._timer is not None:
            self._timer.cancel()
        self._forget(self)
        try:
            if rollback:
                await asyncio.shield(self._transaction.rollback())
        except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError):
            # The server has dropped the transaction together with the connection; there is nothing left to undo.
            self._connection.terminate()
        finally:
            await asyncio.shield(self._pool.release(self._connection))
