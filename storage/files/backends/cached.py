"""What was read lately, kept at hand: a bounded read-through cache in front of any file store.

Reads cost a request to an object store each; an agent's files are read again and again. The cache never gives out a
content that was replaced, and whatever is wrong with it costs only time.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncGenerator, AsyncIterable
from contextlib import aclosing
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Final, Literal

from storage.clock import now
from storage.errors import FileNotFound, InvalidInput, StorageClosed
from storage.files.backends.folder_cache import FolderCache
from storage.files.backends.memory_cache import MemoryCache
from storage.files.store import FileStat, FileStore, Paths

LARGEST_SHARE: Final = 8
"""A file longer than an eighth of the limit is not kept: one of them would push everything else out."""

LARGEST_BYTES: Final = 16 * 1024 * 1024
"""Nor is a longer one: a file that is kept passes through memory as a whole, also for a range of it, and at this
length the time of the transfer, which a cache in memory saves, is not the request's latency any more."""

COARSE_CLOCK: Final = timedelta(seconds=2)
"""S3 tells times in whole seconds, so what changed that lately may change again unseen. (Git's index has the same
problem and rule: "racy-git", Git's technical documentation.)"""

REMEMBERED_LARGE: Final = 4096
"""Immutable files whose size is known to be too large, so that each range of a video does not ask for it again."""


@dataclass(frozen=True, slots=True)
class CacheStatistics:
    """What a cache did since it was made, in this process, and what it holds.

    Attributes:
        hits: reads that the cache answered, or that waited for the fetch of another one.
        misses: reads that fetched the file, and kept it if they could.
        bypassed: reads of files that are too large to be kept.
        held_bytes: size of what is kept, with what each file costs besides. In a folder: as far as this process knows
            of the others; CachedFileStore.measure looks.
        held_files: number of files that are kept.
        limit_bytes: what held_bytes may become.
        folder: where they are kept; None is the memory of this process.
    """

    hits: int
    misses: int
    bypassed: int
    held_bytes: int
    held_files: int
    limit_bytes: int
    folder: str | None

    @property
    def hit_rate(self) -> float | None:
        """Hits among the reads of files that can be kept, from 0 to 1; None before the first one."""
        return self.hits / (self.hits + self.misses) if self.hits + self.misses else None


_Fetched = tuple[bytes | None, bool]
"""A content (None: it is too large) and whether it was kept already."""


class _Flight:
    """One fetch that several readers wait for."""

    task: asyncio.Task[_Fetched]

    def __init__(self) -> None:
        self.readers = 0
        self._outdated = False

    def outdate(self) -> None:
        """The file was written since, or just before: who waits may have the content, but it is not to be kept."""
        self._outdated = True

    def may_be_kept(self) -> bool:
        """Whether the content is that of the label: nothing was written through this cache since the fetch began."""
        return not self._outdated


class CachedFileStore(FileStore):
    """A FileStore in front of another one, which it closes with itself. Use it from one event loop at a time.

    A read asks the store for the file's etag (one stat) and fetches the content only if that has changed. Of readers
    that miss the same file at once, one fetches it for all. Everything else passes through. What the store gives no
    etag for is not cached.

    Args:
        store: where the files are.
        limit_bytes: most bytes that are kept; at least 1. Files longer than an eighth of it, or than 16 MiB, are not.
        folder: keep them there, for all processes of this user on this machine and beyond a restart; None keeps them
            in memory. A folder that cannot be used, or a full disk, is logged once as a warning, and nothing is kept.
            The bytes are kept as the store gives them: sealed contents stay sealed.
        immutable: a path is never written twice, as with the catalogue's blobs. Then a read that hits makes no request,
            and may still succeed after another process, or a deletion of a folder above it, has removed the file.

    Raises:
        InvalidInput: `limit_bytes` is below 1.
    """

    def __init__(
        self, store: FileStore, limit_bytes: int, folder: Path | None = None, *, immutable: bool = False
    ) -> None:
        if limit_bytes < 1:
            raise InvalidInput(f"limit_bytes must be at least 1, not {limit_bytes}; leave the cache out instead")
        self.store = store
        self._memory = MemoryCache(limit_bytes) if folder is None else None
        self._folder = None if folder is None else FolderCache(folder, limit_bytes, store.location)
        self._limit = limit_bytes
        self._largest = min(limit_bytes // LARGEST_SHARE, LARGEST_BYTES)
        self._immutable = immutable
        self._large: OrderedDict[str, None] = OrderedDict()
        self._flights: dict[tuple[str, str], _Flight] = {}
        self._hits = self._misses = self._bypassed = 0

    @property
    def location(self) -> str:
        return self.store.location

    @property
    def statistics(self) -> CacheStatistics:
        """What the cache did, and holds."""
        kept = self._memory or self._folder
        return CacheStatistics(
            hits=self._hits,
            misses=self._misses,
            bypassed=self._bypassed,
            held_bytes=kept.held_bytes if kept else 0,
            held_files=kept.held_files if kept else 0,
            limit_bytes=self._limit,
            folder=str(self._folder.folder) if self._folder else None,
        )

    async def measure(self) -> CacheStatistics:
        """The statistics, after a look at what all processes keep in the folder."""
        if self._folder is not None:
            await asyncio.to_thread(self._folder.measure)
        return self.statistics

    async def close(self) -> None:
        """Give up what is being fetched, and close the store behind."""
        for flight in self._flights.values():
            flight.task.cancel()
        self._flights.clear()
        await self.store.close()

    # ---- reading

    async def _read(self, path: str) -> bytes:
        content = await self._whole(path, known_small=False)
        if content is None:
            self._bypassed += 1
            return await self.store.read(path)
        return content

    async def _stream(self, path: str, start: int, end: int | None, chunk_size: int) -> AsyncGenerator[bytes, None]:
        content = await self._whole(path, known_small=True)
        if content is None:
            self._bypassed += 1
            async with aclosing(self.store.stream(path, start, end, chunk_size=chunk_size)) as pieces:
                async for piece in pieces:
                    yield piece
            return
        stop = len(content) if end is None else min(end, len(content))
        for offset in range(start, stop, chunk_size):
            yield content[offset : min(offset + chunk_size, stop)]

    async def _whole(self, path: str, *, known_small: bool) -> bytes | None:
        """The content, kept or fetched; None if it is not for the cache, so that the reader gets it by itself.

        Args:
            path: of a file.
            known_small: fetch it only when its size is known to be small enough. A stream must not hold a large file;
                read() is to hold it anyway, and saves the question.
        """
        label, settled = "", True
        if self._immutable:
            if path in self._large:
                return None
        else:
            found = await self.store.stat(path)
            if found.etag is None or found.size > self._largest:
                return None
            # On S3 the same bytes have the same etag. With the time, a content that was fetched just when the file
            # was changed, and is kept under what was known before, is not taken for it when it is changed back.
            settled = found.updated_at.microsecond > 0 or now() - found.updated_at > COARSE_CLOCK
            label = f"{found.etag}/{found.size}/{found.updated_at.isoformat()}"
        if self._memory is not None and (kept := self._memory.get(path, label)) is not None:
            self._hits += 1
            return kept
        flight = self._flights.get((path, label))
        if flight is not None:
            content, _ = await self._wait((path, label), flight)
            self._hits += content is not None
            return content
        flight = self._flights[path, label] = _Flight()
        if not settled:
            flight.outdate()
        flight.task = asyncio.create_task(self._fly(flight, path, label, known_small=known_small))
        flight.task.add_done_callback(lambda task: self._landed((path, label), flight, task))
        content, was_kept = await self._wait((path, label), flight)
        if content is not None:
            self._hits += was_kept
            self._misses += not was_kept
        return content

    async def _wait(self, key: tuple[str, str], flight: _Flight) -> _Fetched:
        """The result of a fetch, which goes on when this reader is cancelled, unless it was the last one."""
        flight.readers += 1
        try:
            await asyncio.wait([flight.task])
        finally:
            flight.readers -= 1
            if flight.readers == 0 and not flight.task.done():
                flight.task.cancel()
                self._remove_flight(key, flight)
        if flight.task.cancelled():
            raise StorageClosed(f"the file store at {self.location!r} was closed while it read {key[0]!r}")
        return flight.task.result()

    def _landed(self, key: tuple[str, str], flight: _Flight, task: asyncio.Task[_Fetched]) -> None:
        self._remove_flight(key, flight)
        if not task.cancelled():
            task.exception()  # has been seen, also if every reader was cancelled

    def _remove_flight(self, key: tuple[str, str], flight: _Flight) -> None:
        if self._flights.get(key) is flight:
            del self._flights[key]

    async def _fly(self, flight: _Flight, path: str, label: str, *, known_small: bool) -> _Fetched:
        if self._folder is not None:
            kept = await asyncio.to_thread(self._folder.get, path, label)
            if kept is not None:
                return kept, True
        if self._immutable and known_small and (await self.store.stat(path)).size > self._largest:
            self._remember_large(path)
            return None, False
        content = await self.store.read(path)
        if len(content) > self._largest:
            self._remember_large(path)
        elif flight.may_be_kept():
            await self._keep(path, label, content)
            if not flight.may_be_kept():
                await self._drop(path)
        return content, False

    def _remember_large(self, path: str) -> None:
        if self._immutable:
            self._large[path] = None
            if len(self._large) > REMEMBERED_LARGE:
                self._large.popitem(last=False)

    async def _keep(self, path: str, label: str, content: bytes) -> None:
        if self._memory is not None:
            self._memory.put(path, label, content)
        elif self._folder is not None:
            await asyncio.to_thread(self._folder.put, path, label, content)

    async def _drop(self, path: str) -> None:
        if self._memory is not None:
            self._memory.drop(path)
        elif self._folder is not None:
            await asyncio.to_thread(self._folder.drop, path)

    async def forget(self, path: str) -> None:
        """Fetch the file anew at its next read: it was changed, or what was read is not what was written.

        Args:
            path: of a file, in normal form (storage.files.paths).
        """
        for key, flight in list(self._flights.items()):
            if key[0] == path:  # may be bringing the old content
                flight.outdate()
                del self._flights[key]
        self._large.pop(path, None)
        await self._drop(path)

    # ---- everything else

    async def _write(
        self,
        path: str,
        content: bytes | AsyncIterable[bytes],
        media_type: str | None,
        *,
        if_absent: bool = False,
        if_match: str | None = None,
    ) -> FileStat:
        try:
            return await self.store.write(path, content, media_type=media_type, if_absent=if_absent, if_match=if_match)
        finally:  # one that failed may have taken effect
            await self.forget(path)

    async def _stat(self, path: str) -> FileStat | None:
        try:
            return await self.store.stat(path)
        except FileNotFound:
            return None

    async def _list(self, folder: str) -> Paths:
        return await self.store.list(folder)

    async def _walk(self, folder: str) -> AsyncGenerator[FileStat, None]:
        async with aclosing(self.store.walk(folder)) as files:
            async for file in files:
                yield file

    async def _remove(self, path: str) -> bool:
        try:
            return await self.store._remove(path)  # noqa: SLF001 - of one FileStore for another
        finally:
            await self.forget(path)

    async def _delete(self, path: str) -> int:
        try:
            return await self.store.delete(path)
        finally:
            await self.forget(path)

    async def _copy(self, source: str, target: str) -> FileStat:
        try:
            return await self.store.copy(source, target)
        finally:
            await self.forget(target)

    async def _move(self, source: str, target: str) -> FileStat:
        try:
            return await self.store.move(source, target)
        finally:
            await self.forget(source)
            await self.forget(target)

    async def _signed_url(self, path: str, expires: timedelta, method: Literal["GET", "PUT"]) -> str:
        return await self.store.signed_url(path, expires, method)


def uncached(store: FileStore) -> FileStore:
    """The store without a cache in front of it: for whoever has to see what is really there, such as `verify`."""
    return store.store if isinstance(store, CachedFileStore) else store
