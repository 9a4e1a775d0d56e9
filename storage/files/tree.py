"""One folder of the file system as a tree of files that nothing can lead out of, and that a crash leaves whole.

Every step of a path is opened relative to the folder before it and without following symbolic links (openat with
O_NOFOLLOW), so a link planted in the tree cannot redirect a read or a write, not even between a check and its use.
All functions here block; storage.files.local runs them in threads.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import sys
import threading
import unicodedata
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final
from uuid import uuid4

from storage.errors import Conflict, FileAccessDenied, FileStoreFull, FileStoreUnavailable, StorageError
from storage.files.paths import MAX_PATH_BYTES, TEMPORARY_NAME, is_stored_name
from storage.files.store import FileStat, guess_media_type, missing

FILE_MODE: Final = 0o600
FOLDER_MODE: Final = 0o700
"""Private to the user: conversations hold what their agents saw."""

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
# O_NONBLOCK: opening a FIFO that somebody put there must not wait for its other end.
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_DRAFT = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC

_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_NO_ACCESS = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)

_ATTEMPTS: Final = 100
"""How often a write begins again because a concurrent delete removed the folder that it had just opened. Each round
needs another delete to win the race, so the number only has to end a loop that something unforeseen keeps going."""


class Draft:
    """Content on its way to a path: a temporary file in the same folder, locked while its writer lives.

    The lock (flock, given back by the kernel when the process dies) is how a leftover of a crash is told from a
    write that is under way.
    """

    def __init__(self, folder: int, name: str, path: str) -> None:
        """Takes over the descriptor `folder`."""
        self._folder = folder
        self._name = name
        self._path = path
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
        with self._guard, typed(self._path):
            if not self._open:
                return
            rest = memoryview(data)
            while rest:
                rest = rest[os.write(self._file, rest) :]

    def commit(self) -> FileStat:
        """Make the content durable, then visible, then make that durable: fsync, rename, fsync of the folder."""
        with self._guard, typed(self._path):
            _flush(self._file)
            try:
                os.rename(self._temporary, self._name, src_dir_fd=self._folder, dst_dir_fd=self._folder)
            except (IsADirectoryError, NotADirectoryError) as error:
                raise _folder_in_the_way(self._path) from error
            _flush(self._folder)
            found = os.fstat(self._file)
            self._close()
        return described(self._path, found)

    def discard(self) -> None:
        """Forget the content; what was at the path stays. Does nothing after a commit."""
        with self._guard:
            if self._open:
                try:
                    with typed(self._path), suppress(FileNotFoundError):
                        os.unlink(self._temporary, dir_fd=self._folder)
                finally:
                    self._close()

    def _close(self) -> None:
        self._open = False
        os.close(self._file)
        os.close(self._folder)


class Tree:
    """The files below one folder. Paths are in normal form (storage.files.paths); `""` is the folder itself."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def draft(self, path: str) -> Draft:
        """Begin to write `path`; missing folders are made."""
        *folders, name = path.split("/")
        with typed(path):
            for attempt in range(1, _ATTEMPTS + 1):
                try:
                    folder = self._open_folder(folders, create=True)
                    try:
                        return Draft(folder, name, path)
                    except BaseException:
                        os.close(folder)
                        raise
                except NotADirectoryError as error:
                    raise _file_in_the_way(path) from error
                except FileNotFoundError:
                    if attempt == _ATTEMPTS:
                        raise
        raise AssertionError("unreachable: the loop returns or raises")

    def write(self, path: str, data: bytes) -> FileStat:
        """Replace the content at `path`."""
        draft = self.draft(path)
        try:
            draft.append(data)
            return draft.commit()
        finally:
            draft.discard()

    def open(self, path: str) -> int:
        """A descriptor to read the file with; raises FileNotFound."""
        *folders, name = path.split("/")
        with typed(path):
            try:
                with self._folder(folders) as folder:
                    _refuse_link(name, folder, path)
                    descriptor = os.open(name, _FILE, dir_fd=folder)
            except (FileNotFoundError, NotADirectoryError) as error:
                raise missing(path) from error
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                os.close(descriptor)
                raise missing(path)
            return descriptor

    def read(self, path: str) -> bytes:
        """The whole content."""
        with typed(path), os.fdopen(self.open(path), "rb", buffering=0) as file:
            return file.read()

    def read_piece(self, path: str, descriptor: int, size: int, offset: int) -> bytes:
        """At most `size` bytes from `offset` of what open() gave; empty at the end of the file."""
        with typed(path):
            return os.pread(descriptor, size, offset)

    def stat(self, path: str) -> FileStat | None:
        """What the file system knows of the file; None when there is none."""
        *folders, name = path.split("/")
        with typed(path):
            try:
                with self._folder(folders) as folder:
                    found = os.stat(name, dir_fd=folder, follow_symlinks=False)
            except (FileNotFoundError, NotADirectoryError):
                return None
        return described(path, found) if stat.S_ISREG(found.st_mode) else None

    def names(self, folder: str) -> list[str]:
        """One level: full paths in byte order, folders with a `/` behind."""
        with typed(folder):
            try:
                with self._folder(_split(folder)) as descriptor:
                    return [path for path, _ in _entries(descriptor, folder)]
            except (FileNotFoundError, NotADirectoryError):
                return []

    def scan(self, folder: str) -> list[FileStat | str]:
        """One level in byte order: files as FileStat, folders as paths without a `/` behind."""
        found: list[FileStat | str] = []
        with typed(folder):
            try:
                with self._folder(_split(folder)) as descriptor:
                    for path, entry in _entries(descriptor, folder):
                        if path.endswith("/"):
                            found.append(path[:-1])
                            continue
                        with suppress(FileNotFoundError):  # deleted since the folder was read
                            found.append(described(path, entry.stat(follow_symlinks=False)))
            except (FileNotFoundError, NotADirectoryError):
                return []
        return found

    def remove(self, path: str, *, below: bool) -> int:
        """Delete the file at `path`, and with `below` everything under it; returns the number of files.

        Folders that this leaves empty go too, since a folder exists while it has files.
        """
        *folders, name = path.split("/")
        with typed(path), ExitStack() as held:
            try:
                chain = self._open_chain(folders, held)
                found = os.stat(name, dir_fd=chain[-1], follow_symlinks=False)
            except (FileNotFoundError, NotADirectoryError):
                return 0
            if stat.S_ISDIR(found.st_mode):
                if not below:
                    return 0
                removed = _remove_folder(chain[-1], name)
            else:
                removed = _unlink(name, chain[-1], found.st_mode)
            _flush(chain[-1])
            _prune(chain, folders)
            return removed

    def move(self, source: str, target: str) -> FileStat:
        """Rename one file; atomic."""
        *folders, name = source.split("/")
        *target_folders, target_name = target.split("/")
        with typed(source), ExitStack() as held:
            found = self.stat(source)
            if found is None:
                raise missing(source)
            try:
                chain = self._open_chain(folders, held)
            except FileNotFoundError as error:
                raise missing(source) from error
            for attempt in range(1, _ATTEMPTS + 1):
                try:
                    with self._folder(target_folders, create=True) as folder:
                        os.rename(name, target_name, src_dir_fd=chain[-1], dst_dir_fd=folder)
                        _flush(folder)
                    break
                except IsADirectoryError as error:
                    raise _folder_in_the_way(target) from error
                except NotADirectoryError as error:
                    raise _file_in_the_way(target) from error
                except FileNotFoundError as error:
                    if attempt == _ATTEMPTS or self.stat(source) is None:
                        raise missing(source) from error
            _flush(chain[-1])
            _prune(chain, folders)
        moved = self.stat(target)
        if moved is None:  # already replaced or deleted by somebody else
            raise missing(target)
        return moved

    @contextmanager
    def _folder(self, folders: list[str], *, create: bool = False) -> Iterator[int]:
        descriptor = self._open_folder(folders, create=create)
        try:
            yield descriptor
        finally:
            os.close(descriptor)

    def _open_folder(self, folders: list[str], *, create: bool = False) -> int:
        descriptor = self._open_root(create=create)
        for name in folders:
            try:
                below = _open_below(name, descriptor, create=create)
            finally:
                os.close(descriptor)
            descriptor = below
        return descriptor

    def _open_chain(self, folders: list[str], held: ExitStack) -> list[int]:
        """Descriptors of the root and of each folder on the way down, closed with `held`."""
        chain = [self._open_root(create=False)]
        held.callback(os.close, chain[0])
        for name in folders:
            below = _open_below(name, chain[-1], create=False)
            held.callback(os.close, below)
            chain.append(below)
        return chain

    def _open_root(self, *, create: bool) -> int:
        try:
            return os.open(self.root, _FOLDER)
        except NotADirectoryError as error:
            raise FileStoreUnavailable(f"the root {str(self.root)!r} of the file store is not a folder") from error
        except FileNotFoundError:
            if not create:
                raise
        self.root.mkdir(mode=FOLDER_MODE, parents=True, exist_ok=True)
        parent = os.open(self.root.parent, _FOLDER)
        try:
            _flush(parent)
        finally:
            os.close(parent)
        return os.open(self.root, _FOLDER)


def described(path: str, found: os.stat_result) -> FileStat:
    """A FileStat from what the file system reports."""
    updated_at = _EPOCH + timedelta(microseconds=found.st_mtime_ns // 1000)
    return FileStat(path=path, size=found.st_size, updated_at=updated_at, media_type=guess_media_type(path))


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


def _split(folder: str) -> list[str]:
    return folder.split("/") if folder else []


def _open_below(name: str, parent: int, *, create: bool) -> int:
    try:
        return os.open(name, _FOLDER | os.O_NOFOLLOW, dir_fd=parent)
    except FileNotFoundError:
        if not create:
            raise
    except OSError:
        _refuse_link(name, parent, name)
        raise
    with suppress(FileExistsError):
        os.mkdir(name, FOLDER_MODE, dir_fd=parent)
        _flush(parent)
    return os.open(name, _FOLDER | os.O_NOFOLLOW, dir_fd=parent)


def _refuse_link(name: str, parent: int, path: str) -> None:
    """Raises FileAccessDenied for a symbolic link; the kernel itself reports one in several ways."""
    with suppress(FileNotFoundError):
        if stat.S_ISLNK(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode):
            raise FileAccessDenied(
                f"{path!r} is a symbolic link, which could lead out of the store; replace it by the file itself"
            )


def _entries(descriptor: int, folder: str) -> list[tuple[str, os.DirEntry[str]]]:
    """Files and folders that this library could have written, with their full paths, in byte order of the paths."""
    prefix = f"{folder}/" if folder else ""
    found = []
    with os.scandir(descriptor) as entries:
        for entry in entries:
            name = _as_stored(entry.name)
            if name is None or len(f"{prefix}{name}".encode()) > MAX_PATH_BYTES:
                continue
            if entry.is_dir(follow_symlinks=False):
                found.append((f"{prefix}{name}/", entry))
            elif entry.is_file(follow_symlinks=False):
                found.append((f"{prefix}{name}", entry))
    return sorted(found, key=lambda pair: pair[0])


def _as_stored(name: str) -> str | None:
    """The name as it was given to write(); None for a name that cannot have been, which is somebody else's file."""
    normal = name if name.isascii() else unicodedata.normalize("NFC", name)
    # HFS+ decomposes names itself; anywhere else a decomposed name would not be found again.
    if (normal != name and sys.platform != "darwin") or not is_stored_name(normal):
        return None
    return normal


def _remove_folder(parent: int, name: str) -> int:
    """Delete a folder and all below it, except what a writer is writing at this moment."""
    removed = 0
    try:
        folder = os.open(name, _FOLDER | os.O_NOFOLLOW, dir_fd=parent)
    except FileNotFoundError:
        return 0
    try:
        with os.scandir(folder) as entries:
            listed = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries]
        for child, is_folder in listed:
            if is_folder:
                removed += _remove_folder(folder, child)
            elif TEMPORARY_NAME.fullmatch(child):
                _sweep(child, folder)
            else:
                with suppress(FileNotFoundError):
                    removed += _unlink(child, folder, os.stat(child, dir_fd=folder, follow_symlinks=False).st_mode)
    finally:
        os.close(folder)
    _remove_empty(name, parent)
    return removed


def _unlink(name: str, parent: int, mode: int) -> int:
    """Delete one entry (of a link: the link); returns 1 if it was a file."""
    try:
        os.unlink(name, dir_fd=parent)
    except FileNotFoundError:
        return 0
    return int(stat.S_ISREG(mode))


def _sweep(name: str, parent: int) -> None:
    """Delete a temporary file whose writer is dead."""
    try:
        descriptor = os.open(name, _FILE, dir_fd=parent)
    except FileNotFoundError:
        return
    try:
        with suppress(BlockingIOError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            with suppress(FileNotFoundError):
                os.unlink(name, dir_fd=parent)
    finally:
        os.close(descriptor)


def _prune(chain: list[int], folders: list[str]) -> None:
    """Remove the folders on the way to a removed file that are empty now, from the innermost outwards."""
    for parent, name in zip(reversed(chain[:-1]), reversed(folders), strict=True):
        if not _remove_empty(name, parent):
            return


def _remove_empty(name: str, parent: int) -> bool:
    """Remove a folder if it is empty; returns whether it is gone."""
    try:
        os.rmdir(name, dir_fd=parent)
    except FileNotFoundError:
        return True
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
            return False
        raise
    return True


def _flush(descriptor: int) -> None:
    """Make what was written reach the disk itself."""
    if sys.platform == "darwin":
        # fsync there only hands the data to the drive, which may still lose it (fsync(2), F_FULLFSYNC).
        fcntl.fcntl(descriptor, fcntl.F_FULLFSYNC)
    else:
        os.fsync(descriptor)


def _folder_in_the_way(path: str) -> Conflict:
    return Conflict(f"{path!r} is a folder in this file system, so it cannot be a file; choose another name")


def _file_in_the_way(path: str) -> Conflict:
    return Conflict(f"a parent of {path!r} is a file in this file system, so nothing can be below it")
