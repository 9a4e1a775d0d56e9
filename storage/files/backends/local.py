"""Files in a folder of this machine, each at its own path, so that other programs can read them.

What is acknowledged survives a crash, and a crash leaves the old or the new content, never a mix: temporary file,
fsync, rename, fsync of the folder.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final, ParamSpec, Self, TypeVar

from storage.errors import ConfigurationError, StorageClosed
from storage.files.backends.draft import Draft
from storage.files.backends.tree import Tree
from storage.files.store import FileStat, FileStore, FileStoreConfig, checked_chunk

P = ParamSpec("P")
T = TypeVar("T")

WORKERS: Final = 8
"""Threads per store. A write waits for the disk three times, and the journal merges fsyncs that arrive together, so
a few more threads than cores pay; a pool of our own, because the loop's default one also resolves host names."""


class LocalFileStore(FileStore):
    """A FileStore in a folder. Folders are made with mode 0700, files with 0600.

    Conditional writes (`if_absent`, `if_match`) are atomic among all stores on the folder, in any process, by a lock
    on it (flock); a program that replaces files there by itself is not held up by it.

    A file system cannot hold a file `a` and a folder `a/` together: the second of the two is refused with Conflict.
    Symbolic links below the root are refused with FileAccessDenied and left out of listings.

    On a file system that does not tell upper and lower case apart (macOS, Windows shares), a write or move to `README`
    or `Src/a` where there is a `readme` or a `src` is refused with Conflict, since it would replace another file. Reads
    and deletions find a file there under any spelling. Names in another Unicode normal form are the same name
    everywhere, by the path rule.

    Temporary files that a killed process left are removed by a write into their folder (one an hour looks), once they
    are an hour old and no process holds their lock.

    Args:
        root: the folder; made at the first write. `~` is expanded. May itself be a symbolic link.

    Raises:
        ConfigurationError: the platform has no descriptor-relative file functions (Windows).
    """

    def __init__(self, root: str | Path) -> None:
        if os.open not in os.supports_dir_fd:
            raise ConfigurationError(
                "local files need a POSIX system (openat), so that nothing can lead out of the root; "
                "use the backend 's3', 'google_cloud' or 'memory' on this platform"
            )
        self.root = Path(os.path.abspath(Path(root).expanduser()))  # noqa: PTH100 - resolve() would follow links
        self._tree = Tree(self.root)
        self._pool = ThreadPoolExecutor(WORKERS, thread_name_prefix="storage-files")

    @classmethod
    async def get_instance(cls, config: FileStoreConfig, user_id: str | None = None) -> Self:  # noqa: ARG003
        """A store in the configured folder.

        Raises:
            ConfigurationError: `file_store_path` is not set.
        """
        if config.file_store_path is None:
            raise ConfigurationError("file_store_path is not set; name the folder that is to hold the files")
        return cls(config.file_store_path)

    @property
    def location(self) -> str:
        return str(self.root)

    async def close(self) -> None:
        """Finish what is under way, then end the threads."""
        await asyncio.to_thread(self._pool.shutdown)

    async def _write(
        self,
        path: str,
        content: bytes | AsyncIterable[bytes],
        media_type: str | None,
        *,
        if_absent: bool = False,
        if_match: str | None = None,
    ) -> FileStat:
        if isinstance(content, bytes):
            return await self._run(self._tree.write, path, content, if_absent=if_absent, if_match=if_match)
        draft = await self._run_or(self._tree.discard, self._tree.draft, path)
        try:
            async for chunk in content:
                await self._run(draft.append, checked_chunk(chunk))
            return await self._run(draft.commit, if_absent=if_absent, if_match=if_match)
        finally:
            # Shielded: a cancelled caller must not leave the temporary file behind.
            await asyncio.shield(self._discard(draft))

    async def _read(self, path: str) -> bytes:
        return await self._run(self._tree.read, path)

    async def _stat(self, path: str) -> FileStat | None:
        return await self._run(self._tree.stat, path)

    async def _list(self, folder: str) -> list[str]:
        return await self._run(self._tree.names, folder)

    async def _walk(self, folder: str) -> AsyncGenerator[FileStat, None]:
        pending: list[FileStat | str] = [folder]
        while pending:
            entry = pending.pop()
            if isinstance(entry, FileStat):
                yield entry
            else:
                pending.extend(reversed(await self._run(self._tree.scan, entry)))

    async def _stream(self, path: str, start: int, end: int | None, chunk_size: int) -> AsyncGenerator[bytes, None]:
        descriptor = await self._run_or(os.close, self._tree.open, path)
        try:
            offset = start
            while end is None or offset < end:
                wanted = chunk_size if end is None else min(chunk_size, end - offset)
                chunk = await self._run(self._tree.read_piece, path, descriptor, wanted, offset)
                if not chunk:
                    return
                offset += len(chunk)
                yield chunk
        finally:
            os.close(descriptor)

    async def _remove(self, path: str) -> bool:
        return bool(await self._run(self._tree.remove, path, below=False))

    async def _delete(self, path: str) -> int:
        return await self._run(self._tree.remove, path, below=True)

    async def _move(self, source: str, target: str) -> FileStat:
        return await self._run(self._tree.move, source, target)

    def _submit(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        try:
            return self._pool.submit(function, *args, **kwargs)
        except RuntimeError as error:
            raise StorageClosed(f"the file store at {str(self.root)!r} is closed; open a new one") from error

    def _discard(self, draft: Draft) -> Awaitable[None]:
        """Under way when this returns; also in a store that was closed while the content came."""
        try:
            return asyncio.wrap_future(self._submit(self._tree.discard, draft))
        except StorageClosed:
            return asyncio.to_thread(self._tree.discard, draft)

    async def _run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        return await asyncio.wrap_future(self._submit(function, *args, **kwargs))

    async def _run_or(
        self, release: Callable[[T], Any], function: Callable[P, T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """As _run; a result that no one waits for any more, because the caller was cancelled, is released."""
        future = self._submit(function, *args, **kwargs)
        try:
            return await asyncio.wrap_future(future)
        except asyncio.CancelledError:

            def drop(done: Future[T]) -> None:
                if not done.cancelled() and done.exception() is None:
                    release(done.result())

            future.add_done_callback(drop)
            raise
