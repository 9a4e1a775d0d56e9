"""A storage moved to another database, by way of an archive of its rows that nobody keeps."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from storage.backup.archive import open_archive
from storage.backup.loading import Progress, require_empty, restore
from storage.backup.saving import back_up
from storage.files.backends.memory import MemoryFileStore

if TYPE_CHECKING:
    from storage.database.url import DatabaseURL
    from storage.files.maintenance.backend_copy import Copied
    from storage.files.maintenance.verbs import FileMaintenance
    from storage.files.store import FileStore


@dataclass(frozen=True, slots=True)
class CopyReport:
    """What was copied.

    Attributes:
        rows: of all tables.
        tables: rows by table, those with none left out.
        files: what has become of the contents in the file store; None if both storages share it.
        master_keys: ids of the master keys that the copy needs, hexadecimal.
    """

    rows: int
    tables: dict[str, int]
    files: Copied | None
    master_keys: tuple[str, ...]


async def copy_storage(
    source: DatabaseURL,
    files: FileMaintenance,
    target: DatabaseURL,
    blobs: FileStore | None = None,
    *,
    progress: Progress | None = None,
) -> CopyReport:
    """Copy every row to an empty database of either kind, and contents to another file store.

    Sealed values go as they are, so that the copy needs the same master keys. What was committed before this began is
    in it; stop what writes to the source first, or what comes later stays behind. The rows arrive in one transaction,
    are read back and compared; contents that are there already are not copied again. So it can be interrupted at any
    moment, and run again.

    Args:
        source: where the rows are.
        files: of the source, for its contents.
        target: a database without a row of ours.
        blobs: the file store of the copy; None if it goes on with that of the source.
        progress: told rows that were dealt with, and how many there are.

    Raises:
        TargetNotEmpty: there are rows in the target. Nothing was changed.
        BackupError: what was read back is not what was copied. The target is empty.
        DatabaseError, FileStoreError: of either side; the target's database is empty.
    """
    await require_empty(target)
    with tempfile.TemporaryDirectory(prefix="agent-storage-copy-") as folder:  # 0700
        rows = Path(folder) / "rows"
        await back_up(source, MemoryFileStore(), rows, files=False)
        # After the rows were read, so that every content that they name is found; before they are written, so that this
        # can be run again if it is interrupted.
        copied = None if blobs is None else await files.copy_to(blobs)
        with open_archive(rows) as archive:
            done = await restore(archive, target, MemoryFileStore(), progress=progress)
    return CopyReport(done.rows, done.tables, copied, done.master_keys)
