"""Files in the memory of this process, for tests and throw-away runs: everything is gone when it ends.

It has a limit, because a store that grows until the process is killed loses more than files.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import AsyncGenerator, AsyncIterable
from dataclasses import dataclass
from datetime import datetime
from itertools import count
from typing import Final

from storage.clock import now
from storage.errors import FileStoreFull, InvalidInput
from storage.files.paths import under
from storage.files.store import FileStat, FileStore, check, checked_chunk, guess_media_type, missing

DEFAULT_LIMIT_BYTES: Final = 256 * 1024 * 1024
"""Enough for any test, and small enough to be noticed before the machine swaps."""


@dataclass(frozen=True, slots=True)
class _File:
    data: bytes
    updated_at: datetime
    created_at: datetime
    media_type: str | None
    etag: str


class MemoryFileStore(FileStore):
    """A FileStore whose content lives in a dict. Use it from one event loop at a time.

    Args:
        limit_bytes: most bytes of content held at once; a write beyond it raises FileStoreFull. So many again may be
            on their way in, as streams, of all writers together.
    """

    def __init__(self, limit_bytes: int = DEFAULT_LIMIT_BYTES) -> None:
        if limit_bytes < 0:
            raise InvalidInput(f"limit_bytes must be 0 or more, not {limit_bytes}")
        self.limit_bytes = limit_bytes
        self._files: dict[str, _File] = {}
        self._etags = count(1)
        self._held_bytes = 0
        self._coming_bytes = 0

    @property
    def location(self) -> str:
        return "this process, gone when it ends"

    async def _write(
        self,
        path: str,
        content: bytes | AsyncIterable[bytes],
        media_type: str | None,
        *,
        if_absent: bool = False,
        if_match: str | None = None,
    ) -> FileStat:
        data = content if isinstance(content, bytes) else await self._collect(content)
        old = self._files.get(path)
        check(path, old.etag if old else None, if_absent=if_absent, if_match=if_match)
        held = self._held_bytes - (len(old.data) if old else 0) + len(data)
        if held > self.limit_bytes:
            raise self._full(path)
        updated_at = now()
        self._files[path] = _File(
            data,
            updated_at,
            old.created_at if old else updated_at,
            media_type or guess_media_type(path),
            str(next(self._etags)),
        )
        self._held_bytes = held
        return self._described(path)

    async def _collect(self, chunks: AsyncIterable[bytes]) -> bytes:
        data = bytearray()
        try:
            async for chunk in chunks:
                data += (piece := checked_chunk(chunk))
                self._coming_bytes += len(piece)
                if self._coming_bytes > self.limit_bytes:
                    raise self._full("the streamed file")
            return bytes(data)
        finally:
            self._coming_bytes -= len(data)

    async def _read(self, path: str) -> bytes:
        found = self._files.get(path)
        if found is None:
            raise missing(path)
        return found.data

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
        self._held_bytes -= len(removed.data)
        return True

    def _described(self, path: str) -> FileStat:
        file = self._files[path]
        return FileStat(
            path=path,
            size=len(file.data),
            updated_at=file.updated_at,
            created_at=file.created_at,
            media_type=file.media_type,
            etag=file.etag,
        )

    def _below(self, folder: str) -> list[str]:
        low, high = under(folder)
        paths = sorted(self._files)
        return paths[bisect_left(paths, low) : bisect_left(paths, high)]

    def _full(self, path: str) -> FileStoreFull:
        return FileStoreFull(
            f"no room for {path!r} in memory: the limit is {self.limit_bytes} bytes, "
            f"{self._held_bytes} are in use; raise the limit or use a store on disk"
        )
