"""INSERT … ON CONFLICT, written once: PostgreSQL's construct compiles to the very same clause on SQLite.

A read followed by an insert or update has a gap between the two; one statement has none.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from sqlalchemy import Table, bindparam
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.sql import ClauseElement
from sqlalchemy.sql.elements import ColumnElement

_ROW_NUMBER: Final = "seq"
"""The one kind of column that the database fills in (see storage.database.types.Sequence)."""


def excluded(table: Table) -> Any:
    """The columns of the row that was to be inserted, for the expressions of `upsert`."""
    return table.alias("excluded").c


def upsert(
    table: Table,
    *,
    conflict: Iterable[str],
    update: Iterable[str] = (),
    expressions: Mapping[str, ColumnElement[Any]] | None = None,
    where: ColumnElement[bool] | None = None,
    returning: Iterable[str] = (),
) -> ClauseElement:
    """Insert a row, every column from the parameter of its name, or update the row that is there already.

    On PostgreSQL only the constraint in `conflict` is arbitrated: where the table has another unique constraint that
    the same two rows violate, a concurrent insert may still raise UniqueViolation. The lane runs the unit again then;
    in an open transaction it reaches the caller.

    Args:
        table: of a SQLModel class: `XTable.__table__`.
        conflict: the columns of the unique constraint that finds the row.
        update: columns that take the new value.
        expressions: columns that take an expression of `table.c` (the old row) and `excluded(table)` (the new one),
            such as `{"version": table.c.version + 1}`.
        where: the update happens only where this holds; otherwise nothing changes and no row is returned.
        returning: columns of the row as it is afterwards.
    """
    new = excluded(table)
    statement = _insert(table).on_conflict_do_update(
        index_elements=list(conflict),
        set_={**{name: new[name] for name in update}, **(expressions or {})},
        where=where,
    )
    return _returning(statement, table, returning)


def insert_if_absent(
    table: Table, *, conflict: Iterable[str] | None = None, returning: Iterable[str] = ()
) -> ClauseElement:
    """Insert a row, every column from the parameter of its name, unless one is there already: then no row is returned.

    `conflict` names the columns of one unique constraint; None stands for any of them.
    """
    statement = _insert(table).on_conflict_do_nothing(index_elements=None if conflict is None else list(conflict))
    return _returning(statement, table, returning)


def _insert(table: Table) -> Any:
    return insert(table).values({name: bindparam(name) for name in table.c.keys() if name != _ROW_NUMBER})


def _returning(statement: Any, table: Table, columns: Iterable[str]) -> ClauseElement:
    wanted = [table.c[name] for name in columns]
    found: ClauseElement = statement.returning(*wanted) if wanted else statement.inline()
    return found
