"""What a question gives back."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import date, datetime
from typing import Any, TypeAlias

Parameter: TypeAlias = str | int | float | bool | date | datetime | None
"""A value for a `:name` in the SQL."""


@dataclass(frozen=True, slots=True)
class QueryResult:
    """The rows of a question.

    Attributes:
        columns: names, in their order; one may come twice.
        rows: tuples in that order. Times are text on SQLite, and aware datetimes on PostgreSQL.
        truncated: whether there were more rows than were asked for.
        seconds: how long the database took.
    """

    columns: tuple[str, ...]
    rows: list[tuple[Any, ...]] = field(repr=False)
    truncated: bool
    seconds: float


@dataclass(frozen=True, slots=True)
class Question:
    """A statement with everything that it may use.

    Attributes:
        sql: one statement, with `:name` for parameters.
        parameters: their values.
        user_id: whose rows it sees, in stored form; everybody's if None.
        max_rows: the most rows.
        timeout: seconds after which the database gives it up.
    """

    sql: str
    parameters: dict[str, Parameter]
    user_id: str | None
    max_rows: int
    timeout: float
