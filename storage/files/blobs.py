"""Contents of files: in the backend or in a row of the database, sealed or as they are, and verified when read.

The catalogue and what an operator does with everyone's files read and store contents here only, so that none of them
needs to know where a content is.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Iterable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeAlias, TypeVar

from storage.database.unit import Executor, Unit
from storage.encryption.keyring import KeyRing
from storage.encryption.keyset import KeySet
from storage.errors import (
    ConfigurationError,
    EncryptionError,
    FileChanged,
    FileCorrupted,
    FileExists,
    FileNotFound,
    FileStoreError,
    QuotaExceeded,
    Tampered,
)
from storage.files import sql
from storage.files.concurrency import each
from storage.files.incoming import Measured, chained
from storage.files.rows import Blob, Entry
from storage.files.store import CHUNK_BYTES, FileStore
from storage.files.table import CONTENT_KEY
from storage.identity import new_id

if TYPE_CHECKING:
    from storage.files.disk_guard import DiskGuard
    from storage.files.quota import Allowance
    from storage.files.sealed_content import ContentKey, ContentPlace

    Opening: TypeAlias = tuple[ContentKey, ContentPlace]

log = logging.getLogger(__name__)

T = TypeVar("T")

IN_BACKEND: Final = "blobs/"
IN_DATABASE: Final = "rows/"
"""How the key of a content begins, by where it is: an object of the backend, or a row of `file_content`."""

BLOB_CONCURRENCY: Final = 16
"""Blobs of one call on their way at once: hides the latency of an object store, and few enough that a batch of large
files does not fill the memory."""

_IN_THREAD_BYTES: Final = 1024 * 1024
"""From here on hashing and sealing take longer than a thread hop by far, and would hold up the event loop."""


@dataclass(frozen=True, slots=True)
class ContentRules:
    """Where new contents go, and how.

    Attributes:
        small_bytes: contents of at most so many bytes are kept in the database; 0 keeps none there.
        seal: whether contents are sealed, each with a key of its own that is sealed under its user's data key.
        max_bytes: longest content, in bytes.
    """

    small_bytes: int = 0
    seal: bool = False
    max_bytes: int | None = None


def blob_key() -> str:
    """A new place for a blob of the backend: `blobs/<two hex digits>/<UUIDv7>`.

    The digits are the id's last ones, which are random: 256 folders stay small enough for any file system, are made
    only once each, and spread the load over an object store's partitions; within a folder blobs sort by age, which is
    what a collector with a grace period wants.
    """
    key = str(new_id())
    return f"{IN_BACKEND}{key[-2:]}/{key}"


def row_key() -> str:
    """A new name for a content that is kept in the database: `rows/<UUIDv7>`."""
    return f"{IN_DATABASE}{new_id()}"


def is_in_database(key: str) -> bool:
    """Whether the content of this key is a row of `file_content`."""
    return key.startswith(IN_DATABASE)


class Contents:
    """Reads and stores contents, for any user.

    Args:
        backend: where contents are that are not in the database.
        keyring: the users' keys. Without it nothing can be sealed, and nothing that is sealed can be read.
        rules: for what is stored from now on. They do not matter for what is read.
        guard: refuses what there is too little room for; nothing if None.
    """

    def __init__(
        self,
        backend: FileStore,
        keyring: KeyRing | None = None,
        rules: ContentRules = ContentRules(),
        guard: DiskGuard | None = None,
    ) -> None:
        self._guard = guard
        self.backend = backend
        self.rules = rules
        self._keyring = keyring

    # ---- reading

    async def read(self, executor: Executor, user_id: str, entry: Entry) -> bytes:
        """The content of a row of the catalogue, opened and verified.

        Args:
            executor: where the row was read; asked only for what `entry` does not bring along.
            user_id: the owner, in stored form.
            entry: the row, as storage.files.rows.decode gives it.

        Raises:
            FileCorrupted: the content is missing, or is not what was written.
            KeyMissing, KeyMismatch, KeyUnavailable: it is sealed, and its key is not at hand.
            Tampered: its key was altered, or belongs to another content.
            FileStoreUnavailable, FileAccessDenied: see FileStore.
        """
        [content] = await self.read_all(executor, user_id, [entry])
        return content

    async def read_all(self, executor: Executor, user_id: str, entries: Sequence[Entry]) -> list[bytes]:
        """The contents of many rows of one user, in their order: several at a time, and the keys all at once.

        Raises:
            As `read`, of the first that fails.
        """
        keys = await self._keys(executor, user_id, entries)

        async def get(entry: Entry) -> bytes:
            content = await self._get(executor, user_id, entry, keys)
            if len(entries) > 1:
                await asyncio.sleep(0)  # contents of the database suspend nowhere, and a thousand take long
            return content

        return await each(get, entries, BLOB_CONCURRENCY)

    async def stream(
        self,
        executor: Executor,
        user_id: str,
        entry: Entry,
        *,
        start: int = 0,
        end: int | None = None,
        chunk_size: int = CHUNK_BYTES,
    ) -> AsyncGenerator[bytes, None]:
        """The bytes `start <= offset < end` of a content, in pieces of at most `chunk_size`, in bounded memory.

        The whole content is verified at its end. A range is verified if it is sealed or in the database.

        Raises:
            As `read`, at the first piece or, for what only the end shows, after the last one.
        """
        size = entry.stat.size
        start, end = min(start, size), size if end is None else min(end, size)
        whole = start == 0 and end == size
        if entry.content is not None or is_in_database(entry.blob_key):
            content = await self.read(executor, user_id, entry)
            for offset in range(start, end, chunk_size):
                yield content[offset : min(offset + chunk_size, end)]
            return
        opening = _opening(user_id, entry, await self._keys(executor, user_id, [entry]))
        digest, length = hashlib.sha256(), 0
        try:
            async with aclosing(self._pieces(entry, opening, start, end, chunk_size)) as pieces:
                async for piece in pieces:
                    if whole:
                        digest.update(piece)
                        length += len(piece)
                    yield piece
        except FileNotFound as error:
            raise _missing(entry) from error
        if whole and (length != size or digest.digest() != entry.digest):
            raise await self._altered(entry)

    async def _pieces(
        self, entry: Entry, opening: Opening | None, start: int, end: int, chunk_size: int
    ) -> AsyncGenerator[bytes, None]:
        """A range of what is in the backend, in clear. One that ends with the content is read to the blob's own end."""
        size = entry.stat.size
        if opening is None:
            stop = None if end == size else end
            async with aclosing(self.backend.stream(entry.blob_key, start, stop, chunk_size=chunk_size)) as pieces:
                async for piece in pieces:
                    yield piece
            return
        from storage.files.sealed_content import open_range, sealed_range

        low, high = sealed_range(start, end, size)
        stop = None if end == size and low < high else high
        try:
            async with (
                aclosing(self.backend.stream(entry.blob_key, low, stop)) as sealed,
                aclosing(open_range(*opening, sealed, start, end, plain_size=size)) as opened,
            ):
                async for piece in opened:
                    for offset in range(0, len(piece), chunk_size):
                        yield piece[offset : offset + chunk_size]
        except Tampered as error:
            raise await self._altered(entry) from error

    async def _altered(self, entry: Entry) -> FileCorrupted:
        """The error. A cache before the backend fetches the blob anew at its next read: it may be the one at fault."""
        from storage.files.backends.cached import CachedFileStore

        if isinstance(self.backend, CachedFileStore) and not is_in_database(entry.blob_key):
            await self.backend.forget(entry.blob_key)
        return _altered(entry)

    async def _keys(self, executor: Executor, user_id: str, entries: Sequence[Entry]) -> KeySet | None:
        sealed = [entry.content_key for entry in entries if entry.content_key is not None]
        return await self._ring().keys_for(executor, user_id, sealed) if sealed else None

    async def _get(self, executor: Executor, user_id: str, entry: Entry, keys: KeySet | None) -> bytes:
        opening = _opening(user_id, entry, keys)
        content = await self._stored(executor, user_id, entry)
        if opening is not None:
            from storage.files.sealed_content import open_bytes

            try:
                content = await _in_thread_if_long(open_bytes, *opening, content)
            except Tampered as error:
                raise await self._altered(entry) from error
        if len(content) != entry.stat.size or await sha256(content) != entry.digest:
            raise await self._altered(entry)
        return content

    async def _stored(self, executor: Executor, user_id: str, entry: Entry) -> bytes:
        """The bytes as they are kept."""
        if entry.content is not None:
            return entry.content
        if is_in_database(entry.blob_key):
            parameters = {"user_id": user_id, "blob_key": entry.blob_key}
            rows = await executor.read(sql.CONTENT, parameters, scan=True)
            if not rows:
                raise _missing(entry)
            return bytes(rows[0][0])
        try:
            return await self.backend.read(entry.blob_key)
        except FileNotFound as error:
            raise _missing(entry) from error

    def _ring(self) -> KeyRing:
        if self._keyring is None:
            raise ConfigurationError("without a key ring no content is sealed or opened; use Storage.user(…).files")
        return self._keyring

    async def exists(self, entry: Entry) -> bool:
        """Whether the content of a row is there; one in the database is, for it goes with the row."""
        return is_in_database(entry.blob_key) or await self.backend.exists(entry.blob_key)

    # ---- writing

    async def require_keys(self, executor: Executor, user_id: str) -> None:
        """Pass if what is put now can be sealed, or need not be; to be asked before much is uploaded in vain.

        Raises:
            KeyMissing, KeyMismatch, KeyUnavailable: new contents are to be sealed, and the key is not at hand.
        """
        if self.rules.seal:
            await self._ring().active_key(executor, user_id)

    async def put(
        self,
        user_id: str,
        path: str,
        content: bytes | AsyncIterable[bytes],
        media_type: str | None,
        *,
        allowance: Allowance | None = None,
        sealed: bool | None = None,
    ) -> Blob:
        """Store a content, as the rules have it, for a row that is yet to be written.

        What goes to the backend is there when this returns. What goes into the database, and the key of what is
        sealed, is written by the unit that writes the row: see `run`, and add_contents and sealed_key in
        storage.files.rows. A stream is held in memory up to the size of a small content, and goes to the backend when
        it is longer.

        Args:
            user_id: the owner, in stored form.
            path: of the file; for the row and for messages.
            content: in clear.
            media_type: for the row.
            allowance: how many bytes may come; nothing but the rules limits them if None.
            sealed: whether to seal it; as the rules say if None.

        Raises:
            FileTooLarge: it is longer than the rules allow. A stream is read no further, and nothing is left of it.
            QuotaExceeded: it is longer than `allowance`; likewise.
            InvalidInput: the stream gives something else than bytes.
            DiskSpaceLow: there is too little room for it on a disk of this machine; likewise.
            FileStoreFull, FileStoreUnavailable, FileAccessDenied: see FileStore.
        """
        measured = Measured(path, self.rules.max_bytes, allowance)
        seal = self.rules.seal if sealed is None else sealed
        if isinstance(content, bytes):
            measured.take(len(content))
            if self._guard is not None:
                await self._guard.admit(len(content))
            digest = await sha256(content)
            return await self._put_bytes(user_id, path, content, digest, media_type=media_type, seal=seal)
        watched = measured.watch(content)
        async with aclosing(watched if self._guard is None else self._guard.watch(watched)) as pieces:
            held: list[bytes] = []
            if self.rules.small_bytes:
                async for piece in pieces:
                    held.append(piece)
                    if measured.size > self.rules.small_bytes:
                        break
                else:
                    digest = measured.digest()
                    return await self._put_bytes(
                        user_id, path, b"".join(held), digest, media_type=media_type, seal=seal
                    )
            key, new_key = blob_key(), None
            stream = chained(held, pieces)
            if seal:
                from storage.files.sealed_content import ContentKey, ContentPlace, seal_stream

                new_key = ContentKey.generate()
                stream = seal_stream(new_key, ContentPlace(user_id, key), stream)
            async with aclosing(stream):
                await self.backend.write(key, stream)
            return Blob(path, key, measured.size, measured.digest(), media_type, new_key=new_key)

    async def _put_bytes(
        self, user_id: str, path: str, content: bytes, digest: bytes, *, media_type: str | None, seal: bool
    ) -> Blob:
        small = 0 < self.rules.small_bytes >= len(content)
        key = row_key() if small else blob_key()
        stored, new_key = content, None
        if seal:
            from storage.files.sealed_content import ContentKey, ContentPlace, seal_bytes

            new_key = ContentKey.generate()
            stored = await _in_thread_if_long(seal_bytes, new_key, ContentPlace(user_id, key), content)
        if small:
            await asyncio.sleep(0)  # as in read_all
        else:
            await self.backend.write(key, stored)
        return Blob(path, key, len(content), digest, media_type, content=stored if small else None, new_key=new_key)

    async def run(
        self, executor: Executor, user_id: str, blobs: Sequence[Blob], unit: Callable[[KeySet | None], Unit[T]]
    ) -> T:
        """Run the unit that writes the rows of these blobs, and remove the blobs again if it refuses them.

        Args:
            executor: where.
            user_id: the owner, in stored form.
            blobs: of `put`.
            unit: is given the user's keys if one of the blobs is sealed, held until the transaction ends. It may be
                called again.

        Raises:
            KeyMissing, KeyMismatch, KeyUnavailable: a blob is sealed, and the key for its key is not at hand.
            Exception: whatever the unit raises.
        """
        try:
            if any(blob.new_key is not None for blob in blobs):
                return await self._ring().run(executor, user_id, unit)
            return await executor.run(lambda: unit(None))
        except _NOTHING_COMMITTED:
            await self.discard(blobs)
            raise

    async def discard(self, blobs: Iterable[Blob]) -> None:
        """Remove blobs from the backend that no row will name. What it does not remove is left to the collector."""

        async def remove(key: str) -> None:
            try:
                await self.backend.delete(key)
            except FileStoreError as error:
                log.warning("blob %s is not needed, and is left to the collector: %s", key, error)

        await each(remove, [blob.key for blob in blobs if not is_in_database(blob.key)], BLOB_CONCURRENCY)


_NOTHING_COMMITTED: Final = (QuotaExceeded, FileExists, FileChanged, FileNotFound, EncryptionError)
"""What a unit refuses with, or is not even run for. After any other error a commit may have happened unseen."""


async def sha256(content: bytes) -> bytes:
    """The digest; in a thread where it takes long."""
    return await _in_thread_if_long(_sha256, content)


def _sha256(content: bytes) -> bytes:
    return hashlib.sha256(content).digest()


async def _in_thread_if_long(work: Callable[..., bytes], *arguments: Any) -> bytes:
    """The result of `work`, whose last argument is a content."""
    if len(arguments[-1]) < _IN_THREAD_BYTES:
        return work(*arguments)
    return await asyncio.to_thread(work, *arguments)


def _opening(user_id: str, entry: Entry, keys: KeySet | None) -> Opening | None:
    """What a content is opened with; None if it is not sealed."""
    if entry.content_key is None or keys is None:
        return None
    from storage.files.sealed_content import ContentKey, ContentPlace

    context = CONTENT_KEY.context({"user_id": user_id, "blob_key": entry.blob_key})
    return ContentKey(keys.open(context, entry.content_key)), ContentPlace(user_id, entry.blob_key)


def _missing(entry: Entry) -> FileCorrupted:
    return FileCorrupted(
        f"the content of {entry.stat.path!r} is missing: there is no blob {entry.blob_key!r}. "
        "Check that the configured file store is the one that was written to, or restore it from a backup"
    )


def _altered(entry: Entry) -> FileCorrupted:
    return FileCorrupted(
        f"the content of {entry.stat.path!r} is not what was written: blob {entry.blob_key!r} does not have "
        f"the recorded sha256 {entry.stat.sha256} and size of {entry.stat.size} bytes. Restore it from a backup"
    )
