"""SQLite without waiting for it: one writer thread that commits in groups, and reads beside it.

SQLite has one writer at a time and a durable commit costs a disk flush. Sixty-four tasks that commit one by one pay for
sixty-four; here the writer drains its queue, runs every unit in a savepoint of one transaction and flushes once.
"""

from __future__ import annotations

import asyncio
import logging
import os
import queue
import sqlite3
import threading
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Final, Generic
from weakref import WeakKeyDictionary

from storage.database.change import Change
from storage.database.forking import fork_lock
from storage.database.sqlite_connection import (
    begin_immediate,
    connect,
    file_identity,
    is_memory,
    prepare_file,
    roll_back,
    translate,
)
from storage.database.sqlite_drive import drive, select
from storage.database.sqlite_transaction import SQLiteTransaction, settle
from storage.database.statement import Row, Statement
from storage.database.unit import Step, T, Unit
from storage.errors import DatabaseError, DatabaseUnavailable, ForkDetected, StorageClosed, StorageError

log = logging.getLogger(__name__)

GROUP_LIMIT: Final = 256
"""Units in one transaction at most: bounds how long the first of them waits, long after the flush is shared."""

SCAN_THREADS: Final = 2
"""Threads for reads of many rows: one long report must not hold up the next one, and SQLite reads scale by core."""


class Job(Generic[T]):
    """A unit on its way through the writer thread."""

    __slots__ = ("changes", "error", "future", "loop", "result", "unit")

    def __init__(self, unit: Callable[[], Unit[T]], loop: asyncio.AbstractEventLoop) -> None:
        self.unit = unit
        self.loop = loop
        self.future: asyncio.Future[T] = loop.create_future()
        self.changes: list[Change] = []
        self.result: T | None = None
        self.error: BaseException | None = None


class SQLiteLane:
    """Reads and units of work on one SQLite database.

    A caller that is cancelled while its unit waits in the queue takes the unit with it; once the writer has begun it,
    it is carried through. `run` waits when `queue_limit` units are on their way.
    """

    dialect: Final = "sqlite"
    reads_wait_for_transaction: bool
    """A database in memory has no snapshots: a read outside an open transaction waits until it ends."""

    def __init__(self, location: str, *, queue_limit: int, announce: Callable[[Sequence[Change]], None]) -> None:
        self.location = location
        self.reads_wait_for_transaction = is_memory(location)
        self._announce = announce
        self._queue_limit = queue_limit
        self._gates: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Semaphore] = WeakKeyDictionary()
        self._jobs: queue.SimpleQueue[Job[Any] | SQLiteTransaction | None] = queue.SimpleQueue()
        self._pid = os.getpid()
        self._closing = False
        # Nothing may enter the queue behind the mark that ends it: it would never be answered.
        self._door = threading.Lock()
        self._current: SQLiteTransaction | None = None
        self._read_lock = fork_lock()
        self._write_lock = fork_lock()
        self._scan_connections: queue.SimpleQueue[tuple[sqlite3.Connection, threading.Lock]] = queue.SimpleQueue()
        self._scan_pool = ThreadPoolExecutor(SCAN_THREADS, thread_name_prefix="storage-scan")
        with self._write_lock:
            prepare_file(location)
            self._write_connection = connect(location)
            try:
                self._write_connection.execute("PRAGMA busy_timeout=0")  # begin_immediate waits instead
                self._read_connection = connect(location, read_only=True)
            except BaseException:
                self._write_connection.close()
                raise
        self._file = file_identity(location)
        # Done when the writer has ended and closed everything; "running", so that no waiting caller can cancel it.
        self._ended: Future[None] = Future()
        self._ended.set_running_or_notify_cancel()
        self._writer = threading.Thread(target=self._write, name="storage-writer", daemon=True)
        self._writer.start()

    # ---- for callers, on an event loop

    async def read(self, statement: Statement, parameters: Mapping[str, Any], *, scan: bool = False) -> list[Row]:
        """Rows of a SELECT: inline if bounded, on a reader thread if it may scan. See Executor.read."""
        self.check_usable()
        if self.reads_wait_for_transaction:
            return await self.run(lambda: _read_unit(statement, parameters))
        if scan:
            with self._door:
                self.check_usable()
                scanning = self._scan_pool.submit(self._scan, statement, parameters)
            return await asyncio.wrap_future(scanning)
        with self._read_lock:
            self.check_usable()
            return select(self._read_connection, statement, parameters)

    async def run(self, unit: Callable[[], Unit[T]]) -> T:
        """Run a unit in the next group. See Executor.run."""
        self.check_usable()
        loop = asyncio.get_running_loop()
        async with self._gate(loop):
            job = Job(unit, loop)
            self._put(job)
            return await job.future

    async def begin(self, deadline: float) -> SQLiteTransaction:
        """Wait for the writer and hold it for an interactive transaction of at most `deadline` seconds."""
        self.check_usable()
        transaction = SQLiteTransaction(asyncio.get_running_loop(), deadline, self._announce)
        self._put(transaction)
        await transaction.wait_until_begun()
        return transaction

    async def close(self) -> None:
        """Finish every unit that was accepted, roll back an open transaction, and close the connections.

        The writer does it, so that it happens also if whoever called this is cancelled.
        """
        if os.getpid() != self._pid:
            return
        with self._door:
            if not self._closing:
                self._closing = True
                self._jobs.put(None)
        current = self._current
        if current is not None:
            current.abandon()
        await asyncio.wrap_future(self._ended)

    def check_usable(self) -> None:
        """Raises StorageClosed or ForkDetected."""
        if self._closing:
            raise StorageClosed("the storage is closed; open it again with Storage.open()")
        if os.getpid() != self._pid:
            raise ForkDetected(
                "this process was forked after the storage was opened, and SQLite connections must not be carried"
                " across a fork; call Storage.open() in the child"
            )

    def _put(self, job: Job[Any] | SQLiteTransaction) -> None:
        with self._door:
            self.check_usable()
            self._jobs.put(job)

    def _gate(self, loop: asyncio.AbstractEventLoop) -> asyncio.Semaphore:
        gate = self._gates.get(loop)
        if gate is None:
            gate = self._gates[loop] = asyncio.Semaphore(self._queue_limit)
        return gate

    def _scan(self, statement: Statement, parameters: Mapping[str, Any]) -> list[Row]:
        try:
            connection, lock = self._scan_connections.get_nowait()
        except queue.Empty:
            lock = fork_lock()
            with lock:
                connection = connect(self.location, read_only=True)
        try:
            with lock:
                return select(connection, statement, parameters)
        finally:
            self._scan_connections.put((connection, lock))

    # ---- the writer thread

    def _write(self) -> None:
        try:
            self._serve()
            self._close_connections()
        finally:
            self._ended.set_result(None)

    def _close_connections(self) -> None:
        self._scan_pool.shutdown()
        while not self._scan_connections.empty():
            connection, lock = self._scan_connections.get_nowait()
            with lock:
                connection.close()
        with self._read_lock:
            self._read_connection.close()
        # Last, so that SQLite checkpoints the WAL into the database and removes it.
        with self._write_lock:
            self._write_connection.close()

    def _serve(self) -> None:
        following: Job[Any] | SQLiteTransaction | None = None
        stopping = False
        while not stopping:
            job = following if following is not None else self._jobs.get()
            following = None
            if job is None:
                return
            if isinstance(job, SQLiteTransaction):
                self._current = job
                if self._closing:
                    job.abandon()
                job.serve(self._write_connection, self._write_lock, self._begin)
                self._current = None
                continue
            group = [job]
            while len(group) < GROUP_LIMIT:
                try:
                    job = self._jobs.get_nowait()
                except queue.Empty:
                    break
                if job is None:
                    stopping = True
                    break
                if isinstance(job, SQLiteTransaction):
                    following = job
                    break
                group.append(job)
            self._commit(group)

    def _begin(self) -> None:
        """Raises DatabaseUnavailable also when the file is no longer the one that was opened.

        What is written into a deleted file is gone with the process, whatever COMMIT said
        (https://sqlite.org/howtocorrupt.html#_unlinking_or_renaming_a_database_file_while_in_use).
        """
        if self._file != file_identity(self.location):
            raise DatabaseUnavailable(
                f"the database file {self.location} was deleted or replaced while it was open; nothing was written."
                " Close the storage and open it again"
            )
        try:
            begin_immediate(self._write_connection)
        except sqlite3.Error as error:
            raise translate(error, "BEGIN") from error

    def _commit(self, group: list[Job[Any]]) -> None:
        """Run a group of units in one transaction and tell each caller how its own went."""
        connection = self._write_connection
        group = [job for job in group if not job.future.cancelled()]
        if not group:
            return
        with self._write_lock:
            try:
                self._begin()
                if self._run_group(connection, group):
                    connection.execute("COMMIT")
            except BaseException as error:  # noqa: BLE001 - as below
                # The transaction carried all of them: none is durable, whatever each has seen so far.
                for job in group:
                    job.error = job.error or _failure(error)
            finally:
                roll_back(connection)
        self._deliver(group)

    def _run_group(self, connection: sqlite3.Connection, group: list[Job[Any]]) -> bool:
        """Each unit in its own savepoint, so that one that fails takes nothing else with it; False if all failed."""
        if len(group) == 1:
            return self._run_unit(connection, group[0])
        for job in group:
            connection.execute("SAVEPOINT unit")
            if not self._run_unit(connection, job):
                if not connection.in_transaction:
                    # Full disk, I/O error, no memory: SQLite has rolled back everything, also the units before.
                    cause = job.error and job.error.__cause__
                    raise cause or DatabaseError("SQLite rolled the transaction back")
                connection.execute("ROLLBACK TO unit")
            connection.execute("RELEASE unit")
        return any(job.error is None for job in group)

    def _run_unit(self, connection: sqlite3.Connection, job: Job[Any]) -> bool:
        try:
            job.result = drive(connection, job.unit(), job.changes)
        except BaseException as error:  # noqa: BLE001 - it belongs to the caller that is waiting for this unit
            job.error = error
        return job.error is None

    def _deliver(self, group: list[Job[Any]]) -> None:
        """One wake-up for each event loop, however many of its callers are answered."""
        by_loop: dict[asyncio.AbstractEventLoop, list[Job[Any]]] = defaultdict(list)
        for job in group:
            by_loop[job.loop].append(job)
        for loop, jobs in by_loop.items():
            try:
                loop.call_soon_threadsafe(self._answer, jobs)
            except RuntimeError:
                log.warning("%d units were finished after their event loop was closed", len(jobs))

    def _answer(self, jobs: list[Job[Any]]) -> None:
        # Settled before anything is announced: no hook, whatever it raises, can leave a caller waiting. Callers still
        # go on after the hooks, since a settled future wakes them in the loop's next round.
        for job in jobs:
            settle(job.future, job.result, job.error)
        for job in jobs:
            if job.error is None and job.changes:
                # Also when the caller was cancelled meanwhile: the commit happened.
                self._announce(job.changes)


def _read_unit(statement: Statement, parameters: Mapping[str, Any]) -> Unit[list[Row]]:
    return (yield Step(statement, parameters))


def _failure(error: BaseException) -> BaseException:
    """What a unit's caller hears when the group failed: an error of its own, as each caller adds to its traceback."""
    failure: StorageError
    if isinstance(error, DatabaseError):
        failure = type(error)(*error.args)
    elif isinstance(error, sqlite3.Error):
        failure = translate(error, "COMMIT")
    else:
        failure = DatabaseError(f"COMMIT: {type(error).__name__}")
    failure.__cause__ = error
    return failure
