"""Whether every content is still what was written: found out before the one who needs it does, while a backup has it.

What is wrong is reported and never repaired here. A backend that does not answer is no flaw of a file, and is raised.
"""

from __future__ import annotations

import errno
import random
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias

from sqlalchemy import Integer, bindparam, select, tuple_

from storage.database.database import Database
from storage.database.statement import Statement
from storage.database.types import PlainText
from storage.encryption.keyring import EVERYONE
from storage.errors import (
    FileAccessDenied,
    FileCorrupted,
    FileNotFound,
    FileStoreUnavailable,
    InvalidInput,
    KeyMismatch,
    KeyMissing,
    KeyUnavailable,
    StorageError,
    Tampered,
)
from storage.files import sql
from storage.files.blobs import BLOB_CONCURRENCY, Contents, is_in_database
from storage.files.concurrency import each
from storage.files.paths import under
from storage.files.rows import Entry, decode
from storage.files.table import FileTable

Progress: TypeAlias = Callable[[int, int | None], None]
"""Told how much is done, and of how much; None while that is not known."""

Reason: TypeAlias = Literal["missing", "altered", "unreadable"]

PAGE_ROWS: Final = 512
"""Rows read at once: half a megabyte at most, and a page's slowest file holds up the others rarely enough."""

WHOLE_BYTES: Final = 1024 * 1024
"""Contents up to this size are read with one request; longer ones are streamed. With BLOB_CONCURRENCY of them at once
it bounds the memory."""

LOCKED: Final = (KeyMissing, KeyMismatch, KeyUnavailable)
"""A sealed content cannot be opened by whoever asks, which says nothing against the content."""

_file: Final[Any] = FileTable.__table__  # type: ignore[attr-defined]

PAGE: Final = Statement(
    "file.page_of_everyone",
    select(_file.c.user_id, *sql.FACTS)
    .where(
        tuple_(_file.c.user_id, _file.c.path)
        > tuple_(bindparam("user_id", type_=PlainText()), bindparam("path", type_=PlainText()))
    )
    .order_by(_file.c.user_id, _file.c.path)
    .limit(bindparam("limit", type_=Integer)),
)


@dataclass(frozen=True, slots=True)
class Flaw:
    """A file whose content is not there, or is not what was written.

    Attributes:
        user_id: the owner, in stored form.
        path: of the file.
        blob_key: where its content is, or should be.
        reason: `missing`; `altered`: another size or sha256; `unreadable`: the backend refuses this one, or its key
            was altered.
        detail: for people: what was found, and what to do.
    """

    user_id: str
    path: str
    blob_key: str
    reason: Reason
    detail: str


@dataclass(frozen=True, slots=True)
class Verification:
    """What verifying has found.

    Attributes:
        checked: files whose content was read, or could not be: all but those that are locked, and those that were
            deleted before their turn.
        bytes: the sum of their recorded sizes.
        skipped_locked: sealed files whose key is not at hand, so that nothing can be said of them.
        flaws: by user and path.
    """

    checked: int
    bytes: int
    skipped_locked: int
    flaws: tuple[Flaw, ...]


@dataclass(frozen=True, slots=True)
class OwnedEntry:
    """A row of the catalogue, and whose it is."""

    user_id: str
    entry: Entry


async def verify(
    database: Database,
    contents: Contents,
    *,
    user_id: str = EVERYONE,
    sample: int | None = None,
    seed: int | None = None,
    progress: Progress | None = None,
) -> Verification:
    """Read contents and compare their sizes and sha256 with the catalogue; several at a time, in bounded memory.

    Works while everything is in use: a file that was overwritten or deleted meanwhile is looked at again before
    anything is said against it.

    Args:
        database: the catalogue.
        contents: reads the contents; with a key ring, if sealed ones are to be opened.
        user_id: whose, in stored form; EVERYONE is everybody's.
        sample: only so many files, chosen at random with equal chances; all if None.
        seed: of the choice, so that it can be repeated; another one each time if None.
        progress: told after each file.

    Raises:
        InvalidInput: `sample` is less than 1.
        FileStoreUnavailable, BucketNotFound: the backend failed, and nothing is known of the rest.
        DatabaseError: the database cannot be read.
    """
    if sample is not None and sample < 1:
        raise InvalidInput(f"a sample has 1 file or more, not {sample}")
    total = await _number_of_files(database, user_id)
    run = _Run(database, contents, progress, total if sample is None else min(sample, total))
    if sample is None:
        async with aclosing(pages(database, user_id)) as every:
            async for page in every:
                await run.check(page)
    else:
        chosen = await _chosen(database, user_id, sample, seed)
        for start in range(0, len(chosen), PAGE_ROWS):
            await run.check(chosen[start : start + PAGE_ROWS])
    return run.result()


async def pages(database: Database, user_id: str = EVERYONE) -> AsyncGenerator[list[OwnedEntry], None]:
    """All rows of a user, or of everybody, by user and path, PAGE_ROWS at a time. Never an empty page."""
    at_user, at_path = user_id, ""
    low, high = under("")
    while True:
        if user_id == EVERYONE:
            parameters = {"user_id": at_user, "path": at_path, "limit": PAGE_ROWS}
            rows = await database.read(PAGE, parameters, scan=True)
            found = [OwnedEntry(row[0], decode(row[1:])) for row in rows]
        else:
            parameters = {"user_id": user_id, "low": low, "high": high, "limit": PAGE_ROWS}
            rows = await database.read(sql.WALK, parameters, scan=True)
            found = [OwnedEntry(user_id, decode(row)) for row in rows]
        if found:
            yield found
        if len(found) < PAGE_ROWS:
            return
        at_user, at_path = found[-1].user_id, found[-1].entry.stat.path
        low = at_path + sql.AFTER_FILE


async def present_entry(database: Database, user_id: str, path: str) -> Entry | None:
    """The row of this path as it is now."""
    rows = await database.read(sql.FIND, {"user_id": user_id, "path": path})
    return decode(rows[0]) if rows else None


def same_content(one: Entry, other: Entry) -> bool:
    """Whether two states of a row name the same stored bytes, and open them with the same sealed key."""
    return one.blob_key == other.blob_key and one.content_key == other.content_key


async def _number_of_files(database: Database, user_id: str) -> int:
    if user_id == EVERYONE:
        [(files, _)] = await database.read(sql.TOTAL, {}, scan=True)
    else:
        [(files, _)] = await database.read(sql.USAGE, {"user_id": user_id}, scan=True)
    return int(files)


async def _chosen(database: Database, user_id: str, sample: int, seed: int | None) -> list[OwnedEntry]:
    """Algorithm R (Vitter 1985): one pass over the rows, and only the sample in memory. By user and path."""
    choice = random.Random(seed)  # noqa: S311 - a sample, no secret
    chosen: list[OwnedEntry] = []
    seen = 0
    async with aclosing(pages(database, user_id)) as every:
        async for page in every:
            for owned in page:
                seen += 1
                if len(chosen) < sample:
                    chosen.append(owned)
                elif (place := choice.randrange(seen)) < sample:
                    chosen[place] = owned
    return _in_order(chosen, lambda owned: (owned.user_id, owned.entry.stat.path))


def _in_order(items: Iterable[Any], key: Callable[[Any], tuple[str, str]]) -> list[Any]:
    return sorted(items, key=key)


class _Run:
    """One verification on its way."""

    def __init__(self, database: Database, contents: Contents, progress: Progress | None, total: int) -> None:
        self._database = database
        self._contents = contents
        self._progress = progress
        self._total = total
        self._done = 0
        self._checked = 0
        self._bytes = 0
        self._locked = 0
        self._flaws: list[Flaw] = []

    async def check(self, page: Sequence[OwnedEntry]) -> None:
        await each(self._check, page, BLOB_CONCURRENCY)

    def result(self) -> Verification:
        flaws = _in_order(self._flaws, lambda flaw: (flaw.user_id, flaw.path))
        return Verification(self._checked, self._bytes, self._locked, tuple(flaws))

    async def _check(self, owned: OwnedEntry) -> None:
        await self._examine(owned.user_id, owned.entry)
        self._done += 1
        if self._progress is not None:
            self._progress(self._done, max(self._total, self._done))

    async def _examine(self, user_id: str, entry: Entry) -> None:
        while True:
            failure = await self._failure(user_id, entry)
            if failure is None:
                break
            # A row that was changed since it was read may name what is rightly gone, or a key that was replaced.
            present = await present_entry(self._database, user_id, entry.stat.path)
            if present is None:
                return
            if same_content(present, entry):
                break
            entry = present
        if isinstance(failure, LOCKED):
            self._locked += 1
            return
        self._checked += 1
        self._bytes += entry.stat.size
        if failure is not None:
            reason = await self._reason(user_id, entry, failure)
            self._flaws.append(Flaw(user_id, entry.stat.path, entry.blob_key, reason, str(failure)))

    async def _failure(self, user_id: str, entry: Entry) -> StorageError | None:
        """Why the content cannot be had as it was written; None if it can."""
        try:
            await read_through(self._database, self._contents, user_id, entry)
        except (FileCorrupted, FileAccessDenied, Tampered, *LOCKED) as error:
            return error
        except FileStoreUnavailable as error:
            # A disk that cannot read one file any more: the very thing that is looked for, and no outage.
            if not (isinstance(error.__cause__, OSError) and error.__cause__.errno == errno.EIO):
                raise
            return error
        return None

    async def _reason(self, user_id: str, entry: Entry, failure: StorageError) -> Reason:
        if not isinstance(failure, FileCorrupted):
            return "unreadable"
        if isinstance(failure.__cause__, FileNotFound):
            return "missing"
        if is_in_database(entry.blob_key):
            parameters = {"user_id": user_id, "blob_key": entry.blob_key}
            return "altered" if await self._database.read(sql.CONTENT, parameters, scan=True) else "missing"
        return "altered"


async def read_through(database: Database, contents: Contents, user_id: str, entry: Entry) -> None:
    """Read a whole content, in bounded memory, only to see whether it is what was written.

    Raises:
        As Contents.read.
    """
    if entry.stat.size <= WHOLE_BYTES or is_in_database(entry.blob_key):
        await contents.read(database, user_id, entry)
        return
    async with aclosing(contents.stream(database, user_id, entry)) as pieces:
        async for _ in pieces:
            pass
    # A stream ends where the row says, whatever is behind that.
    expected = stored_size(entry)
    try:
        found = await contents.backend.stat(entry.blob_key)
    except FileNotFound as error:
        raise FileCorrupted(f"the content of {entry.stat.path!r} is missing: {error}") from error
    if found.size != expected:
        raise FileCorrupted(
            f"the content of {entry.stat.path!r} is not what was written: blob {entry.blob_key!r} has {found.size} "
            f"bytes instead of {expected}. Restore it from a backup"
        )


def stored_size(entry: Entry) -> int:
    """How many bytes the blob of a row has where it is stored."""
    if entry.content_key is None:
        return entry.stat.size
    from storage.files.sealed_content import sealed_size

    return sealed_size(entry.stat.size)
