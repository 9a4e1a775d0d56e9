"""Restoring into the storage that a configuration names, which need not exist yet."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from storage.backup.archive import open_archive
from storage.backup.loading import Progress, RestoreReport, restore
from storage.database.url import parse_url
from storage.files.backends.configured import open_backend

if TYPE_CHECKING:
    from storage.config import StorageConfig


async def restore_from(source: Path, config: StorageConfig, *, progress: Progress | None = None) -> RestoreReport:
    """Put the archive at `source` into the configured storage. See loading.restore for what it promises and raises."""
    url = parse_url(config.database_url or config.sqlite_default())
    blobs = await open_backend(config)
    try:
        with open_archive(source) as archive:
            return await restore(archive, url, blobs, progress=progress)
    finally:
        await blobs.close()
