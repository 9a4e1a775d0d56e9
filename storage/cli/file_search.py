"""`storage files search`: finding files by what is known of them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

from cyclopts import Group, Parameter

from storage.cli.connection import DEFAULT, AsJSON, Connection, User, opened
from storage.cli.file_rows import as_dict, show_table
from storage.cli.output import line, show_json

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cyclopts import Token

_FILTERS: Final = Group("Filters (all that are given must hold)", sort_key=10)
_PAGING: Final = Group("Order and pages", sort_key=20)
_TIME: Final = "ISO 8601, UTC if it names no zone"

_SIZE: Final = re.compile(r"(\d+)\s*([kKMGT]i?|)B?")
_UNITS: Final[dict[str, int]] = {
    "": 1,
    "K": 10**3,
    "M": 10**6,
    "G": 10**9,
    "T": 10**12,
    "KI": 2**10,
    "MI": 2**20,
    "GI": 2**30,
    "TI": 2**40,
}


def _bytes(_: object, tokens: Sequence[Token]) -> int:
    """`4096`, `10kB`, `5MiB` as a number of bytes; cyclopts shows the ValueError's text."""
    text = tokens[0].value
    found = _SIZE.fullmatch(text)
    if found is None:
        raise ValueError(f"{text!r} is no size; write 4096, 10kB, 5MB or 5MiB")
    return int(found[1]) * _UNITS[found[2].upper()]


@Parameter(name="*", group=_FILTERS)
@dataclass(frozen=True)
class Filters:
    """Which files."""

    prefix: Annotated[
        str, Parameter(show_default=False, help="Whose path begins like this: sessions/c1/ or sessions/c1/ev.")
    ] = ""
    media_type: Annotated[str | None, Parameter(help="Of this media type, or family of types: `image/*`.")] = None
    min_size: Annotated[int | None, Parameter(converter=_bytes, help="Of this size or larger: 4096, 10kB, 5MiB.")] = (
        None
    )
    max_size: Annotated[int | None, Parameter(converter=_bytes, help="Of this size or smaller.")] = None
    updated_after: Annotated[datetime | None, Parameter(help=f"Last written then or later ({_TIME}).")] = None
    updated_before: Annotated[datetime | None, Parameter(help=f"Last written earlier ({_TIME}).")] = None

    def as_arguments(self) -> dict[str, Any]:
        """What the catalogue's search takes."""
        return {
            "prefix": self.prefix,
            "media_type": self.media_type,
            "min_size": self.min_size,
            "max_size": self.max_size,
            "updated_after": _aware(self.updated_after),
            "updated_before": _aware(self.updated_before),
        }


@Parameter(name="*", group=_PAGING)
@dataclass(frozen=True)
class Paging:
    """Which part of them, in which order."""

    sort: Annotated[Literal["path", "size", "updated"], Parameter(help="What to sort by.")] = "path"
    order: Annotated[
        Literal["asc", "desc"] | None,
        Parameter(help="Ascending or descending; paths ascend and the others descend if it is not given."),
    ] = None
    limit: Annotated[int, Parameter(help="Files on a page, 1 to 1000.")] = 100
    page: Annotated[
        str | None, Parameter(help="The page to show: `next_cursor` of the page before, asked for in the same way.")
    ] = None

    def as_arguments(self) -> dict[str, Any]:
        """What the catalogue's search takes."""
        return {
            "sort": "updated_at" if self.sort == "updated" else self.sort,
            "descending": self.sort != "path" if self.order is None else self.order == "desc",
            "limit": self.limit,
            "cursor": self.page,
        }


_NO_FILTERS: Final = Filters()
_FIRST_PAGE: Final = Paging()


async def search(
    glob: Annotated[
        str | None,
        Parameter(
            help="Pattern of whole paths, quoted for the shell: `'sessions/*/events/**/*.json'`. `*` and `?` stand for"
            " characters within a segment, `[a-z]` for one of these, a segment `**` for any number of segments."
        ),
    ] = None,
    /,
    *,
    filters: Filters = _NO_FILTERS,
    paging: Paging = _FIRST_PAGE,
    user: User = None,
    connection: Connection = DEFAULT,
    json: AsJSON = False,
) -> None:
    """Find a user's files by path, type, size and time.

    JSON: `{results, next_cursor}`, where results are as in `storage files ls`, and next_cursor is null on the last
    page.
    """
    async with opened(connection) as storage:
        found = await storage.user(user).files.search(glob=glob, **filters.as_arguments(), **paging.as_arguments())
    if json:
        results = [as_dict(stat.path, stat) for stat in found.results]
        show_json({"results": results, "next_cursor": found.next_cursor})
        return
    if not found.results:
        line("no files")
        return
    show_table([(stat.path, stat) for stat in found.results])
    if found.next_cursor is not None:
        line()
        line(f"more: the same command with --page {found.next_cursor}")


def _aware(value: datetime | None) -> datetime | None:
    return value if value is None or value.tzinfo is not None else value.replace(tzinfo=UTC)
