"""Makes a backup: rows from one snapshot, then the contents that these rows name, then the manifest."""

from __future__ import annotations

import errno
import hashlib
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from storage.backup.archive import verified
from storage.backup.contents import copy_blobs, lines_of, wanted_blobs
from storage.backup.manifest import ArchivedBlobs, ArchivedTable, Manifest, Part
from storage.backup.snapshot import COUNTED, Snapshot, snapshot, tables
from storage.backup.threads import in_thread
from storage.backup.values import archived
from storage.backup.writing import ArchiveWriter, writer_for
from storage.clock import now
from storage.database.migrate import HEAD, VERSION_TABLE
from storage.errors import BackupError, SchemaOutdated, SchemaTooNew, StorageError
from storage.files.backends.cached import uncached
from storage.files.blobs import IN_BACKEND

if TYPE_CHECKING:
    from datetime import datetime

    from storage.database.url import DatabaseURL
    from storage.files.store import FileStore

Progress = Callable[[int, int | None], None]
"""Told rows and contents that were dealt with; how many there are is not known before."""

_MOST: Final = 10
"""Missing and damaged contents that are named."""


@dataclass(frozen=True, slots=True)
class BackupReport:
    """What a backup has in it.

    Attributes:
        path: of the archive.
        made_at: the moment whose state it holds.
        rows: of all tables.
        blobs: contents from the file store that are in it.
        bytes: of these contents.
        copied: how many of them were not there from an earlier backup.
        left_out: contents of the file store that were left out on purpose (`files=False`).
        missing: keys of contents that the file store does not have, the first ten.
        missing_number: how many these are. The rest of the backup is whole.
        damaged: keys of contents that the file store has otherwise than they were written, the first ten.
        damaged_number: how many these are. They are in the backup as they are.
        master_keys: ids of the master keys that it needs, hexadecimal.
    """

    path: Path
    made_at: datetime
    rows: int
    blobs: int
    bytes: int
    copied: int
    left_out: int
    missing: tuple[str, ...]
    missing_number: int
    damaged: tuple[str, ...]
    damaged_number: int
    master_keys: tuple[str, ...]


async def back_up(
    url: DatabaseURL, blobs: FileStore, target: Path, *, files: bool = False, progress: Progress | None = None
) -> BackupReport:
    """Write everything that was committed before this began to an archive, while everybody goes on writing.

    It is read again before it is in its place, and whole at once. Secrets are in it as they are stored, sealed; master
    keys are not.

    Args:
        url: of the database.
        blobs: the file store, for `files`.
        target: a file whose name ends in `.tar`, or a folder. In a folder that holds an earlier backup, contents that
            are there are not copied again.
        files: whether contents in the file store are in it too. Those in the database are in any case.
        progress: see Progress.

    Raises:
        InvalidInput: the name is that of a compressed file.
        TargetNotEmpty: the file exists, or the folder holds something else.
        BackupError: it cannot be written, as on a full disk, or another backup is writing to the folder.
        SchemaOutdated, SchemaTooNew: the database is not at the revision that this release knows.
        DatabaseError, FileStoreError: something cannot be read.
    """
    backend = uncached(blobs)
    writer = await in_thread(writer_for, target)
    try:
        report = await _write(url, backend, writer, target, files=files, progress=progress)
        await in_thread(writer.publish)
    except BaseException as error:
        await in_thread(writer.abandon)
        if isinstance(error, OSError) and not isinstance(error, StorageError):
            full = "; make room, or choose another disk" if error.errno in (errno.ENOSPC, errno.EDQUOT) else ""
            raise BackupError(f"cannot write {target}: {error.strerror or error}{full}") from error
        raise
    return report


async def _write(
    url: DatabaseURL,
    backend: FileStore,
    writer: ArchiveWriter,
    target: Path,
    *,
    files: bool,
    progress: Progress | None,
) -> BackupReport:
    told = _Counter(progress)
    async with snapshot(url) as source:
        made_at = now()
        _check_revision(await source.values(_REVISION))
        written = [await _table(source, writer, index, told) for index in range(len(tables()))]
        sequences = {table.name: await source.last_number(table) for table in tables() if table.name in COUNTED}
        keys = sorted(value.hex() for value in await source.values("SELECT DISTINCT kek_id FROM data_key"))
        wanted = await wanted_blobs(source) if files else []
        left_out = 0 if files else (await source.values(_COUNT_BLOBS))[0]
    done = await copy_blobs(backend, writer, wanted, told)
    part = await _part(writer, "blobs.jsonl", lines_of(done.found)) if files else None
    manifest = Manifest(
        made_at=made_at,
        dialect=source.dialect,
        revision=HEAD,
        tables=tuple(written),
        sequences=sequences,
        blobs=ArchivedBlobs(
            part,
            len(done.found),
            sum(blob.size for blob in done.found),
            len(done.missing) + left_out,
        ),
        master_keys=tuple(keys),
    )
    archive = await in_thread(writer.complete, manifest)
    await verified(archive, known=writer.compared)
    return BackupReport(
        path=target,
        made_at=made_at,
        rows=manifest.rows,
        blobs=manifest.blobs.number,
        bytes=manifest.blobs.bytes,
        copied=done.copied,
        left_out=left_out,
        missing=tuple(done.missing[:_MOST]),
        missing_number=len(done.missing),
        damaged=tuple(done.damaged[:_MOST]),
        damaged_number=len(done.damaged),
        master_keys=manifest.master_keys,
    )


_REVISION: Final = f"SELECT version_num FROM {VERSION_TABLE}"  # noqa: S608 - our own name
_COUNT_BLOBS: Final = f"SELECT count(DISTINCT blob_key) FROM file WHERE blob_key LIKE '{IN_BACKEND}%'"  # noqa: S608 - as above


def _check_revision(stored: list[str]) -> None:
    if stored == [HEAD]:
        return
    found = stored[0] if stored else "none"
    if found > HEAD and stored:
        raise SchemaTooNew(f"the database is at schema revision {found}, and this release knows {HEAD}: upgrade it")
    raise SchemaOutdated(
        f"the database is at schema revision {found}; back it up with the release that made it, or run"
        " `storage migrate` first"
    )


class _Counter:
    def __init__(self, progress: Progress | None) -> None:
        self._progress = progress
        self._done = 0

    def __call__(self, number: int) -> None:
        self._done += number
        if self._progress is not None:
            self._progress(self._done, None)


async def _table(source: Snapshot, writer: ArchiveWriter, index: int, told: _Counter) -> ArchivedTable:
    table = tables()[index]
    columns = tuple(archived(column) for column in table.columns)
    keys = tuple(column.name for column in table.primary_key)
    part = await _part(writer, f"{table.name}.jsonl", source.lines(table.name, columns, keys), told)
    return ArchivedTable(table.name, columns, keys, part)


async def _part(
    writer: ArchiveWriter, name: str, lines: AsyncGenerator[list[bytes], None], told: _Counter | None = None
) -> Part:
    """Write lines to a file of the archive."""
    file = await in_thread(writer.new_file)
    digest, number = hashlib.sha256(), 0
    with file.open("wb") as opened:
        async with aclosing(lines):
            async for batch in lines:
                content = b"".join(batch)
                digest.update(content)
                number += len(batch)
                await in_thread(opened.write, content)
                if told is not None:
                    told(len(batch))
    path = f"{writer.data}/{name}"
    await in_thread(writer.take, file, path)
    return Part(path, number, digest.hexdigest())
