"""Every sealed column of every table, with how to find the context its values were sealed in.

Rotation, the doctor and the tests walk this list; a column missing from it would be lost by the first
rotation, so a test compares it with the tables.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from storage.encryption.envelope import SealContext

if TYPE_CHECKING:
    from sqlalchemy import MetaData

_registered: dict[tuple[str, str], SealedColumn] = {}


@dataclass(frozen=True, slots=True)
class SealedColumn:
    """A column of sealed values, and which columns of its row say where a value belongs.

    Attributes:
        table: name of the table.
        column: name of the sealed column.
        label: the label of its values, with a version: `custom_secret.value/1`.
        user_id: the column that holds the owner; NULL stands for everyone.
        row_id: the column that holds the row's id.
        name: the column that holds the secret's name, None if it has none.
        destination: the column that holds the host or base URL that the secret is for, None if it is for
            none.
        masked: whether its values are a user's own secrets, which might turn up in a file and are masked there; not a
            key that only this library ever sees.
        repeats: another column, as `table.column`, whose values this one repeats for the same row id; they have one
            label, and a value of one is a value of the other.
    """

    table: str
    column: str
    label: str
    user_id: str = "user_id"
    row_id: str = "id"
    name: str | None = None
    destination: str | None = None
    masked: bool = True
    repeats: str | None = None

    @property
    def context_columns(self) -> tuple[str, ...]:
        """The columns to select for `context`, each once."""
        columns = (self.user_id, self.row_id, self.name, self.destination)
        return tuple(dict.fromkeys(column for column in columns if column is not None))

    def context(self, row: Mapping[str, Any]) -> SealContext:
        """The context of this column's value in `row`, a mapping with at least `context_columns`.

        NULL counts as the empty text, anything else as `str()` of it.
        """
        name = _text(row[self.name]) if self.name is not None else ""
        destination = _text(row[self.destination]) if self.destination is not None else ""
        return SealContext(self.label, _text(row[self.user_id]), _text(row[self.row_id]), name, destination)


def register(column: SealedColumn) -> SealedColumn:
    """Enter a sealed column, and return it for the repository to seal and open with.

    Raises:
        ValueError: the column is registered otherwise, or its label belongs to another column: values could
            be moved from one to the other.
    """
    place = (column.table, column.column)
    known = _registered.get(place)
    if known is not None and known != column:
        raise ValueError(f"{column.table}.{column.column} is registered already, as {known}")
    for other in _registered.values():
        if other.label == column.label and other != column and not _repeat(column, other):
            raise ValueError(f"the label {column.label!r} belongs to {other.table}.{other.column} already")
    _registered[place] = column
    return column


def _repeat(one: SealedColumn, other: SealedColumn) -> bool:
    return f"{other.table}.{other.column}" == one.repeats or f"{one.table}.{one.column}" == other.repeats


def sealed_columns() -> tuple[SealedColumn, ...]:
    """All registered columns, ordered by table and column. Complete once the features are imported."""
    return tuple(_registered[place] for place in sorted(_registered))


def unregistered(metadata: MetaData) -> list[str]:
    """What is wrong between `metadata` and the registry, one line each; empty if they agree.

    Reports a Sealed column that is not registered, and a registered column that does not exist or is not
    Sealed, or whose context columns do not exist.
    """
    from storage.database.types import Sealed

    problems = []
    sealed = {
        (table.name, column.name)
        for table in metadata.tables.values()
        for column in table.columns
        if isinstance(column.type, Sealed)
    }
    missing, foreign = sealed - _registered.keys(), _registered.keys() - sealed
    problems += [f"{table}.{column} is not registered" for table, column in sorted(missing)]
    problems += [f"{table}.{column} is not a Sealed column" for table, column in sorted(foreign)]
    for place in sorted(_registered.keys() & sealed):
        entry = _registered[place]
        there = metadata.tables[entry.table].columns
        problems += [
            f"{entry.table}.{entry.column} takes its context from {name}, which the table does not have"
            for name in entry.context_columns
            if name not in there
        ]
    return problems


def _text(value: Any) -> str:
    if type(value) is str:
        return value
    return "" if value is None else str(value)
