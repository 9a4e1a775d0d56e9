"""Room on this machine's disks, looked at before contents are stored, so that the last of it is not used for them.

A full disk stops everything that writes: SQLite can then neither save a setting nor delete a row. So new contents are
refused while some room is left, and what is small, or makes room, goes on.
"""

from __future__ import annotations

import asyncio
import logging
import shutil
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

from storage.errors import DiskSpaceLow

if TYPE_CHECKING:
    from storage.config import StorageConfig
    from storage.database.url import DatabaseURL
    from storage.files.store import FileStore

log = logging.getLogger(__name__)

FRESH_SECONDS: Final = 1.0
"""How long a reading serves. What this process stores meanwhile is taken off it; what others do is seen a second later,
which the room that is kept free has to stand."""

DiskState: TypeAlias = Literal["ok", "low", "full"]
"""`low`: below `disk_warn_bytes`. `full`: below `disk_refuse_bytes`, new contents are refused."""


@dataclass(frozen=True, slots=True)
class DiskSpace:
    """The room on the disk that holds a place.

    Attributes:
        place: what is kept there: `database`, `files`, or both where they share a disk.
        path: a path of that place.
        free_bytes: what this process may still use of the disk.
        total_bytes: how large the disk is.
        state: see DiskState.
    """

    place: str
    path: str
    free_bytes: int
    total_bytes: int
    state: DiskState


class DiskGuard:
    """Refuses contents for which there is too little room. For one event loop at a time.

    Args:
        places: a path for each place, by its name. They need not exist yet.
        warn_bytes: below so many free bytes a warning is logged, once until there is more again; 0 never warns.
        refuse_bytes: so many bytes are kept free: what would leave less is refused; 0 refuses nothing.
    """

    def __init__(self, places: dict[str, Path], warn_bytes: int, refuse_bytes: int) -> None:
        self._places = places
        self._refuse = refuse_bytes
        self._warn = max(warn_bytes, refuse_bytes)
        self._read_at = -FRESH_SECONDS
        self._disks: Sequence[DiskSpace] = ()
        self._taken = 0
        self._has_warned: set[str] = set()

    async def admit(self, size: int) -> None:
        """Pass if `size` further bytes may be stored on each of the disks.

        Raises:
            DiskSpaceLow: they may not. Nothing was stored.
        """
        if time.monotonic() - self._read_at >= FRESH_SECONDS:
            # In a thread: a folder may be on a disk that has gone to sleep, or on a share whose server has.
            self._disks = await asyncio.to_thread(self.read)
            self._read_at, self._taken = time.monotonic(), 0
            self._tell()
        for disk in self._disks:
            if self._refuse and disk.free_bytes - self._taken - size < self._refuse:
                raise DiskSpaceLow(
                    f"{max(disk.free_bytes - self._taken, 0)} bytes are free on the disk of {disk.path}, {size} more "
                    f"are to be stored, and disk_refuse_bytes keeps {self._refuse} free: nothing was stored. Reading, "
                    "deleting and saving settings go on. Make room on that disk (`storage files collect` removes what "
                    "no file names any more), or lower disk_refuse_bytes"
                )
        self._taken += size

    async def watch(self, content: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
        """The same pieces, each admitted before it passes; raises DiskSpaceLow instead of one that may not."""
        async with aclosing(content) as pieces:
            async for piece in pieces:
                await self.admit(len(piece))
                yield piece

    def read(self) -> tuple[DiskSpace, ...]:
        """The disks as they are now, each once; those that do not tell are left out. Asks the file systems."""
        found: dict[int, DiskSpace] = {}
        for name, path in self._places.items():
            there = _existing(path)
            try:
                device, usage = there.stat().st_dev, shutil.disk_usage(there)
            except OSError:
                continue  # whoever writes there hears why
            if not usage.total:
                continue  # of buckets that are mounted, for example
            if device in found:
                name = f"{found[device].place}, {name}"  # noqa: PLW2901 - two places of one disk
                path = Path(found[device].path)  # noqa: PLW2901 - as above
            found[device] = DiskSpace(name, str(path), usage.free, usage.total, self._state(usage.free))
        return tuple(found.values())

    def _state(self, free: int) -> DiskState:
        if free < self._refuse:
            return "full"
        return "low" if free < self._warn else "ok"

    def _tell(self) -> None:
        for disk in self._disks:
            if disk.state == "ok":
                self._has_warned.discard(disk.path)
            elif disk.path not in self._has_warned:
                self._has_warned.add(disk.path)
                log.warning(
                    "%d bytes are free on the disk of %s; below %d new files are refused",
                    disk.free_bytes,
                    disk.path,
                    self._refuse,
                )


def guard_for(config: StorageConfig, url: DatabaseURL, blobs: FileStore) -> DiskGuard:
    """The guard of the SQLite file's disk and of the local file store's, those that there are.

    Args:
        config: of it `disk_warn_bytes` and `disk_refuse_bytes`.
        url: of the database.
        blobs: the file store, with or without a cache.
    """
    from storage.files.backends.cached import uncached

    places: dict[str, Path] = {}
    if url.file is not None:
        places["database"] = url.file.parent
    root = getattr(uncached(blobs), "root", None)
    if isinstance(root, Path):
        places["files"] = root
    return DiskGuard(places, config.disk_warn_bytes, config.disk_refuse_bytes)


def _existing(path: Path) -> Path:
    """The path, or the nearest folder above it that is there: ours are made when they are first needed."""
    for there in (path, *path.parents):
        if there.exists():
            return there
    return path
