"""Whether anything in the database is sealed: asked once, before the first master key is made.

A database that was restored without its tables of keys looks like a new one, but for this.
"""

from __future__ import annotations

from functools import cache

from sqlalchemy import exists, literal_column, or_, select

from storage.database.metadata import metadata
from storage.database.statement import Statement
from storage.database.unit import Executor
from storage.encryption.registry import SealedColumn, sealed_columns


async def any_sealed_value(executor: Executor) -> bool:
    """Whether any registered column holds a value. Reads up to the first one; if there is none, all those tables.

    Raises:
        DatabaseError: the database cannot be read.
    """
    columns = sealed_columns()
    return bool(columns and await executor.read(_any_value(columns), {}, scan=True))


@cache
def _any_value(columns: tuple[SealedColumn, ...]) -> Statement:
    there = [metadata.tables[column.table].columns[column.column] for column in columns]
    found = or_(*(exists(select(literal_column("1")).where(column.is_not(None))) for column in there))
    return Statement("report.any_sealed_value", select(literal_column("1")).where(found), register=False)
