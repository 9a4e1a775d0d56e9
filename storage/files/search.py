"""Searches of a user's files: one statement for each shape (which order, which filters, which page).

A page is a range of an index that is sorted as the page is, begun right after the last row of the page before: the
hundredth page costs what the first one does.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from itertools import combinations, product
from typing import Any, Final, Literal, NoReturn, TypeAlias, get_args

from sqlalchemy import Integer, bindparam, select, tuple_

from storage.database.cursor import pack, unpack
from storage.database.expressions import unindexed
from storage.database.statement import Statement
from storage.database.types import checked_text, from_microseconds, to_microseconds
from storage.database.unit import Executor
from storage.errors import InvalidInput
from storage.files.glob_pattern import LIKE_ESCAPE, parse_glob
from storage.files.paths import LAST_CHARACTER, MAX_PATH_BYTES, file_path, under
from storage.files.rows import decode
from storage.files.sql import AFTER_FILE, FACTS, FILE, OF_USER
from storage.files.store import FileStat

FileSort: TypeAlias = Literal["path", "size", "updated_at"]
"""What files are sorted by. Paths sort bytewise; equal sizes and times sort by path, in the same direction."""

MOST_RESULTS: Final = 1000
"""Largest page: a bounded read, and a bounded answer."""

SHAPES_KEPT: Final = 256
"""Compiled shapes kept at once; an application uses a few, and someone who tries all must not fill the memory."""

_BATCH_ROWS: Final = 1000
"""Rows read at once while a pattern is compared in Python: a megabyte at most."""

_FORMAT: Final = 1
_PARTS: Final = 4
"""Format, fingerprint of the query, sort value, path."""

_LARGEST: Final = 2**63 - 1


@dataclass(frozen=True, slots=True)
class FilePage:
    """A page of a search.

    Attributes:
        results: in the order that was asked for.
        next_cursor: for the next page; None when there is none.
    """

    results: list[FileStat]
    next_cursor: str | None


@dataclass(frozen=True, slots=True)
class FileQuery:
    """A search with arguments that were checked, but for the page. Made by `checked_query`."""

    sort: FileSort
    descending: bool
    prefix: str
    glob: str | None
    filters: Mapping[str, Any]

    @property
    def fingerprint(self) -> str:
        """The same for the same search: a cursor of another one would silently skip or repeat files."""
        values = {name: str(value) for name, value in self.filters.items()}
        text = json.dumps([self.sort, self.descending, self.prefix, self.glob, values], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def checked_query(
    *,
    prefix: str = "",
    glob: str | None = None,
    media_type: str | None = None,
    min_size: int | None = None,
    max_size: int | None = None,
    updated_after: datetime | None = None,
    updated_before: datetime | None = None,
    sort: FileSort = "path",
    descending: bool = False,
) -> FileQuery:
    """A query of these arguments; see FileCatalog.search.

    Raises:
        InvalidInput: one of them cannot be used; the message says what to give.
    """
    if sort not in get_args(FileSort):
        raise InvalidInput(f"sort {sort!r} is not known; use one of {', '.join(get_args(FileSort))}")
    filters: dict[str, Any] = {}
    for name, size in (("min_size", min_size), ("max_size", max_size)):
        if size is not None:
            filters[name] = _checked_size(name, size)
    for name, time in (("updated_after", updated_after), ("updated_before", updated_before)):
        if time is not None:
            filters[name] = _checked_time(name, time)
    if media_type is not None:
        filters.update(_checked_media_type(media_type))
    pattern = None if glob is None else parse_glob(glob).text
    return FileQuery(sort, bool(descending), _checked_prefix(prefix), pattern, filters)


async def read_page(
    executor: Executor, user_id: str, query: FileQuery, *, limit: int = 100, cursor: str | None = None
) -> FilePage:
    """One page of the files that a query finds.

    Args:
        executor: a database or a transaction.
        user_id: in stored form.
        query: what to find, in which order.
        limit: results at most, 1 to 1,000.
        cursor: `next_cursor` of the page before.

    Raises:
        InvalidInput: the limit is out of range; the cursor is none, or belongs to another query.
    """
    _check_limit(limit)
    after = None if cursor is None else _decode_cursor(cursor, query)
    glob = None if query.glob is None else parse_glob(query.glob)
    low = query.prefix if glob is None else max(query.prefix, glob.literal)
    high = query.prefix + LAST_CHARACTER
    found: list[FileStat] = []
    filters = dict(query.filters)
    if glob is not None:
        high = min(high, glob.literal + LAST_CHARACTER)
        filters["like"] = glob.like
    # One more than asked for tells whether there is another page.
    rows_wanted = limit + 1 if glob is None else _BATCH_ROWS
    while low < high and len(found) <= limit:
        parameters = {**filters, "user_id": user_id, "low": low, "high": high, "limit": rows_wanted}
        if after is not None:
            value, path = after
            parameters.pop(_SUPERSEDED.get((query.sort, query.descending), ""), None)
            if query.sort != "path":
                parameters |= {"after_value": value, "after_path": path}
            elif query.descending:
                parameters["high"] = path
            else:
                parameters["low"] = path + AFTER_FILE
        shape = frozenset(parameters.keys() - _ALWAYS)
        statement = page_statement(shape, query.sort, descending=query.descending)
        rows = await executor.read(statement, parameters, scan=True)
        # Most rows of a rare pattern are only compared by their path, which comes first.
        fitting = rows if glob is None else [row for row in rows if glob.expression.fullmatch(row[0])]
        found += [decode(row).stat for row in fitting]
        if len(rows) < rows_wanted:
            break
        after = _place(query, decode(rows[-1]).stat)
    if len(found) <= limit:
        return FilePage(found, None)
    del found[limit:]
    return FilePage(found, _encode_cursor(query, found[-1]))


# ---- statements

_ALWAYS: Final = frozenset({"user_id", "low", "high", "limit"})

_SUPERSEDED: Final = {
    ("size", False): "min_size",
    ("size", True): "max_size",
    ("updated_at", False): "updated_after",
    ("updated_at", True): "updated_before",
}
"""The filter that a later page has no use for, because it begins behind it: with both bounds, a database may begin at
the filter's and read all pages before once more."""

_RANGES: Final = {
    "low": "path",
    "high": "path",
    "min_size": "size",
    "max_size": "size",
    "updated_after": "updated_at",
    "updated_before": "updated_at",
    "media_type": "path",  # by the index over the two
}
"""Conditions that are a range of the index of a sort order: it reads just what they let pass."""


_COLUMNS: Final = {
    "low": "path",
    "high": "path",
    "like": "path",
    "min_size": "size",
    "max_size": "size",
    "updated_after": "updated_at",
    "updated_before": "updated_at",
    "media_type": "media_type",
    "media_low": "media_type",
    "media_high": "media_type",
}
"""Parameters of conditions, and the column that each is about."""


def _condition(name: str, sort: FileSort) -> Any:
    column = FILE.c[_COLUMNS[name]]
    parameter = bindparam(name, type_=column.type)
    compared = column if _RANGES.get(name) == sort else unindexed(column)
    match name:
        case "low" | "min_size" | "updated_after" | "media_low":
            return compared >= parameter
        case "high" | "updated_before" | "media_high":
            return compared < parameter
        case "max_size":
            return compared <= parameter
        case "like":
            return compared.like(parameter, escape=LIKE_ESCAPE)
        case _:
            return compared == parameter


@lru_cache(maxsize=SHAPES_KEPT)
def page_statement(shape: frozenset[str], sort: FileSort, *, descending: bool) -> Statement:
    """A page: what storage.files.rows.decode takes. Parameters: user_id, low, high, limit, and those of the shape."""
    statement = select(*FACTS).where(OF_USER)
    for name in sorted((shape | {"low", "high"}) & _COLUMNS.keys()):
        statement = statement.where(_condition(name, sort))
    order = [FILE.c.path] if sort == "path" else [FILE.c[sort], FILE.c.path]
    if "after_value" in shape:
        place = tuple_(*order)
        after = tuple_(bindparam("after_value", type_=order[0].type), bindparam("after_path", type_=order[1].type))
        statement = statement.where(place < after if descending else place > after)
    directed = [column.desc() if descending else column.asc() for column in order]
    page = statement.order_by(*directed).limit(bindparam("limit", type_=Integer()))
    return Statement("file.search", page, register=False)


def search_shapes(most_filters: int = 2) -> Iterator[Statement]:
    """Every order, first and later pages, with each combination of up to `most_filters` filters, for tests of plans."""
    filters = [{"min_size"}, {"max_size"}, {"updated_after"}, {"updated_before"}, {"media_type"}, {"like"}]
    filters.append({"media_low", "media_high"})
    for number in range(most_filters + 1):
        for chosen in combinations(filters, number):
            shape: frozenset[str] = frozenset().union(*chosen)
            for sort, descending in product(get_args(FileSort), (False, True)):
                yield page_statement(shape, sort, descending=descending)
                if sort != "path":
                    later = shape - {_SUPERSEDED[sort, descending]} | {"after_value", "after_path"}
                    yield page_statement(later, sort, descending=descending)


# ---- cursors


def _place(query: FileQuery, stat: FileStat) -> tuple[Any, str]:
    """Where in the order a file is."""
    return (None if query.sort == "path" else getattr(stat, query.sort)), stat.path


def _encode_cursor(query: FileQuery, last: FileStat) -> str:
    value, path = _place(query, last)
    if isinstance(value, datetime):
        value = to_microseconds(value)
    return pack([_FORMAT, query.fingerprint, value, path])


def _decode_cursor(cursor: object, query: FileQuery) -> tuple[Any, str]:
    parts = unpack(cursor, _FORMAT, _refuse)
    if len(parts) != _PARTS or parts[1] != query.fingerprint:
        _refuse("it belongs to a search for something else, or in another order")
    value, path = parts[2:]
    try:
        path = file_path(path)
        if query.sort == "path":
            return None, path
        if type(value) is not int or abs(value) > _LARGEST:
            _refuse("it is damaged")
        return (value if query.sort == "size" else from_microseconds(value)), path
    except (InvalidInput, OverflowError):
        _refuse("it is damaged")


def _refuse(reason: str) -> NoReturn:
    raise InvalidInput(
        f"cursor cannot be used: {reason}. "
        "Pass next_cursor of the page before with the same arguments, or None to start over"
    )


# ---- arguments


def _check_limit(limit: object) -> None:
    if isinstance(limit, bool) or not isinstance(limit, int) or not 1 <= limit <= MOST_RESULTS:
        raise InvalidInput(f"limit must be a whole number from 1 to {MOST_RESULTS}, not {limit!r}")


def _checked_prefix(prefix: object) -> str:
    """The normal form of what paths are to begin with; its last segment may be the beginning of a name."""
    if not isinstance(prefix, str):
        raise InvalidInput(f"prefix must be a str such as 'sessions/c1/', not {type(prefix).__name__}")
    relative = prefix.removeprefix("./") if prefix.startswith("./") else prefix.removeprefix("/")
    *folders, begun = relative.split("/")
    if "" in folders:
        raise InvalidInput(f"prefix {prefix!r} has an empty segment ('//'); name every folder")
    segments = [file_path(folder) for folder in folders]
    segments.append(begun if begun in ("", ".", "..") else file_path(begun))
    normal = "/".join(segments)
    if len(normal.encode()) > MAX_PATH_BYTES:
        raise InvalidInput(f"prefix has {len(normal.encode())} bytes of UTF-8; no path has more than {MAX_PATH_BYTES}")
    return normal


def _checked_size(name: str, size: object) -> int:
    if isinstance(size, bool) or not isinstance(size, int) or not 0 <= size <= _LARGEST:
        raise InvalidInput(f"{name} must be a whole number of bytes, 0 to 2**63 - 1, not {size!r}")
    return size


def _checked_time(name: str, time: object) -> datetime:
    if not isinstance(time, datetime):
        raise InvalidInput(f"{name} must be a datetime with a timezone, not {type(time).__name__}")
    to_microseconds(time)  # refuses a naive one, with the reason
    try:
        return time.astimezone(UTC)
    except OverflowError:
        raise InvalidInput(f"{name} must lie within the years 1 to 9999 in UTC") from None


def _checked_media_type(media_type: object) -> dict[str, str]:
    if not isinstance(media_type, str):
        raise InvalidInput(f"media_type must be a str such as 'image/png', not {type(media_type).__name__}")
    checked_text(media_type)
    family, _, kind = media_type.partition("/")
    if kind == "*" and family and "*" not in family:
        low, high = under(family)
        return {"media_low": low, "media_high": high}
    if "*" in media_type or not media_type:
        raise InvalidInput(
            f"media_type {media_type!r} cannot be used: give a whole one ('image/png'), all of one family ('image/*'), "
            "or None for any"
        )
    return {"media_type": media_type}
