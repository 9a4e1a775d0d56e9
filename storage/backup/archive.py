"""An archive that is there: its manifest, its parts, and whether all of it is what was written."""

from __future__ import annotations

import hashlib
import io
import json
import re
import tarfile
import threading
from collections.abc import Callable, Collection, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final

from storage.backup.manifest import LARGEST_MANIFEST, MANIFEST, Manifest, Part, read_manifest
from storage.backup.threads import in_thread_until_cancelled
from storage.errors import ArchiveDamaged, PathRejected
from storage.files.blobs import IN_BACKEND
from storage.files.paths import file_path

PIECE: Final = 1024 * 1024
LONGEST_LINE: Final = 1024 * 1024 * 1024
"""Bytes; SQLite has no longer value."""

_LINES: Final = 500
"""After so many of them the one who is told hears of it."""

_HASH: Final = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class ArchivedBlob:
    """A content of the file store: its key there and path in the archive, its bytes and their hash."""

    key: str
    size: int
    sha256: str

    @property
    def path(self) -> str:
        """In the archive."""
        return self.key

    def to_line(self) -> bytes:
        """As a line of the part that names all."""
        return (json.dumps([self.key, self.size, self.sha256]) + "\n").encode()


def blob_from(line: bytes) -> ArchivedBlob:
    """What a line says.

    Raises:
        ArchiveDamaged: it is not one of ours; above all, its key would lead somewhere else.
    """
    try:
        key, size, sha256 = json.loads(line)
        if file_path(key) != key or not key.startswith(IN_BACKEND) or not _HASH.fullmatch(sha256) or size < 0:
            raise ValueError("not a content's")
        return ArchivedBlob(key, int(size), sha256)
    except (ValueError, TypeError, PathRejected) as error:
        raise ArchiveDamaged(f"a content is named in a way that is none of ours: {error}") from None


class Archive:
    """An archive that is there. Blocking: to be used in threads, as many as there are.

    Args:
        path: of the folder or tar file.
        members: where in the tar file each of its files begins and how many bytes it has, None for what is no file; no
            mapping for a folder.
        manifest: if it is not in its place yet.
    """

    def __init__(
        self, path: Path, members: dict[str, tuple[int, int] | None] | None, manifest: Manifest | None = None
    ) -> None:
        self._path = path
        self._members = members
        self.manifest = self._read_manifest() if manifest is None else manifest

    def _read_manifest(self) -> Manifest:
        with self.open(MANIFEST) as file:
            content = file.read(LARGEST_MANIFEST + 1)
        if len(content) > LARGEST_MANIFEST:
            raise ArchiveDamaged(f"{MANIFEST} is longer than any of ours")
        return read_manifest(content)

    @contextmanager
    def open(self, path: str) -> Iterator[BinaryIO]:
        """One of its files. Nothing is ever unpacked to where a name says.

        Raises:
            ArchiveDamaged: there is none of this name, or it is no plain file.
        """
        if self._members is not None:
            if path not in self._members:
                raise ArchiveDamaged(f"{path} is not in the archive")
            member = self._members[path]
            if member is None:
                raise ArchiveDamaged(f"{path} is no file")
            place, start, size = self._path, *member
        else:
            place, start, size = self._path / path, 0, None
            if any(part.is_symlink() for part in (place, *place.parents) if self._path in part.parents):
                raise ArchiveDamaged(f"{path} is a link, and backups have none")
        try:
            file = place.open("rb")
        except OSError as error:
            raise ArchiveDamaged(f"{path} is not in the archive: {error.strerror}") from None
        with file:
            if size is None:
                yield file
            else:
                file.seek(start)
                yield io.BufferedReader(_Section(file, size))

    def lines(self, part: Part) -> Iterator[bytes]:
        """The lines of a part."""
        with self.open(part.path) as file:
            while line := file.readline(LONGEST_LINE):
                yield line

    def blobs(self) -> Iterator[ArchivedBlob]:
        """The contents that are in it."""
        part = self.manifest.blobs.part
        return iter(()) if part is None else (blob_from(line) for line in self.lines(part))

    def pieces(self, blob: ArchivedBlob) -> Generator[bytes, None, None]:
        """A content, from its beginning to its end.

        Raises:
            ArchiveDamaged: at the end: it is not what was written.
        """
        digest, size = hashlib.sha256(), 0
        with self.open(blob.path) as file:
            while size <= blob.size and (piece := file.read(PIECE)):
                digest.update(piece)
                size += len(piece)
                yield piece
        if (size, digest.hexdigest()) != (blob.size, blob.sha256):
            raise ArchiveDamaged(f"{blob.path} is not what was written")

    def verify(
        self, told: Callable[[int, int | None], None] | None = None, *, known: Collection[str] = frozenset()
    ) -> None:
        """Read all of it, and compare it with what the manifest says.

        Args:
            told: bytes that were read, and None, after each piece. What it raises ends this.
            known: keys of contents that were read and compared just now, and are not read again.

        Raises:
            ArchiveDamaged: something is missing or otherwise than it was written.
        """
        done = 0
        parts = [table.part for table in self.manifest.tables]
        if self.manifest.blobs.part is not None:
            parts.append(self.manifest.blobs.part)
        for part in parts:
            digest, number = hashlib.sha256(), 0
            for line in self.lines(part):
                digest.update(line)
                number += 1
                done += len(line)
                if number > part.lines:
                    break
                if told is not None and number % _LINES == 0:
                    told(done, None)
            if (number, digest.hexdigest()) != (part.lines, part.sha256):
                raise ArchiveDamaged(f"{part.path} is not what was written")
            if told is not None:
                told(done, None)
        number = size = 0
        for blob in self.blobs():
            number, size = number + 1, size + blob.size
            for piece in () if blob.key in known else self.pieces(blob):
                done += len(piece)
                if told is not None:
                    told(done, None)
        if (number, size) != (self.manifest.blobs.number, self.manifest.blobs.bytes):
            raise ArchiveDamaged("the contents are not as many as were written")


async def verified(
    archive: Archive, told: Callable[[int, int | None], None] | None = None, *, known: Collection[str] = frozenset()
) -> None:
    """Archive.verify in a thread, which ends when the caller is cancelled."""

    def work(cancelled: threading.Event) -> None:
        def tell(done: int, total: int | None) -> None:
            if cancelled.is_set():
                raise InterruptedError
            if told is not None:
                told(done, total)

        archive.verify(tell, known=known)

    await in_thread_until_cancelled(work)


class _Section(io.RawIOBase):
    """The bytes of a tar file that belong to one of its files, from where the file stands now."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file = file
        self._left = size

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        with memoryview(buffer).cast("B") as view:
            piece = self._file.read(min(len(view), self._left))
            view[: len(piece)] = piece
        self._left -= len(piece)
        return len(piece)


def _members(path: Path) -> dict[str, tuple[int, int] | None]:
    """Where the files of a tar file are; TarFile itself looks through all of them at each call, for one at a time.

    Raises:
        ArchiveDamaged: it is none, or has no end; or two files have one name, so that what is verified need not be what
            is restored.
    """
    found: dict[str, tuple[int, int] | None] = {}
    try:
        with tarfile.open(path, "r:") as tar:
            while (member := tar.next()) is not None:
                if member.name in found:
                    raise ArchiveDamaged(f"{member.name} is in the archive twice")
                # What is sparse would be longer than the archive.
                is_plain = member.type in (tarfile.REGTYPE, tarfile.AREGTYPE) and not member.issparse()
                found[member.name] = (member.offset_data, member.size) if is_plain else None
                tar.members = []  # type: ignore[attr-defined] # which would keep a kilobyte for each
    except OSError as error:
        raise ArchiveDamaged(
            f"{path} cannot be read: {error.strerror}; name a file or folder that a backup wrote"
        ) from None
    except (tarfile.TarError, EOFError) as error:
        raise ArchiveDamaged(
            f"{path} is no backup that can be read: {error}; what was compressed has to be decompressed first"
        ) from None
    return found


@contextmanager
def open_archive(path: Path) -> Iterator[Archive]:
    """Open a tar file or a folder that a backup has written; nobody writes to the folder meanwhile.

    Raises:
        ArchiveDamaged: it is none, or has no end.
        ArchiveTooNew: a newer release has made it.
        BackupError: a backup is writing to the folder.
    """
    if path.is_dir():
        from storage.backup.folder_lock import while_reading

        with while_reading(path):
            yield Archive(path.resolve(), None)
    else:
        yield tar_archive(path)


def tar_archive(path: Path) -> Archive:
    """A tar file; raises as open_archive does."""
    return Archive(path, _members(path))
