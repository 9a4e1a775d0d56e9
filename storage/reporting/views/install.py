"""Making the views: dropped before the tables change and made anew after, and looked at by the doctor.

SQLite refuses to rename a table under a view, which is how alembic changes most of one there.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from typing import TYPE_CHECKING, Final

from sqlalchemy import Text, column, text

from storage.database.statement import DialectName, Statement
from storage.errors import DatabaseError
from storage.reporting import roles
from storage.reporting.views import VIEWS

if TYPE_CHECKING:
    from storage.database.database import Database
    from storage.database.unit import Executor

_OURS: Final = ", ".join(f"'{view.name}'" for view in VIEWS)
"""For SQL: our own names, which hold no character that could mean something there."""


def _definitions_there(dialect: str, sql: str) -> Statement:
    found = text(sql.replace("OURS", _OURS)).columns(column("name", Text), column("definition", Text))
    return Statement(f"report.views_{dialect}", found)


_THERE: Final[dict[DialectName, Statement]] = {
    "sqlite": _definitions_there(
        "sqlite", "SELECT name, sql AS definition FROM sqlite_schema WHERE type = 'view' AND name IN (OURS)"
    ),
    # What PostgreSQL keeps of a view is the parsed query, which it words in its own way; a comment says what it was.
    "postgresql": _definitions_there(
        "postgresql",
        "SELECT c.relname, coalesce(obj_description(c.oid, 'pg_class'), '') FROM pg_class c"
        " WHERE c.relkind = 'v' AND pg_table_is_visible(c.oid) AND c.relname IN (OURS)",
    ),
}


def drop_statements() -> tuple[str, ...]:
    """What removes the views, those that are there; for both databases."""
    return tuple(f"DROP VIEW IF EXISTS {view.name}" for view in reversed(VIEWS))


def create_statements(dialect: DialectName, names: Collection[str] = ()) -> tuple[str, ...]:
    """What makes the views, all or those that are named, and on PostgreSQL what lets questions read them."""
    statements = []
    for name, sql in _definitions(dialect).items():
        if names and name not in names:
            continue
        statements.append(sql)
        if dialect == "postgresql":
            statements.append(f"COMMENT ON VIEW {name} IS '{_comment(sql)}'")
    if dialect == "postgresql":
        statements.append(roles.setup_sql())
    return tuple(statements)


def fingerprint() -> str:
    """32 hexadecimal digits that change with any view in any dialect; the newest migration names them."""
    every = [sql for dialect in _DIALECTS for sql in create_statements(dialect)]
    return hashlib.sha256("\n".join(every).encode()).hexdigest()[:32]


async def differing(executor: Executor, dialect: DialectName) -> list[str]:
    """The names of the views that are missing in a database, or are not what this release makes.

    Raises:
        DatabaseError: the database cannot be read.
    """
    found: dict[str, str] = dict(await executor.read(_THERE[dialect], {}, scan=True))
    wanted = _definitions(dialect)
    if dialect == "postgresql":
        wanted = {name: _comment(sql) for name, sql in wanted.items()}
    return [name for name, definition in wanted.items() if found.get(name) != definition]


async def make_anew(database: Database, names: Collection[str]) -> None:
    """Make these views again, whatever has become of them; the others are not touched.

    Raises:
        DatabaseError: the database cannot be written, or something that is not ours is built on one of them.
    """
    from sqlalchemy.exc import DBAPIError

    try:
        async with database.session() as session:
            connection = await session.connection()
            for name in names:
                await connection.exec_driver_sql(f"DROP VIEW IF EXISTS {name}")
            for statement in create_statements(database.dialect, names):
                await connection.exec_driver_sql(statement)
            await session.commit()
    except DBAPIError as error:
        detail = getattr(getattr(error.orig, "__cause__", None), "detail", None)
        reason = f"{error.orig}; {detail}" if detail else str(error.orig)
        raise DatabaseError(f"the report views were not made anew, and nothing was changed: {reason}") from error


_DIALECTS: Final[tuple[DialectName, ...]] = ("sqlite", "postgresql")


def _definitions(dialect: DialectName) -> dict[str, str]:
    return {view.name: f"CREATE VIEW {view.name} AS {view.sql(dialect)}" for view in VIEWS}


def _comment(sql: str) -> str:
    return f"agent-storage view {hashlib.sha256(sql.encode()).hexdigest()[:32]}"
