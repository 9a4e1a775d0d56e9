"""The lock of a folder of backups: one writes to it, or several read."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from storage.errors import BackupError

_NO_LOCKS: Final = frozenset({errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.EBADF})
"""What network file systems say that cannot lock a folder. Backups go there too; two at once then are the caller's."""


def lock_folder(folder: Path, *, shared: bool = False) -> int:
    """The folder's descriptor, locked until it is closed, or the process ends.

    Raises:
        BackupError: another backup is writing to it, or, unless `shared`, somebody is reading it.
        OSError: it cannot be opened.
    """
    import fcntl

    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        doing = "is writing to" if shared else "is writing to, or a restore reading,"
        raise BackupError(f"another backup {doing} {folder}; wait for it, or choose another folder") from None
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            os.close(descriptor)
            raise
    return descriptor


@contextmanager
def while_reading(folder: Path) -> Iterator[None]:
    """Meanwhile no backup replaces what is in the folder.

    Raises:
        BackupError: one is doing so.
    """
    try:
        descriptor = lock_folder(folder, shared=True)
    except OSError as error:
        raise BackupError(f"{folder} cannot be read: {error.strerror}") from error
    try:
        yield
    finally:
        os.close(descriptor)
