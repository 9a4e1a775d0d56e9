"""An interactive transaction on PostgreSQL: one connection, held until it ends or its time is up."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final, TypeVar

from storage.database.carried_through import carried_through
from storage.database.change import Change
from storage.database.postgresql_drive import (
    DRIVER_ERRORS,
    begin,
    commit,
    control,
    drive,
    roll_back,
    select,
)
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
        self._loop = asyncio.get_running_loop()
        self._lock = asyncio.Lock()
        self._ended: StorageError | None = None
        self._changes: list[Change] = []
        self._expires = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._finishing: asyncio.Task[None] | None = None

    @property
    def is_open(self) -> bool:
        """Whether it can still be used."""
        return self._ended is None

    async def start(self) -> None:
        """Begin; from here the deadline runs."""
        try:
            await begin(self._connection)
        except BaseException:
            await self._end(TransactionClosed("the transaction never began"), undo=True)
            raise
        self._expires = self._loop.time() + self._seconds
        self._timer = self._loop.call_at(self._expires, self._finish_soon, self._timeout())

    async def read(self, statement: Statement, parameters: Mapping[str, Any], *, scan: bool = False) -> list[Row]:
        """Rows of a SELECT, which sees this transaction's own writes. See Executor.read."""
        return await self._call(lambda: select(self._connection, statement, parameters))

    async def run(self, unit: Callable[[], Unit[T]]) -> T:
        """Run a unit in a savepoint: one that fails is undone and leaves the transaction usable."""
        changes: list[Change] = []
        result = await self._call(lambda: drive(self._connection, unit(), changes))
        self._changes.extend(changes)
        return result

    async def commit(self) -> None:
        """Make everything durable; returns once it is. See SQLiteTransaction.commit."""
        async with self._lock:
            self._check_open()
            if self._loop.time() >= self._expires:
                await self._end(self._timeout(), undo=True)
                raise self._timeout()
            try:
                await commit(self._connection, self._committed)
            finally:
                await self._end(_closed(), undo=self._ended is None)

    def _committed(self) -> None:
        self._ended = _closed()  # first, so that a hook may begin another transaction
        if self._changes:
            self._announce(self._changes)

    async def rollback(self) -> None:
        """Undo everything. Does nothing if the transaction has ended already."""
        await self._finish(_closed())

    async def abandon(self) -> None:
        """Roll back because the storage is being closed; on its own event loop, where it may be a little later."""
        reason = StorageClosed("the storage was closed while the transaction was open; it was rolled back")
        if self._loop is asyncio.get_running_loop():
            await self._finish(reason)
        elif not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._finish_soon, reason)

    def _finish_soon(self, reason: StorageError) -> None:
        self._finishing = self._loop.create_task(self._finish(reason))

    async def _finish(self, reason: StorageError) -> None:
        async with self._lock:
            if self._ended is None:
                await self._end(reason, undo=True)

    async def _call(self, work: Callable[[], Awaitable[R]]) -> R:
        async with self._lock:
            self._check_open()
            deadline = asyncio.timeout_at(self._expires)
            try:
                async with deadline:
                    return await self._in_savepoint(work)
            except TimeoutError as error:
                if not deadline.expired():
                    raise  # of the unit itself
                if self._ended is None:
                    await self._end(self._timeout(), undo=True)
                raise self._timeout() from error

    async def _in_savepoint(self, work: Callable[[], Awaitable[R]]) -> R:
        try:
            await control(self._connection, "SAVEPOINT unit")
            result = await work()
            await control(self._connection, "RELEASE unit")
        except BaseException:
            await self._undo()
            raise
        return result

    async def _undo(self) -> None:
        """Back to the savepoint. If that fails, what the transaction holds is not known, and it ends."""
        try:
            await carried_through(self._connection.execute("ROLLBACK TO unit; RELEASE unit"))
        except DRIVER_ERRORS as error:
            reason = f"a call could not be undone alone, so the whole transaction was: {type(error).__name__}"
            await self._end(TransactionClosed(reason), undo=True)

    def _check_open(self) -> None:
        if self._ended is not None:
            raise self._ended

    def _timeout(self) -> TransactionTimeout:
        return TransactionTimeout(
            f"the transaction was open for more than {self._seconds:g} s and was rolled back;"
            " do slow work before it, or raise transaction_timeout"
        )

    async def _end(self, reason: StorageError, *, undo: bool) -> None:
        """From here on every call gets `reason`; the connection goes back to the pool whatever happens."""
        self._ended = reason
        if self._timer is not None:
            self._timer.cancel()
        self._forget(self)
        try:
            if undo:
                await roll_back(self._connection)
        finally:
            await self._pool.release(self._connection)


def _closed() -> TransactionClosed:
    return TransactionClosed("the transaction has ended; open another one")
