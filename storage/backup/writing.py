"""Where an archive is written: what its writer promises, and the one that makes a tar file."""

from __future__ import annotations

import contextlib
import io
import os
import secrets
import shutil
import tarfile
import tempfile
import threading
import time
from abc import ABC, abstractmethod
from pathlib import Path
from typing import BinaryIO, Final

from storage.backup.archive import Archive, ArchivedBlob, tar_archive
from storage.backup.manifest import MANIFEST, Manifest
from storage.durable import sync
from storage.errors import BackupError, InvalidInput, TargetNotEmpty

TAR_SUFFIX: Final = ".tar"

_OWNER_ONLY: Final = 0o600
_DATA: Final = "data-"
_COMPRESSED: Final = frozenset({".gz", ".tgz", ".bz2", ".xz", ".zst", ".zip", ".7z", ".lz4"})


class ArchiveWriter(ABC):
    """Takes the parts of an archive, in any order, and then its manifest. Blocking: to be used in threads.

    Attributes:
        data: the folder, within the archive, of this backup's rows.
        workplace: a folder on the same disk, for files that are to be taken in.
        has_earlier: whether there may be contents from an earlier backup.
        compared: keys of those that were read, and are what they were.
    """

    data: str
    workplace: Path
    has_earlier: bool = False
    compared: frozenset[str] | set[str] = frozenset()

    def new_file(self) -> Path:
        """An empty file to write to, its owner's alone."""
        descriptor, name = tempfile.mkstemp(dir=self.workplace)
        os.close(descriptor)
        return Path(name)

    def kept(self, key: str) -> ArchivedBlob | None:
        """A content that an earlier backup has left and that is still what it was; None if there is none."""
        return None

    @abstractmethod
    def take(self, file: Path, path: str) -> None:
        """Take a file into the archive, under this path; it is gone from where it was."""

    def take_blob(self, file: Path, blob: ArchivedBlob) -> None:
        """Take a content that is in a file."""
        self.take(file, blob.path)

    def add_blob(self, content: bytes, blob: ArchivedBlob) -> None:
        """Take a content that is in memory."""
        file = self.new_file()
        file.write_bytes(content)
        self.take_blob(file, blob)

    @abstractmethod
    def complete(self, manifest: Manifest) -> Archive:
        """Take the manifest, the last part; gives the archive for reading, before it is in its place."""

    @abstractmethod
    def publish(self) -> None:
        """Put it in its place, in which it is whole at once. What only earlier backups needed is removed."""

    @abstractmethod
    def abandon(self) -> None:
        """Leave what was there before, and nothing of this."""


def writer_for(target: Path) -> ArchiveWriter:
    """A tar file if the name ends in `.tar`, else a folder.

    Raises:
        InvalidInput: the name is that of a compressed file.
        TargetNotEmpty: the file exists already, or the folder holds something that is no backup.
        ArchiveTooNew: the folder holds a backup that a newer release has made.
        BackupError: it cannot be written, or another backup is writing to it.
    """
    from storage.backup.folder import FolderWriter

    if target.suffix.lower() in _COMPRESSED and not target.is_dir():
        raise InvalidInput(
            f"{target.name} would be a compressed file; name one that ends in {TAR_SUFFIX}, and compress it afterwards"
        )
    try:
        return TarWriter(target) if target.suffix == TAR_SUFFIX else FolderWriter(target)
    except OSError as error:
        raise BackupError(f"cannot write {target}: {error.strerror or error}; choose another place") from error


class TarWriter(ArchiveWriter):
    """One file, for which a temporary one is written beside it."""

    def __init__(self, target: Path) -> None:
        if target.exists():
            raise TargetNotEmpty(f"{target} exists already; choose another name, or remove it")
        self._target = target
        self.data = data_folder()
        self.workplace = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))  # 0700
        self._file = self.workplace / "archive"
        self._tar = tarfile.open(self._file, "w", format=tarfile.PAX_FORMAT)  # noqa: SIM115 - closed by finish or abandon
        self._file.chmod(_OWNER_ONLY)
        self._one_at_a_time = threading.Lock()

    def take(self, file: Path, path: str) -> None:
        """Append it."""
        with self._one_at_a_time, file.open("rb") as content:
            self._append(path, os.fstat(content.fileno()).st_size, content)
        file.unlink()

    def add_blob(self, content: bytes, blob: ArchivedBlob) -> None:
        """Append it."""
        with self._one_at_a_time:
            self._append(blob.path, len(content), io.BytesIO(content))

    def _append(self, path: str, size: int, content: BinaryIO) -> None:
        member = tarfile.TarInfo(path)  # which tells nothing of this machine's users
        member.size, member.mode, member.mtime = size, _OWNER_ONLY, int(time.time())
        self._tar.addfile(member, content)
        self._tar.members = []  # type: ignore[attr-defined] # which would keep a kilobyte for each

    def complete(self, manifest: Manifest) -> Archive:
        """Append the manifest."""
        file = self.new_file()
        file.write_bytes(manifest.to_json())
        self.take(file, MANIFEST)
        self._tar.close()
        sync(self._file)
        return tar_archive(self._file)

    def publish(self) -> None:
        """Let the file take its place."""
        try:
            # Not over one that has come meanwhile.
            os.link(self._file, self._target)
        except FileExistsError:
            raise TargetNotEmpty(f"{self._target} has come into being meanwhile; nothing was written") from None
        except OSError:  # a file system without links
            self._file.rename(self._target)
        shutil.rmtree(self.workplace, ignore_errors=True)
        sync(self._target.parent)

    def abandon(self) -> None:
        """Remove the temporary file."""
        with contextlib.suppress(OSError):
            self._tar.close()
        shutil.rmtree(self.workplace, ignore_errors=True)


def data_folder() -> str:
    """A name for the folder of a backup's rows, that no other backup has."""
    return f"{_DATA}{secrets.token_hex(16)}"
