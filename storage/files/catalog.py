"""A user's files: rows in the database say what exists, immutable blobs in a backend hold the bytes.

So a listing is SQL whatever the backend, a write is one transaction with its event, and no name of a user's choosing
reaches a backend. Every write puts a new blob first and then commits the row; what a rollback or a crash leaves behind
is at worst a blob that no row names.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncGenerator, AsyncIterable, Iterable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Final, Literal, Self

from storage.clock import now
from storage.database.change import Change
from storage.database.statement import Row
from storage.database.unit import Executor, Unit, execute, execute_many
from storage.errors import ConfigurationError, FileCorrupted, FileNotFound, InvalidInput
from storage.files import sql
from storage.files.concurrency import each
from storage.files.paths import conversation_of, file_path, under
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
from storage.webhooks.outbox import change, record_all

FILE_WRITTEN: Final = "file.written"
FILE_DELETED: Final = "file.deleted"

PAGE_ROWS: Final = 1_000
"""Rows per statement of a listing or a walk: a page takes milliseconds, and holds a megabyte at most."""

BLOB_CONCURRENCY: Final = 16
"""Blobs of one call on their way at once: hides the latency of an object store, and few enough that a batch of large
files does not fill the memory."""

_HASH_IN_THREAD_BYTES: Final = 1024 * 1024
"""From here on hashing takes longer than a thread hop by far, and would hold up the event loop."""


@dataclass(frozen=True, slots=True)
class Written:
    """What write_many did with one item.

    Attributes:
        stat: of the file as it is now.
        outcome: `unchanged` means that the same bytes were there already: no new version, no event.
    """

    stat: FileStat
    outcome: Literal["new", "changed", "unchanged"]


@dataclass(frozen=True, slots=True)
class Usage:
    """How many files there are, and the sum of their sizes in bytes."""

    files: int
    bytes: int


@dataclass(frozen=True, slots=True)
class _Entry:
    """A row of the catalogue."""

    stat: FileStat
    blob_key: str
    digest: bytes


@dataclass(frozen=True, slots=True)
class _Blob:
    """Stored bytes on their way to becoming a row."""

    path: str
    key: str
    size: int
    digest: bytes
    media_type: str | None


class FileCatalog(FileStore):
    """The files of one user. A FileStore; beyond it write_many, read_many, stat_many and usage.

    Given a transaction as executor, its writes belong to that transaction. Reads verify the sha256 that was recorded
    at the write and raise FileCorrupted if a blob is missing or altered; a range of a stream is not verified.

    Args:
        executor: a Database or an open Transaction.
        blobs: where the bytes go; shared by all users, and not closed by this object.
        user_id: None is the local user.
    """

    def __init__(self, executor: Executor, blobs: FileStore, user_id: str | None) -> None:
        self._executor = executor
        self._blobs = blobs
        self._user_id = user_key(user_id)

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

    async def write_many(self, items: Iterable[tuple[str, Content]]) -> list[Written]:
        """Store many files in one transaction; the results are in the order of the items.

        A file that holds the same bytes already is left as it is, so that repeating a call changes nothing.

        Raises:
            PathRejected: a path breaks the rule; nothing was written.
            InvalidInput: two items have the same path; nothing was written.
        """
        contents: dict[str, bytes | AsyncIterable[bytes]] = {}
        for path, content in items:
            normal = file_path(path)
            if normal in contents:
                raise InvalidInput(f"path {normal!r} is given twice; give each file once")
            contents[normal] = as_bytes(content)
        present = await self._find_all(list(contents))

        async def put(item: tuple[str, bytes | AsyncIterable[bytes]]) -> _Blob | None:
            path, content = item
            entry = present.get(path)
            if entry is not None and isinstance(content, bytes) and len(content) == entry.stat.size:
                digest = await _sha256(content)
                if digest == entry.digest:
                    return None
            return await self._put(path, content, guess_media_type(path))

        blobs = [blob for blob in await each(put, list(contents.items()), BLOB_CONCURRENCY) if blob is not None]
        written = await self._executor.run(lambda: _save_all(self._user_id, blobs)) if blobs else {}
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

    async def _write(self, path: str, content: bytes | AsyncIterable[bytes], media_type: str | None) -> FileStat:
        blob = await self._put(path, content, media_type or guess_media_type(path))
        return await self._executor.run(lambda: _save(self._user_id, blob))

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
        return _entry(rows[0]).stat if rows else None

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
                yield _entry(row).stat
            if len(rows) < PAGE_ROWS:
                return
            low = rows[-1][0] + sql.AFTER_FILE

    async def _remove(self, path: str) -> bool:
        return bool(await self._executor.run(lambda: _remove(self._user_id, path)))

    async def _delete(self, path: str) -> int:
        return await self._executor.run(lambda: _remove_tree(self._user_id, path))

    async def _copy(self, source: str, target: str) -> FileStat:
        return await self._executor.run(lambda: _copy(self._user_id, source, target))

    async def _move(self, source: str, target: str) -> FileStat:
        return await self._executor.run(lambda: _move(self._user_id, source, target))

    # ---- rows and blobs

    async def _find(self, path: str) -> _Entry:
        rows = await self._executor.read(sql.FIND, {"user_id": self._user_id, "path": path})
        if not rows:
            raise missing(path)
        return _entry(rows[0])

    async def _find_all(self, paths: list[str]) -> dict[str, _Entry]:
        if not paths:
            return {}
        parameters = {"user_id": self._user_id, "paths": paths}
        rows = await self._executor.read(sql.FIND_ALL, parameters, scan=True)
        return {row[0]: _entry(row) for row in rows}

    async def _put(self, path: str, content: bytes | AsyncIterable[bytes], media_type: str | None) -> _Blob:
        key = blob_key()
        if isinstance(content, bytes):
            digest = await _sha256(content)
            await self._blobs.write(key, content)
            return _Blob(path, key, len(content), digest, media_type)
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
        return _Blob(path, key, size, hashed.digest(), media_type)

    async def _get(self, entry: _Entry) -> bytes:
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


def delete_conversation_files(user_id: str, conversation_id: str) -> Unit[int]:
    """Delete the files of a conversation within the caller's unit; returns how many they were.

    Args:
        user_id: in stored form (storage.identity.user_key).
        conversation_id: files belong to it by their path (storage.files.paths.conversation_of).
    """
    rows = yield from execute(sql.REMOVE_CONVERSATION, user_id=user_id, conversation_id=conversation_id)
    yield from _record_deleted(user_id, rows)
    return len(rows)


# ---- units


def _save(user_id: str, blob: _Blob) -> Unit[FileStat]:
    values = _values(user_id, blob)
    [(version, created_at)] = yield from execute(sql.SAVE, **values)
    stat = FileStat(
        path=blob.path,
        size=blob.size,
        updated_at=values["updated_at"],
        sha256=blob.digest.hex(),
        media_type=blob.media_type,
        created_at=created_at,
        version=version,
    )
    yield from record_all([_written(user_id, stat, blob.key)])
    return stat


def _save_all(user_id: str, blobs: Sequence[_Blob]) -> Unit[dict[str, Written]]:
    paths = [blob.path for blob in blobs]
    before = {row[0]: _entry(row) for row in (yield from execute(sql.LOCK_ALL, user_id=user_id, paths=paths))}
    # Somebody else may have written the same bytes since the caller looked.
    changed = [blob for blob in blobs if (found := before.get(blob.path)) is None or found.digest != blob.digest]
    result = {blob.path: Written(before[blob.path].stat, "unchanged") for blob in blobs if blob.path in before}
    if not changed:
        return result
    yield from execute_many(sql.SAVE_ALL, [_values(user_id, blob) for blob in changed])
    rows = yield from execute(sql.FIND_ALL, user_id=user_id, paths=[blob.path for blob in changed])
    after = {row[0]: _entry(row) for row in rows}
    events = []
    for blob in changed:
        entry = after[blob.path]
        result[blob.path] = Written(entry.stat, "new" if entry.stat.version == 1 else "changed")
        events.append(_written(user_id, entry.stat, entry.blob_key))
    yield from record_all(events)
    return result


def _copy(user_id: str, source: str, target: str) -> Unit[FileStat]:
    """The copy shares the blob: blobs are immutable, and are only collected when no row names them any more."""
    rows = yield from execute(sql.LOCK, user_id=user_id, path=source)
    if not rows:
        raise missing(source)
    entry = _entry(rows[0])
    return (
        yield from _save(user_id, _Blob(target, entry.blob_key, entry.stat.size, entry.digest, entry.stat.media_type))
    )


def _move(user_id: str, source: str, target: str) -> Unit[FileStat]:
    stat = yield from _copy(user_id, source, target)
    yield from _remove(user_id, source)
    return stat


def _remove(user_id: str, path: str) -> Unit[int]:
    rows = yield from execute(sql.REMOVE, user_id=user_id, path=path)
    yield from _record_deleted(user_id, rows)
    return len(rows)


def _remove_tree(user_id: str, path: str) -> Unit[int]:
    low, high = under(path)
    rows = yield from execute(sql.REMOVE_TREE, user_id=user_id, path=path, low=low, high=high)
    yield from _record_deleted(user_id, rows)
    return len(rows)


def _record_deleted(user_id: str, rows: list[Row]) -> Unit[None]:
    yield from record_all(
        [
            change(user_id, FILE_DELETED, key=path, version=version, payload={"path": path})
            for path, version in sorted(rows)
        ]
    )


def _written(user_id: str, stat: FileStat, key: str) -> Change:
    """The event carries the blob's key, so that the very bytes of this version can be sent after an overwrite."""
    payload = {
        "path": stat.path,
        "size": stat.size,
        "sha256": stat.sha256,
        "media_type": stat.media_type,
        "blob_key": key,
    }
    return change(user_id, FILE_WRITTEN, key=stat.path, version=stat.version, payload=payload)


def _values(user_id: str, blob: _Blob) -> dict[str, Any]:
    return {
        "user_id": user_id,
        "path": blob.path,
        "blob_key": blob.key,
        "size": blob.size,
        "sha256": blob.digest,
        "media_type": blob.media_type,
        "conversation_id": conversation_of(blob.path),
        "updated_at": now(),
    }


def _entry(row: Row) -> _Entry:
    path, size, updated_at, sha256, media_type, created_at, version, key = row
    stat = FileStat(
        path=path,
        size=size,
        updated_at=updated_at,
        sha256=sha256.hex(),
        media_type=media_type,
        created_at=created_at,
        version=version,
    )
    return _Entry(stat, key, bytes(sha256))


async def _sha256(content: bytes) -> bytes:
    if len(content) < _HASH_IN_THREAD_BYTES:
        return hashlib.sha256(content).digest()
    return (await asyncio.to_thread(hashlib.sha256, content)).digest()


def _blob_missing(entry: _Entry) -> FileCorrupted:
    return FileCorrupted(
        f"the content of {entry.stat.path!r} is missing: there is no blob {entry.blob_key!r}. "
        "Check that the configured file store is the one that was written to, or restore it from a backup"
    )


def _blob_altered(entry: _Entry) -> FileCorrupted:
    return FileCorrupted(
        f"the content of {entry.stat.path!r} is not what was written: blob {entry.blob_key!r} does not have "
        f"the recorded sha256 {entry.stat.sha256} and size of {entry.stat.size} bytes. Restore it from a backup"
    )
