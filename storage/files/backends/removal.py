"""Deleting below one folder: files, whole trees, the folders that get empty, and what killed writers left.

Everything is named by its folder's descriptor and its own name, so that no link leads a deletion out of the tree.
Whatever is gone, or has become something else, since it was seen is left to whoever did that.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from contextlib import suppress
from typing import Final

from storage.files.backends.draft import shared
from storage.files.paths import TEMPORARY_NAME

FOLDER_FLAGS: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
"""How a folder is opened."""

FILE_FLAGS: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
"""How a file is opened for reading. O_NONBLOCK: a FIFO that somebody put there must not wait for its other end."""


def remove_folder(parent: int, name: str) -> int:
    """Delete a folder and all below it, except what a writer is writing at this moment."""
    removed = 0
    try:
        folder = os.open(name, FOLDER_FLAGS | os.O_NOFOLLOW, dir_fd=parent)
    except (FileNotFoundError, NotADirectoryError):  # deleted since it was seen, or even replaced by a file
        return 0
    try:
        with os.scandir(folder) as entries:
            listed = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries]
        for child, is_folder in listed:
            if is_folder:
                removed += remove_folder(folder, child)
            elif TEMPORARY_NAME.fullmatch(child):
                sweep(child, folder)
            else:
                with suppress(FileNotFoundError), shared(folder):
                    removed += unlink(child, folder, os.stat(child, dir_fd=folder, follow_symlinks=False).st_mode)
    finally:
        os.close(folder)
    remove_empty(name, parent)
    return removed


def unlink(name: str, parent: int, mode: int) -> int:
    """Delete one entry (of a link: the link); returns 1 if it was a file."""
    try:
        os.unlink(name, dir_fd=parent)
    except (FileNotFoundError, IsADirectoryError):  # deleted since it was seen, or even replaced by a folder
        return 0
    return int(stat.S_ISREG(mode))


def sweep(name: str, parent: int) -> None:
    """Delete a temporary file whose writer is dead."""
    try:
        descriptor = os.open(name, FILE_FLAGS, dir_fd=parent)
    except FileNotFoundError:
        return
    try:
        with suppress(BlockingIOError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            with suppress(FileNotFoundError):
                os.unlink(name, dir_fd=parent)
    finally:
        os.close(descriptor)


def prune(chain: list[int], folders: list[str]) -> None:
    """Remove the folders on the way to a removed file that are empty now, from the innermost outwards."""
    for parent, name in zip(reversed(chain[:-1]), reversed(folders), strict=True):
        if not remove_empty(name, parent):
            return


def remove_empty(name: str, parent: int) -> bool:
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
