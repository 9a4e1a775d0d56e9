"""The calendar month of a time, which the two databases spell differently."""

from __future__ import annotations

from typing import Any, Final

from sqlalchemy import Text
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.elements import ColumnElement

MICROSECONDS: Final = 1_000_000
"""SQLite keeps times as whole microseconds; its date functions want seconds."""


class month_of(ColumnElement[str]):  # noqa: N801 - reads as SQL, like SQLAlchemy's own and_ and not_
    """The month of a UTCDateTime column as `2025-11`, in UTC."""

    inherit_cache = True
    type = Text()

    def __init__(self, column: ColumnElement[Any]) -> None:
        self.column = column


@compiles(month_of, "sqlite")
def _month_of_sqlite(element: month_of, compiler: Any, **options: Any) -> str:
    return f"strftime('%Y-%m', {compiler.process(element.column, **options)} / {MICROSECONDS}, 'unixepoch')"


@compiles(month_of, "postgresql")
def _month_of_postgresql(element: month_of, compiler: Any, **options: Any) -> str:
    return f"to_char({compiler.process(element.column, **options)} AT TIME ZONE 'UTC', 'YYYY-MM')"
