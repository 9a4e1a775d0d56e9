"""What a server has left behind, looked at with plain SQL and plain reads."""

from __future__ import annotations

import asyncio
import base64
import sqlite3
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import asyncpg

from storage.database.url import parse_url


class StoredData:
    """The database and the blobs of one storage.

    Args:
        folder: its data directory is `data` below it.
        database_url: of PostgreSQL; None for SQLite in the data directory.
    """

    def __init__(self, folder: Path, database_url: str | None) -> None:
        self._data = folder / "data"
        self._url = database_url

    def rows(self, sql: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """What a SELECT gives; parameters are marked `?`."""
        if self._url is None:
            connection = sqlite3.connect(f"file:{self._data / 'storage.db'}?mode=ro", uri=True)
            try:
                return connection.execute(sql, parameters).fetchall()
            finally:
                connection.close()
        for number in range(1, len(parameters) + 1):
            sql = sql.replace("?", f"${number}", 1)
        return asyncio.run(self._rows(sql, parameters))

    async def _rows(self, sql: str, parameters: Sequence[Any]) -> list[tuple[Any, ...]]:
        assert self._url is not None
        connection = await asyncpg.connect(parse_url(self._url).location)
        try:
            return [tuple(row) for row in await connection.fetch(sql, *parameters)]
        finally:
            await connection.close()

    def tables(self) -> list[str]:
        """The tables by name."""
        if self._url is None:
            found = self.rows("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name")
        else:
            found = self.rows("SELECT tablename::text FROM pg_tables WHERE schemaname = current_schema() ORDER BY 1")
        return [name for (name,) in found]

    def count(self, table: str, **where: Any) -> int:
        """How many rows there are."""
        condition = " AND ".join(f"{name} = ?" for name in where) or "TRUE"
        [(number,)] = self.rows(f"SELECT COUNT(*) FROM {table} WHERE {condition}", list(where.values()))
        return int(number)

    def assert_unreadable(self, secrets: Iterable[str], imported: Iterable[str]) -> None:
        """None of these is in any row, blob or file of the database, plain or in base64.

        Args:
            secrets: in clear.
            imported: keys of blobs that were taken as they were: the server's own store masks less.
        """
        as_they_were = frozenset(imported)
        needles = {secret: _forms(secret) for secret in secrets}
        for place, content in self._contents():
            if any(place.endswith(key) for key in as_they_were):
                continue
            for secret, forms in needles.items():
                for form in forms:
                    assert form not in content, f"{secret[:6]}… is readable in {place}"

    def blobs(self) -> list[str]:
        """The keys of all contents that a file has."""
        return [key for (key,) in self.rows("SELECT blob_key FROM file")]

    def _contents(self) -> Iterable[tuple[str, bytes]]:
        for path in self._data.rglob("*"):
            if path.is_file():
                yield str(path.relative_to(self._data)), path.read_bytes()
        for table in self.tables():
            for row in self.rows(f"SELECT * FROM {table}"):
                for value in row:
                    if isinstance(value, (bytes, memoryview)):
                        yield table, bytes(value)
                    elif value is not None:
                        yield table, str(value).encode()


def _forms(secret: str) -> list[bytes]:
    """Plain, and base64 at each of the three offsets that a text in a longer one may have."""
    plain = secret.encode()
    encoded = [base64.b64encode(b"\0" * offset + plain)[4:-4] for offset in range(3)]
    return [plain, *encoded]
