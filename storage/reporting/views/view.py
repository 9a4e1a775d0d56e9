"""What a report view is: a name, columns with a meaning and a unit, and one query that both databases understand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias

from sqlalchemy import Select

from storage.database.statement import DIALECTS, DialectName

Kind: TypeAlias = Literal["text", "integer", "number", "boolean", "time", "day", "json"]
"""What a column holds. The databases differ in three: see KINDS."""

KINDS: Final[dict[Kind, str]] = {
    "text": "text",
    "integer": "a whole number of up to 64 bits",
    "number": "a floating-point number",
    "boolean": "true or false; 1 or 0 on SQLite",
    "time": "UTC: `timestamptz` on PostgreSQL, text such as `2025-11-02T09:30:00.000000Z` on SQLite",
    "day": "text such as `2025-11-02`, in UTC",
    "json": "`jsonb` on PostgreSQL, JSON text on SQLite",
}

Query: TypeAlias = Callable[[str | None], Any]
"""Gives the query over the rows of one user, in stored form, or of everybody (None)."""


@dataclass(frozen=True, slots=True)
class ViewColumn:
    """A column of a view: its name, what it holds, and what it means, with the unit where it has one."""

    name: str
    kind: Kind
    about: str


@dataclass(frozen=True, slots=True)
class View:
    """A view that reports are written against; a part of the interface, see INTERFACE_VERSION.

    Attributes:
        name: in both databases.
        about: one row of it, in a sentence.
        columns: in their order.
        query: gives its query.
    """

    name: str
    about: str
    columns: tuple[ViewColumn, ...]
    query: Query

    def select(self, user_id: str | None = None) -> Select[Any]:
        """Its rows: everybody's, or one user's, where also sums and counts are over this user's rows alone.

        Args:
            user_id: in stored form (storage.identity.user_key); None is everybody, and not the local user.
        """
        query: Select[Any] = self.query(user_id)
        return query

    def sql(self, dialect: DialectName, user_id: str | None = None) -> str:
        """The text of `select`, with every value in it."""
        compiled = self.select(user_id).compile(dialect=DIALECTS[dialect], compile_kwargs={"literal_binds": True})
        return str(compiled)


def columns(*described: tuple[str, Kind, str]) -> tuple[ViewColumn, ...]:
    """The columns of a view, each as its name, kind and meaning."""
    return tuple(ViewColumn(*each) for each in described)
