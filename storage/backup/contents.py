"""Contents of the file store, as they are stored, on their way into an archive: each compared with the catalogue."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from storage.backup.archive import PIECE, ArchivedBlob
from storage.backup.snapshot import ROWS, Snapshot
from storage.backup.threads import in_thread
from storage.errors import FileNotFound
from storage.files.blobs import BLOB_CONCURRENCY, IN_BACKEND
from storage.files.concurrency import each
from storage.files.sealed_content import sealed_size

if TYPE_CHECKING:
    from storage.backup.writing import ArchiveWriter
    from storage.files.store import FileStore

_IN_CATALOGUE: Final = (
    "SELECT DISTINCT blob_key, size, CASE WHEN content_key IS NULL THEN sha256 END, content_key IS NOT NULL"  # noqa: S608 - our own prefix
    f" FROM file WHERE blob_key LIKE '{IN_BACKEND}%'"
)
_OF_EVENTS: Final = f"SELECT DISTINCT blob_key FROM event WHERE blob_key LIKE '{IN_BACKEND}%'"  # noqa: S608 - as above
"""Older versions, which a web hook may still have to send: they go once it has, so that they may be gone."""


@dataclass(frozen=True, slots=True)
class WantedBlob:
    """A content that a snapshot names.

    Attributes:
        key: in the file store.
        size: bytes that it has there; None if the catalogue does not name it any more, so that it may be gone.
        sha256: hexadecimal; None if it is not known, as of what is sealed.
    """

    key: str
    size: int | None = None
    sha256: str | None = None


@dataclass(slots=True)
class CopiedBlobs:
    """What has become of the contents.

    Attributes:
        found: that are in the archive.
        copied: how many of them were not there from an earlier backup.
        missing: keys of those that the file store should have and does not.
        damaged: keys of those that it has otherwise than they were written; they are in the archive as they are.
    """

    found: list[ArchivedBlob] = field(default_factory=list)
    copied: int = 0
    missing: list[str] = field(default_factory=list)
    damaged: list[str] = field(default_factory=list)


async def wanted_blobs(source: Snapshot) -> list[WantedBlob]:
    """Every content that a snapshot names, by key."""
    found: dict[str, WantedBlob] = {}
    async with aclosing(source.rows(_IN_CATALOGUE)) as batches:
        async for batch in batches:
            for key, size, digest, is_sealed in batch:
                stored = sealed_size(size) if is_sealed else size
                found[key] = WantedBlob(key, stored, None if digest is None else bytes(digest).hex())
    for key in await source.values(_OF_EVENTS):
        found.setdefault(key, WantedBlob(key))
    return [found[key] for key in sorted(found)]


async def copy_blobs(
    backend: FileStore, writer: ArchiveWriter, wanted: Sequence[WantedBlob], told: Callable[[int], None]
) -> CopiedBlobs:
    """Copy contents that the archive does not have from an earlier backup, several at a time.

    Args:
        backend: where they are.
        writer: takes them.
        wanted: which.
        told: called after each with 1.

    Raises:
        FileStoreError: one cannot be read, though it may be there.
        OSError: one cannot be written.
    """
    done = CopiedBlobs()

    async def copy(one: WantedBlob) -> None:
        blob = await in_thread(writer.kept, one.key) if writer.has_earlier else None
        if blob is None:
            try:
                blob = await _copied(backend, writer, one)
            except FileNotFound:
                if one.size is not None:
                    done.missing.append(one.key)
                return
            done.copied += 1
        if one.size not in (None, blob.size) or one.sha256 not in (None, blob.sha256):
            done.damaged.append(one.key)
        done.found.append(blob)
        told(1)

    await each(copy, wanted, BLOB_CONCURRENCY)
    for keys in (done.missing, done.damaged):
        keys.sort()
    done.found.sort(key=lambda blob: blob.key)
    return done


async def _copied(backend: FileStore, writer: ArchiveWriter, one: WantedBlob) -> ArchivedBlob:
    """Raises FileNotFound."""
    if one.size is not None and one.size <= PIECE:
        content = await backend.read(one.key)
        blob = ArchivedBlob(one.key, len(content), hashlib.sha256(content).hexdigest())
        await in_thread(writer.add_blob, content, blob)
        return blob
    file = await in_thread(writer.new_file)
    blob = await _streamed(backend, one.key, file)
    await in_thread(writer.take_blob, file, blob)
    return blob


async def _streamed(backend: FileStore, key: str, file: Path) -> ArchivedBlob:
    digest, size = hashlib.sha256(), 0
    with file.open("wb") as opened:
        async with aclosing(backend.stream(key, chunk_size=PIECE)) as pieces:
            async for piece in pieces:
                digest.update(piece)
                size += len(piece)
                await in_thread(opened.write, piece)
    return ArchivedBlob(key, size, digest.hexdigest())


async def lines_of(blobs: Sequence[ArchivedBlob]) -> AsyncGenerator[list[bytes], Any]:
    """The lines that name contents, some hundred at a time."""
    for start in range(0, len(blobs), ROWS):
        yield [blob.to_line() for blob in blobs[start : start + ROWS]]
