"""A user's files: rows in the database say what exists, immutable blobs in a backend hold the bytes.

So a listing is SQL whatever the backend, a write is one transaction with its event, and no name of a user's choosing
reaches a backend. Every write puts a new blob first and then commits the row; what a rollback or a crash leaves behind
is at worst a blob that no row names.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncGenerator, AsyncIterable, Iterable
from contextlib import aclosing
from dataclasses import dataclass, replace
from functools import partial
from typing import Final, Self

from storage.database.unit import Executor
from storage.errors import ConfigurationError, FileCorrupted, FileNotFound, InvalidInput
from storage.files import sql
from storage.files.concurrency import each
from storage.files.masking import FileMasking, masked
from storage.files.paths import file_path, under
from storage.files.rows import (
    Blob,
    Entry,
    Written,
    copy,
    decode,
    delete_conversation_files,
    move,
    remove,
    remove_tree,
    replace_by_copy,
    save,
    save_all,
    save_if,
)
from storage.files.store import (
    Content,
    FileStat,
    FileStore,
    FileStoreConfig,
    as_bytes,
    checked_chunk,
    guess_media_type,
    missing,
)
from storage.identity import new_id, user_key
from storage.masking.masker import Secrets

__all__ = ["FileCatalog", "Usage", "Written", "blob_key", "delete_conversation_files", "total_usage"]

PAGE_ROWS: Final = 1_000
"""Rows per statement of a listing or a walk: a page takes milliseconds, and holds a megabyte at most."""

BLOB_CONCURRENCY: Final = 16
"""Blobs of one call on their way at once: hides the latency of an object store, and few enough that a batch of large
files does not fill the memory."""

_HASH_IN_THREAD_BYTES: Final = 1024 * 1024
"""From here on hashing takes longer than a thread hop by far, and would hold up the event loop."""


@dataclass(frozen=True, slots=True)
class Usage:
    """How many files there are, and the sum of their sizes in bytes."""

    files: int
    bytes: int


class FileCatalog(FileStore):
    """The files of one user. A FileStore; beyond it write_many, read_many, stat_many and usage.

    Given a transaction as executor, its writes belong to that transaction. Reads verify the sha256 that was recorded
    at the write and raise FileCorrupted if a blob is missing or altered; a range of a stream is not verified.

    What is written to a path that the configuration's `masked_paths` name is masked (see `write`), and what is copied
    or moved there from one that they do not name. Between two that they name, bytes stay as they are.

    Args:
        executor: a Database or an open Transaction.
        blobs: where the bytes go; shared by all users, and not closed by this object.
        user_id: None is the local user.
        masking: which files are written without the user's secrets in them; none if None.
    """

    def __init__(
        self, executor: Executor, blobs: FileStore, user_id: str | None, masking: FileMasking | None = None
    ) -> None:
        self._executor = executor
        self._blobs = blobs
        self._user_id = user_key(user_id)
        self._masking = masking

    @classmethod
    async def get_instance(cls, config: FileStoreConfig, user_id: str | None = None) -> Self:  # noqa: ARG003
        """Not available: a catalogue needs an open database.

        Raises:
            ConfigurationError: always.
        """
        raise ConfigurationError(
            "a FileCatalog is not a backend; configure 'local' or another one, and use Storage.user(…).files"
        )

    # ---- beyond FileStore

    async def write(
        self, path: str, content: Content, *, media_type: str | None = None, mask_secrets: bool | None = None
    ) -> FileStat:
        """Store `content` at `path`, replacing what is there. See FileStore.write.

        Args:
            path: where to.
            content: what.
            media_type: as the path's ending says if None.
            mask_secrets: whether the user's secrets are replaced by `<secret_hidden>` before anything is stored or
                announced: True, False, or None for what the configuration's `masked_paths` say of the path. JSON stays
                JSON, but for an async iterable of more than 256 KiB, which is taken for plain text.

        Raises:
            KeyMissing, KeyMismatch, KeyUnavailable, Tampered: with True, some secrets cannot be opened. By the
                configuration, those that can be are masked.
            ConfigurationError: True, and this object was made without `masking`.
        """
        normal, data = file_path(path), as_bytes(content)
        secrets = await self._secrets([normal], wanted=mask_secrets)
        return await self._write(normal, await masked(secrets, data), media_type)

    async def write_many(
        self, items: Iterable[tuple[str, Content]], *, mask_secrets: bool | None = None
    ) -> list[Written]:
        """Store many files in one transaction; the results are in the order of the items.

        A file that holds the same bytes already is left as it is, so that repeating a call changes nothing. If its blob
        is gone, repeating the call brings it back.

        Args:
            items: path and content of each.
            mask_secrets: as in `write`, for each path on its own.

        Raises:
            PathRejected: a path breaks the rule; nothing was written.
            InvalidInput: two items have the same path; nothing was written.
            KeyMissing, KeyMismatch, KeyUnavailable, Tampered, ConfigurationError: see write; nothing was written.
        """
        contents: dict[str, bytes | AsyncIterable[bytes]] = {}
        for path, content in items:
            normal = file_path(path)
            if normal in contents:
                raise InvalidInput(f"path {normal!r} is given twice; give each file once")
            contents[normal] = as_bytes(content)
        secrets = await self._secrets(contents, wanted=mask_secrets)
        if secrets is not None:
            for path, content in contents.items():
                if mask_secrets or (self._masking is not None and self._masking.covers(path)):
                    contents[path] = await masked(secrets, content)
        present = await self._find_all(list(contents))

        async def put(item: tuple[str, bytes | AsyncIterable[bytes]]) -> Blob | None:
            path, content = item
            entry = present.get(path)
            if entry is not None and isinstance(content, bytes) and len(content) == entry.stat.size:
                digest = await _sha256(content)
                if digest == entry.digest:
                    if await self._blobs.exists(entry.blob_key):
                        return None
                    return replace(await self._put(path, content, guess_media_type(path)), replaces=entry.blob_key)
            return await self._put(path, content, guess_media_type(path))

        blobs = [blob for blob in await each(put, list(contents.items()), BLOB_CONCURRENCY) if blob is not None]
        written = await self._executor.run(lambda: save_all(self._user_id, blobs)) if blobs else {}
        return [written[path] if path in written else Written(present[path].stat, "unchanged") for path in contents]

    async def read_many(self, paths: Iterable[str]) -> dict[str, bytes]:
        """The contents of many files, by the paths as they were given; a path without a file is left out.

        One statement for all rows, then the blobs, several at a time.

        Raises:
            PathRejected: a path breaks the rule.
            FileCorrupted: a content is not what was written.
        """
        wanted = {path: file_path(path) for path in paths}
        entries = await self._find_all(list(set(wanted.values())))
        contents = dict(zip(entries, await each(self._get, list(entries.values()), BLOB_CONCURRENCY), strict=True))
        return {path: contents[normal] for path, normal in wanted.items() if normal in contents}

    async def stat_many(self, paths: Iterable[str]) -> dict[str, FileStat]:
        """What is known of many files, by the paths as they were given; a path without a file is left out.

        One statement.

        Raises:
            PathRejected: a path breaks the rule.
        """
        wanted = {path: file_path(path) for path in paths}
        entries = await self._find_all(list(set(wanted.values())))
        return {path: entries[normal].stat for path, normal in wanted.items() if normal in entries}

    async def usage(self) -> Usage:
        """How much this user stores."""
        [(files, size)] = await self._executor.read(sql.USAGE, {"user_id": self._user_id}, scan=True)
        return Usage(files, size)

    # ---- FileStore

    async def _write(
        self,
        path: str,
        content: bytes | AsyncIterable[bytes],
        media_type: str | None,
        *,
        if_absent: bool = False,
        if_match: str | None = None,
    ) -> FileStat:
        blob = await self._put(path, content, media_type or guess_media_type(path))
        if not if_absent and if_match is None:
            return await self._executor.run(lambda: save(self._user_id, blob))
        return await self._executor.run(lambda: save_if(self._user_id, blob, if_absent=if_absent, if_match=if_match))

    async def _read(self, path: str) -> bytes:
        return await self._get(await self._find(path))

    async def _stream(self, path: str, start: int, end: int | None, chunk_size: int) -> AsyncGenerator[bytes, None]:
        entry = await self._find(path)
        whole = start == 0 and (end is None or end >= entry.stat.size)
        digest = hashlib.sha256()
        try:
            async with aclosing(self._blobs.stream(entry.blob_key, start, end, chunk_size=chunk_size)) as chunks:
                async for chunk in chunks:
                    if whole:
                        digest.update(chunk)
                    yield chunk
        except FileNotFound as error:
            raise _blob_missing(entry) from error
        if whole and digest.digest() != entry.digest:
            raise _blob_altered(entry)

    async def _stat(self, path: str) -> FileStat | None:
        rows = await self._executor.read(sql.FIND, {"user_id": self._user_id, "path": path})
        return decode(rows[0]).stat if rows else None

    async def _list(self, folder: str) -> list[str]:
        low, high = under(folder)
        parameters = {
            "user_id": self._user_id,
            "high": high,
            "folder_length": len(folder) + 1 if folder else 0,
            "limit": PAGE_ROWS,
        }
        entries: list[str] = []
        while True:
            rows = await self._executor.read(sql.CHILDREN, {**parameters, "low": low}, scan=True)
            entries.extend(row[0] for row in rows)
            if len(rows) < PAGE_ROWS:
                return entries
            last = entries[-1]
            low = last[:-1] + sql.AFTER_FOLDER if last.endswith("/") else last + sql.AFTER_FILE

    async def _walk(self, folder: str) -> AsyncGenerator[FileStat, None]:
        low, high = under(folder)
        while True:
            parameters = {"user_id": self._user_id, "low": low, "high": high, "limit": PAGE_ROWS}
            rows = await self._executor.read(sql.WALK, parameters, scan=True)
            for row in rows:
                yield decode(row).stat
            if len(rows) < PAGE_ROWS:
                return
            low = rows[-1][0] + sql.AFTER_FILE

    async def _remove(self, path: str) -> bool:
        return bool(await self._executor.run(lambda: remove(self._user_id, path)))

    async def _delete(self, path: str) -> int:
        return await self._executor.run(lambda: remove_tree(self._user_id, path))

    async def _copy(self, source: str, target: str) -> FileStat:
        secrets = await self._secrets_on_the_way(source, target)
        if secrets is not None:
            return await self._transfer_masked(secrets, source, target, keep=True)
        return await self._executor.run(lambda: copy(self._user_id, source, target))

    async def _move(self, source: str, target: str) -> FileStat:
        secrets = await self._secrets_on_the_way(source, target)
        if secrets is not None:
            return await self._transfer_masked(secrets, source, target, keep=False)
        return await self._executor.run(lambda: move(self._user_id, source, target))

    # ---- masking

    async def _secrets(self, paths: Iterable[str], *, wanted: bool | None) -> Secrets | None:
        if self._masking is not None:
            return await self._masking.for_write(paths, wanted=wanted)
        if wanted:
            raise ConfigurationError("this catalogue knows no secrets to mask; use Storage.user(…).files")
        return None

    async def _secrets_on_the_way(self, source: str, target: str) -> Secrets | None:
        """What to mask when a file comes to a path that is masked from one that is not."""
        if self._masking is None or self._masking.covers(source):
            return None
        return await self._secrets([target], wanted=None)

    async def _transfer_masked(self, secrets: Secrets, source: str, target: str, *, keep: bool) -> FileStat:
        while True:
            entry = await self._find(source)
            content = await masked(secrets, await self._get(entry))
            blob = await self._put(target, content, entry.stat.media_type)
            unit = partial(replace_by_copy, self._user_id, source, entry, blob, keep=keep)
            stat = await self._executor.run(unit)
            if stat is not None:  # otherwise the source was written meanwhile
                return stat

    # ---- rows and blobs

    async def _find(self, path: str) -> Entry:
        rows = await self._executor.read(sql.FIND, {"user_id": self._user_id, "path": path})
        if not rows:
            raise missing(path)
        return decode(rows[0])

    async def _find_all(self, paths: list[str]) -> dict[str, Entry]:
        if not paths:
            return {}
        parameters = {"user_id": self._user_id, "paths": paths}
        rows = await self._executor.read(sql.FIND_ALL, parameters, scan=True)
        return {row[0]: decode(row) for row in rows}

    async def _put(self, path: str, content: bytes | AsyncIterable[bytes], media_type: str | None) -> Blob:
        key = blob_key()
        if isinstance(content, bytes):
            digest = await _sha256(content)
            await self._blobs.write(key, content)
            return Blob(path, key, len(content), digest, media_type)
        hashed = hashlib.sha256()
        size = 0

        async def watched() -> AsyncGenerator[bytes, None]:
            nonlocal size
            async for chunk in content:
                data = checked_chunk(chunk)
                hashed.update(data)
                size += len(data)
                yield data

        async with aclosing(watched()) as chunks:
            await self._blobs.write(key, chunks)
        return Blob(path, key, size, hashed.digest(), media_type)

    async def _get(self, entry: Entry) -> bytes:
        try:
            content = await self._blobs.read(entry.blob_key)
        except FileNotFound as error:
            raise _blob_missing(entry) from error
        if len(content) != entry.stat.size or await _sha256(content) != entry.digest:
            raise _blob_altered(entry)
        return content


def blob_key() -> str:
    """A new place for a blob: `blobs/<two hex digits>/<UUIDv7>`.

    The digits are the id's last ones, which are random: 256 folders stay small enough for any file system, are made
    only once each, and spread the load over an object store's partitions; within a folder blobs sort by age, which is
    what a collector with a grace period wants.
    """
    key = str(new_id())
    return f"blobs/{key[-2:]}/{key}"


async def total_usage(executor: Executor) -> Usage:
    """How much all users store. Reads the whole table."""
    [(files, size)] = await executor.read(sql.TOTAL, {}, scan=True)
    return Usage(files, size)


async def _sha256(content: bytes) -> bytes:
    if len(content) < _HASH_IN_THREAD_BYTES:
        return hashlib.sha256(content).digest()
    return (await asyncio.to_thread(hashlib.sha256, content)).digest()


def _blob_missing(entry: Entry) -> FileCorrupted:
    return FileCorrupted(
        f"the content of {entry.stat.path!r} is missing: there is no blob {entry.blob_key!r}. "
        "Check that the configured file store is the one that was written to, or restore it from a backup"
    )


def _blob_altered(entry: Entry) -> FileCorrupted:
    return FileCorrupted(
        f"the content of {entry.stat.path!r} is not what was written: blob {entry.blob_key!r} does not have "
        f"the recorded sha256 {entry.stat.sha256} and size of {entry.stat.size} bytes. Restore it from a backup"
    )
