"""A question to SQLite, on a connection that can do nothing but read the report views.

The file is opened read-only, and an authorizer refuses whatever is not reading. What may be read it cannot decide: it
is told the view that a table is read for, and within `WITH report_user AS (SELECT … FROM settings)` that is
`report_user` as well. So SQLite itself is asked first, in an empty database that has views of the same names and
columns and nothing else: a statement that it understands there names nothing but these. In the real one, names mean
the same, because the views are temporary ones there too, which come before everything.
"""

from __future__ import annotations

import asyncio
import re
import sqlite3
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final
from urllib.parse import quote

from storage.database.forking import fork_lock
from storage.database.sqlite_connection import BUSY_TIMEOUT_SECONDS, is_memory
from storage.errors import (
    DatabaseBusy,
    DatabaseUnavailable,
    QueryInvalid,
    QueryRefused,
    QueryTimeout,
    QueryTooLarge,
    StorageError,
)
from storage.reporting.query import expansion
from storage.reporting.query.bounds import MAX_BYTES, MAX_SQL, TOO_MUCH
from storage.reporting.query.complaint import complaint
from storage.reporting.query.parameters import for_sqlite
from storage.reporting.query.result import QueryResult, Question
from storage.reporting.views import VIEWS, View

# Those that load code or touch files, in whatever build SQLite comes in, and those that look into tables by name.
_REFUSED_FUNCTIONS: Final = frozenset(
    {
        *("load_extension", "icu_load_collation", "fts3_tokenizer", "readfile", "writefile", "edit", "eval"),
        *("rtreecheck", "rtreenode", "rtreedepth", "sqlite_log", "sqlite_offset"),
    }
)

_LONGEST_VALUE: Final = 16 * 1024 * 1024
"""Bytes of one text: a statement could otherwise ask for a gigabyte of zeros."""
_LONGEST_PATTERN: Final = 1_000
"""Bytes of what LIKE and GLOB look for: comparing takes up to the product of both lengths, away from the clock."""
_STEPS: Final = 10_000
"""Of SQLite's machine, between two looks at the clock: some tenths of a millisecond."""

_VIEW: Final = "CREATE TEMP VIEW {name} AS {body}"
_BARRIER: Final = "SELECT * FROM ({body}) LIMIT -1"
_EXPLAINS: Final = re.compile(r"(?:\s|--[^\n]*\n|/\*(?:[^*]|\*(?!/))*\*/)*EXPLAIN\b", re.IGNORECASE)


class _Guard:
    """The authorizer: allows reading, and notes the first thing that it refused."""

    def __init__(self) -> None:
        self.refused: str | None = None

    def __call__(
        self, action: int, first: str | None, second: str | None, database: str | None, context: str | None
    ) -> int:
        match action:
            case sqlite3.SQLITE_SELECT | sqlite3.SQLITE_RECURSIVE:
                allowed = True
            case sqlite3.SQLITE_FUNCTION:
                allowed = str(second).lower() not in _REFUSED_FUNCTIONS
            case sqlite3.SQLITE_READ:
                # Tables, for the views; and whatever the statement calls a subquery of its own.
                allowed = not str(first).lower().startswith(_INTERNAL)
            case _:
                allowed = False
        if not allowed and self.refused is None:
            self.refused = _named(action, first, second)
        return sqlite3.SQLITE_OK if allowed else sqlite3.SQLITE_DENY


_INTERNAL: Final = ("sqlite_", "pragma_", "dbstat", "bytecode", "tables_used")
"""How the names begin of what SQLite tells of itself."""


def _named(action: int, first: str | None, second: str | None) -> str:
    """What was asked for, for people."""
    if action in (sqlite3.SQLITE_INSERT, sqlite3.SQLITE_UPDATE, sqlite3.SQLITE_DELETE) and str(first) in _SCHEMAS:
        return "changing the schema, or a virtual table,"
    if action == sqlite3.SQLITE_READ:
        return f"reading {first}"
    if action == sqlite3.SQLITE_FUNCTION:
        return f"the function {second}"
    if action == sqlite3.SQLITE_PRAGMA:
        return f"PRAGMA {first}"
    return _ACTIONS.get(action, "this kind of statement")


_SCHEMAS: Final = ("sqlite_master", "sqlite_temp_master")
_ACTIONS: Final = {
    sqlite3.SQLITE_INSERT: "INSERT",
    sqlite3.SQLITE_UPDATE: "UPDATE",
    sqlite3.SQLITE_DELETE: "DELETE",
    sqlite3.SQLITE_ATTACH: "ATTACH",
    sqlite3.SQLITE_DETACH: "DETACH",
    sqlite3.SQLITE_TRANSACTION: "a transaction of its own",
    sqlite3.SQLITE_SAVEPOINT: "a savepoint",
}


async def ask(location: str, question: Question) -> QueryResult:
    """The rows that a question gives. In a thread; the reading stops when the caller is cancelled.

    Args:
        location: of the database, see DatabaseURL.
        question: what is asked.

    Raises:
        QueryRefused, QueryInvalid, QueryTimeout: see storage.reporting.query.asking.ask.
        DatabaseUnavailable: it cannot be opened.
    """
    clock = _Clock(question.timeout)
    task = asyncio.create_task(asyncio.to_thread(_ask, location, question, clock))
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        clock.stop()
        await asyncio.wait([task])
        if not task.cancelled():
            task.exception()  # of the interruption; the caller hears of the cancellation
        raise


class _Clock:
    """Says when a question has to end: its time is over, or nobody waits for it any more."""

    def __init__(self, seconds: float) -> None:
        self.began = time.monotonic()
        self._deadline = self.began + seconds

    def stop(self) -> None:
        """End it now. From another thread, and also while no statement runs that could be interrupted."""
        self._deadline = self.began

    def is_over(self) -> bool:
        return time.monotonic() > self._deadline


def _ask(location: str, question: Question, clock: _Clock) -> QueryResult:
    expansion.check(question.sql)
    parameters = for_sqlite(question.parameters)
    with _connected(":memory:") as empty:
        _make_views(empty, {view.name: _nothing(view) for view in VIEWS})
        # Explained and not run: only whether it is understood.
        explained = question.sql if _EXPLAINS.match(question.sql) else f"EXPLAIN {question.sql}"
        _run(empty, question, explained, parameters, clock)
    with _connected(location if is_memory(location) else f"file:{quote(location)}?mode=ro") as connection:
        _make_views(connection, {view.name: _body(view, question.user_id) for view in VIEWS})
        columns, rows = _run(connection, question, question.sql, parameters, clock)
    truncated = len(rows) > question.max_rows
    return QueryResult(columns, rows[: question.max_rows], truncated, time.monotonic() - clock.began)


def _nothing(view: View) -> str:
    return "SELECT " + ", ".join(f"NULL AS {column.name}" for column in view.columns)


def _body(view: View, user_id: str | None) -> str:
    body = view.sql("sqlite", user_id)
    # LIMIT keeps SQLite from trying a condition of the statement on rows that are not this user's: whether it fails on
    # one would tell of it.
    return body if user_id is None else _BARRIER.format(body=body)


@contextmanager
def _connected(location: str) -> Iterator[sqlite3.Connection]:
    """A connection of its own."""
    with fork_lock():
        try:
            connection = sqlite3.connect(
                location, timeout=BUSY_TIMEOUT_SECONDS, isolation_level=None, check_same_thread=False, uri=True
            )
        except sqlite3.Error as error:
            raise DatabaseUnavailable(f"cannot open the SQLite database {location}: {error}") from error
        try:
            yield connection
        finally:
            connection.close()


def _make_views(connection: sqlite3.Connection, bodies: Mapping[str, str]) -> None:
    """Make the views of this connection, and close every other door."""
    try:
        connection.execute("PRAGMA trusted_schema=OFF")
        connection.execute("PRAGMA temp_store=MEMORY")
        for name, body in bodies.items():
            connection.execute(_VIEW.format(name=name, body=body))
        connection.execute("PRAGMA query_only=ON")
    except sqlite3.Error as error:
        raise DatabaseUnavailable(f"the database cannot be read: {error}") from error
    connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, _LONGEST_VALUE)
    connection.setlimit(sqlite3.SQLITE_LIMIT_SQL_LENGTH, 4 * MAX_SQL)
    connection.setlimit(sqlite3.SQLITE_LIMIT_LIKE_PATTERN_LENGTH, _LONGEST_PATTERN)
    connection.setlimit(sqlite3.SQLITE_LIMIT_ATTACHED, 0)
    if hasattr(connection, "enable_load_extension"):  # Python may be built without
        connection.enable_load_extension(False)


def _run(
    connection: sqlite3.Connection, question: Question, sql: str, parameters: dict[str, Any], clock: _Clock
) -> tuple[tuple[str, ...], list[tuple[Any, ...]]]:
    """The columns, and one row more than was asked for if there are more."""
    guard = _Guard()
    connection.set_authorizer(guard)
    connection.set_progress_handler(clock.is_over, _STEPS)
    rows = []
    size = 0
    try:
        cursor = connection.execute(sql, parameters)
        for row in cursor:
            rows.append(row)
            size += sum(len(value) if isinstance(value, str | bytes) else _NUMBER for value in row)
            if size > MAX_BYTES:
                raise QueryTooLarge(TOO_MUCH)
            if clock.is_over():
                raise _too_late(question)
            if len(rows) > question.max_rows:
                break
    except (sqlite3.Error, sqlite3.Warning, OverflowError, RecursionError, MemoryError) as error:
        raise _translated(error, guard, question) from None
    if cursor.description is None:
        raise QueryInvalid("this statement gives no rows; a question begins with SELECT, WITH or VALUES")
    return tuple(column[0] for column in cursor.description), rows


_NUMBER: Final = 8
"""Bytes of one."""


def _too_late(question: Question) -> QueryTimeout:
    return QueryTimeout(f"the question took longer than {question.timeout:g} s; narrow it, or allow it more time")


def _translated(error: Exception, guard: _Guard, question: Question) -> StorageError:
    if guard.refused is not None:
        return QueryRefused(f"{guard.refused} is refused: a question reads the report views, and nothing else")
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code == sqlite3.SQLITE_INTERRUPT:
        return _too_late(question)
    if code == sqlite3.SQLITE_READONLY:
        return QueryRefused("the database is opened for reading only")
    if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN):
        return DatabaseUnavailable(f"the database cannot be read: {error}; `storage doctor` looks closer")
    if code in (sqlite3.SQLITE_TOOBIG, sqlite3.SQLITE_NOMEM) or isinstance(error, MemoryError | sqlite3.DataError):
        return QueryTooLarge(f"a value, a pattern or the statement is too large: {error}")
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return DatabaseBusy("another process keeps the database locked; try again")
    if "one statement at a time" in str(error):
        return QueryRefused("only one statement at a time")
    return complaint(str(error))
