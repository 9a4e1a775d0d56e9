"""Contents that a CachedFileStore keeps in a folder of this machine: for all its processes, and beyond a restart.

A cache may lose anything and must never lie. So nothing is flushed to the disk, every content carries a checksum of
itself and of what it is the content of, and whatever the file system refuses is a miss. All functions here block.
"""

from __future__ import annotations

import hashlib
import logging
import os
import stat
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final
from uuid import uuid4

from storage.files.paths import TEMPORARY_NAME
from storage.private_folder import FOLDER_MODE, make_private_folder

log = logging.getLogger(__name__)

LAYOUT: Final = "contents-1"
"""The folder below the given one that holds the contents: ours alone, whoever owns the given one. A release that lays
them out in another way takes another name."""

CHECKSUM_BYTES: Final = 32
"""The SHA-256 behind each content."""

LEFTOVER_SECONDS: Final = 3600
"""A temporary file that was last written to so long ago has lost its writer: a content is written in moments."""

ROOM_SHARE: Final = 8
UNSEEN_SHARE: Final = 32
"""Making room leaves an eighth of the limit free. A process counts what it writes and looks again at the whole folder
after a 32nd of the limit, so four processes together stay below the limit although none sees what the others write."""

_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
_WRITE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class FolderCache:
    """Contents by path, in files of at most `limit_bytes` together; the least recently used go first.

    When a content was used last is its file's modification time, which each use sets. Several processes may use one
    folder. The names are hashes, so that they tell nothing of the paths.

    Args:
        folder: made with mode 0700 if it is missing.
        limit_bytes: sum of the files' sizes.
        location: of the store whose contents these are; caches of several stores may share a folder.
    """

    def __init__(self, folder: Path, limit_bytes: int, location: str) -> None:
        self.folder = Path(os.path.abspath(folder.expanduser()))  # noqa: PTH100 - resolve() would follow links
        self.limit_bytes = limit_bytes
        self.held_bytes = 0
        self.held_files = 0
        self._root = self.folder / LAYOUT
        self._location = location
        self._lock = threading.Lock()
        self._ready: bool | None = None
        self._measured = False
        self._unseen = 0
        self._warned = False

    def get(self, path: str, label: str) -> bytes | None:
        """The content kept for a path under this label; None if there is none, or it is damaged."""
        name = self._name(path)
        place = self._place(name)
        try:
            if not self._prepared():
                return None
            file = os.open(place, _READ)
        except FileNotFoundError:
            return None
        except OSError as error:
            self._warn(error)
            return None
        try:
            with os.fdopen(file, "rb", buffering=0) as opened:
                # Never all of a file that somebody made longer: the limit is that of the memory too.
                content = opened.read() if os.fstat(file).st_size <= self.limit_bytes else b""
                kept, checksum = content[:-CHECKSUM_BYTES], content[-CHECKSUM_BYTES:]
                if checksum == _checksum(name, label, kept):
                    os.utime(file)
                    return kept
        except OSError as error:
            self._warn(error)
            return None
        self.drop(path)  # of an older file, or not what was written: of no use to anybody
        return None

    def put(self, path: str, label: str, content: bytes) -> None:
        """Keep a content, and make room for it. What goes wrong is logged once, and the content is not kept."""
        size = len(content) + CHECKSUM_BYTES
        if size > self.limit_bytes:
            return
        name = self._name(path)
        place = self._place(name)
        temporary = place.with_name(f".storage-tmp-{uuid4().hex}")
        try:
            if not self._prepared():
                return
            with self._lock:
                seldom = self._unseen <= self.limit_bytes // UNSEEN_SHARE
                if not (self._measured and seldom and self.held_bytes + size <= self.limit_bytes):
                    self._make_room(size)
                # Counted before it is there, so that threads that write at once do not exceed the limit together.
                self.held_bytes += size
                self.held_files += 1
                self._unseen += size
            make_private_folder(place.parent)
            try:
                file = os.open(temporary, _WRITE, 0o600)
                with os.fdopen(file, "wb", buffering=0) as opened:
                    for piece in (content, _checksum(name, label, content)):
                        rest = memoryview(piece)
                        while rest:
                            rest = rest[opened.write(rest) :]
                replaced = _size(place)
                temporary.rename(place)
            except OSError:
                temporary.unlink(missing_ok=True)
                raise
        except OSError as error:
            self._counted_out(size)
            self._warn(error)
            return
        if replaced is not None:
            self._counted_out(replaced)

    def drop(self, path: str) -> None:
        """Forget what is kept for a path."""
        place = self._place(self._name(path))
        try:
            size = _size(place)
            if size is None or not self._prepared():
                return
            place.unlink()
        except FileNotFoundError:
            return
        except OSError as error:
            self._warn(error)
            return
        self._counted_out(size)

    def measure(self) -> None:
        """Bring `held_bytes` and `held_files` up to date with what all processes did."""
        try:
            if self._root.is_dir() and self._prepared():
                with self._lock:
                    self._make_room(0)
        except OSError as error:
            self._warn(error)

    def _name(self, path: str) -> bytes:
        return hashlib.sha256(f"{self._location}\0{path}".encode()).digest()

    def _place(self, name: bytes) -> Path:
        digits = name.hex()
        return self._root / digits[:2] / digits[2:]

    def _prepared(self) -> bool:
        """Whether the folder is ours alone. One that others may write to could give us contents of theirs."""
        if self._ready is None:
            with self._lock:
                try:
                    make_private_folder(self._root)
                    found = self._root.lstat()
                    private = found.st_uid == os.geteuid() and stat.S_IMODE(found.st_mode) == FOLDER_MODE
                    if not (stat.S_ISDIR(found.st_mode) and private):
                        raise PermissionError(f"{self._root} must be a folder of this user with mode 0700")
                    self._ready = True
                except OSError:
                    self._ready = False
                    raise
        return self._ready

    def _make_room(self, size: int) -> None:
        """Look at the whole folder; delete leftovers and, if `size` bytes more exceed the limit, the oldest files."""
        kept = sorted(self._files())
        held, files = sum(each for _, each, _ in kept), len(kept)
        if held + size > self.limit_bytes:
            room = max(self.limit_bytes - self.limit_bytes // ROOM_SHARE - size, 0)
            for _, each, place in kept:
                if held <= room:
                    break
                with suppress(FileNotFoundError):  # another process makes room too
                    Path(place).unlink()
                held -= each
                files -= 1
        self.held_bytes, self.held_files, self._unseen, self._measured = held, files, 0, True

    def _files(self) -> Iterator[tuple[int, int, str]]:
        """Last use (in ns), size and place of each content."""
        before = time.time() - LEFTOVER_SECONDS
        for folder in [entry for entry in _entries(self._root) if entry.is_dir(follow_symlinks=False)]:
            for entry in _entries(folder.path):
                with suppress(FileNotFoundError):  # another process makes room too
                    found = entry.stat(follow_symlinks=False)
                    if not TEMPORARY_NAME.fullmatch(entry.name):
                        yield found.st_mtime_ns, found.st_size, entry.path
                    elif found.st_mtime < before:
                        Path(entry.path).unlink()

    def _counted_out(self, size: int) -> None:
        with self._lock:
            self.held_bytes = max(self.held_bytes - size, 0)
            self.held_files = max(self.held_files - 1, 0)

    def _warn(self, error: OSError) -> None:
        """Once: a disk that is full, or a folder that is not ours, would fill the log with the same line."""
        if not self._warned:
            self._warned = True
            log.warning(
                "the file cache in %s does not work, so files are read from their store each time: %s."
                " Free space, or name another folder as file_cache_path",
                self.folder,
                error,
            )


def _checksum(name: bytes, label: str, content: bytes) -> bytes:
    """Of a content together with what it is the content of: the name has 32 bytes, and the label ends with a NUL."""
    checksum = hashlib.sha256(name + label.encode() + b"\0")
    checksum.update(content)
    return checksum.digest()


def _entries(folder: str | Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except FileNotFoundError:  # somebody emptied the cache by hand
        return []


def _size(place: Path) -> int | None:
    try:
        return place.lstat().st_size
    except FileNotFoundError:
        return None
