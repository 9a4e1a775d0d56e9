"""Writing one file so that a crash leaves the old or the new content, and what the file system's answers mean."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import threading
import time
import unicodedata
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from typing import Final
from uuid import uuid4

from storage.durable import flush
from storage.errors import Conflict, FileAccessDenied, FileStoreFull, FileStoreUnavailable, StorageError
from storage.files.store import FileStat, check, guess_media_type

FILE_MODE: Final = 0o600
"""Private to the user: conversations hold what their agents saw."""

_DRAFT = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC

_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_NO_ACCESS = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})

_NO_LOCKS = frozenset({errno.EBADF, errno.EINVAL, errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP})

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


class Draft:
    """Content on its way to a path: a temporary file in the same folder, locked while its writer lives.

    The lock (flock, given back by the kernel when the process dies) is how a leftover of a crash is told from a
    write that is under way.
    """

    def __init__(self, folder: int, name: str, path: str) -> None:
        """Takes over the descriptor `folder`."""
        self._folder = folder
        self._name = name
        self.path = path
        self._temporary = f".storage-tmp-{uuid4().hex}"
        # append() may still run in a thread when a cancelled caller discards.
        self._guard = threading.Lock()
        self._open = True
        self._file = os.open(self._temporary, _DRAFT, FILE_MODE, dir_fd=folder)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX)
            if os.fstat(self._file).st_nlink == 0:
                raise FileNotFoundError(errno.ENOENT, "swept before it was locked", self._temporary)
        except BaseException:
            os.close(self._file)
            raise

    def append(self, data: bytes) -> None:
        """Write `data` behind what was written so far."""
        with self._guard, typed(self.path):
            if not self._open:
                return
            rest = memoryview(data)
            while rest:
                rest = rest[os.write(self._file, rest) :]

    def commit(self, *, if_absent: bool, if_match: str | None) -> FileStat:
        """Make the content durable, then visible, then make that durable: fsync, rename, fsync of the folder."""
        with self._guard, typed(self.path):
            # The kernel stamps files with the time of its last tick, so two writes within 4 ms could have one etag.
            os.utime(self._file, ns=(stamp := time.time_ns(), stamp))
            flush(self._file)
            conditional = if_absent or if_match is not None
            folds = self._folds()
            try:
                with exclusive(self._folder) if conditional or folds else shared(self._folder):
                    if folds:
                        refuse_other_spelling(self._name, self._folder, self.path)
                    if conditional:
                        check(self.path, self._present(), if_absent=if_absent, if_match=if_match)
                    os.rename(self._temporary, self._name, src_dir_fd=self._folder, dst_dir_fd=self._folder)
            except (IsADirectoryError, NotADirectoryError) as error:
                raise folder_in_the_way(self.path) from error
            flush(self._folder)
            found = os.fstat(self._file)
            self._close()
        return described(self.path, found)

    def _folds(self) -> bool:
        """Whether this folder does not tell upper and lower case apart: the temporary file is found in capitals."""
        try:
            os.stat(self._temporary.upper(), dir_fd=self._folder, follow_symlinks=False)
        except FileNotFoundError:
            return False
        return True

    def _present(self) -> str | None:
        """The etag of the file that is at the path now."""
        try:
            found = os.stat(self._name, dir_fd=self._folder, follow_symlinks=False)
        except FileNotFoundError:
            return None
        return etag(found) if stat.S_ISREG(found.st_mode) else None

    def discard(self) -> bool:
        """Forget the content; what was at the path stays. After a commit it does nothing, and returns False."""
        with self._guard:
            if not self._open:
                return False
            try:
                with typed(self.path), suppress(FileNotFoundError):
                    os.unlink(self._temporary, dir_fd=self._folder)
            finally:
                self._close()
            return True

    def _close(self) -> None:
        self._open = False
        os.close(self._file)
        os.close(self._folder)


def described(path: str, found: os.stat_result) -> FileStat:
    """A FileStat from what the file system reports."""
    updated_at = _EPOCH + timedelta(microseconds=found.st_mtime_ns // 1000)
    return FileStat(
        path=path, size=found.st_size, updated_at=updated_at, media_type=guess_media_type(path), etag=etag(found)
    )


def etag(found: os.stat_result) -> str:
    """What differs between any two writes: each makes a new inode, and stamps it to the nanosecond."""
    return f"{found.st_ino:x}-{found.st_mtime_ns:x}-{found.st_size:x}"


@contextmanager
def exclusive(folder: int) -> Iterator[None]:
    """Keep every other writer and deleter out of a folder while a condition is checked and acted upon."""
    fcntl.flock(folder, fcntl.LOCK_EX)
    try:
        yield
    finally:
        fcntl.flock(folder, fcntl.LOCK_UN)


@contextmanager
def shared(folder: int) -> Iterator[None]:
    """Change a folder, but not between another writer's check and its act."""
    try:
        fcntl.flock(folder, fcntl.LOCK_SH)
    except OSError as error:
        # Network file systems may not lock folders. Then no conditional write can succeed there either.
        if error.errno not in _NO_LOCKS:
            raise
        yield
        return
    try:
        yield
    finally:
        fcntl.flock(folder, fcntl.LOCK_UN)


@contextmanager
def typed(path: str) -> Iterator[None]:
    """Turn what the operating system reports into this library's errors."""
    try:
        yield
    except StorageError:
        raise
    except OSError as error:
        if error.errno in _NO_ROOM:
            raise FileStoreFull(
                f"no room for {path!r}: {error.strerror}; what was there before is unchanged. Free space and retry"
            ) from error
        if error.errno in _NO_ACCESS:
            raise FileAccessDenied(
                f"the file system refused access to {path!r}: {error.strerror}. "
                "The folder must belong to the user that runs this process"
            ) from error
        raise FileStoreUnavailable(
            f"the file system failed at {path!r}: {error}. Check the disk, then retry"
        ) from error


def folder_in_the_way(path: str) -> Conflict:
    """The error for a file that would have to replace a folder."""
    return Conflict(f"{path!r} is a folder in this file system, so it cannot be a file; choose another name")


def refuse_other_spelling(name: str, folder: int, path: str, *, but: int | None = None) -> None:
    """Keep a write from replacing a file of another name, where the file system does not tell their cases apart.

    Costs one look at a name that is usually not there; the folder is only read where cases are not told apart.

    Args:
        name: of the entry that is to be made or replaced, or of a folder on the way to it.
        folder: where it is.
        path: of the file, for the error.
        but: the inode of the file that is to get this name, which may have it in another spelling now.

    Raises:
        Conflict: the name leads to an entry that is spelled otherwise.
    """
    if (swapped := name.swapcase()) == name:
        return
    try:
        found, same = (os.stat(each, dir_fd=folder, follow_symlinks=False) for each in (swapped, name))
    except FileNotFoundError:
        return
    if found.st_ino != same.st_ino or found.st_ino == but:
        return
    with os.scandir(folder) as entries:
        taken = other_spelling(name, found.st_ino, ((entry.name, entry.inode()) for entry in entries))
    if taken is not None:
        raise Conflict(
            f"{path!r} cannot be written: this file system does not tell {name!r} from {taken!r}, which is there;"
            " choose another name"
        )


def other_spelling(name: str, inode: int, entries: Iterable[tuple[str, int]]) -> str | None:
    """Which of a folder's entries `name` leads to, if that one is spelled otherwise.

    A file system that decomposes names (HFS+) keeps the same name in another normal form, which is no other spelling.

    Args:
        name: in normal form.
        inode: of what the name leads to.
        entries: names and inodes of the folder.
    """
    taken = None
    for entry, number in entries:
        if unicodedata.normalize("NFC", entry) == name:
            return None
        if number == inode:
            taken = entry
    return taken
