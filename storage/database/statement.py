"""A SQL statement, written once in SQLAlchemy and compiled once per dialect, to be run straight on the driver.

Compiling and the result machinery are what makes SQLAlchemy's async path slow, not the SQL it writes; so its
text and its type conversions are kept here and the rest is left out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

from sqlalchemy import Float, Numeric
from sqlalchemy.dialects.postgresql import asyncpg as _postgresql
from sqlalchemy.dialects.sqlite import pysqlite as _sqlite

from storage.database.types import Direct, dump_json, load_json
from storage.errors import InvalidInput

if TYPE_CHECKING:
    from sqlalchemy.engine.interfaces import Dialect
    from sqlalchemy.sql import ClauseElement
    from sqlalchemy.types import TypeEngine

DialectName: TypeAlias = Literal["sqlite", "postgresql"]
Row: TypeAlias = tuple[Any, ...]
"""One row, a tuple in the order of the statement's columns, each value decoded by its column's type."""

DIALECTS: Final[Mapping[DialectName, Dialect]] = {
    "sqlite": _sqlite.dialect(),
    "postgresql": _postgresql.dialect(json_serializer=dump_json, json_deserializer=load_json),  # type: ignore[no-untyped-call]
}

STATEMENTS: Final[dict[str, Statement]] = {}
"""Every named statement, so that a test can ask both databases how they would run it."""


class CompiledStatement:
    """The text of a statement in one dialect, with what turns parameters into driver values and rows back.

    Attributes:
        name: for logs and spans; parameters never appear in either.
        sql: with `?` on SQLite and `$1` on PostgreSQL.
        columns: names of the result columns, in order; empty for a statement that returns no rows.
    """

    __slots__ = ("_decoders", "_parameters", "columns", "name", "returns_rows", "sql")

    def __init__(self, name: str, element: ClauseElement, dialect: Dialect) -> None:
        # SQLCompiler's attributes are public, yet typed only on the class that compile() does not promise.
        compiled: Any = element.compile(dialect=dialect)
        self.name = name
        self.sql: str = compiled.string
        fixed = compiled.params
        self._parameters: list[tuple[str, bool, Any, Callable[[Any], Any] | None]] = []
        for key in compiled.positiontup or ():
            bind = compiled.binds[key]
            encode = _processor(bind.type, dialect, "bind_processor")
            value = fixed[key]
            self._parameters.append((key, bind.required, value, encode))
        result_columns = compiled._result_columns  # noqa: SLF001 - the only place that knows the columns' types
        self.columns: tuple[str, ...] = tuple(column.keyname for column in result_columns)
        self.returns_rows = bool(result_columns)
        decoders = [_processor(column.type, dialect, "result_processor") for column in result_columns]
        self._decoders = [(index, decode) for index, decode in enumerate(decoders) if decode is not None]

    def bind(self, parameters: Mapping[str, Any]) -> list[Any]:
        """The driver's positional arguments.

        Raises:
            KeyError: a required parameter is absent (a bug of the caller, not of its user).
            InvalidInput: a value that its column cannot hold.
        """
        values = []
        for key, required, default, encode in self._parameters:
            value = parameters[key] if required else parameters.get(key, default)
            values.append(value if encode is None else encode(value))
        return values

    def decode(self, rows: list[Row]) -> list[Row]:
        """Driver rows as tuples of Python values."""
        decoders = self._decoders
        if not decoders:
            return rows
        decoded = []
        for row in rows:
            values = list(row)
            for index, decode in decoders:
                values[index] = decode(values[index])
            decoded.append(tuple(values))
        return decoded


def _processor(type_: TypeEngine[Any], dialect: Dialect, kind: str) -> Callable[[Any], Any] | None:
    if isinstance(type_, Direct):
        return type_.encoder(dialect.name) if kind == "bind_processor" else type_.decoder(dialect.name)
    implementation = type_.dialect_impl(dialect)
    if kind == "bind_processor":
        return implementation.bind_processor(dialect)
    if dialect.name == "postgresql" and isinstance(implementation, Float | Numeric):
        return None  # asyncpg gives floats; SQLAlchemy's processor wants the wire's type code, which is not at hand
    return implementation.result_processor(dialect, None)


class Statement:
    """A statement of a repository: a name for people, and SQLAlchemy's expression with `bindparam`s by keyword.

    Compiled at first use, once per dialect. Named ones are unique in the process; a shape that is built on demand
    (a search with its filters) passes `register=False` and is cached by whoever builds it.
    """

    __slots__ = ("_compiled", "element", "name")

    def __init__(self, name: str, element: ClauseElement, *, register: bool = True) -> None:
        self.name = name
        self.element = element
        self._compiled: dict[str, CompiledStatement] = {}
        if register:
            if name in STATEMENTS:
                raise ValueError(f"a statement named {name!r} exists already")
            STATEMENTS[name] = self

    def compiled(self, dialect: DialectName) -> CompiledStatement:
        """The statement's text and conversions in one dialect."""
        found = self._compiled.get(dialect)
        if found is None:
            found = self._compiled[dialect] = CompiledStatement(self.name, self.element, DIALECTS[dialect])
        return found

    def __repr__(self) -> str:
        return f"Statement({self.name!r})"


def does_not_fit(statement: Statement) -> InvalidInput:
    """The error for a value that its column cannot hold, a number beyond 64 bits for example; does not quote it."""
    return InvalidInput(f"{statement.name}: a value does not fit its column; numbers have at most 64 bits")
