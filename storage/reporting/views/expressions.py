"""What views say of stored values, which the two databases spell differently."""

from __future__ import annotations

from typing import Any, Final

from sqlalchemy import BigInteger, Double, Text, case, func, literal_column
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.elements import ColumnElement

SECOND: Final = 1_000_000
"""SQLite keeps times as whole microseconds; its date functions want seconds."""

LARGEST_USD: Final = "1e300"
"""In SQL. A hundred million of these are still a number: PostgreSQL refuses a larger one, SQLite gives infinity."""


class _Of(ColumnElement[Any]):
    """An expression of one column."""

    inherit_cache = True
    type: Any = Text()

    def __init__(self, column: ColumnElement[Any]) -> None:
        self.column = column

    def inner(self, compiler: Any, options: dict[str, Any]) -> str:
        return str(compiler.process(self.column, **options))


class readable_time(_Of):  # noqa: N801 - reads as SQL, like SQLAlchemy's own and_ and not_
    """A UTCDateTime as people and tools read it: text in ISO 8601 on SQLite, itself on PostgreSQL."""

    inherit_cache = True


class day_of(_Of):  # noqa: N801 - as above
    """The day of a UTCDateTime as `2025-11-02`, in UTC."""

    inherit_cache = True


class days_since(_Of):  # noqa: N801 - as above
    """Whole days from a UTCDateTime until now."""

    inherit_cache = True
    type = BigInteger()


class hexadecimal(_Of):  # noqa: N801 - as above
    """Bytes as hexadecimal digits, in lower case."""

    inherit_cache = True


class uuid_text(_Of):  # noqa: N801 - as above
    """A UUID as text with its dashes."""

    inherit_cache = True


class json_value(_Of):  # noqa: N801 - as above
    """A JSONValue as it is stored, which its type would parse."""

    inherit_cache = True


class data_key_of(_Of):  # noqa: N801 - as above
    """The id of the data key in a sealed value's header, comparable with `data_key.id`."""

    inherit_cache = True


class origin_of(_Of):  # noqa: N801 - as above
    """Scheme, host and port of a URL. Its path may be a secret, as those of chat programs' hooks are."""

    inherit_cache = True


def _micro(value: str) -> str:
    """The microseconds within the second; SQLite's % takes the sign of its left side."""
    return f"(({value} % {SECOND} + {SECOND}) % {SECOND})"


@compiles(readable_time, "sqlite")
def _readable_time_sqlite(element: readable_time, compiler: Any, **options: Any) -> str:
    value = element.inner(compiler, options)
    seconds = f"({value} - {_micro(value)}) / {SECOND}"
    return f"strftime('%Y-%m-%dT%H:%M:%S', {seconds}, 'unixepoch') || printf('.%06dZ', {_micro(value)})"


@compiles(readable_time, "postgresql")
@compiles(json_value)
def _itself(element: Any, compiler: Any, **options: Any) -> str:
    return str(element.inner(compiler, options))


@compiles(day_of, "sqlite")
def _day_of_sqlite(element: day_of, compiler: Any, **options: Any) -> str:
    value = element.inner(compiler, options)
    return f"date(({value} - {_micro(value)}) / {SECOND}, 'unixepoch')"


@compiles(day_of, "postgresql")
def _day_of_postgresql(element: day_of, compiler: Any, **options: Any) -> str:
    return f"to_char({element.inner(compiler, options)} AT TIME ZONE 'UTC', 'YYYY-MM-DD')"


@compiles(days_since, "sqlite")
def _days_since_sqlite(element: days_since, compiler: Any, **options: Any) -> str:
    return f"(CAST(strftime('%s', 'now') AS INTEGER) - {element.inner(compiler, options)} / {SECOND}) / 86400"


@compiles(days_since, "postgresql")
def _days_since_postgresql(element: days_since, compiler: Any, **options: Any) -> str:
    return f"floor(extract(epoch FROM now() - {element.inner(compiler, options)}) / 86400)::bigint"


@compiles(hexadecimal, "sqlite")
def _hexadecimal_sqlite(element: hexadecimal, compiler: Any, **options: Any) -> str:
    return f"lower(hex({element.inner(compiler, options)}))"


@compiles(hexadecimal, "postgresql")
def _hexadecimal_postgresql(element: hexadecimal, compiler: Any, **options: Any) -> str:
    return f"encode({element.inner(compiler, options)}, 'hex')"


@compiles(uuid_text, "sqlite")
def _uuid_text_sqlite(element: uuid_text, compiler: Any, **options: Any) -> str:
    value = element.inner(compiler, options)
    parts = ((1, 8), (9, 4), (13, 4), (17, 4), (21, 12))
    return " || '-' || ".join(f"substr({value}, {start}, {length})" for start, length in parts)


@compiles(uuid_text, "postgresql")
def _uuid_text_postgresql(element: uuid_text, compiler: Any, **options: Any) -> str:
    return f"{element.inner(compiler, options)}::text"


@compiles(data_key_of, "sqlite")
def _data_key_of_sqlite(element: data_key_of, compiler: Any, **options: Any) -> str:
    return f"lower(hex(substr(CAST({element.inner(compiler, options)} AS BLOB), 3, 16)))"


@compiles(data_key_of, "postgresql")
def _data_key_of_postgresql(element: data_key_of, compiler: Any, **options: Any) -> str:
    value = element.inner(compiler, options)
    # What is too short for a header names no key, and is no reason for an error.
    return f"CASE WHEN length({value}) >= 18 THEN encode(substring({value} FROM 3 FOR 16), 'hex')::uuid END"


@compiles(origin_of, "sqlite")
def _origin_of_sqlite(element: origin_of, compiler: Any, **options: Any) -> str:
    value = element.inner(compiler, options)
    rest = f"substr({value}, instr({value}, '://') + 3)"
    for end in "/?#":
        rest = f"substr({rest}, 1, instr({rest} || '{end}', '{end}') - 1)"
    return f"substr({value}, 1, instr({value}, '://') + 2) || {rest}"


@compiles(origin_of, "postgresql")
def _origin_of_postgresql(element: origin_of, compiler: Any, **options: Any) -> str:
    return f"substring({element.inner(compiler, options)} FROM '^[^:]*://[^/?#]*')"


class total(_Of):  # noqa: N801 - as above
    """The sum of whole numbers, 0 of none; the largest number there is where it would be larger, and no error.

    Each conversation may say that it used 2**63-1 tokens, and the report of all must not fail for two that do. SQLite
    adds up floating-point numbers for it: exact up to 2**53.
    """

    inherit_cache = True
    type = BigInteger()


class total_usd(_Of):  # noqa: N801 - as above
    """The sum of amounts, 0 of none. None counts for more than LARGEST_USD, so that the sum is a number."""

    inherit_cache = True
    type = Double()


@compiles(total, "sqlite")
def _total_sqlite(element: total, compiler: Any, **options: Any) -> str:
    return f"CAST(total({element.inner(compiler, options)}) AS BIGINT)"


@compiles(total, "postgresql")
def _total_postgresql(element: total, compiler: Any, **options: Any) -> str:
    return f"least(coalesce(sum({element.inner(compiler, options)}), 0), {2**63 - 1})::bigint"


@compiles(total_usd, "sqlite")
def _total_usd_sqlite(element: total_usd, compiler: Any, **options: Any) -> str:
    return f"total(min({element.inner(compiler, options)}, {LARGEST_USD}))"


@compiles(total_usd, "postgresql")
def _total_usd_postgresql(element: total_usd, compiler: Any, **options: Any) -> str:
    return f"coalesce(sum(least({element.inner(compiler, options)}, {LARGEST_USD})), 0)"


def or_zero(column: ColumnElement[Any]) -> ColumnElement[Any]:
    """The number of a joined group, 0 where there is no such group."""
    return func.coalesce(column, literal_column("0"))


def number_where(condition: ColumnElement[bool]) -> ColumnElement[int]:
    """How many rows of a group meet a condition."""
    return total(case((condition, literal_column("1")), else_=literal_column("0")))
