"""A backup in a folder, which later ones make use of: contents of files never change, and are copied only once.

The folder is an archive while it has a manifest, which takes the place of the last one's in one step. Beside it stands
a list of contents that were copied and that no manifest names yet, so that also a backup that was interrupted serves
the next one. Without either of the two a folder that is not empty is somebody else's, and is left alone.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import threading
from pathlib import Path
from typing import Final

from storage.backup.archive import Archive, ArchivedBlob, blob_from
from storage.backup.folder_lock import lock_folder
from storage.backup.manifest import MANIFEST, Manifest
from storage.backup.writing import ArchiveWriter, data_folder
from storage.durable import sync
from storage.errors import ArchiveDamaged, TargetNotEmpty
from storage.private_folder import make_private_folder

BLOBS: Final = "blobs"
COPIED: Final = "copied.jsonl"
"""Contents that are in the folder though the manifest does not name them, one a line; the last line may be torn."""

_DATA: Final = re.compile(r"data-[0-9a-f]{32}")


class FolderWriter(ArchiveWriter):
    """Writes rows anew each time, and of the contents only those that are not there. One writes at a time.

    Raises:
        TargetNotEmpty: the folder holds something that is no backup of ours.
        ArchiveTooNew: it holds a backup that a newer release has made.
        BackupError: another backup is writing to it, or a restore reading it.
        OSError: it cannot be made, or not be written to.
    """

    def __init__(self, target: Path) -> None:
        self._root = target
        self._is_new = not target.exists()
        make_private_folder(target)
        self._lock = lock_folder(target)
        try:
            self._earlier = _earlier(target)
            self._copied = os.fdopen(_opened(target / COPIED, os.O_WRONLY | os.O_APPEND | os.O_CREAT), "ab")
            self.data = data_folder()
            self.workplace = target / self.data
            self.workplace.mkdir(mode=0o700)
        except BaseException:
            os.close(self._lock)
            raise
        self._taken: set[str] = set()
        self.compared: set[str] = set()
        self.has_earlier = bool(self._earlier)
        self._noting = threading.Lock()
        self._has_blobs = False

    def kept(self, key: str) -> ArchivedBlob | None:
        """Read it, and compare it with what the earlier backup's list says."""
        blob = self._earlier.get(key)
        if blob is None or not _is_whole(self._root / blob.path, blob):
            return None
        self._taken.add(key)
        self.compared.add(key)
        return blob

    def take(self, file: Path, path: str) -> None:
        """Move it to its place, on the same disk."""
        place = self._root / path
        make_private_folder(place.parent)
        sync(file)
        file.replace(place)
        self._taken.add(path)

    def take_blob(self, file: Path, blob: ArchivedBlob) -> None:
        """Move it to its place, and note that it is there."""
        self.take(file, blob.path)
        with self._noting:
            self._copied.write(blob.to_line())
            self._copied.flush()

    def complete(self, manifest: Manifest) -> Archive:
        """Write the manifest, beside the last one."""
        self._manifest = self.new_file()
        self._manifest.write_bytes(manifest.to_json())
        sync(self._manifest)
        self._has_blobs = manifest.blobs.part is not None
        if not self._has_blobs:
            # The last manifest goes, which named them; they stay for the next backup that wants contents.
            self._copied.write(b"".join(blob.to_line() for blob in self._earlier.values()))
            self._copied.flush()
        for folder in {(self._root / path).parent for path in self._taken} | {self.workplace}:
            sync(folder)
        return Archive(self._root.resolve(), None, manifest)

    def publish(self) -> None:
        """Put the manifest in the place of the last one, and then remove what only that one named."""
        self._manifest.replace(self._root / MANIFEST)
        sync(self._root)
        self._copied.close()
        for path in self._root.iterdir():
            if _DATA.fullmatch(path.name) and path.name != self.data:
                shutil.rmtree(path, ignore_errors=True)
        if self._has_blobs:
            (self._root / COPIED).unlink(missing_ok=True)
            self._remove_unnamed()
        os.close(self._lock)

    def _remove_unnamed(self) -> None:
        for path in sorted((self._root / BLOBS).rglob("*"), reverse=True):
            if path.is_dir() and not path.is_symlink():
                with contextlib.suppress(OSError):
                    path.rmdir()  # if it is empty
            elif path.relative_to(self._root).as_posix() not in self._taken:
                path.unlink(missing_ok=True)

    def abandon(self) -> None:
        """Remove the rows; contents that were copied serve the next backup."""
        with contextlib.suppress(OSError):
            self._copied.close()
        shutil.rmtree(self.workplace, ignore_errors=True)
        with contextlib.suppress(OSError):
            if not (self._root / COPIED).stat().st_size:
                (self._root / COPIED).unlink()
            if self._is_new:
                self._root.rmdir()  # if nothing was copied
        with contextlib.suppress(OSError):
            os.close(self._lock)


def _earlier(folder: Path) -> dict[str, ArchivedBlob]:
    """Contents that earlier backups have left, by key.

    Raises:
        TargetNotEmpty: the folder is somebody else's.
        ArchiveTooNew: a newer release has written to it.
    """
    there = {path.name for path in folder.iterdir()}
    if there and MANIFEST not in there and COPIED not in there:
        raise TargetNotEmpty(f"{folder} holds something that is no backup of ours; choose a folder of its own")
    found: dict[str, ArchivedBlob] = {}
    if MANIFEST in there:
        try:
            archive = Archive(folder.resolve(), None)
        except ArchiveDamaged as error:
            raise TargetNotEmpty(
                f"{folder} holds a {MANIFEST} that is damaged or none of ours ({error}); choose another folder"
            ) from None
        # A list that cannot be read serves nothing; what it names is copied anew.
        with contextlib.suppress(ArchiveDamaged):
            found |= {blob.key: blob for blob in archive.blobs()}
    if COPIED in there:
        with (folder / COPIED).open("rb") as lines:
            for line in lines:
                with contextlib.suppress(ArchiveDamaged):
                    blob = blob_from(line)
                    found[blob.key] = blob
    return found


def _is_whole(path: Path, blob: ArchivedBlob) -> bool:
    try:
        with os.fdopen(_opened(path, os.O_RDONLY), "rb") as file:
            if os.fstat(file.fileno()).st_size != blob.size:
                return False
            return hashlib.file_digest(file, "sha256").hexdigest() == blob.sha256
    except OSError:
        return False


def _opened(path: Path, flags: int) -> int:
    """Open what is no link; a new file is its owner's alone."""
    return os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
