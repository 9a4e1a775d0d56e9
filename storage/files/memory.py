"""Files in the memory of this process, for tests and throw-away runs: everything is gone when it ends.

It has a limit, because a store that grows until the process is killed loses more than files.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import AsyncGenerator, AsyncIterable
from datetime import datetime
from typing import Final

from storage.clock import now
from storage.errors import FileStoreFull, InvalidInput
from storage.files.paths import under
from storage.files.store import FileStat, FileStore, checked_chunk, guess_media_type, missing

DEFAULT_LIMIT_BYTES: Final = 256 * 1024 * 1024
"""Enough for any test, and small enough to be noticed before the machine swaps."""


class MemoryFileStore(FileStore):
    """A FileStore whose content lives in a dict. Use it from one event loop at a time.

    Args:
        limit_bytes: most bytes of content held at once; a write beyond it raises FileStoreFull.
    """

    def __init__(self, limit_bytes: int = DEFAULT_LIMIT_BYTES) -> None:
        if limit_bytes < 0:
            raise InvalidInput(f"limit_bytes must be 0 or more, not {limit_bytes}")
        self.limit_bytes = limit_bytes
        self._files: dict[str, tuple[bytes, datetime, datetime, str | None]] = {}
        self._held_bytes = 0

    @property
    def location(self) -> str:
        return "this process, gone when it ends"

    async def _write(self, path: str, content: bytes | AsyncIterable[bytes], media_type: str | None) -> FileStat:
        data = content if isinstance(content, bytes) else await self._collect(content)
        old = self._files.get(path)
        held = self._held_bytes - (len(old[0]) if old else 0) + len(data)
        if held > self.limit_bytes:
            raise self._full(path)
        updated_at = now()
        created_at = old[2] if old else updated_at
        self._files[path] = (data, updated_at, created_at, media_type or guess_media_type(path))
        self._held_bytes = held
        return self._described(path)

    async def _collect(self, chunks: AsyncIterable[bytes]) -> bytes:
        data = bytearray()
        async for chunk in chunks:
            data += checked_chunk(chunk)
            if len(data) > self.limit_bytes:
                raise self._full("the streamed file")
        return bytes(data)

    async def _read(self, path: str) -> bytes:
        found = self._files.get(path)
        if found is None:
            raise missing(path)
        return found[0]

    async def _stat(self, path: str) -> FileStat | None:
        return self._described(path) if path in self._files else None

    async def _walk(self, folder: str) -> AsyncGenerator[FileStat, None]:
        for path in self._below(folder):
            if path in self._files:  # it may have been deleted since the walk began
                yield self._described(path)

    async def _remove(self, path: str) -> bool:
        removed = self._files.pop(path, None)
        if removed is None:
            return False
        self._held_bytes -= len(removed[0])
        return True

    def _described(self, path: str) -> FileStat:
        data, updated_at, created_at, media_type = self._files[path]
        return FileStat(path=path, size=len(data), updated_at=updated_at, created_at=created_at, media_type=media_type)

    def _below(self, folder: str) -> list[str]:
        low, high = under(folder)
        paths = sorted(self._files)
        return paths[bisect_left(paths, low) : bisect_left(paths, high)]

    def _full(self, path: str) -> FileStoreFull:
        return FileStoreFull(
            f"no room for {path!r} in memory: the limit is {self.limit_bytes} bytes, "
            f"{self._held_bytes} are in use; raise the limit or use a store on disk"
        )
