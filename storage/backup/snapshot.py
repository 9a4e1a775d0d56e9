"""All rows of all tables as they were at one moment, while everybody else goes on writing."""

from __future__ import annotations

import sqlite3
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import aclosing, asynccontextmanager
from typing import TYPE_CHECKING, Any, Final, TypeVar

from sqlalchemy import Table

from storage.backup.sqlite_thread import SQLiteThread
from storage.backup.threads import in_thread
from storage.backup.values import ArchivedColumn, Convert, encoder, to_line
from storage.database.sqlite_connection import translate
from storage.database.statement import DialectName
from storage.errors import DatabaseError
from storage.tables import metadata

if TYPE_CHECKING:
    from storage.database.url import DatabaseURL

R = TypeVar("R")

ROWS: Final = 500
"""At once: from the database, and turned into lines in one go."""

COUNTED: Final = ("event",)
"""Tables whose primary key the database counts; what was given out once is not given out again."""

_LONG: Final = {"file_content"}
_LONG_ROWS: Final = 16
"""At once, of tables whose rows are as long as `small_files_in_database` allows: a megabyte each, for example."""

_LEASES: Final = {("delivery", "lease_until"), ("delivery", "lease_token")}
"""Of the processes that run now; whoever has the archive has none of them."""


def tables() -> list[Table]:
    """All tables, in an order in which rows can be inserted."""
    return list(metadata.sorted_tables)


class Snapshot(ABC):
    """A database in which nothing changes any more, for whoever reads through this."""

    dialect: DialectName

    async def lines(
        self, name: str, columns: Sequence[ArchivedColumn], keys: Sequence[str]
    ) -> AsyncGenerator[list[bytes], None]:
        """A table's rows as lines of an archive, in the order of the keys, some hundred at a time.

        Raises:
            DatabaseError: it cannot be read.
        """
        encoders = [encoder(column.kind, self.dialect) for column in columns]
        number = _LONG_ROWS if name in _LONG else ROWS
        async with aclosing(self.rows(_select(name, columns, keys), number)) as batches:
            async for batch in batches:
                yield await in_thread(_lines, name, batch, encoders)

    @abstractmethod
    def rows(self, sql: str, number: int = ROWS) -> AsyncGenerator[list[Any], None]:
        """What a query gives, so many rows at a time."""

    async def values(self, sql: str) -> list[Any]:
        """The first column of what a query gives."""
        async with aclosing(self.rows(sql)) as batches:
            return [row[0] async for batch in batches for row in batch]

    @abstractmethod
    async def last_number(self, table: Table) -> int:
        """The last number that the database gave out for a table's key; 0 if it gave none."""

    @abstractmethod
    async def table_names(self) -> list[str]:
        """Of all tables that there are, ours and others."""


def _lines(name: str, rows: list[Any], encoders: Sequence[Convert | None]) -> list[bytes]:
    try:
        return [to_line(row, encoders) for row in rows]
    except (ValueError, TypeError) as error:
        raise DatabaseError(
            f"backup: a row of {name} has a value that its column cannot hold ({type(error).__name__}): somebody has"
            " written it past this library. Mend it, or delete the row"
        ) from None


def _select(name: str, columns: Sequence[ArchivedColumn], keys: Sequence[str]) -> str:
    values = ", ".join(
        f'NULL AS "{column.name}"' if (name, column.name) in _LEASES else f'"{column.name}"' for column in columns
    )
    order = ", ".join(f'"{key}"' for key in keys)
    return f'SELECT {values} FROM "{name}" ORDER BY {order}'  # noqa: S608 - our own names


@asynccontextmanager
async def snapshot(url: DatabaseURL) -> AsyncIterator[Snapshot]:
    """The database as it is now: what was committed before is in it, and nothing that comes later.

    Raises:
        DatabaseUnavailable: it cannot be opened.
    """
    if url.dialect == "sqlite":
        thread = SQLiteThread(url.location, read_only=True)
        try:
            found = SQLiteSnapshot(thread)
            await found.begin()
            yield found
        finally:
            await thread.close()
        return
    async with postgresql(url, "backup") as server, server.transaction(isolation="repeatable_read", readonly=True):
        there = PostgreSQLSnapshot(server)
        await there.values("SELECT 1")  # the moment is that of the first statement, not of BEGIN
        yield there


@asynccontextmanager
async def postgresql(url: DatabaseURL, purpose: str) -> AsyncIterator[Any]:
    """A connection of its own, without limits of time for its statements.

    Args:
        url: of the database.
        purpose: for messages.

    Raises:
        DatabaseUnavailable: the server cannot be reached, or refuses.
    """
    import asyncpg

    from storage.database.postgresql_drive import DRIVER_ERRORS, translate

    try:
        # No statement cache: there may be a pooler in between.
        server = await asyncpg.connect(
            url.location, statement_cache_size=0, server_settings={"application_name": f"agent-storage {purpose}"}
        )
    except (*DRIVER_ERRORS, ValueError) as error:
        raise translate(error, purpose) from error
    try:
        yield server
    finally:
        await server.close()


class SQLiteSnapshot(Snapshot):
    """A read transaction: with write-ahead logging, nobody waits for it."""

    dialect: DialectName = "sqlite"

    def __init__(self, thread: SQLiteThread) -> None:
        self._thread = thread

    async def begin(self) -> None:
        """Fix the moment, which the first read does."""
        await self._run(lambda connection: connection.execute("BEGIN").close())
        await self.values("SELECT count(*) FROM sqlite_schema")

    async def rows(self, sql: str, number: int = ROWS) -> AsyncGenerator[list[Any], None]:
        """In a thread, so that the loop goes on."""
        cursor = await self._run(lambda connection: connection.execute(sql))
        try:
            while batch := await self._run(lambda _: cursor.fetchmany(number)):
                yield batch
        finally:
            await self._run(lambda _: cursor.close())

    async def _run(self, work: Callable[[sqlite3.Connection], R]) -> R:
        try:
            return await self._thread.run(work)
        except sqlite3.Error as error:
            raise translate(error, "backup") from error

    async def last_number(self, table: Table) -> int:
        """SQLite counts in a table of its own."""
        found = await self.values(f"SELECT seq FROM sqlite_sequence WHERE name = '{table.name}'")  # noqa: S608 - as above
        return int(found[0]) if found else 0

    async def table_names(self) -> list[str]:
        """From the schema."""
        return await self.values("SELECT name FROM sqlite_schema WHERE type = 'table'")


class PostgreSQLSnapshot(Snapshot):
    """A transaction with one view of everything (REPEATABLE READ), that only reads."""

    dialect: DialectName = "postgresql"

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    async def rows(self, sql: str, number: int = ROWS) -> AsyncGenerator[list[Any], None]:
        """Through a cursor of the server's."""
        from storage.database.postgresql_drive import DRIVER_ERRORS, translate

        try:
            cursor = await self._connection.cursor(sql)
            while batch := await cursor.fetch(number):
                yield batch
        except DRIVER_ERRORS as error:
            raise translate(error, "backup") from error

    async def last_number(self, table: Table) -> int:
        """PostgreSQL's sequences are outside of transactions: it is at least what the snapshot's rows need."""
        key = next(iter(table.primary_key)).name
        [sequence] = await self.values(f"SELECT pg_get_serial_sequence('{table.name}', '{key}')")
        [number] = await self.values(f"SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM {sequence}")  # noqa: S608 - as above
        return int(number)

    async def table_names(self) -> list[str]:
        """Of the schema in which ours are."""
        return await self.values("SELECT tablename FROM pg_tables WHERE schemaname = current_schema()")
