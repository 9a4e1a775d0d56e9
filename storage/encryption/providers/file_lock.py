"""One process at a time: a lock on a file, given back by the operating system when the process dies.

Master keys are added by reading what is there and writing more; two processes that do so at once must not lose one.
"""

from __future__ import annotations

import errno
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from storage.errors import KeyUnavailable

LOCK_SECONDS: Final = 10.0
"""Longest wait. A holder reads and writes one small file; below the 15 s after which a provider's caller gives up."""

_POLL_SECONDS: Final = 0.02
"""Between tries: a blocking flock could not be ended in its thread."""

_TAKEN: Final = frozenset({errno.EAGAIN, errno.EACCES, errno.EDEADLK})
"""What the systems answer when another process holds the lock."""


@contextmanager
def exclusive(path: Path, *, create: bool) -> Iterator[None]:
    """Hold the lock of the file `path`; blocks, so call it in a thread. Nothing is written to the file.

    On POSIX `path` may be the very file that the holder replaces by renaming: who waited then waits for the new one.
    Windows replaces no file that is open, so there it must be a file beside it.

    Args:
        path: the file to lock.
        create: make it (private, empty) if it is not there.

    Raises:
        FileNotFoundError: it is not there, and was not to be made.
        OSError: it cannot be opened for writing, or its file system has no locks.
        KeyUnavailable: another process held it for longer than `LOCK_SECONDS`.
    """
    deadline = time.monotonic() + LOCK_SECONDS
    while (descriptor := _attempt(path, create=create)) is None:
        if time.monotonic() >= deadline:
            raise KeyUnavailable(f"another process has held the lock of {path} for {LOCK_SECONDS:g} s; try again")
        time.sleep(_POLL_SECONDS)
    try:
        yield
    finally:
        os.close(descriptor)  # which also unlocks


def _attempt(path: Path, *, create: bool) -> int | None:
    """The descriptor of the locked file; None if another holds it, or has just replaced it."""
    flags = os.O_RDWR | (os.O_CREAT if create else 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NONBLOCK", 0)
    descriptor = os.open(path, flags, 0o600)
    try:
        if _try_lock(descriptor) and os.path.samestat(os.fstat(descriptor), path.stat()):
            return descriptor
    except FileNotFoundError:
        pass  # it was removed since: look again
    except BaseException:
        os.close(descriptor)
        raise
    os.close(descriptor)
    return None


def _try_lock(descriptor: int) -> bool:
    try:
        if sys.platform == "win32":
            import msvcrt

            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _TAKEN:
            return False
        raise
    return True
