"""What commands print: tables for people, whole lines for pipes, JSON for programs; nothing that steers a terminal."""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

from storage.logs import JSONFormatter

if TYPE_CHECKING:
    from rich.console import Console

NOTHING: Final = "-"
"""How an absent value looks in a table."""

WIDE: Final = 160
"""Characters from which on a terminal gets the columns that are only nice to have."""

_READABLE: Final = 12
"""Characters below which a folded column is a tower of syllables; such a table is printed row by row instead."""

_GAP: Final = 3
"""Characters between two columns of a framed table."""

_HALF_A_CENT: Final = 0.005

_STEPS: Final = 10
"""Lines at most that tell of progress where there is no bar."""

_BYTES: Final = "bytes"
"""What is counted in kB, MB and so on."""

_MANY: Final = 1_000
_MANY_BYTES: Final = 10_000_000
"""From where on somebody who does not see a bar is told of progress whose end nobody knows."""

_JOINER: Final = "\u200d"
"""Not printable for Python, yet part of many emoji."""


@dataclass(frozen=True)
class Column:
    """A table's column; `number` aligns it to the right, `wrap` lets it fold on a terminal, `wide` needs a wide one."""

    title: str
    number: bool = False
    wrap: bool = False
    wide: bool = False


def line(text: str = "") -> None:
    """Print one line of text as it is, without markup."""
    sys.stdout.write(f"{text}\n")


def complain(message: str) -> None:
    """Print one line on stderr that says what is wrong."""
    sys.stderr.write(f"error: {plain(message)}\n")


def note(message: str) -> None:
    """Print one line on stderr for people, which is neither an error nor the output."""
    sys.stderr.write(f"{plain(message)}\n")


def verbatim(text: str) -> None:
    """Write a text as it is and a newline; on a terminal, what could steer it is escaped."""
    if sys.stdout.isatty():
        text = "".join(sign if sign.isprintable() or sign in "\t\n" else repr(sign)[1:-1] for sign in text)
    line(text)


class _WarningLines(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        as_json = isinstance(self.formatter, JSONFormatter)
        sys.stderr.write(f"{self.format(record) if as_json else f'warning: {plain(record.getMessage())}'}\n")


@contextmanager
def warnings_as_lines() -> Iterator[None]:
    """Print what the library warns of as one line each on stderr, meanwhile; as JSON if STORAGE_LOG_FORMAT says so."""
    log, handler = logging.getLogger("storage"), _WarningLines(logging.WARNING)
    if os.environ.get("STORAGE_LOG_FORMAT") == "json":
        handler.setFormatter(JSONFormatter())
    log.addHandler(handler)
    try:
        yield
    finally:
        log.removeHandler(handler)


def show_json(value: Any) -> None:
    """Print a value as JSON: two spaces of indentation, keys in a fixed order, times in ISO 8601 and UTC."""
    line(json.dumps(value, ensure_ascii=False, indent=2, default=_json_value))


def _json_value(value: Any) -> Any:
    if isinstance(value, datetime):
        return iso(value)
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, Path | UUID):
        return str(value)
    raise TypeError(f"{type(value).__name__} has no JSON form")


def iso(value: datetime) -> str:
    """ISO 8601 in UTC, with a Z."""
    return value.astimezone(UTC).isoformat().replace("+00:00", "Z")


def plain(text: str) -> str:
    """The text on one line, with everything escaped that a terminal could take for a command."""
    if text.isprintable():
        return text
    joined = " ".join(text.split())
    return "".join(sign if sign.isprintable() or sign == _JOINER else repr(sign)[1:-1] for sign in joined)


def moment(value: datetime | None) -> str:
    """A time for people: to the minute, in UTC."""
    return NOTHING if value is None else value.astimezone(UTC).strftime("%Y-%m-%d %H:%M")


def money(value: float) -> str:
    """US dollars to the cent, so that a column lines up; what costs something never shows as nothing."""
    return "<$0.01" if 0 < value < _HALF_A_CENT else f"${value:,.2f}"


def size(value: int) -> str:
    """A number of bytes for people."""
    amount = float(value)
    for unit in ("B", "kB", "MB", "GB"):
        if amount < 1000:  # noqa: PLR2004 - SI units
            return f"{value} B" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1000
    return f"{amount:.1f} TB"


def duration(value: timedelta) -> str:
    """A length of time for people: `90 days`, `1 day 6:00:00`."""
    if value.seconds or value.microseconds:
        return str(value).replace(",", "")
    return count(value.days, "day")


def count(number: int, one: str, many: str | None = None) -> str:
    """`1 file`, `2 files`."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def table(columns: Sequence[Column], rows: Iterable[Sequence[object]], *, title: str | None = None) -> None:
    """Print rows: framed to the width of a terminal, or whole and aligned into a pipe or file."""
    texts = [[NOTHING if cell is None or cell == "" else plain(str(cell)) for cell in row] for row in rows]
    if title is not None:
        line(title)
    if sys.stdout.isatty():
        _framed(columns, texts)
    else:
        _aligned(columns, texts)


def pairs(rows: Iterable[tuple[str, object]]) -> None:
    """Print names and values, one pair a line; values are never cut."""
    texts = [(plain(name), plain(_text(value))) for name, value in rows]
    width = max((len(name) for name, _ in texts), default=0)
    for name, value in texts:
        line(f"{name.ljust(width)}  {value}")


def _text(value: object) -> str:
    """A JSON value as people write it."""
    match value:
        case None | "" | [] | {}:
            return NOTHING
        case str():
            return value
        case timedelta():
            return duration(value)
        case list() if not any(isinstance(item, list | dict) for item in value):
            return ", ".join(map(_text, value))
        case _:
            return json.dumps(value, ensure_ascii=False)


@contextmanager
def progress(doing: str, things: str, *, quiet: bool = False) -> Iterator[Callable[[int, int | None], None] | None]:
    """What to call with how many are done and how many there are: a bar on a terminal, a few lines otherwise.

    Both go to stderr, so that the report stays clean. Nobody knows how many there are if that is None.

    Args:
        doing: what is being done: `rewrapping`.
        things: what is counted: `data keys`; `bytes` are shown in kB, MB and so on.
        quiet: show nothing, and give None.
    """
    if quiet:
        yield None
    elif sys.stderr.isatty():
        with _bar(doing, things) as move:
            yield move
    else:
        yield _steps(doing, things)


def _steps(doing: str, things: str) -> Callable[[int, int | None], None]:
    shown = 0
    many = _MANY_BYTES if things == _BYTES else _MANY

    def tell(done: int, total: int | None) -> None:
        nonlocal shown
        # Without an end in sight, at each power of ten.
        step = len(str(done // many)) - (done < many) if total is None else _STEPS * done // max(total, 1)
        if step > shown:
            shown = step
            note(f"{doing}: {_amount(done, things) if total is None else _part(done, total, things)}")

    return tell


def _part(done: int, total: int, things: str) -> str:
    return f"{size(done)} of {size(total)}" if things == _BYTES else f"{done:,} of {total:,} {things}"


def _amount(done: int, things: str) -> str:
    return size(done) if things == _BYTES else f"{done:,} {things}"


@contextmanager
def _bar(doing: str, things: str) -> Iterator[Callable[[int, int | None], None]]:
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    counted = [DownloadColumn()] if things == _BYTES else [MofNCompleteColumn(), TextColumn(things)]
    columns = (TextColumn(doing), BarColumn(), *counted, TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(doing, total=None)

        def move(done: int, total: int | None) -> None:
            bar.update(task, completed=done, total=total)

        yield move


def console() -> Console:
    """A terminal, as rich sees it: NO_COLOR and the width are respected."""
    from rich.console import Console

    return Console(highlight=False, emoji=False, markup=False)


def _framed(columns: Sequence[Column], rows: list[list[str]]) -> None:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    terminal = console()
    kept = [index for index, column in enumerate(columns) if not column.wide or terminal.width >= WIDE]
    if (
        _least_width([columns[index] for index in kept], [[row[index] for index in kept] for row in rows])
        > terminal.width
    ):
        _one_by_one(columns, rows)
        return
    framed = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for column in (columns[index] for index in kept):
        framed.add_column(
            column.title,
            justify="right" if column.number else "left",
            overflow="fold",
            no_wrap=not column.wrap,
            # A column that may be folded leaves its room to the others.
            ratio=1 if column.wrap else None,
        )
    for row in rows:
        framed.add_row(*(Text(row[index]) for index in kept))
    terminal.print(framed)


def _least_width(columns: Sequence[Column], rows: list[list[str]]) -> int:
    from rich.cells import cell_len

    widths = [max(map(cell_len, cells)) for cells in zip([column.title for column in columns], *rows, strict=True)]
    readable = [min(width, _READABLE) if column.wrap else width for column, width in zip(columns, widths, strict=True)]
    return sum(readable) + _GAP * (len(columns) - 1)


def _one_by_one(columns: Sequence[Column], rows: list[list[str]]) -> None:
    for number, row in enumerate(rows):
        if number:
            line()
        pairs((column.title, cell) for column, cell in zip(columns, row, strict=True))


def _aligned(columns: Sequence[Column], rows: list[list[str]]) -> None:
    from rich.cells import cell_len

    cells = [[column.title for column in columns], *rows]
    widths = [max(cell_len(row[index]) for row in cells) for index in range(len(columns))]
    for row in cells:
        padded = [
            " " * (width - cell_len(cell)) + cell if column.number else cell + " " * (width - cell_len(cell))
            for column, cell, width in zip(columns, row, widths, strict=True)
        ]
        line("  ".join(padded).rstrip())
