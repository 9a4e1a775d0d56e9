"""One folder of the file system as a tree of files that nothing can lead out of, and that a crash leaves whole.

Every step of a path is opened relative to the folder before it and without following symbolic links (openat with
O_NOFOLLOW), so a link planted in the tree cannot redirect a read or a write, not even between a check and its use.
All functions here block; storage.files.backends.local runs them in threads.
"""

from __future__ import annotations

import errno
import os
import stat
import sys
import time
import unicodedata
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Final

from storage.durable import flush
from storage.errors import Conflict, FileAccessDenied, FileStoreUnavailable, StorageError
from storage.files.backends.draft import (
    Draft,
    described,
    folder_in_the_way,
    refuse_other_spelling,
    shared,
    typed,
)
from storage.files.backends.removal import FILE_FLAGS, FOLDER_FLAGS, prune, remove_folder, sweep, unlink
from storage.files.paths import MAX_PATH_BYTES, TEMPORARY_NAME, is_stored_name
from storage.files.store import FileStat, missing
from storage.private_folder import FOLDER_MODE, make_private_folder

_NOT_EMPTY: Final = frozenset({errno.ENOTEMPTY, errno.EEXIST})

_ATTEMPTS: Final = 100
"""How often a write begins again because a concurrent delete removed the folder that it had just opened. Each round
needs another delete to win the race, so the number only has to end a loop that something unforeseen keeps going."""


LEFTOVER_SECONDS: Final = 3600
"""A temporary file that nothing was added to for so long, and whose lock is free, is what a killed writer left. The
lock alone would tell; the age is for file systems that only pretend to lock."""

REMEMBERED_FOLDERS: Final = 4096
"""Folders that a tree remembers to have swept, several times the 256 of the catalogue's blobs; bounds memory."""


class Tree:
    """The files below one folder. Paths are in normal form (storage.files.paths); `""` is the folder itself."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._next_sweep: dict[tuple[int, int], float] = {}

    def draft(self, path: str) -> Draft:
        """Begin to write `path`; missing folders are made."""
        *folders, name = path.split("/")
        with typed(path):
            for attempt in range(1, _ATTEMPTS + 1):
                try:
                    folder = self._open_folder(folders, create=True)
                    try:
                        self._sweep_seldom(folder)
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

    def write(self, path: str, data: bytes, *, if_absent: bool, if_match: str | None) -> FileStat:
        """Replace the content at `path`, if the condition holds."""
        draft = self.draft(path)
        try:
            draft.append(data)
            return draft.commit(if_absent=if_absent, if_match=if_match)
        finally:
            self.discard(draft)

    def discard(self, draft: Draft) -> None:
        """Give up a write, and the folders that only it made; does nothing after a commit."""
        if not draft.discard():
            return
        folders = draft.path.split("/")[:-1]
        with suppress(OSError, StorageError), ExitStack() as held:  # what made the write fail is raised
            prune(self._open_chain(folders, held), folders)

    def open(self, path: str) -> int:
        """A descriptor to read the file with; raises FileNotFound."""
        *folders, name = path.split("/")
        with typed(path):
            try:
                with self._folder(folders) as folder:
                    _refuse_link(name, folder, path)
                    descriptor = os.open(name, FILE_FLAGS, dir_fd=folder)
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
                    return [
                        path
                        for path, entry in _entries(descriptor, folder)
                        if not path.endswith("/") or _holds_files(entry.name, descriptor)
                    ]
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
                removed = remove_folder(chain[-1], name)
            else:
                with shared(chain[-1]):
                    removed = unlink(name, chain[-1], found.st_mode)
            flush(chain[-1])
            prune(chain, folders)
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
                    with self._folder(target_folders, create=True) as folder, shared(folder), shared(chain[-1]):
                        source_inode = os.stat(name, dir_fd=chain[-1], follow_symlinks=False).st_ino
                        refuse_other_spelling(target_name, folder, target, but=source_inode)
                        os.rename(name, target_name, src_dir_fd=chain[-1], dst_dir_fd=folder)
                        flush(folder)
                    break
                except IsADirectoryError as error:
                    raise folder_in_the_way(target) from error
                except NotADirectoryError as error:
                    raise _file_in_the_way(target) from error
                except FileNotFoundError as error:
                    if attempt == _ATTEMPTS or self.stat(source) is None:
                        raise missing(source) from error
                except OSError as error:
                    # Where the target is a folder that the source is in.
                    if error.errno not in _NOT_EMPTY:
                        raise
                    raise folder_in_the_way(target) from error
            flush(chain[-1])
            prune(chain, folders)
        moved = self.stat(target)
        if moved is None:  # already replaced or deleted by somebody else
            raise missing(target)
        return moved

    def _sweep_seldom(self, folder: int) -> None:
        """Delete what killed writers left in a folder, at the first write into it and at one in LEFTOVER_SECONDS.

        Once would not do: a process that is restarted at once finds what it left too young, and others die later.
        """
        found = os.fstat(folder)
        identity = (found.st_dev, found.st_ino)
        if time.monotonic() < self._next_sweep.get(identity, 0.0):
            return
        if len(self._next_sweep) >= REMEMBERED_FOLDERS:
            self._next_sweep.clear()
        self._next_sweep[identity] = time.monotonic() + LEFTOVER_SECONDS
        before = time.time() - LEFTOVER_SECONDS
        with os.scandir(folder) as entries:
            temporary = [entry for entry in entries if TEMPORARY_NAME.fullmatch(entry.name)]
        for entry in temporary:
            with suppress(OSError):  # gone by now, or of another user: no reason to refuse the write
                if entry.stat(follow_symlinks=False).st_mtime < before:
                    sweep(entry.name, folder)

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
            return os.open(self.root, FOLDER_FLAGS)
        except NotADirectoryError as error:
            raise FileStoreUnavailable(f"the root {str(self.root)!r} of the file store is not a folder") from error
        except FileNotFoundError:
            if not create:
                raise
        make_private_folder(self.root)
        parent = os.open(self.root.parent, FOLDER_FLAGS)
        try:
            flush(parent)
        finally:
            os.close(parent)
        return os.open(self.root, FOLDER_FLAGS)


def _split(folder: str) -> list[str]:
    return folder.split("/") if folder else []


def _open_below(name: str, parent: int, *, create: bool) -> int:
    try:
        return _opened_as_named(name, parent, create=create)
    except FileNotFoundError:
        if not create:
            raise
    except OSError:
        _refuse_link(name, parent, name)
        raise
    with suppress(FileExistsError):
        os.mkdir(name, FOLDER_MODE, dir_fd=parent)
        flush(parent)
    return _opened_as_named(name, parent, create=create)


def _opened_as_named(name: str, parent: int, *, create: bool) -> int:
    """The folder, and for a write not one that is spelled otherwise."""
    descriptor = os.open(name, FOLDER_FLAGS | os.O_NOFOLLOW, dir_fd=parent)
    if create:
        try:
            refuse_other_spelling(name, parent, name)
        except BaseException:
            os.close(descriptor)
            raise
    return descriptor


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


def _holds_files(name: str, parent: int) -> bool:
    """Whether a file is below a folder, at any depth: a folder that a killed writer made is none of the store's."""
    try:
        folder = os.open(name, FOLDER_FLAGS | os.O_NOFOLLOW, dir_fd=parent)
    except (FileNotFoundError, NotADirectoryError):  # deleted or replaced since it was seen
        return False
    except PermissionError:
        return True  # who may not look says so when it is listed itself
    try:
        below = []
        with os.scandir(folder) as entries:
            for entry in entries:
                if _as_stored(entry.name) is None:
                    continue
                if entry.is_file(follow_symlinks=False):
                    return True
                if entry.is_dir(follow_symlinks=False):
                    below.append(entry.name)
        return any(_holds_files(each, folder) for each in below)
    finally:
        os.close(folder)


def _as_stored(name: str) -> str | None:
    """The name as it was given to write(); None for a name that cannot have been, which is somebody else's file."""
    normal = name if name.isascii() else unicodedata.normalize("NFC", name)
    # HFS+ decomposes names itself; anywhere else a decomposed name would not be found again.
    if (normal != name and sys.platform != "darwin") or not is_stored_name(normal):
        return None
    return normal


def _file_in_the_way(path: str) -> Conflict:
    return Conflict(f"a parent of {path!r} is a file in this file system, so nothing can be below it")
