"""Another system's SQL database, read in one read-only transaction: which tables and columns it has, and its rows.

Not by SQLAlchemy's engine, whose debug log shows the rows that it fetched, secrets included.
"""

from __future__ import annotations

import asyncio
import json
import sqlite3
import uuid
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import date, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeAlias

from storage.database.url import DatabaseURL, parse_url
from storage.errors import DatabaseUnavailable, InvalidInput

if TYPE_CHECKING:
    import asyncpg

SourceRow: TypeAlias = dict[str, Any]
"""A row's values as JSON has them, by column."""

_CONNECT_SECONDS: Final = 30


class _Connection(Protocol):
    async def fetch(self, sql: str, parameters: Sequence[str]) -> list[SourceRow]:
        """The rows; a parameter is written `:n` in the SQL, from 1."""

    async def columns(self, table: str) -> dict[str, str]:
        """Name → declared type in lower case, in the order of the table; empty if there is none."""


class SourceDatabase:
    """The database, while it is open. Table and column names are those of this program, never of a user.

    Attributes:
        display: the URL without its password.
        tables: those of the tables asked for that there are, each with its columns' declared types in lower case.
    """

    def __init__(self, display: str, connection: _Connection, tables: Mapping[str, Mapping[str, str]]) -> None:
        self.display = display
        self.tables = tables
        self._connection = connection

    def has(self, table: str, *columns: str) -> bool:
        """Whether there is the table, with these columns."""
        return table in self.tables and all(column in self.tables[table] for column in columns)

    async def distinct(self, table: str, column: str) -> list[str | None]:
        """The column's values as text, sorted; None last if there is one."""
        sql = f'SELECT DISTINCT CAST("{column}" AS TEXT) AS value FROM "{table}"'  # noqa: S608 - see the class
        found = {row["value"] for row in await self._connection.fetch(sql, ())}
        return [*sorted(value for value in found if value is not None), *([None] if None in found else [])]

    async def rows(self, table: str, column: str, values: Sequence[str]) -> list[SourceRow]:
        """The rows that have one of these texts in the column, in the order of their `id` if there is one."""
        if not values:
            return []
        places = ", ".join(f":{number}" for number in range(1, len(values) + 1))
        order = ' ORDER BY "id"' if "id" in self.tables[table] else ""
        sql = f'SELECT * FROM "{table}" WHERE CAST("{column}" AS TEXT) IN ({places}){order}'  # noqa: S608 - see the class
        types = self.tables[table]
        return [
            {name: _json_value(value, types.get(name, "")) for name, value in row.items()}
            for row in await self._connection.fetch(sql, values)
        ]


@asynccontextmanager
async def open_source_database(url: str, tables: Iterable[str]) -> AsyncIterator[SourceDatabase]:
    """Open a SQLite file or a PostgreSQL database for reading, in one transaction that sees one state of it.

    Args:
        url: as that of a storage. On PostgreSQL the tables are those of the first schema of the search path.
        tables: which ones matter.

    Raises:
        ConfigurationError: the URL cannot be read.
        InvalidInput: it names a database in memory.
        DatabaseUnavailable: there is no such database, or it cannot be read.
    """
    location = parse_url(url)
    connect = _postgresql if location.dialect == "postgresql" else _sqlite
    async with connect(location) as connection:
        found = {table: await connection.columns(table) for table in tables}
        yield SourceDatabase(
            location.display, connection, {name: columns for name, columns in found.items() if columns}
        )


# ---- SQLite


class _SQLite:
    def __init__(self, connection: sqlite3.Connection, display: str) -> None:
        self._connection = connection
        self._display = display

    async def fetch(self, sql: str, parameters: Sequence[str]) -> list[SourceRow]:
        # `:1` is a name to SQLite.
        named = {str(number): value for number, value in enumerate(parameters, start=1)}
        return await asyncio.to_thread(self._fetch, sql, named)

    async def columns(self, table: str) -> dict[str, str]:
        rows = await self.fetch("SELECT name, type FROM pragma_table_info(:1)", [table])
        return {row["name"]: row["type"].lower() for row in rows}

    def _fetch(self, sql: str, parameters: Mapping[str, str]) -> list[SourceRow]:
        try:
            return [dict(row) for row in self._connection.execute(sql, parameters)]
        except sqlite3.Error as error:
            raise DatabaseUnavailable(f"{self._display} cannot be read: {error}") from error


@asynccontextmanager
async def _sqlite(location: DatabaseURL) -> AsyncIterator[_SQLite]:
    file = location.file
    if file is None:
        raise InvalidInput("a database in memory holds nothing to import; name a file: sqlite:///path/to/file.db")
    if not file.is_file():
        raise DatabaseUnavailable(f"there is no database at {file}; nothing was imported")
    try:
        # The threads take turns: nothing is asked before the last answer is there.
        connection = sqlite3.connect(
            f"{file.as_uri()}?mode=ro",
            uri=True,
            isolation_level=None,
            check_same_thread=False,
            timeout=_CONNECT_SECONDS,
        )
    except sqlite3.Error as error:
        raise DatabaseUnavailable(f"{location.display} cannot be opened: {error}") from error
    try:
        connection.row_factory = sqlite3.Row
        # What is not UTF-8 must not fail a whole batch.
        connection.text_factory = lambda data: data.decode("utf-8", "replace")
        connection.execute("BEGIN")
        yield _SQLite(connection, location.display)
    finally:
        connection.close()


# ---- PostgreSQL


class _PostgreSQL:
    def __init__(self, connection: asyncpg.Connection, display: str) -> None:
        self._connection = connection
        self._display = display

    async def fetch(self, sql: str, parameters: Sequence[str]) -> list[SourceRow]:
        import asyncpg

        try:
            return [dict(row) for row in await self._connection.fetch(sql.replace(":", "$"), *parameters)]
        except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError) as error:
            raise DatabaseUnavailable(f"{self._display} cannot be read: {error}") from error

    async def columns(self, table: str) -> dict[str, str]:
        sql = (
            "SELECT column_name, data_type FROM information_schema.columns"
            " WHERE table_schema = current_schema() AND table_name = :1 ORDER BY ordinal_position"
        )
        return {row["column_name"]: row["data_type"].lower() for row in await self.fetch(sql, [table])}


@asynccontextmanager
async def _postgresql(location: DatabaseURL) -> AsyncIterator[_PostgreSQL]:
    import asyncpg

    try:
        # Without prepared statements it also works through a pooler such as PgBouncer.
        connection = await asyncpg.connect(location.location, timeout=_CONNECT_SECONDS, statement_cache_size=0)
    except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError) as error:
        told = str(error) or type(error).__name__
        raise DatabaseUnavailable(f"{location.display} cannot be opened: {told}") from error
    try:
        async with connection.transaction(isolation="repeatable_read", readonly=True):
            yield _PostgreSQL(connection, location.display)
    finally:
        await connection.close()


# ---- values


def _json_value(value: Any, declared: str) -> Any:
    """A driver's value as JSON has it; None for bytes, which no column of interest holds."""
    if "json" in declared and isinstance(value, str):
        try:
            return json.loads(value)
        except (ValueError, RecursionError):
            return value
    if declared.startswith("bool") and isinstance(value, int):
        return bool(value)
    if isinstance(value, uuid.UUID):
        return str(value)
    if isinstance(value, datetime | date):
        return value.isoformat()
    if isinstance(value, Decimal):
        return float(value)
    return None if isinstance(value, bytes) else value
