"""How much each user stores, and how much of it the database itself holds: what backups and VACUUM take time for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import BigInteger, cast, func, literal_column, select, union_all

from storage.database.statement import Statement
from storage.database.unit import Executor
from storage.files.table import FileContentTable, FileTable

_file: Final[Any] = FileTable.__table__  # type: ignore[attr-defined]
_content: Final[Any] = FileContentTable.__table__  # type: ignore[attr-defined]


@dataclass(frozen=True, slots=True)
class UserUsage:
    """What one user stores.

    Attributes:
        user_id: in its stored form; `local` is the one user of a desktop install.
        files: how many there are.
        bytes: the sum of their sizes. Files that share a content count each, as quotas have it.
        bytes_in_database: of the contents that are kept in the database, as stored: each once, sealed ones with what
            sealing adds, and with those that nothing names any more and the collector has not removed yet.
    """

    user_id: str
    files: int
    bytes: int
    bytes_in_database: int


_NOTHING: Final = literal_column("0", type_=BigInteger)
_of_files: Final = select(
    _file.c.user_id,
    func.count().label("files"),
    func.sum(_file.c.size).label("bytes"),
    _NOTHING.label("bytes_in_database"),
).group_by(_file.c.user_id)
# length() of both databases takes a value's length from its header, and does not read what spills out of the row.
_of_contents: Final = select(
    _content.c.user_id,
    _NOTHING.label("files"),
    _NOTHING.label("bytes"),
    func.sum(func.length(_content.c.content)).label("bytes_in_database"),
).group_by(_content.c.user_id)
_both: Final = union_all(_of_files, _of_contents).subquery()

USER_USAGE: Final = Statement(
    "report.file_usage_by_user",
    select(
        _both.c.user_id,
        *[cast(func.sum(_both.c[name]), BigInteger) for name in ("files", "bytes", "bytes_in_database")],
    )
    .group_by(_both.c.user_id)
    .order_by(_both.c.user_id),
)
"""Two whole tables by intention: asked by people, never by a request."""


async def user_usage(executor: Executor) -> list[UserUsage]:
    """What each user stores, by user id. Reads whole tables.

    Raises:
        DatabaseError: the database cannot be read.
    """
    rows = await executor.read(USER_USAGE, {}, scan=True)
    return [UserUsage(*row) for row in rows]
