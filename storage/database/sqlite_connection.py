"""How a SQLite connection is opened here: each pragma with its reason, and driver errors as ours."""

from __future__ import annotations

import errno
import logging
import os
import sqlite3
import time
from contextlib import suppress
from pathlib import Path
from typing import Final
from urllib.parse import quote

from storage.errors import DatabaseBusy, DatabaseError, DatabaseUnavailable, StorageError, UniqueViolation
from storage.private_folder import make_private_folder

log = logging.getLogger(__name__)

BUSY_TIMEOUT_SECONDS: Final = 10.0
"""How long a connection waits for a lock that another process holds. The driver's default of 5 s is too short for a
backup or a report that checkpoints a large WAL on a slow disk."""

POLL_SECONDS: Final = 0.001
"""How long the writer waits before it asks again for a lock that another process holds, see begin_immediate."""

WAL_SWITCH_SECONDS: Final = 20.0
"""How long to retry the first switch to WAL. It needs an exclusive lock and SQLite does not call the busy handler for
it, so two processes opening one fresh file at once would otherwise fail (https://sqlite.org/wal.html#sometimes_queries_return_sqlite_busy_in_wal_mode)."""

CACHED_STATEMENTS: Final = 256
"""Prepared statements kept for each connection: all of ours and the common search shapes; the default is 128."""

JOURNAL_SIZE_LIMIT_BYTES: Final = 64 * 1024 * 1024
"""A WAL that grew under one long reader is cut back to this after a checkpoint instead of keeping its size for ever."""

CHECKPOINT_PAGES: Final = 4000
"""WAL pages (16 MB) before a commit copies them into the database. At SQLite's default of 1,000 the writer did so every
hundred saves, because a save touches a page of each index: measured, saves one by one took half as long again."""

MINIMUM_SQLITE: Final = (3, 40, 0)
"""Nothing newer is required; older ones lack what the statements use (RETURNING, UPSERT, json_each in the core)."""

CONNECTION_PRAGMAS: Final = (
    # Per connection, off by default in SQLite for compatibility with 2009.
    "PRAGMA foreign_keys=ON",
    # A WAL commit that is acknowledged must survive a power cut; group commit is what makes this affordable.
    "PRAGMA synchronous=FULL",
    # Deleted secrets and conversations are overwritten with zeros, not only unlinked from the b-tree.
    "PRAGMA secure_delete=ON",
    # Sorting of reports stays in memory: temporary files would copy rows outside the database's folder.
    "PRAGMA temp_store=MEMORY",
    f"PRAGMA journal_size_limit={JOURNAL_SIZE_LIMIT_BYTES}",
    f"PRAGMA wal_autocheckpoint={CHECKPOINT_PAGES}",
    # A database file is data that may come from elsewhere: its schema must not call functions with side effects.
    "PRAGMA trusted_schema=OFF",
)


def is_memory(location: str) -> bool:
    """Whether the location names a database in memory (SQLite's `memdb` VFS, shared by this process's connections)."""
    return location.startswith("file:/") and "vfs=memdb" in location


def prepare_file(location: str) -> None:
    """Create the database file, owner-only, and its folder if it is missing.

    SQLite gives the WAL and shared-memory files the mode of the database file, so it has to be right from the start.

    Raises:
        DatabaseUnavailable: the folder or file cannot be made, or a folder is in the way.
    """
    if is_memory(location):
        return
    path = Path(location).resolve()
    try:
        make_private_folder(path.parent)
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        # Only a new file is opened here: closing one that this process has a connection to would drop that connection's
        # locks (https://sqlite.org/howtocorrupt.html#_posix_advisory_locks_canceled_by_a_separate_thread_doing_close_).
        with suppress(FileExistsError):
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0), 0o600))
    except OSError as error:
        raise DatabaseUnavailable(
            f"cannot open the SQLite database {location}: {error.strerror or error}; choose a path that can be written"
        ) from error


def file_identity(location: str) -> tuple[int, int] | None:
    """Device and inode of the database file; None if it is gone or in memory."""
    try:
        found = Path(location).stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def roll_back(connection: sqlite3.Connection) -> None:
    """End the transaction, if there is one. Raises nothing: the writer thread has to go on."""
    try:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
    except sqlite3.ProgrammingError:
        log.debug("the connection is closed already")
    except sqlite3.Error:
        log.exception("a transaction could not be rolled back; SQLite does it when the database is opened again")


class Connection(sqlite3.Connection):
    """One whose close() lets go of its locks, whoever still refers to a cursor of it.

    SQLite keeps a closed connection, transaction and all, until its last statement is finalised
    (https://sqlite.org/c3ref/close.html); the traceback of a session that was cancelled refers to one.
    """

    def close(self) -> None:
        """Roll back and close."""
        roll_back(self)
        super().close()


def connect(
    location: str,
    *,
    read_only: bool = False,
    busy_timeout: float = BUSY_TIMEOUT_SECONDS,
    foreign_keys: bool = True,
) -> sqlite3.Connection:
    """A connection with our pragmas, in autocommit mode: whoever uses it says BEGIN. See prepare_file for a new one.

    Args:
        location: a file path, or a `file:/name?vfs=memdb` URI.
        read_only: refuse every write on it (`query_only`).
        busy_timeout: seconds to wait for another process's lock.
        foreign_keys: False only while migrating: a table rebuilt under enforcement deletes its children by cascade.

    Raises:
        DatabaseUnavailable: not openable, not a database, or SQLite is older than 3.40.
    """
    if sqlite3.sqlite_version_info < MINIMUM_SQLITE:
        raise DatabaseUnavailable(
            f"SQLite {sqlite3.sqlite_version} is too old: {'.'.join(map(str, MINIMUM_SQLITE))} or newer is needed"
        )
    try:
        connection = sqlite3.connect(
            # mode=rw: a file that was deleted meanwhile must not come back empty, and readable for everybody.
            location if is_memory(location) else f"file:{quote(location)}?mode=rw",
            timeout=busy_timeout,
            isolation_level=None,
            check_same_thread=False,
            cached_statements=CACHED_STATEMENTS,
            uri=True,
            factory=Connection,
        )
    except sqlite3.Error as error:
        raise DatabaseUnavailable(f"cannot open the SQLite database {location}: {error}") from error
    try:
        if not is_memory(location):
            _switch_to_wal(connection, location)
        for pragma in CONNECTION_PRAGMAS:
            connection.execute(pragma)
        if not foreign_keys:
            connection.execute("PRAGMA foreign_keys=OFF")
        if read_only:
            connection.execute("PRAGMA query_only=ON")
    except sqlite3.Error as error:
        connection.close()
        raise DatabaseUnavailable(f"cannot use {location} as a SQLite database: {error}") from error
    except BaseException:
        connection.close()
        raise
    return connection


def _switch_to_wal(connection: sqlite3.Connection, location: str) -> None:
    deadline = time.monotonic() + WAL_SWITCH_SECONDS
    while True:
        try:
            (mode,) = connection.execute("PRAGMA journal_mode=WAL").fetchone()
        except sqlite3.OperationalError as error:
            if _primary_code(error) != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
        else:
            if mode != "wal":
                raise DatabaseUnavailable(
                    f"{location} cannot use write-ahead logging (it stays in mode {mode!r});"
                    " network file systems cannot: put the database on a local disk"
                )
            return
        time.sleep(0.01)


def begin_immediate(connection: sqlite3.Connection) -> None:
    """Begin a transaction that writes, on a connection whose `busy_timeout` is 0; waits BUSY_TIMEOUT_SECONDS at most.

    SQLite's own handler asks less and less often, every 100 ms in the end. Of two busy processes one then finds the
    database locked for a second and more, though it is free hundreds of times (sqliteDefaultBusyCallback in main.c).

    Raises:
        sqlite3.Error: SQLITE_BUSY if it stays locked, or what else SQLite says.
    """
    deadline = time.monotonic() + BUSY_TIMEOUT_SECONDS
    while True:
        try:
            connection.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError as error:
            if _primary_code(error) != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
        else:
            return
        time.sleep(POLL_SECONDS)


def _primary_code(error: sqlite3.Error) -> int:
    return getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF


def translate(error: sqlite3.Error, statement: str) -> StorageError:
    """Our error for one of SQLite's; names the statement, never its parameters. Set the cause when raising it."""
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR)
    if code in (sqlite3.SQLITE_CONSTRAINT_UNIQUE, sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY):
        return UniqueViolation(f"{statement}: {error}")
    primary = code & 0xFF
    if primary in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return DatabaseBusy(
            f"{statement}: another process, or an open session(), kept the database locked for longer than the busy"
            " timeout; try again"
        )
    if primary == sqlite3.SQLITE_FULL:
        return DatabaseUnavailable(f"{statement}: the disk is full; nothing was written. Free some space and try again")
    if primary in (sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY):
        return DatabaseUnavailable(f"{statement}: {error}; nothing was written")
    if primary in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        return DatabaseUnavailable(f"{statement}: {error}; restore the database from a backup")
    return DatabaseError(f"{statement}: {error}")
