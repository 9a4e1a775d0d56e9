"""Removes the contents that nothing names any more: overwritten and deleted ones, and those that a crash has left.

Why that is safe while everything is in use. A blob is named by a committed row, or it is not:

- If it is not, no one can begin to name it, but the call that put it. A copy or a move takes the key from a row that it
  has locked; while it holds the lock that row is there for everybody, and when it commits the new row is. So a
  statement, which sees one committed state, finds one of the two. Each key is used once.
- The call that put it commits soon after, or never. That is what the grace is for: it counts from the later of the
  beginning of the upload, which the key tells, and its end, which the backend tells. It has to be longer than the call
  and its transaction take from there, and than the clocks of writers, backend and collector differ.
- A content in the database comes with the row that names it, in one transaction.

Two collectors at once remove each blob once or not at all.
"""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import groupby
from typing import Any, Final

from sqlalchemy import (
    BigInteger,
    Integer,
    bindparam,
    delete,
    exists,
    func,
    literal_column,
    or_,
    select,
    tuple_,
    union_all,
)

from storage.clock import now
from storage.database.database import Database
from storage.database.expressions import any_of
from storage.database.statement import Row, Statement
from storage.database.types import PlainText
from storage.database.unit import Unit, execute
from storage.errors import ConfigurationError, InvalidInput
from storage.files.blobs import BLOB_CONCURRENCY, IN_BACKEND, IN_DATABASE
from storage.files.concurrency import each
from storage.files.maintenance.verification import Progress
from storage.files.store import FileStat, FileStore
from storage.files.table import FileContentTable, FileTable
from storage.webhooks.needed import EVENT_BLOB_KEY, needed_blobs

DEFAULT_GRACE: Final = timedelta(days=1)
"""Longer than any upload of many files that anybody waits for, and than an hour that a clock is wrong by."""

MARGIN: Final = timedelta(minutes=10)
"""How much longer than a transaction the grace is, at least: clocks differ, and a write may wait in a queue."""

LONGEST_GRACE: Final = timedelta(days=36_500)
"""A hundred years; much more would reach back behind the year 1."""

PAGE: Final = 500
"""Keys asked about with one statement, which takes milliseconds; of rows, also those removed in one transaction."""

_UUID7: Final = r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}"
_BLOB: Final = re.compile(rf"{IN_BACKEND}([0-9a-f]{{2}})/(?P<id>{_UUID7})(?<=\1)")
_ROW: Final = re.compile(rf"{IN_DATABASE}(?P<id>{_UUID7})")

_file: Final[Any] = FileTable.__table__  # type: ignore[attr-defined]
_content: Final[Any] = FileContentTable.__table__  # type: ignore[attr-defined]

NAMED: Final = Statement(
    "file.named_blobs",
    union_all(
        select(_file.c.blob_key, literal_column("0", Integer)).where(any_of(_file.c.blob_key, bindparam("keys"))),
        needed_blobs(any_of(EVENT_BLOB_KEY, bindparam("keys"))).add_columns(literal_column("1", Integer)),
    ),
)
"""One statement, and so one committed state, for both: (key, 0) for a file's row, (key, 1) for a web hook's event."""

_size: Final = func.length(_content.c.content, type_=BigInteger)

EVER_NAMED: Final = Statement(
    "report.file_ever_named",
    select(literal_column("1", Integer)).where(
        or_(exists().where(_file.c.user_id.is_not(None)), exists().where(EVENT_BLOB_KEY.is_not(None)))
    ),
)
"""A row if this database has any file, or an event of one."""

CONTENTS: Final = Statement(
    "file_content.page_of_everyone",
    select(_content.c.user_id, _content.c.blob_key, _size)
    .where(
        tuple_(_content.c.user_id, _content.c.blob_key)
        > tuple_(bindparam("user_id", type_=PlainText()), bindparam("blob_key", type_=PlainText()))
    )
    .order_by(_content.c.user_id, _content.c.blob_key)
    .limit(bindparam("limit", type_=Integer)),
)

REMOVE_CONTENTS: Final = Statement(
    "file_content.remove",
    delete(_content)
    .where(_content.c.user_id == bindparam("user_id"), any_of(_content.c.blob_key, bindparam("keys")))
    .returning(_size),
)


@dataclass(frozen=True, slots=True)
class Collected:
    """What a collection has removed, or would have.

    Attributes:
        blobs: removed from the backend.
        bytes: of these blobs and rows, as stored.
        kept_young: blobs and rows that nothing names, and that are younger than the grace.
        kept_for_web_hooks: blobs and rows that no file has any more, and that a web hook may still have to send.
        rows: contents removed from the database.
        foreign: files below `blobs/` in the backend that are not this library's. They are left.
    """

    blobs: int
    bytes: int
    kept_young: int
    kept_for_web_hooks: int
    rows: int
    foreign: int


async def collect(
    database: Database,
    blobs: FileStore,
    *,
    grace: timedelta = DEFAULT_GRACE,
    dry_run: bool = False,
    empty_catalog: bool = False,
    progress: Progress | None = None,
) -> Collected:
    """Remove every content that is older than the grace, that no file of any user has, and that no web hook needs.

    Reads all keys of the backend, in pages, in bounded memory. Can be interrupted at any moment and run again, and two
    at once do no harm.

    Args:
        database: the catalogue, and the only one whose contents are in `blobs`: what another one names is not known
            here. A database that is restored from a backup may name what was collected since the backup was made.
        blobs: the backend.
        grace: how old a content must be. No write may take longer from the end of its (first) upload to its commit,
            so it is more than the longest `transaction(timeout=…)` of all processes, and the longest write_many.
        dry_run: remove nothing, and count what would be removed.
        empty_catalog: collect also where the database knows of no file.
        progress: told after each page how many contents were looked at; the number of all is not known.

    Raises:
        InvalidInput: the grace is shorter than the configured transaction_timeout and ten minutes.
        ConfigurationError: the backend has blobs and the database knows of no file, so that these may be another
            database's; and `empty_catalog` is not given.
        FileStoreUnavailable, FileAccessDenied, BucketNotFound: of the backend. What was removed until then was not
            needed; run it again for the rest.
        DatabaseError: the database cannot be read or written; likewise.
    """
    shortest = shortest_grace(database)
    if grace > LONGEST_GRACE:
        raise InvalidInput(f"a grace of {grace} is longer than {LONGEST_GRACE.days:,} days; give less")
    if grace < shortest:
        raise InvalidInput(
            f"a grace of {grace} is too short: a transaction may still name a blob that it has put "
            f"{database.transaction_timeout:g} s ago, and clocks differ; give {shortest} or more"
        )
    collection = _Collection(
        database, blobs, now() - grace, dry_run=dry_run, empty_catalog=empty_catalog, progress=progress
    )
    await collection.collect_blobs()
    await collection.collect_rows()
    return collection.result()


def shortest_grace(database: Database) -> timedelta:
    """The shortest grace that collect() takes: the transaction_timeout of this process, and MARGIN."""
    return timedelta(seconds=database.transaction_timeout) + MARGIN


class _Collection:
    """One collection on its way."""

    def __init__(
        self,
        database: Database,
        blobs: FileStore,
        before: datetime,
        *,
        dry_run: bool,
        empty_catalog: bool,
        progress: Progress | None,
    ) -> None:
        self._database = database
        self._backend = blobs
        self._before = before
        self._dry_run = dry_run
        self._empty_catalog = empty_catalog
        self._progress = progress
        self._blobs = self._rows = self._bytes = self._young = self._needed = self._foreign = self._seen = 0

    def result(self) -> Collected:
        """The counts."""
        return Collected(self._blobs, self._bytes, self._young, self._needed, self._rows, self._foreign)

    async def collect_blobs(self) -> None:
        """Of the backend."""
        async with aclosing(self._pages()) as pages:
            async for page in pages:
                await self._collect_page(page)
                self._looked_at(len(page))

    async def _pages(self) -> AsyncGenerator[list[FileStat], None]:
        page: list[FileStat] = []
        async with aclosing(self._backend.walk(IN_BACKEND.rstrip("/"))) as files:
            async for file in files:
                page.append(file)
                if len(page) == PAGE:
                    yield page
                    page = []
        if page:
            yield page

    async def _collect_page(self, page: Sequence[FileStat]) -> None:
        made = {file.path: made_at for file in page if (made_at := _made_at(_BLOB, file.path)) is not None}
        self._foreign += len(page) - len(made)
        if made and not self._empty_catalog and not await self._database.read(EVER_NAMED, {}, scan=True):
            raise ConfigurationError(
                f"there are blobs in {self._backend.location}, and the database {self._database.url.display} knows "
                "of no file at all: nothing was removed. Check that the two belong together; if they do, and every "
                "user was deleted, collect with empty_catalog (--empty-catalog)"
            )
        since = {file.path: max(made[file.path], file.updated_at) for file in page if file.path in made}
        unnamed = await self._unnamed(since)
        await each(self._remove, [file for file in page if file.path in unnamed], BLOB_CONCURRENCY)

    async def _remove(self, file: FileStat) -> None:
        # Not delete(), which would also take a foreign file `<key>/…`, and on S3 ask for such with each blob.
        if self._dry_run or await self._backend._remove(file.path):  # noqa: SLF001
            self._blobs += 1
            self._bytes += file.size

    async def collect_rows(self) -> None:
        """Of the database."""
        user_id = blob_key = ""
        while True:
            parameters = {"user_id": user_id, "blob_key": blob_key, "limit": PAGE}
            page = await self._database.read(CONTENTS, parameters, scan=True)
            made = {key: made_at for _, key, _ in page if (made_at := _made_at(_ROW, key)) is not None}
            unnamed = await self._unnamed(made)
            chosen = [row for row in page if row[1] in unnamed]
            sizes = [size for _, _, size in chosen] if self._dry_run else await self._remove_rows(chosen)
            self._rows += len(sizes)
            self._bytes += sum(sizes)
            if page:
                self._looked_at(len(page))
            if len(page) < PAGE:
                return
            user_id, blob_key, _ = page[-1]

    async def _remove_rows(self, rows: Sequence[Row]) -> list[int]:
        """Returns the sizes of those that were there."""
        return await self._database.run(lambda: _remove_contents(rows)) if rows else []

    async def _unnamed(self, since: Mapping[str, datetime]) -> set[str]:
        """Which of these contents to remove, given since when each is there; counts those that are left."""
        if not since:
            return set()
        named = await self._database.read(NAMED, {"keys": list(since)}, scan=True)
        of_files = {key for key, for_web_hook in named if not for_web_hook}
        needed = {key for key, for_web_hook in named if for_web_hook} - of_files
        unnamed = since.keys() - of_files - needed
        old = {key for key in unnamed if since[key] < self._before}
        self._needed += len(needed)
        self._young += len(unnamed) - len(old)
        return old

    def _looked_at(self, number: int) -> None:
        self._seen += number
        if self._progress is not None:
            self._progress(self._seen, None)


def _remove_contents(rows: Sequence[Row]) -> Unit[list[int]]:
    """Delete rows of CONTENTS, by user; returns the sizes of those that were there."""
    sizes: list[int] = []
    for user_id, of_user in groupby(rows, key=lambda row: row[0]):
        removed = yield from execute(REMOVE_CONTENTS, user_id=user_id, keys=[row[1] for row in of_user])
        sizes.extend(size for (size,) in removed)
    return sizes


def _made_at(form: re.Pattern[str], key: str) -> datetime | None:
    """When a content was begun to be stored, by its own key (RFC 9562 section 5.7); None if the key is not ours."""
    match = form.fullmatch(key)
    if match is None:
        return None
    milliseconds = int(match["id"].replace("-", "")[:12], 16)
    try:
        return datetime.fromtimestamp(0, UTC) + timedelta(milliseconds=milliseconds)
    except OverflowError:  # beyond the year 9999, which no clock of ours shows
        return None
