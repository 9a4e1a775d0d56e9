"""The database that an archive is restored into: written by one transaction, and read back within it."""

from __future__ import annotations

import sqlite3
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final

from storage.backup.manifest import ArchivedTable
from storage.backup.snapshot import PostgreSQLSnapshot, Snapshot, SQLiteSnapshot, postgresql
from storage.backup.sqlite_thread import SQLiteThread
from storage.database.sqlite_connection import translate
from storage.database.statement import DialectName
from storage.errors import ArchiveDamaged

if TYPE_CHECKING:
    from sqlalchemy import Table

    from storage.database.url import DatabaseURL

LOCK_SECONDS: Final = 30
"""How long to wait for others who have a table of the empty PostgreSQL database open in a transaction."""


def not_ours(table: ArchivedTable, error: Exception) -> ArchiveDamaged:
    """Without what the database says: it quotes the row."""
    return ArchiveDamaged(f"{table.part.path} has rows that {table.name} cannot hold ({type(error).__name__})")


class Target(ABC):
    """An empty database in a transaction that takes everything or nothing."""

    dialect: DialectName
    snapshot: Snapshot

    @abstractmethod
    async def insert(self, table: ArchivedTable, names: Sequence[str], rows: list[list[Any]]) -> None:
        """Insert rows, whose values are the driver's."""

    @abstractmethod
    async def count_from(self, table: Table, number: int) -> None:
        """Give out numbers after this one from now on."""

    @abstractmethod
    async def check(self) -> None:
        """Pass if every row that another refers to is there."""


@asynccontextmanager
async def loading(url: DatabaseURL, archived: Sequence[ArchivedTable]) -> AsyncIterator[Target]:
    """The database, for one transaction; what does not end well has changed nothing.

    Raises:
        DatabaseError: it cannot be written to, or others had it open for too long.
    """
    if url.dialect == "sqlite":
        thread = SQLiteThread(url.location, foreign_keys=False)
        try:
            there = _SQLiteTarget(thread)
            await there.execute("BEGIN IMMEDIATE")
            yield there
            await there.execute("COMMIT")
        finally:
            await thread.close()
        return
    async with postgresql(url, "restore") as server:
        target = _PostgreSQLTarget(server)
        await target.execute("BEGIN")
        names = ", ".join(f'"{table.name}"' for table in archived)
        await target.execute(f"SET LOCAL lock_timeout = '{LOCK_SECONDS}s'")
        await target.execute(f"LOCK TABLE {names} IN ACCESS EXCLUSIVE MODE")
        yield target
        # Until autovacuum comes by, which may take minutes, the planner would take the tables for empty.
        await target.execute(f"ANALYZE {names}")
        await target.execute("COMMIT")
        # What did not come to this point is rolled back when the connection ends.


class _SQLiteTarget(Target):
    dialect: DialectName = "sqlite"

    def __init__(self, thread: SQLiteThread) -> None:
        self._thread = thread
        self.snapshot = SQLiteSnapshot(thread)

    async def insert(self, table: ArchivedTable, names: Sequence[str], rows: list[list[Any]]) -> None:
        columns = ", ".join(f'"{name}"' for name in names)
        places = ", ".join("?" * len(names))
        sql = f'INSERT INTO "{table.name}" ({columns}) VALUES ({places})'  # noqa: S608 - names are checked by the manifest
        try:
            await self._thread.run(lambda connection: connection.executemany(sql, rows).close())
        except (sqlite3.IntegrityError, sqlite3.ProgrammingError, OverflowError) as error:
            raise not_ours(table, error) from None
        except sqlite3.Error as error:
            raise translate(error, "restore") from error

    async def count_from(self, table: Table, number: int) -> None:
        await self.execute(f"DELETE FROM sqlite_sequence WHERE name = '{table.name}'")  # noqa: S608 - as above
        await self.execute(f"INSERT INTO sqlite_sequence (name, seq) VALUES ('{table.name}', {number:d})")  # noqa: S608 - as above

    async def check(self) -> None:
        broken = await self.snapshot.values('SELECT DISTINCT "table" FROM pragma_foreign_key_check')
        if broken:
            raise ArchiveDamaged(f"rows of {', '.join(map(str, broken))} refer to rows that are not there")

    async def execute(self, sql: str) -> None:
        """Run a statement of which nothing comes back."""
        try:
            await self._thread.run(lambda connection: connection.execute(sql).close())
        except sqlite3.Error as error:
            raise translate(error, "restore") from error


class _PostgreSQLTarget(Target):
    dialect: DialectName = "postgresql"

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self.snapshot = PostgreSQLSnapshot(connection)

    async def insert(self, table: ArchivedTable, names: Sequence[str], rows: list[list[Any]]) -> None:
        import asyncpg

        from storage.database.postgresql_drive import DRIVER_ERRORS, translate

        kinds = [column.kind for column in table.columns]
        columns = ", ".join(f'"{name}"' for name in names)
        places = ", ".join(
            f"${number}::text::jsonb" if kind == "json" else f"${number}" for number, kind in enumerate(kinds, 1)
        )
        sql = f'INSERT INTO "{table.name}" ({columns}) VALUES ({places})'  # noqa: S608 - names are checked by the manifest
        try:
            await self._connection.executemany(sql, rows)
        except (asyncpg.IntegrityConstraintViolationError, asyncpg.DataError) as error:
            raise not_ours(table, error) from None
        except DRIVER_ERRORS as error:
            raise translate(error, "restore") from error

    async def count_from(self, table: Table, number: int) -> None:
        key = next(iter(table.primary_key)).name
        await self.execute(
            "SELECT setval(pg_get_serial_sequence($1, $2), greatest($3::bigint, 1), $3::bigint > 0)",
            table.name,
            key,
            number,
        )

    async def check(self) -> None:
        """PostgreSQL has looked at every row as it came."""

    async def execute(self, sql: str, *parameters: Any) -> None:
        """Run a statement of which nothing comes back."""
        from storage.database.postgresql_drive import DRIVER_ERRORS, translate

        try:
            await self._connection.execute(sql, *parameters)
        except DRIVER_ERRORS as error:
            raise translate(error, "restore") from error
