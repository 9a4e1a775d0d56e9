"""Contents moved into the database or out of it: the limit for small files holds for new writes only, until this ran.

A content is never changed in its place: a second one is made where it is to be, and the rows are pointed at it in one
transaction. So there is no moment at which interrupting this loses anything, or a reader finds nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import bindparam, select, update

from storage.database.database import Database
from storage.database.expressions import unindexed
from storage.database.statement import Statement
from storage.database.unit import Unit, execute
from storage.encryption.keyring import EVERYONE
from storage.errors import FileCorrupted, Tampered
from storage.files import sql
from storage.files.blobs import BLOB_CONCURRENCY, Contents, is_in_database
from storage.files.concurrency import each
from storage.files.maintenance.verification import (
    LOCKED,
    OwnedEntry,
    Progress,
    pages,
    present_entry,
    same_content,
)
from storage.files.rows import Blob, Entry, add_contents, sealed_key
from storage.files.table import FileTable

if TYPE_CHECKING:
    from storage.encryption.keyset import KeySet

log = logging.getLogger(__name__)

_file: Final[Any] = FileTable.__table__  # type: ignore[attr-defined]
_names_it: Final = (
    _file.c.blob_key == bindparam("blob_key"),
    # A user may have a million files, and a content is shared by a few.
    unindexed(_file.c.user_id) == bindparam("user_id", type_=_file.c.user_id.type),
)

NAMED: Final = Statement("file.names_blob", select(_file.c.path).where(*_names_it).limit(1))
CHANGE_BLOB: Final = Statement(
    "file.change_blob",
    update(_file)
    .where(*_names_it)
    .values(
        blob_key=bindparam("new_blob_key", type_=_file.c.blob_key.type),
        content_key=bindparam("new_content_key", type_=_file.c.content_key.type),
    )
    .returning(_file.c.path),
)


@dataclass(frozen=True, slots=True)
class Repacked:
    """What repacking has done.

    Attributes:
        to_rows: contents moved from the backend into the database; one that several files share counts once.
        to_blobs: contents moved from the database into the backend.
        bytes: the sum of the moved contents' sizes, in clear.
        locked: contents left where they are because they are sealed, and the key is not at hand.
        left: contents left where they are because they are missing or are not what was written; verifying names
            their files.
    """

    to_rows: int
    to_blobs: int
    bytes: int
    locked: int = 0
    left: int = 0


async def repack(
    database: Database, contents: Contents, *, user_id: str = EVERYONE, progress: Progress | None = None
) -> Repacked:
    """Move contents of at most `contents.rules.small_bytes` into the database, and longer ones out of it.

    Works while everything is in use, and may run twice at once: a content whose files were overwritten or deleted
    meanwhile is left alone. It can be interrupted at any moment and run again, and then does what is left. What it
    leaves behind (the contents it has replaced, which a web hook may still need, and a second one that no row came to
    name) is the collector's. The database file shrinks by no more than its own VACUUM makes it.

    A file keeps its version and its time, and nobody is told, for it is the same file. Its etag changes, because that
    names the content: a conditional write with one from before is refused with FileChanged. What is sealed is sealed
    again, under a new content key and whatever the rules say; what is not, if the rules seal.

    Args:
        database: the catalogue.
        contents: reads and stores them; its rules say where they go.
        user_id: whose, in stored form; EVERYONE is everybody's.
        progress: told after each file how many have been looked at, and how many there are.

    Raises:
        FileStoreUnavailable, FileAccessDenied, FileStoreFull: of the backend; what was moved stays moved.
        DatabaseError: the database cannot be read or written; likewise.
    """
    sums = (sql.TOTAL, {}) if user_id == EVERYONE else (sql.USAGE, {"user_id": user_id})
    [(files, _)] = await database.read(*sums, scan=True)
    run = _Run(database, contents)
    done = 0
    async with aclosing(pages(database, user_id)) as every:
        async for page in every:
            await run.move(page)
            done += len(page)
            if progress is not None:
                progress(done, max(int(files), done))
    return run.result()


class _Run:
    """One repacking on its way."""

    def __init__(self, database: Database, contents: Contents) -> None:
        self._database = database
        self._contents = contents
        self._small = contents.rules.small_bytes
        self._to_rows = self._to_blobs = self._bytes = self._locked = self._left = 0

    def result(self) -> Repacked:
        return Repacked(self._to_rows, self._to_blobs, self._bytes, self._locked, self._left)

    async def move(self, page: Sequence[OwnedEntry]) -> None:
        # One of the files that share a content stands for all of them.
        misplaced = {(owned.user_id, owned.entry.blob_key): owned for owned in page if not self._fits(owned.entry)}
        await each(self._move, list(misplaced.values()), BLOB_CONCURRENCY)

    def _fits(self, entry: Entry) -> bool:
        return is_in_database(entry.blob_key) == (0 < self._small >= entry.stat.size)

    async def _move(self, owned: OwnedEntry) -> None:
        user_id, entry = owned.user_id, owned.entry
        while True:
            try:
                await self._move_content(user_id, entry)
            except (FileCorrupted, Tampered, *LOCKED) as error:
                # A row that was changed since it was read may name what is rightly gone, or a key that was replaced.
                present = await present_entry(self._database, user_id, entry.stat.path)
                if present is None or self._fits(present):
                    return
                if not same_content(present, entry):
                    entry = present
                    continue
                if isinstance(error, LOCKED):
                    self._locked += 1
                else:
                    self._left += 1
                    log.warning("a content of %s is left where it is: %s", user_id, error)
            return

    async def _move_content(self, user_id: str, entry: Entry) -> None:
        contents, old = self._contents, entry.blob_key
        content = await contents.read(self._database, user_id, entry)
        seal = contents.rules.seal or entry.content_key is not None
        blob = await contents.put(user_id, entry.stat.path, content, entry.stat.media_type, sealed=seal)
        if not await contents.run(self._database, user_id, [blob], lambda keys: _change(user_id, old, blob, keys)):
            await contents.discard([blob])
            return
        if is_in_database(blob.key):
            self._to_rows += 1
        else:
            self._to_blobs += 1
        self._bytes += blob.size


def _change(user_id: str, old: str, blob: Blob, keys: KeySet | None) -> Unit[int]:
    """Point every row that names the content `old` at `blob`, which is the same content; returns how many there were.

    None, and no effect, if there is no such row any more. On PostgreSQL an update may have waited for someone who was
    copying or moving one of the files, and does not see the row that came of it; so it is asked for until none is left.
    Whoever makes another one holds a row that is still seen.
    """
    content_key = sealed_key(user_id, blob, keys)
    changed = 0
    while (yield from execute(NAMED, user_id=user_id, blob_key=old)):
        rows = yield from execute(
            CHANGE_BLOB, user_id=user_id, blob_key=old, new_blob_key=blob.key, new_content_key=content_key
        )
        changed += len(rows)
    if changed:
        yield from add_contents(user_id, [blob])
    return changed
