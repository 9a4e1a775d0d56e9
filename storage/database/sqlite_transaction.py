"""An interactive transaction on SQLite: the writer thread serves it alone until it ends or its time is up."""

from __future__ import annotations

import asyncio
import logging
import queue
import sqlite3
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from storage.database.change import Change
from storage.database.sqlite_connection import roll_back, translate
from storage.database.sqlite_drive import drive, select
from storage.database.statement import Row, Statement
from storage.database.unit import T, Unit
from storage.errors import StorageClosed, StorageError, TransactionClosed, TransactionTimeout

log = logging.getLogger(__name__)

_COMMIT: Final = "COMMIT"
_ROLLBACK: Final = "ROLLBACK"
_ABANDON: Final = "ABANDON"

Work = Callable[[sqlite3.Connection], Any]


class _Message:
    """A call of the transaction's owner, on its way to the writer thread."""

    __slots__ = ("future", "work")

    def __init__(self, work: Work | str, future: asyncio.Future[Any] | None) -> None:
        self.work = work
        self.future = future


class SQLiteTransaction:
    """The owner's side sends messages; the writer's side, `serve`, runs them in order on its connection."""

    dialect: Final = "sqlite"
    in_transaction: Final = True

    def __init__(
        self, loop: asyncio.AbstractEventLoop, deadline: float, announce: Callable[[Sequence[Change]], None]
    ) -> None:
        self._loop = loop
        self._seconds = deadline
        self._announce = announce
        self._begun: asyncio.Future[None] = loop.create_future()
        self._inbox: queue.SimpleQueue[_Message] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._ended: StorageError | None = None
        self._changes: list[Change] = []

    # ---- the owner's side, on its event loop

    @property
    def is_open(self) -> bool:
        """Whether it can still be used."""
        return self._ended is None

    async def wait_until_begun(self) -> None:
        """Return once the writer is held. A cancelled wait gives the turn to the next in the queue."""
        try:
            await self._begun
        except asyncio.CancelledError:
            # It may have begun in this very moment: then nobody would end it before its deadline.
            self.abandon()
            raise

    async def read(self, statement: Statement, parameters: Mapping[str, Any], *, scan: bool = False) -> list[Row]:
        """Rows of a SELECT, which sees this transaction's own writes. See Executor.read."""
        rows: list[Row] = await self._call(lambda connection: select(connection, statement, parameters))
        return rows

    async def run(self, unit: Callable[[], Unit[T]]) -> T:
        """Run a unit in a savepoint: one that fails is undone and leaves the transaction usable."""
        result: T = await self._call(lambda connection: self._run(connection, unit))
        return result

    async def commit(self) -> None:
        """Make everything durable; returns once it is.

        Raises:
            TransactionTimeout: the deadline had passed; nothing was written.
            DatabaseError: the commit failed; nothing was written.
        """
        await self._call(_COMMIT)

    async def rollback(self) -> None:
        """Undo everything. Does nothing if the transaction has ended already."""
        if self.is_open:
            try:
                await asyncio.shield(self._call(_ROLLBACK))
            except StorageError as error:
                # Never in the way of the exception that ended the block; the writer has rolled back in any case.
                log.debug("rolled back before it was asked to: %s", error)

    def abandon(self) -> None:
        """Have it rolled back soon, without waiting; from any thread."""
        with self._lock:
            if self._ended is None:
                self._inbox.put(_Message(_ABANDON, None))

    def _call(self, work: Work | str) -> asyncio.Future[Any]:
        future: asyncio.Future[Any] = self._loop.create_future()
        with self._lock:
            if self._ended is not None:
                future.set_exception(self._ended)
            else:
                self._inbox.put(_Message(work, future))
        return future

    # ---- the writer's side, on its thread

    def serve(self, connection: sqlite3.Connection, lock: threading.Lock, begin: Callable[[], None]) -> None:
        """Begin, carry out the owner's calls, and end; returns when the connection is free again.

        Args:
            connection: the writer's.
            lock: held while SQLite is at work on it, see storage.database.forking.
            begin: begins the transaction.
        """
        if self._begun.cancelled():
            self._end(TransactionClosed("the transaction was cancelled before it began"))
            return
        try:
            with lock:
                begin()
        except StorageError as failure:
            self._end(failure)
            self._post(self._begun, None, failure)
            return
        self._post(self._begun, None, None)
        expires = time.monotonic() + self._seconds
        is_open = True
        while is_open:
            message = self._next(expires)
            with lock:
                is_open = self._carry_out(connection, message)

    def _carry_out(self, connection: sqlite3.Connection, message: _Message | None) -> bool:
        """One call of the owner's, or the end because none came in time; whether the transaction is still open."""
        if message is None:
            roll_back(connection)
            self._end(
                TransactionTimeout(
                    f"the transaction was open for more than {self._seconds:g} s and was rolled back: on SQLite it"
                    " keeps every other writer waiting. Do slow work before it, or raise transaction_timeout"
                )
            )
            return False
        if isinstance(message.work, str):
            self._finish(connection, message)
            return False
        if message.future is not None and message.future.cancelled():
            return True
        try:
            result = message.work(connection)
        except BaseException as error:  # noqa: BLE001 - it belongs to the caller
            self._post(message.future, None, error)
            if not connection.in_transaction:
                self._end(TransactionClosed(f"SQLite rolled the transaction back: {error}"))
                return False
        else:
            self._post(message.future, result, None)
        return True

    def _next(self, expires: float) -> _Message | None:
        remaining = expires - time.monotonic()
        if remaining <= 0:
            return None
        try:
            return self._inbox.get(timeout=remaining)
        except queue.Empty:
            return None

    def _run(self, connection: sqlite3.Connection, unit: Callable[[], Unit[T]]) -> T:
        changes: list[Change] = []
        connection.execute("SAVEPOINT unit")
        try:
            result = drive(connection, unit(), changes)
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK TO unit")
                connection.execute("RELEASE unit")
            raise
        connection.execute("RELEASE unit")
        self._changes.extend(changes)
        return result

    def _finish(self, connection: sqlite3.Connection, message: _Message) -> None:
        failure: StorageError | None = None
        try:
            connection.execute("COMMIT" if message.work == _COMMIT else "ROLLBACK")
        except sqlite3.Error as error:
            failure = translate(error, str(message.work))
            failure.__cause__ = error
            roll_back(connection)
        if message.work == _ABANDON:
            self._end(StorageClosed("the storage was closed while the transaction was open; it was rolled back"))
        else:
            self._end(TransactionClosed("the transaction has ended; open another one"))
        if message.work == _COMMIT and failure is None and self._changes:
            # Before the answer, so that the hooks have run when the owner goes on.
            self._loop_call(self._announce, self._changes)
        self._post(message.future, None, failure)

    def _end(self, reason: StorageError) -> None:
        """From here on every call gets `reason`, also those that are in the inbox already."""
        with self._lock:
            self._ended = reason
            while True:
                try:
                    message = self._inbox.get_nowait()
                except queue.Empty:
                    return
                self._post(message.future, None, reason)

    def _post(self, future: asyncio.Future[Any] | None, result: Any, error: BaseException | None) -> None:
        if future is not None:
            self._loop_call(settle, future, result, error)

    def _loop_call(self, callback: Callable[..., None], *arguments: Any) -> None:
        try:
            self._loop.call_soon_threadsafe(callback, *arguments)
        except RuntimeError:
            log.warning("a transaction ended after its event loop was closed")


def settle(future: asyncio.Future[Any], result: Any, error: BaseException | None) -> None:
    """Answer a caller who may have left; on its event loop."""
    if future.done():
        return
    if error is None:
        future.set_result(result)
    elif isinstance(error, StopIteration):
        # A future refuses it, and the caller would wait for ever. A coroutine makes the same of it (PEP 479).
        refusal = RuntimeError("a unit of work raised StopIteration")
        refusal.__cause__ = error
        future.set_exception(refusal)
    else:
        future.set_exception(error)
