"""Whether the database itself is sound: its pages and indexes, its foreign keys, its log, and what we may do in it."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import Integer, Text, column, delete, exists, func, literal_column, select, text

from storage.database.statement import Statement
from storage.database.unit import execute
from storage.doctor.finding import Finding, some
from storage.tables import metadata

if TYPE_CHECKING:
    from sqlalchemy import ForeignKey

    from storage.database.database import Database
    from storage.doctor.parts import OpenParts

LARGEST_LOG_BYTES: Final = 256 * 1024 * 1024
"""Of SQLite's write-ahead log, four times the size to which it is cut back: something reads and does not end."""

OLDEST_TRANSACTION: Final = 1_000_000_000
"""Transactions since PostgreSQL last froze rows; at 2,000,000,000 it refuses to write (autovacuum begins at
200,000,000)."""

_TABLES: Final = tuple(sorted(metadata.tables))
_RESTORE: Final = "restore the database from a backup"

_INTEGRITY: Final = Statement(
    "report.doctor_integrity",
    select(literal_column("integrity_check", Text)).select_from(
        func.pragma_integrity_check().table_valued("integrity_check")
    ),
)
_FOREIGN_KEYS: Final = Statement(
    "report.doctor_foreign_keys",
    select(literal_column('"table"', Text), literal_column('"parent"', Text)).select_from(
        func.pragma_foreign_key_check().table_valued("table", "rowid", "parent", "fkid")
    ),
)
_INDEX_FAULT: Final = re.compile(r"(?:row \d+ missing from|wrong # of entries in) index (\S+)")
"""An index that is not what its table is; integrity_check words it so, and REINDEX makes it anew from the table."""


_OURS: Final = ", ".join(f"'{name}'" for name in _TABLES)
"""For SQL: names of tables, which hold no character that could mean something there."""


def _asked(name: str, sql: str, *columns: tuple[str, Any]) -> Statement:
    sql = sql.replace("OURS", _OURS)
    return Statement(f"report.doctor_{name}", text(sql).columns(*(column(title, type_) for title, type_ in columns)))


_INVALID_INDEXES: Final = _asked(
    "invalid_indexes",
    "SELECT i.relname FROM pg_index x JOIN pg_class i ON i.oid = x.indexrelid JOIN pg_class t ON t.oid = x.indrelid"
    " WHERE NOT x.indisvalid AND t.relname IN (OURS) AND pg_table_is_visible(t.oid) ORDER BY 1",
    ("name", Text),
)
_UNVALIDATED: Final = _asked(
    "unvalidated",
    "SELECT c.conname FROM pg_constraint c JOIN pg_class t ON t.oid = c.conrelid"
    " WHERE NOT c.convalidated AND t.relname IN (OURS) AND pg_table_is_visible(t.oid) ORDER BY 1",
    ("name", Text),
)
_SERVER: Final = _asked(
    "server",
    "SELECT coalesce(s.checksum_failures, 0)::int, age(d.datfrozenxid) FROM pg_database d"
    " LEFT JOIN pg_stat_database s ON s.datid = d.oid WHERE d.datname = current_database()",
    ("failures", Integer),
    ("age", Integer),
)
_LACKED: Final = _asked(
    "privileges",
    "SELECT t.name || ': ' || p.name FROM"
    " unnest(ARRAY[OURS]) AS t(name),"
    " (VALUES ('SELECT'), ('INSERT'), ('UPDATE'), ('DELETE')) AS p(name)"
    " WHERE NOT has_table_privilege(t.name, p.name) ORDER BY 1",
    ("lacked", Text),
)


async def integrity(database: Database) -> list[Finding]:
    """SQLite: every page and index (PRAGMA integrity_check). PostgreSQL: what it knows itself to be wrong."""
    if database.dialect == "postgresql":
        return await _postgresql_integrity(database)
    messages = [str(found) for (found,) in await database.read(_INTEGRITY, {}, scan=True)]
    if messages == ["ok"]:
        return []
    faults = [_INDEX_FAULT.match(message) for message in messages]
    if all(faults):
        names = sorted({fault.group(1) for fault in faults if fault is not None})
        message = f"indexes do not hold what their tables do: {some(names)}"
        return [Finding("error", message, "`storage doctor --fix` makes them anew", partial(_reindex, database, names))]
    return [Finding("error", f"the database file is damaged: {some(messages)}", _RESTORE)]


async def _reindex(database: Database, names: list[str]) -> None:
    for name in names:
        quoted = name.replace('"', '""')
        await database.run(partial(execute, Statement("doctor.reindex", text(f'REINDEX "{quoted}"'), register=False)))


async def _postgresql_integrity(database: Database) -> list[Finding]:
    found = []
    if invalid := [name for (name,) in await database.read(_INVALID_INDEXES, {}, scan=True)]:
        message = f"indexes are invalid, and no query uses them: {some(invalid)}"
        found.append(Finding("error", message, f"in psql: REINDEX INDEX CONCURRENTLY {invalid[0]}; and so on"))
    for failures, age in await database.read(_SERVER, {}, scan=True):
        if failures:
            found.append(Finding("error", f"PostgreSQL has met {failures} pages with a wrong checksum", _RESTORE))
        if age > OLDEST_TRANSACTION:
            message = f"the oldest transaction is {age:,} back, and PostgreSQL stops writing at 2,000,000,000"
            found.append(Finding("warning", message, "in psql: VACUUM FREEZE; and see why autovacuum has not"))
    return found


async def foreign_keys(database: Database) -> list[Finding]:
    """Rows that refer to a row which is not there."""
    if database.dialect == "postgresql":
        names = [name for (name,) in await database.read(_UNVALIDATED, {}, scan=True)]
        remedy = "in psql: ALTER TABLE … VALIDATE CONSTRAINT …"
        return [Finding("warning", f"constraints were never validated: {some(names)}", remedy)] if names else []
    counts = Counter((str(table), str(parent)) for table, parent in await database.read(_FOREIGN_KEYS, {}, scan=True))
    return [_broken(database, table, parent, number) for (table, parent), number in sorted(counts.items())]


def _broken(database: Database, table: str, parent: str, number: int) -> Finding:
    message = f"{number:,} rows of {table} refer to rows of {parent} that are not there"
    keys = [
        key
        for key in (metadata.tables[table].foreign_keys if table in metadata.tables else ())
        if key.column.table.name == parent and key.ondelete == "CASCADE"
    ]
    if not keys:
        return Finding("error", message, _RESTORE)
    # They were to go with the row that they refer to, so that is what the schema itself says of them.
    fix = partial(_remove_dangling, database, keys)
    return Finding("error", message, "`storage doctor --fix` removes them, as the database would have", fix)


async def _remove_dangling(database: Database, keys: list[ForeignKey]) -> None:
    for key in keys:
        child = key.parent.table
        gone = ~exists().where(key.column == key.parent).correlate(child)
        statement = Statement("doctor.remove_dangling", delete(child).where(gone), register=False)
        await database.run(partial(execute, statement))


async def write_ahead_log(database: Database) -> list[Finding]:
    """SQLite: whether the log is copied into the database now and then."""
    if database.url.file is None:
        return []
    log = Path(f"{database.url.file}-wal")
    size = await asyncio.to_thread(_size, log)
    if size <= LARGEST_LOG_BYTES:
        return []
    message = f"the write-ahead log {log} has grown to {size:,} bytes: something reads the database and does not end"
    remedy = "end long-running readers of the database; then `storage doctor --fix` writes the log back"
    return [Finding("warning", message, remedy, partial(asyncio.to_thread, _checkpoint, database.url.location))]


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _checkpoint(location: str) -> None:
    from storage.database.sqlite_connection import connect

    connection = connect(location)
    try:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    finally:
        connection.close()


async def privileges(database: Database, _: OpenParts) -> list[Finding]:
    """PostgreSQL: what the role that we connect as may do with our tables."""
    if database.dialect == "sqlite":
        return []
    lacked = [name for (name,) in await database.read(_LACKED, {}, scan=True)]
    if not lacked:
        return []
    message = f"the database role lacks privileges: {some(lacked)}"
    return [Finding("error", message, "in psql, as the owner: GRANT SELECT, INSERT, UPDATE, DELETE ON …")]
