"""The rows of a question as a table, CSV, JSON, JSON lines, Markdown or Parquet."""

from __future__ import annotations

import csv
import io
import json
import math
import sys
from collections.abc import Callable
from datetime import date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

from storage.cli.output import Column, iso, plain, table, verbatim
from storage.cli.whole_file import whole_file

if TYPE_CHECKING:
    from storage.reporting.query.result import QueryResult

Format: TypeAlias = Literal["table", "csv", "json", "jsonl", "markdown", "parquet"]

_BY_SUFFIX: Final[dict[str, Format]] = {
    ".csv": "csv",
    ".json": "json",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".md": "markdown",
    ".parquet": "parquet",
}


def format_for(given: Format | None, output: Path | None) -> Format:
    """The format that was asked for, or that a file of this name has; else a table.

    Raises:
        InvalidInput: Parquet, which no terminal shows, without a file.
    """
    from storage.errors import InvalidInput

    chosen: Format = given or _BY_SUFFIX.get("" if output is None else output.suffix.lower(), "table")
    if chosen == "parquet" and output is None:
        raise InvalidInput("Parquet is a file's format; say which with -o FILE")
    return chosen


def write_result(result: QueryResult, format_: Format, output: Path | None) -> None:
    """Print the rows, or write them to a file that is there whole or not at all.

    Raises:
        InvalidInput: two columns have one name, in a format that has them as keys.
        ConfigurationError: Parquet, without the library for it.
        OSError: the file cannot be written.
    """
    if format_ in ("json", "jsonl", "parquet"):
        _require_names_apart(result)
    if output is None and format_ == "table":
        _print_table(result)
        return
    content = _WRITERS[format_](result)
    if output is not None:
        with whole_file(output) as file:
            file.write(content)
    elif sys.stdout.isatty():
        verbatim(content.decode().rstrip("\n"))
    else:
        sys.stdout.write(content.decode())


def _require_names_apart(result: QueryResult) -> None:
    from storage.errors import InvalidInput

    twice = {name for name in result.columns if result.columns.count(name) > 1}
    if twice:
        raise InvalidInput(f"two columns are named {min(twice)!r}; tell them apart with AS")


def _print_table(result: QueryResult) -> None:
    numbers = [
        any(isinstance(row[index], int | float) for row in result.rows)
        and all(row[index] is None or isinstance(row[index], int | float) for row in result.rows)
        for index in range(len(result.columns))
    ]
    columns = [
        Column(plain(name), number=is_number, wrap=not is_number)
        for name, is_number in zip(result.columns, numbers, strict=True)
    ]
    table(columns, [[_for_people(value) for value in row] for row in result.rows])


def _shown(value: Any) -> Any:
    """A value for people: nothing for null, text for JSON and times."""
    match value:
        case bool():
            return str(value).lower()
        case datetime():
            return iso(value)
        case list() | dict():
            return json.dumps(value, ensure_ascii=False)
        case _:
            return value


def _for_people(value: Any) -> Any:
    """The same, and a float without the digits that only adding up has made."""
    return f"{value:.12g}" if isinstance(value, float) else _shown(value)


def _csv(result: QueryResult) -> bytes:
    text = io.StringIO(newline="")
    writer = csv.writer(text)  # RFC 4180
    writer.writerow(result.columns)
    writer.writerows([_shown(value) for value in row] for row in result.rows)
    return text.getvalue().encode()


def _markdown(result: QueryResult) -> bytes:
    def cell(value: Any) -> str:
        text = "" if value is None else plain(str(_for_people(value)))
        return text.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;")

    lines = [[cell(name) for name in result.columns], ["---"] * len(result.columns)]
    lines += [[cell(value) for value in row] for row in result.rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines).encode()


def _plain_value(value: Any) -> Any:
    match value:
        case datetime():
            return iso(value)
        case date():
            return value.isoformat()
        case float() if not math.isfinite(value):
            return str(value)
        case bytes():
            return value.hex()
        case _:
            return value


def _object(result: QueryResult, row: tuple[Any, ...]) -> dict[str, Any]:
    return {name: _plain_value(value) for name, value in zip(result.columns, row, strict=True)}


def _json(result: QueryResult) -> bytes:
    rows = [_object(result, row) for row in result.rows]
    return (json.dumps(rows, ensure_ascii=False, indent=2, allow_nan=False, default=str) + "\n").encode()


def _json_lines(result: QueryResult) -> bytes:
    return "".join(
        json.dumps(_object(result, row), ensure_ascii=False, allow_nan=False, default=str) + "\n" for row in result.rows
    ).encode()


def _parquet(result: QueryResult) -> bytes:
    from storage.errors import ConfigurationError, InvalidInput

    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise ConfigurationError("Parquet needs pyarrow: install agent-storage[reporting]") from error
    columns: dict[str, list[Any]] = {name: [] for name in result.columns}
    for row in result.rows:
        for name, value in zip(result.columns, row, strict=True):
            columns[name].append(json.dumps(value, ensure_ascii=False) if isinstance(value, list | dict) else value)
    try:
        made = pa.table({name: pa.array(values) for name, values in columns.items()})
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise InvalidInput(f"a column holds values of several kinds, and Parquet has one for each: {error}") from error
    buffer = io.BytesIO()
    pq.write_table(made, buffer)
    return buffer.getvalue()


_WRITERS: Final[dict[Format, Callable[[QueryResult], bytes]]] = {
    "csv": _csv,
    "json": _json,
    "jsonl": _json_lines,
    "markdown": _markdown,
    "parquet": _parquet,
}
