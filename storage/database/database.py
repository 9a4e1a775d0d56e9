"""The database as the rest of the library sees it: read, run a unit, hold a transaction, open a session."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, TypeAlias, cast
from weakref import WeakKeyDictionary

from storage.database.change import Change
from storage.database.statement import DialectName, Row, Statement
from storage.database.unit import Executor, T, Unit
from storage.database.url import DatabaseURL
from storage.errors import InvalidInput, NestedTransaction

if TYPE_CHECKING:
    from sqlmodel.ext.asyncio.session import AsyncSession

    from storage.database.postgresql_lane import PostgreSQLLane
    from storage.database.postgresql_transaction import PostgreSQLTransaction
    from storage.database.session import SessionMaker
    from storage.database.sqlite_lane import SQLiteLane
    from storage.database.sqlite_transaction import SQLiteTransaction
    from storage.database.telemetry import DatabaseTelemetry

    Lane: TypeAlias = SQLiteLane | PostgreSQLLane
    LaneTransaction: TypeAlias = SQLiteTransaction | PostgreSQLTransaction

log = logging.getLogger(__name__)

CommitHook: TypeAlias = Callable[[Sequence[Change]], Awaitable[None] | None]
"""Called after a commit, in commit order, with what changed. Sync or async; what it raises is logged."""

# Which transaction the running task holds, by database: another call of it would wait for that transaction for ever.
_held: ContextVar[tuple[tuple[Database, LaneTransaction], ...]] = ContextVar("storage_transactions", default=())


class Database:
    """One database, opened. An Executor whose every unit is a transaction of its own.

    Made by `Database.connect`; the schema is the business of storage.database.migrate.
    """

    in_transaction = False

    def __init__(
        self,
        url: DatabaseURL,
        *,
        queue_limit: int = 1024,
        pool_size: int = 10,
        command_timeout: float = 60.0,
        prepared_statements: bool = True,
        transaction_timeout: float = 30.0,
    ) -> None:
        """Open the connections that opening needs: two for SQLite, none yet for PostgreSQL.

        Args:
            url: see parse_url.
            queue_limit: SQLite: units on their way to the writer before callers wait.
            pool_size: PostgreSQL: connections for each event loop.
            command_timeout: PostgreSQL: seconds one statement may take.
            prepared_statements: PostgreSQL: False behind a transaction pooler such as pgbouncer.
            transaction_timeout: seconds a transaction() may stay open.

        Raises:
            DatabaseUnavailable: the SQLite file cannot be opened.
        """
        self.url = url
        self.transaction_timeout = transaction_timeout
        self.telemetry: DatabaseTelemetry | None = None
        self._prepared_statements = prepared_statements
        self._hooks: list[CommitHook] = []
        self._hook_tasks: set[asyncio.Task[None]] = set()
        self._closing: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Task[None]] = WeakKeyDictionary()
        self._sessions: SessionMaker | None = None
        self._lane: Lane = self._open_lane(queue_limit, pool_size, command_timeout)

    def _open_lane(self, queue_limit: int, pool_size: int, command_timeout: float) -> Lane:
        # Imported when used: a desktop install never loads asyncpg.
        if self.url.dialect == "sqlite":
            from storage.database.sqlite_lane import SQLiteLane

            return SQLiteLane(self.url.location, queue_limit=queue_limit, announce=self._announce)
        from storage.database.postgresql_lane import PostgreSQLLane

        return PostgreSQLLane(
            self.url.location,
            pool_size=pool_size,
            command_timeout=command_timeout,
            prepared_statements=self._prepared_statements,
            announce=self._announce,
        )

    @property
    def dialect(self) -> DialectName:
        """Which SQL is spoken."""
        return self.url.dialect

    async def read(self, statement: Statement, parameters: Mapping[str, Any], *, scan: bool = False) -> list[Row]:
        """Rows of a SELECT; sees every save that was awaited before. See Executor.read.

        Raises:
            NestedTransaction: on a database in memory, inside a transaction of the same task.
        """
        if self._lane.reads_wait_for_transaction:
            self._refuse_nesting()
        if self.telemetry is None:
            return await self._lane.read(statement, parameters, scan=scan)
        return await self.telemetry.observe([statement.name], self._lane.read(statement, parameters, scan=scan))

    async def run(self, unit: Callable[[], Unit[T]]) -> T:
        """Run a unit in a transaction of its own. See Executor.run.

        Raises:
            NestedTransaction: inside a transaction of the same task.
        """
        self._refuse_nesting()
        if self.telemetry is None:
            return await self._lane.run(unit)
        from storage.database.telemetry import noting

        names: list[str] = []
        return await self.telemetry.observe(names, self._lane.run(noting(unit, names)))

    @asynccontextmanager
    async def transaction(self, timeout: float | None = None) -> AsyncIterator[Executor]:
        """Read, decide and write in one transaction: committed if the block ends well, rolled back if it raises.

        Not nested: a transaction, or a write past the open one, inside the block is refused, because on SQLite it would
        wait for the block itself. A unit inside that fails is undone alone, so its error may be caught and the block go
        on.

        Args:
            timeout: seconds it may stay open; the configured transaction_timeout if None.

        Raises:
            InvalidInput: a timeout that is not positive.
            NestedTransaction: the task holds one already.
            TransactionTimeout: it stayed open for too long; nothing was written.
            TransactionAborted: (from a call in the block, PostgreSQL) another transaction wants the same rows in
                another order, and this one has to give way; begin it again.
        """
        seconds = self.transaction_timeout if timeout is None else timeout
        if not seconds > 0:
            raise InvalidInput(f"timeout must be a positive number of seconds, not {seconds!r}")
        self._refuse_nesting()
        transaction = await self._lane.begin(seconds)
        _held.set((*_held.get(), (self, transaction)))
        try:
            yield transaction if self.telemetry is None else self._observed(transaction)
        except BaseException:
            await transaction.rollback()
            raise
        else:
            await transaction.commit()
        finally:
            # Not reset(token): a block entered in one task and left in another (a fixture, a dependency of a web
            # framework) has another context by now, and its commit must not end in a ValueError.
            _held.set(tuple(held for held in _held.get() if held[1] is not transaction))

    def _observed(self, transaction: LaneTransaction) -> Executor:
        from storage.database.telemetry import ObservedExecutor

        return ObservedExecutor(transaction, cast("DatabaseTelemetry", self.telemetry))

    def _refuse_nesting(self) -> None:
        for database, transaction in _held.get():
            if database is self and transaction.is_open:
                raise NestedTransaction(
                    "this task holds an open transaction of the same storage; use the object that `async with"
                    " ….transaction() as tx` gave (tx.conversations, tx.settings, …), or end it first"
                )

    @asynccontextmanager
    async def session(self, *, read_only: bool = False) -> AsyncIterator[AsyncSession]:
        """A SQLModel AsyncSession for queries of one's own; close or leave the block to give the connection back.

        On SQLite it begins IMMEDIATE, so it holds the writer from its first statement until commit or rollback: a
        transaction that reads first and writes later would fail as soon as someone else wrote in between. With
        `read_only=True` it takes no lock and refuses writes, on both databases.

        What is written through it is not announced and writes no event rows; sealed columns still take sealed bytes
        only.
        """
        self._lane.check_usable()
        self._refuse_nesting()
        if self._sessions is None:
            from storage.database.session import SessionMaker

            self._sessions = SessionMaker(self.url, prepared_statements=self._prepared_statements)
        async with self._sessions.session(read_only=read_only) as session:
            yield session

    def on_commit(self, hook: CommitHook) -> Callable[[], None]:
        """Have `hook` called after each commit with the list of its changes. Returns a function that removes it again.

        A hook runs on the event loop that made the change; an async one as a task that close() waits for, and which may
        write, but gets StorageClosed for what it begins after close() was called. An exception is logged and neither
        undoes nor repeats anything. A crash between commit and hook loses the call: the durable record is the `event`
        table.
        """
        self._hooks.append(hook)

        def remove() -> None:
            if hook in self._hooks:
                self._hooks.remove(hook)

        return remove

    def _announce(self, changes: Sequence[Change]) -> None:
        """Called by the lanes on the event loop, after the commit, in commit order."""
        for hook in tuple(self._hooks):
            try:
                outcome = hook(list(changes))
                if inspect.isawaitable(outcome):
                    task = asyncio.ensure_future(_awaited(outcome))
                    self._hook_tasks.add(task)
                    task.add_done_callback(self._hook_tasks.discard)
            except (Exception, asyncio.CancelledError):  # a sync hook may have asked a cancelled future for its result
                log.exception("an on_commit hook failed; the commit stands")

    async def close(self) -> None:
        """Finish what was accepted, roll back what is open, wait for async hooks, close every connection.

        A second call waits for the first. If the caller is cancelled, closing goes on without it.
        """
        loop = asyncio.get_running_loop()
        caller = asyncio.current_task()
        if caller is not None:
            self._hook_tasks.discard(caller)  # a hook that closes cannot wait for itself
        closing = self._closing.get(loop)
        if closing is None or (closing.done() and (closing.cancelled() or closing.exception())):
            closing = self._closing[loop] = loop.create_task(self._close())
        await asyncio.shield(closing)

    async def _close(self) -> None:
        await self._lane.close()
        loop = asyncio.get_running_loop()
        while own := {task for task in self._hook_tasks if task.get_loop() is loop}:
            await asyncio.wait(own)
            self._hook_tasks -= own
        if self._sessions is not None:
            await self._sessions.close()


async def _awaited(outcome: Awaitable[None]) -> None:
    try:
        await outcome
    except Exception:
        log.exception("an on_commit hook failed; the commit stands")
