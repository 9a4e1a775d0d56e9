"""Column types that mean the same on SQLite and PostgreSQL, and that refuse what one of them would bend.

A column declared DATETIME has NUMERIC affinity on SQLite (https://sqlite.org/datatype3.html) and then compares wrongly
with text; PostgreSQL text cannot hold NUL; JSON text may smuggle NaN or a lone surrogate. Each is refused on both.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import orjson
from sqlalchemy import BigInteger, Integer, LargeBinary, Text, event
from sqlalchemy.dialects.postgresql import JSONB, TEXT, TIMESTAMP
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.elements import ColumnElement
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.types import TypeDecorator
from sqlmodel import SQLModel

from storage.errors import InvalidInput, UnsealedValue

if TYPE_CHECKING:
    from sqlalchemy.engine.interfaces import Dialect
    from sqlalchemy.types import TypeEngine

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)

SEALED_PREFIX = b"\xe1\x01"
"""First two bytes of every sealed value: format and suite (see storage.encryption.envelope)."""


def to_microseconds(value: datetime) -> int:
    """Whole microseconds since 1970-01-01 UTC; exact, unlike `timestamp()`, which goes through a float.

    Raises:
        InvalidInput: a naive time, whose meaning depends on where it was written.
    """
    if value.tzinfo is None:
        raise InvalidInput(f"naive time {value.isoformat()} refused: attach a timezone, for example datetime.now(UTC)")
    return (value - EPOCH) // _MICROSECOND


def from_microseconds(value: int) -> datetime:
    """The aware UTC time of a number of microseconds since 1970-01-01 UTC."""
    return EPOCH + timedelta(microseconds=value)


Convert = Callable[[Any], Any]


class Direct:
    """A column type that knows its conversions by itself, without the layers that a TypeDecorator puts around them.

    A page of twenty rows converts some hundred values; each layer would cost more than the conversion.
    """

    def encoder(self, dialect: str) -> Convert | None:
        """What turns a value into the driver's, None included; None if nothing has to be done."""
        return None

    def decoder(self, dialect: str) -> Convert | None:
        """What turns the driver's value back; None if nothing has to be done."""
        return None


def _microseconds_or_none(value: datetime | None) -> int | None:
    return None if value is None else to_microseconds(value)


def _aware_or_none(value: datetime | None) -> datetime | None:
    if value is not None:
        to_microseconds(value)
    return value


def _time_or_none(value: int | None) -> datetime | None:
    return None if value is None else EPOCH + timedelta(0, 0, value)


class UTCDateTime(Direct, TypeDecorator[datetime]):
    """An aware time: integer microseconds on SQLite, `timestamptz` on PostgreSQL; comes back aware, in UTC, equal."""

    impl = BigInteger
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        """`TIMESTAMP WITH TIME ZONE` on PostgreSQL, `BIGINT` elsewhere."""
        if dialect.name == "postgresql":
            return dialect.type_descriptor(TIMESTAMP(timezone=True))
        return dialect.type_descriptor(BigInteger())

    def encoder(self, dialect: str) -> Convert:
        """Raises InvalidInput for a naive time."""
        return _aware_or_none if dialect == "postgresql" else _microseconds_or_none

    def decoder(self, dialect: str) -> Convert | None:
        """Aware, in UTC."""
        return None if dialect == "postgresql" else _time_or_none

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> Any:
        """For SQLAlchemy's own way."""
        return self.encoder(dialect.name)(value)

    def process_result_value(self, value: Any, dialect: Dialect) -> datetime | None:
        """For SQLAlchemy's own way."""
        decode = self.decoder(dialect.name)
        found: datetime | None = value if decode is None else decode(value)
        return found


class PlainText(Direct, TypeDecorator[str]):
    """Text that both databases can hold: no NUL, no lone surrogate.

    On PostgreSQL with `COLLATE "C"`: bytewise order, as on SQLite, so that keyset pages and path ranges agree.
    """

    impl = Text
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        """`TEXT COLLATE "C"` on PostgreSQL, `TEXT` elsewhere."""
        if dialect.name == "postgresql":
            return dialect.type_descriptor(TEXT(collation="C"))
        return dialect.type_descriptor(Text())

    def encoder(self, dialect: str) -> Convert:
        """Raises InvalidInput for text that one of the databases cannot hold."""
        return _text_or_none

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        """For SQLAlchemy's own way."""
        return _text_or_none(value)


def _text_or_none(value: str | None) -> str | None:
    # Most text is short ASCII; this runs some ten times for each row that is written.
    return value if value is None or (value.isascii() and "\0" not in value) else checked_text(value)


def checked_text(value: str) -> str:
    """`value` itself if both databases can hold it.

    Raises:
        InvalidInput: it contains NUL (PostgreSQL refuses it) or a lone surrogate (UTF-8 cannot encode it).
    """
    if "\0" in value:
        raise InvalidInput("text contains a NUL character, which PostgreSQL cannot store; remove it")
    if not value.isascii():
        try:
            value.encode("utf-8")
        except UnicodeEncodeError as error:
            message = f"text contains a lone surrogate at character {error.start}, which UTF-8 cannot encode"
            raise InvalidInput(message) from None
    return value


_encode = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode


def dump_json(value: Any) -> str:
    """JSON text that both databases accept. The stdlib's encoder, because it keeps integers of any size exact.

    Raises:
        InvalidInput: NaN or infinity, a NUL character or lone surrogate inside a string, or a type JSON does not have.
    """
    if value == {}:
        return "{}"
    if value == []:
        return "[]"
    try:
        text = _encode(value)
    except (TypeError, ValueError) as error:
        raise InvalidInput(f"not storable as JSON: {error}") from error
    if "\\u0000" in text and _holds_nul(value):
        raise InvalidInput("JSON contains a NUL character, which PostgreSQL cannot store; remove it")
    return checked_text(text)


def _holds_nul(value: Any) -> bool:
    """Whether some string inside really has NUL; the text alone cannot tell it from an escaped backslash."""
    if isinstance(value, str):
        return "\0" in value
    if isinstance(value, dict):
        return any(_holds_nul(key) or _holds_nul(item) for key, item in value.items())
    if isinstance(value, list | tuple):
        return any(_holds_nul(item) for item in value)
    return False


_LONG_NUMBER = re.compile(r"\d{19}")
"""May not fit in 64 bits: orjson, ten times as fast as the stdlib, would return an inexact float for it."""


def load_json(text: str) -> Any:
    """The value of JSON text, integers of any size exact; the empty containers, by far the most common, unparsed."""
    if text == "{}":
        return {}
    if text == "[]":
        return []
    return json.loads(text) if _LONG_NUMBER.search(text) else orjson.loads(text)


class JSONValue(Direct, TypeDecorator[Any]):
    """A JSON value: `JSONB` on PostgreSQL, text on SQLite. Python None is SQL NULL.

    Not SQLAlchemy's own JSON type, because a column declared JSON has NUMERIC affinity on SQLite: the text of a scalar
    such as `12345678901234567890` would be stored as an inexact number.
    """

    impl = Text
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        """`JSONB` on PostgreSQL, whose dialect serialises; `TEXT` elsewhere."""
        if dialect.name == "postgresql":
            return dialect.type_descriptor(JSONB(none_as_null=True))
        return dialect.type_descriptor(Text())

    def encoder(self, dialect: str) -> Convert:
        """Raises InvalidInput for what JSON or one of the databases cannot hold."""
        return _dumped_or_none

    def decoder(self, dialect: str) -> Convert | None:
        """The parsed value; on PostgreSQL the driver's codec has parsed it."""
        return None if dialect == "postgresql" else _loaded_or_none

    def process_bind_param(self, value: Any, dialect: Dialect) -> Any:
        """For SQLAlchemy's own way, where PostgreSQL's JSONB serialises by itself."""
        return value if dialect.name == "postgresql" else _dumped_or_none(value)

    def process_result_value(self, value: Any, dialect: Dialect) -> Any:
        """For SQLAlchemy's own way."""
        return value if dialect.name == "postgresql" else _loaded_or_none(value)


def _dumped_or_none(value: Any) -> str | None:
    return None if value is None else dump_json(value)


def _loaded_or_none(text: str | None) -> Any:
    # The common cases first and without a call: there are three such columns in a row, and twenty rows in a page.
    if text is None:
        return None
    if text == "{}":
        return {}
    return load_json(text)


class Sealed(Direct, TypeDecorator[bytes]):
    """Bytes sealed by storage.encryption; anything else is refused, so that no plaintext can reach such a column.

    Sealing itself happens in the repositories, where the row's identity is known: a type sees only the value, and a
    ciphertext that is not bound to its row can be moved to another one.
    """

    impl = LargeBinary
    cache_ok = True

    def encoder(self, dialect: str) -> Convert:
        """Raises UnsealedValue for anything but sealed bytes or None."""
        return check_sealed

    def process_bind_param(self, value: bytes | None, dialect: Dialect) -> bytes | None:
        """For SQLAlchemy's own way."""
        return check_sealed(value)

    def column_expression(self, column: ColumnElement[Any]) -> ColumnElement[Any]:
        """What is read of the column."""
        return stored_bytes(column)


class stored_bytes(FunctionElement[bytes]):  # noqa: N801 - reads as SQL, like SQLAlchemy's own and_ and not_
    """A column's value as bytes, whatever SQLite stores there.

    SQLite keeps a text in a BLOB column as a text, and reading it as one fails, and with it the whole statement. So a
    value that somebody has damaged by hand would break every listing that it is in.
    """

    inherit_cache = True
    type = LargeBinary()


@compiles(stored_bytes)
def _stored_bytes(element: stored_bytes, compiler: Any, **options: Any) -> str:
    return str(compiler.process(element.clauses, **options))


@compiles(stored_bytes, "sqlite")
def _stored_bytes_sqlite(element: stored_bytes, compiler: Any, **options: Any) -> str:
    return f"CAST({compiler.process(element.clauses, **options)} AS BLOB)"


def check_sealed(value: bytes | None) -> bytes | None:
    """`value` itself; raises UnsealedValue unless it is None or bytes that begin as a sealed value does."""
    if value is not None and not (type(value) is bytes and value.startswith(SEALED_PREFIX)):
        raise UnsealedValue("a sealed column takes only bytes sealed by storage.encryption; seal the value first")
    return value


@event.listens_for(SQLModel, "attribute_instrument", propagate=True)
def _guard_sealed_attributes(cls: type[Any], key: str, attribute: Any) -> None:
    """Refuse plaintext already when it is assigned to a mapped attribute, where the traceback still names the line."""
    columns = getattr(getattr(attribute, "property", None), "columns", ())
    if any(isinstance(column.type, Sealed) for column in columns):
        event.listen(attribute, "set", _refuse_unsealed)


def _refuse_unsealed(target: Any, value: bytes | None, old: object, initiator: Any) -> None:
    check_sealed(value)


Sequence = BigInteger().with_variant(Integer(), "sqlite")
"""A 64-bit row number the database assigns. SQLite only does so for a column declared exactly INTEGER PRIMARY KEY."""
