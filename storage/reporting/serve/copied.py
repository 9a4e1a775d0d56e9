"""The rows of the report views, copied into a SQLite file of its own.

Whoever may type SQL into Datasette reads this file and no other. Sealed columns, base tables and other users' rows are
not hidden from them, which a clever query may undo: they are not there. And it is the same for both databases.
"""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import Iterable, Sequence
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from storage.identity import user_key
from storage.reporting.views import VIEWS, View

if TYPE_CHECKING:
    from storage.database.database import Database

BATCH: Final = 2_000
"""Rows that are held in memory at once."""

KEYS: Final = {"report_conversation": "conversation_id", "report_user": "user_id", "report_webhook": "webhook_id"}
"""Views whose rows have an id; Datasette gives each such row a page, and makes a link of whatever names it."""

_TYPES: Final = {"integer": "INTEGER", "number": "REAL", "boolean": "INTEGER"}
"""Of columns by kind; the others are TEXT, as they are in SQLite's own views."""


class CopiedViews:
    """A file with the rows of the report views, of one user or everybody.

    Args:
        source: whose views.
        user_id: the user; None is everybody (and not the local user).
        path: the file, in a folder that only its owner may enter.
    """

    def __init__(self, source: Database, user_id: str | None, path: Path) -> None:
        self._source = source
        self._owner = None if user_id is None else user_key(user_id)
        self.path = path

    async def renew(self) -> None:
        """Copy the rows as they are now, from one snapshot. Readers see the former ones until it is done.

        Raises:
            DatabaseError: the database failed; the former rows stay.
        """
        with closing(await asyncio.to_thread(_connect, self.path)) as target:
            try:
                async with self._source.session(read_only=True) as session:
                    options = {"isolation_level": "REPEATABLE READ"} if self._source.dialect == "postgresql" else {}
                    connection = await session.connection(execution_options=options)
                    await asyncio.to_thread(target.execute, "BEGIN IMMEDIATE")
                    for view in VIEWS:
                        await asyncio.to_thread(target.execute, f"DELETE FROM {view.name}")  # noqa: S608 - our names
                        insert = _insert(view)
                        async with connection.stream(view.select(self._owner)) as rows:
                            async for part in rows.partitions(BATCH):
                                await asyncio.to_thread(target.executemany, insert, _stored(view, part))
                await asyncio.to_thread(target.execute, "COMMIT")
            except BaseException:
                target.rollback()
                raise


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    # Readers go on reading the former rows meanwhile; what is lost in a crash is copied again.
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=OFF")
    for view in VIEWS:
        connection.execute(_create(view))
    return connection


def _create(view: View) -> str:
    columns = []
    for column in view.columns:
        key = " PRIMARY KEY" if KEYS.get(view.name) == column.name else ""
        columns.append(f"{column.name} {_TYPES.get(column.kind, 'TEXT')}{key}")
    # Nobody enforces them: they tell Datasette what belongs together.
    links = [
        f"FOREIGN KEY ({key}) REFERENCES {target} ({key})"
        for target, key in KEYS.items()
        if target != view.name and any(column.name == key for column in view.columns)
    ]
    return f"CREATE TABLE IF NOT EXISTS {view.name} ({', '.join([*columns, *links])})"


def _insert(view: View) -> str:
    return f"INSERT OR REPLACE INTO {view.name} VALUES ({', '.join('?' * len(view.columns))})"  # noqa: S608 - our names


def _stored(view: View, rows: Iterable[Sequence[Any]]) -> list[list[Any]]:
    return [[_value(column.kind, value) for column, value in zip(view.columns, row, strict=True)] for row in rows]


def _value(kind: str, value: Any) -> Any:
    """A value as SQLite's own views have it."""
    if isinstance(value, datetime):
        return value.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    if kind == "json" and value is not None and not isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    return value
