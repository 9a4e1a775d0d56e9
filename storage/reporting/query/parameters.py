"""The `:name` parameters of a statement, found where SQL would not read them as something else.

What this finds decides where values go, and nothing about what a statement may do: that is the database's to decide.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterator, Mapping
from datetime import date, datetime
from typing import Final

from storage.database.types import checked_text
from storage.errors import InvalidInput
from storage.reporting.query.result import Parameter

# What is not closed goes on to the end: to look for its end again from every later place would take the square of it.
_TOKEN: Final = re.compile(
    r"""
    '(?:[^']|'')*'                          # a text
    | [eE]'(?:[^'\\]|''|\\.)*'              # PostgreSQL's with escapes
    | "(?:[^"]|"")*"                        # a name
    | \$(?P<tag>[A-Za-z_]\w*)?\$.*?(?:\$(?(tag)(?P=tag))\$|\Z)   # PostgreSQL's text between dollars
    | --[^\n]*                              # a comment
    | /\*.*?(?:\*/|\Z)
    | ::                                    # PostgreSQL's cast
    | (?<![\w:]):(?P<name>[A-Za-z_]\w*)
    """,
    re.VERBOSE | re.DOTALL,
)


def names_in(sql: str) -> list[str]:
    """The names of the parameters, each once, in their order."""
    return list(dict.fromkeys(match["name"] for match in _TOKEN.finditer(sql) if match["name"]))


def check(sql: str, parameters: Mapping[str, Parameter]) -> None:
    """Pass if there is a value for each name, and a name for each value.

    Raises:
        InvalidInput: there is not.
    """
    wanted = names_in(sql)
    for name in wanted:
        if name not in parameters:
            raise InvalidInput(f"the SQL has a parameter :{name} and no value was given for it")
    for name in parameters:
        if name not in wanted:
            near = difflib.get_close_matches(name, wanted, n=1)
            hint = f"; did you mean :{near[0]}?" if near else ""
            raise InvalidInput(f"the SQL has no parameter :{name}{hint}")


def with_literals(sql: str, parameters: Mapping[str, Parameter]) -> str:
    """The statement with PostgreSQL's literals for its parameters.

    A text is a literal without a type, as `'2026-01-01'` in SQL itself, so it becomes what its place asks for.
    """

    def pieces() -> Iterator[str]:
        end = 0
        for match in _TOKEN.finditer(sql):
            if match["name"]:
                yield sql[end : match.start()]
                yield _literal(parameters[match["name"]])
                end = match.end()
        yield sql[end:]

    return "".join(pieces())


def _literal(value: Parameter) -> str:
    match value:
        case None:
            return "NULL"
        case bool():
            return "true" if value else "false"
        case int():
            return f"({value})"
        case float() if math.isfinite(value):
            return f"({value!r})"
        case float():
            return f"'{value}'::float8"
        case datetime() | date():
            return f"'{value.isoformat()}'"
        case _:
            # Backslashes mean nothing here: standard_conforming_strings is on.
            return "'" + checked_text(value).replace("'", "''") + "'"


def for_sqlite(parameters: Mapping[str, Parameter]) -> dict[str, str | int | float | None]:
    """The values as SQLite takes them: times as the views have them."""
    return {name: _stored(value) for name, value in parameters.items()}


def _stored(value: Parameter) -> str | int | float | None:
    match value:
        case bool():
            return int(value)
        case datetime():
            from storage.database.types import from_microseconds, to_microseconds

            utc = from_microseconds(to_microseconds(value))
            return utc.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        case date():
            return value.isoformat()
        case str():
            return checked_text(value)
        case _:
            return value
