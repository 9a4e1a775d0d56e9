"""Values as an archive has them: the same text for the same value, whichever database it comes from or goes to."""

from __future__ import annotations

import base64
import json
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Final, Literal, TypeAlias, get_args

from sqlalchemy import Boolean, Column, Double, LargeBinary, Uuid

from storage.database.statement import DialectName
from storage.database.types import (
    JSONValue,
    Sealed,
    UTCDateTime,
    dump_json,
    from_microseconds,
    load_json,
    to_microseconds,
)

Kind: TypeAlias = Literal["plain", "float", "boolean", "time", "bytes", "uuid", "json"]
"""`time`: whole microseconds since 1970-01-01 UTC. `bytes`: base64. `uuid`: 32 hexadecimal digits. `json`: the value
itself. `plain`: text and whole numbers, as they are."""

KINDS: Final[frozenset[str]] = frozenset(get_args(Kind))

Convert: TypeAlias = Callable[[Any], Any]

_BY_TYPE: Final[tuple[tuple[type[Any], Kind], ...]] = (
    (UTCDateTime, "time"),
    (JSONValue, "json"),
    (Sealed, "bytes"),
    (LargeBinary, "bytes"),
    (Uuid, "uuid"),
    (Boolean, "boolean"),
    (Double, "float"),
)


@dataclass(frozen=True, slots=True)
class ArchivedColumn:
    """A column of an archived table: its name and the kind of its values."""

    name: str
    kind: Kind


def archived(column: Column[Any]) -> ArchivedColumn:
    """What an archive says of a table's column."""
    kind = next((kind for type_, kind in _BY_TYPE if isinstance(column.type, type_)), "plain")
    return ArchivedColumn(column.name, kind)  # type: ignore[arg-type]


def to_line(row: Sequence[Any], encoders: Sequence[Convert | None]) -> bytes:
    """A row as one line of JSON; keys of objects are sorted, so that equal rows are equal lines."""
    values = [
        value if value is None or encode is None else encode(value) for value, encode in zip(row, encoders, strict=True)
    ]
    return (json.dumps(values, ensure_ascii=False, separators=(",", ":"), sort_keys=True) + "\n").encode()


def from_line(line: bytes, decoders: Sequence[Convert | None]) -> list[Any]:
    """The driver's values of a line.

    Raises:
        ValueError: it is no row of these columns.
    """
    values = json.loads(line)
    if not isinstance(values, list) or len(values) != len(decoders):
        raise ValueError("not a row of this table")
    return [
        value if value is None or decode is None else decode(value)
        for value, decode in zip(values, decoders, strict=True)
    ]


def encoder(kind: Kind, dialect: DialectName) -> Convert | None:
    """What turns a driver's value into the archive's; None if they are the same."""
    return _ENCODERS[dialect].get(kind)


def decoder(kind: Kind, dialect: DialectName) -> Convert | None:
    """What turns an archive's value into the driver's; None if they are the same."""
    return _DECODERS[dialect].get(kind)


def as_jsonb(value: Any) -> Any:
    """A JSON value as PostgreSQL gives it back, which keeps numbers as decimals and writes them without an exponent.

    So 1e16 comes back as the whole number that it is, and -0.0 without its sign.
    """
    if isinstance(value, float):
        if value == 0:
            return 0.0
        text = repr(value)
        return load_json(format(Decimal(text), "f")) if "e" in text else value
    if isinstance(value, dict):
        return {key: as_jsonb(item) for key, item in value.items()}
    if isinstance(value, list):
        return [as_jsonb(item) for item in value]
    return value


def _base64(value: bytes | str) -> str:
    # SQLite keeps a text that somebody has put into a BLOB column as a text.
    content = value.encode(errors="surrogateescape") if isinstance(value, str) else value
    return base64.b64encode(content).decode()


def _microseconds(value: datetime) -> int:
    # PostgreSQL's infinity comes as a time without a zone.
    return to_microseconds(value if value.tzinfo else value.replace(tzinfo=UTC))


_ENCODERS: Final[dict[DialectName, dict[Kind, Convert]]] = {
    "sqlite": {"bytes": _base64, "boolean": bool, "json": load_json},
    "postgresql": {"bytes": _base64, "time": _microseconds, "uuid": lambda value: value.hex, "json": load_json},
}
_DECODERS: Final[dict[DialectName, dict[Kind, Convert]]] = {
    "sqlite": {"bytes": base64.b64decode, "boolean": int, "json": dump_json},
    "postgresql": {"bytes": base64.b64decode, "time": from_microseconds, "uuid": uuid.UUID, "json": dump_json},
}
