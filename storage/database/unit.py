"""Units of work without I/O: a generator yields statements and receives rows, so one text serves both databases.

The SQLite lane runs it on its writer thread, the PostgreSQL lane on an asyncpg connection; the unit cannot tell. It may
be run again from the start (deadlock), so it must have no effect but its statements. It must end: on SQLite nobody else
writes before it does.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn, Protocol, TypeAlias, TypeVar

from storage.database.change import Change
from storage.database.statement import DialectName, Row, Statement
from storage.errors import StorageError

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Step:
    """One statement with its parameters; a list of them runs it once for each and returns no rows.

    `changes` are announced to `on_commit` hooks if, and only if, the transaction commits.
    """

    statement: Statement
    parameters: Mapping[str, Any] | Sequence[Mapping[str, Any]]
    changes: Sequence[Change] = ()


Unit: TypeAlias = Generator[Step, list[Row], T]
"""A unit of work that returns T. Compose with `yield from`."""


def execute(statement: Statement, /, **parameters: Any) -> Unit[list[Row]]:
    """Run a statement once; returns its rows, an empty list if it has none.

    Raises (inside the unit):
        UniqueViolation: a unique constraint refused the row.
        DatabaseError: any other failure.
    """
    return (yield Step(statement, parameters))


def execute_many(statement: Statement, parameters: Sequence[Mapping[str, Any]]) -> Unit[None]:
    """Run a statement once for each set of parameters; nothing at all for an empty sequence."""
    if parameters:
        yield Step(statement, parameters)


def refuse(unit: Unit[Any], error: StorageError) -> NoReturn:
    """Raise a statement's error inside the unit, and out of it in whatever form the unit gives it."""
    try:
        unit.throw(error)
    except StopIteration:
        raise error from error.__cause__
    unit.close()
    raise error


class Executor(Protocol):
    """Where repositories run: a Database (each unit is its own transaction) or an open Transaction."""

    @property
    def dialect(self) -> DialectName:
        """Which SQL is spoken."""

    @property
    def in_transaction(self) -> bool:
        """Whether what is written here may still be rolled back by someone else."""

    async def read(self, statement: Statement, parameters: Mapping[str, Any], *, scan: bool = False) -> list[Row]:
        """Rows of a SELECT.

        Args:
            statement: the SELECT.
            parameters: by name.
            scan: it may read many rows, so it must not run on the event loop's own thread.
        """

    async def run(self, unit: Callable[[], Unit[T]]) -> T:
        """Run a unit of work, all or nothing, and return what it returns.

        Args:
            unit: makes the generator; called again if the unit has to be restarted.
        """
