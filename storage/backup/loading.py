"""Restores an archive into an empty storage: contents, then all rows in one transaction, compared before it ends."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing, closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from storage.backup.archive import PIECE, Archive, ArchivedBlob, verified
from storage.backup.manifest import MANIFEST, ArchivedTable
from storage.backup.snapshot import COUNTED, ROWS, Snapshot, snapshot, tables
from storage.backup.target import Target, loading, not_ours
from storage.backup.threads import in_thread
from storage.backup.values import as_jsonb, decoder, from_line, to_line
from storage.database.database import Database
from storage.database.migrate import HEAD, stored_revision, upgrade
from storage.errors import ArchiveDamaged, ArchiveTooNew, BackupError, FileNotFound, InvalidInput, TargetNotEmpty
from storage.files.backends.cached import uncached
from storage.files.blobs import BLOB_CONCURRENCY
from storage.files.concurrency import each
from storage.tables import metadata

if TYPE_CHECKING:
    from storage.database.url import DatabaseURL
    from storage.files.store import FileStore

BATCH_BYTES: Final = 8 * 1024 * 1024
"""Of lines that are inserted at once, or one line if that is longer."""

Progress = Callable[[int, int | None], None]


@dataclass(frozen=True, slots=True)
class RestoreReport:
    """What was restored.

    Attributes:
        rows: of all tables.
        tables: rows by table, those with none left out.
        blobs: contents that were written to the file store.
        present: contents that were there already, from a run that was interrupted.
        left_out: contents that the catalogue names and the archive does not have.
        master_keys: ids of the master keys that the secrets need, hexadecimal.
    """

    rows: int
    tables: dict[str, int]
    blobs: int
    present: int
    left_out: int
    master_keys: tuple[str, ...]


async def restore(
    archive: Archive, url: DatabaseURL, blobs: FileStore, *, progress: Progress | None = None
) -> RestoreReport:
    """Put everything that an archive has into an empty storage, of either database.

    The archive is read whole and compared with its manifest first. Interrupted, the database is as empty as before, and
    running it again goes on with the contents that are missing. The rows are read back and compared before the
    transaction ends.

    Args:
        archive: which.
        url: of a database without a row of ours; its schema is made if it has none.
        blobs: the file store of the new storage.
        progress: told rows and contents, and how many there are.

    Raises:
        InvalidInput: the database is one in memory.
        ArchiveDamaged: the archive is not what was written. Nothing was changed.
        ArchiveTooNew: a newer release has made it, or its schema. Nothing was changed.
        TargetNotEmpty: there are rows in the database. Nothing was changed.
        BackupError: what was read back is not what the archive has. The database is empty.
        DatabaseError, FileStoreError: of the target; the database is empty.
    """
    await verified(archive)
    await _prepare(archive, url)
    told = _Told(progress, archive.manifest.rows + archive.manifest.blobs.number)
    written, present = await _restore_blobs(archive, uncached(blobs), told)
    async with loading(url, archive.manifest.tables) as target:
        await _require_empty(target.snapshot, archive.manifest.tables)
        expected = [await _load(archive, table, target, told) for table in archive.manifest.tables]
        for name, number in archive.manifest.sequences.items():
            await target.count_from(metadata.tables[name], number)
        await target.check()
        for table, digest in zip(archive.manifest.tables, expected, strict=True):
            await _compare(table, digest, target)
    if archive.manifest.revision != HEAD:
        await upgrade(url)
    return RestoreReport(
        archive.manifest.rows,
        {table.name: table.part.lines for table in archive.manifest.tables if table.part.lines},
        written,
        present,
        archive.manifest.blobs.left_out,
        archive.manifest.master_keys,
    )


class _Told:
    def __init__(self, progress: Progress | None, total: int) -> None:
        self._progress = progress
        self._total = total
        self._done = 0

    def __call__(self, number: int) -> None:
        self._done += number
        if self._progress is not None:
            self._progress(self._done, self._total)


async def _prepare(archive: Archive, url: DatabaseURL) -> None:
    """Bring an empty database to the archive's revision."""
    if url.dialect == "sqlite" and url.file is None:
        raise InvalidInput("a database in memory is gone once nobody has it open; restore into a file or a server")
    wanted = archive.manifest.revision
    known = {table.name for table in tables()}
    if not archive.manifest.sequences.keys() <= set(COUNTED):
        raise ArchiveDamaged(f"{MANIFEST} counts for tables that are not counted")
    if wanted > HEAD or any(table.name not in known for table in archive.manifest.tables):
        raise ArchiveTooNew(f"the archive has schema revision {wanted}, and this release knows {HEAD}: upgrade it")
    database = Database(url)
    try:
        # A SQLite file that is not there has no revision, and is not made by asking.
        is_new = url.file is not None and not url.file.exists()
        stored = None if is_new else await stored_revision(database)
    finally:
        await database.close()
    if stored == wanted:
        # Looked at again in the transaction; here, before contents are written for nothing.
        async with snapshot(url) as there:
            await _require_empty(there, archive.manifest.tables)
    elif stored is None:
        await _upgrade(url, wanted)
    else:
        raise TargetNotEmpty(
            f"the archive has schema revision {wanted}, and the database is at {stored} already: restore into a"
            " database that has no tables yet"
        )


async def require_empty(url: DatabaseURL) -> None:
    """Pass if there is no database of ours, or no row in it; makes nothing.

    Raises:
        TargetNotEmpty: there are rows in it.
        DatabaseUnavailable: it cannot be opened.
    """
    if url.file is not None and not url.file.exists():
        return
    async with snapshot(url) as there:
        await _require_empty(there)


async def _upgrade(url: DatabaseURL, wanted: str) -> None:
    from alembic.util import CommandError

    try:
        await upgrade(url, wanted)
    except CommandError:
        raise ArchiveDamaged(f"there is no schema revision {wanted}, which the archive names") from None


# ---- contents


async def _restore_blobs(archive: Archive, backend: FileStore, told: _Told) -> tuple[int, int]:
    written = present = 0

    async def put(blob: ArchivedBlob) -> None:
        nonlocal written, present
        if await _is_there(backend, blob):
            present += 1
        else:
            await _put(archive, blob, backend)
            written += 1
        told(1)

    blobs = archive.blobs()
    while some := await in_thread(lambda: list(itertools.islice(blobs, ROWS))):
        await each(put, some, BLOB_CONCURRENCY)
    return written, present


async def _is_there(backend: FileStore, blob: ArchivedBlob) -> bool:
    digest = hashlib.sha256()
    try:
        if (await backend.stat(blob.key)).size != blob.size:
            return False
        async with aclosing(backend.stream(blob.key, chunk_size=PIECE)) as pieces:
            async for piece in pieces:
                digest.update(piece)
    except FileNotFound:
        return False
    return digest.hexdigest() == blob.sha256


async def _put(archive: Archive, blob: ArchivedBlob, backend: FileStore) -> None:
    if blob.size <= PIECE:
        await backend.write(blob.key, await in_thread(lambda: b"".join(archive.pieces(blob))))
        return
    async with aclosing(_pieces(archive, blob)) as pieces:
        await backend.write(blob.key, pieces)


async def _pieces(archive: Archive, blob: ArchivedBlob) -> AsyncGenerator[bytes, None]:
    with closing(archive.pieces(blob)) as pieces:
        while (piece := await in_thread(next, pieces, None)) is not None:
            yield piece


# ---- rows


async def _load(archive: Archive, table: ArchivedTable, target: Target, told: _Told) -> str:
    """Insert a table's rows; returns the hash of the lines that the target has to give back for them."""
    decoders = [decoder(column.kind, target.dialect) for column in table.columns]
    names = [column.name for column in table.columns]
    lines = archive.lines(table.part)
    read, expected = hashlib.sha256(), hashlib.sha256()
    values = [as_jsonb if column.kind == "json" else None for column in table.columns]
    changes_numbers = target.dialect == "postgresql" and any(values)

    def batch() -> list[list[Any]]:
        rows: list[list[Any]] = []
        size = 0
        while len(rows) < ROWS and size < BATCH_BYTES and (line := next(lines, None)) is not None:
            rows.append(from_line(line, decoders))
            read.update(line)
            if changes_numbers:
                expected.update(to_line(json.loads(line), values))
            size += len(line)
        return rows

    while rows := await _next_batch(batch, table):
        await target.insert(table, names, rows)
        told(len(rows))
    if read.hexdigest() != table.part.sha256:
        raise ArchiveDamaged(f"{table.part.path} was changed while it was being restored")
    return (expected if changes_numbers else read).hexdigest()


async def _next_batch(batch: Callable[[], list[list[Any]]], table: ArchivedTable) -> list[list[Any]]:
    try:
        return await in_thread(batch)
    except (ValueError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise not_ours(table, error) from None


async def _compare(table: ArchivedTable, expected: str, target: Target) -> None:
    digest, number = hashlib.sha256(), 0
    async with aclosing(target.snapshot.lines(table.name, table.columns, table.keys)) as batches:
        async for lines in batches:
            number += len(lines)
            digest.update(b"".join(lines))
    if (number, digest.hexdigest()) != (table.part.lines, expected):
        raise BackupError(
            f"{table.name}: the database gives back something else than the archive has; nothing was restored"
        )


async def _require_empty(found: Snapshot, archived: Sequence[ArchivedTable] | None = None) -> None:
    """Pass if there is no row of ours, else TargetNotEmpty; ArchiveDamaged if the archive lacks one of the tables."""
    there = set(await found.table_names())
    for table in tables():
        if table.name not in there:
            continue
        if archived is not None and all(each.name != table.name for each in archived):
            raise ArchiveDamaged(f"the archive has no {table.name}, and its schema revision has one")
        first = f'SELECT count(*) FROM (SELECT 1 FROM "{table.name}" LIMIT 1) AS first'  # noqa: S608 - checked names
        if await found.values(first) != [0]:
            raise TargetNotEmpty(
                f"there are rows in {table.name} already: restore into a storage in which nothing was stored yet"
            )
