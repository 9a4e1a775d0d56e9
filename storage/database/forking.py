"""SQLite and fork(): none of our threads is inside SQLite while the process is copied.

SQLite's allocator has one lock for the whole process. A fork copies it as it is; if a thread holds it that the child
does not have, the child's first statement waits for ever, on whatever connection. So our threads hold a lock of ours
while they are inside SQLite, and a fork waits until it has all of these. Sessions, whose threads are aiosqlite's, and
other users of SQLite in the process are not waited for.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from typing import Final
from weakref import WeakSet

log = logging.getLogger(__name__)

PATIENCE_SECONDS: Final = 5.0
"""How long a fork waits at most, as for a report over everything; the child's risk is a short moment's even then."""

_registering = threading.Lock()
_locks: Final[WeakSet[threading.Lock]] = WeakSet()
_held: Final[list[threading.Lock]] = []


def fork_lock() -> threading.Lock:
    """A new lock that a fork waits for: held while one connection or thread is inside SQLite, and only then.

    Nothing that waits for another thread belongs inside, or a fork would wait for it too.
    """
    lock = threading.Lock()
    with _registering:
        _locks.add(lock)
    return lock


def _before() -> None:
    # Kept until the process is copied: a connection that is opened meanwhile would be inside SQLite too.
    _registering.acquire()
    deadline = time.monotonic() + PATIENCE_SECONDS
    locks = list(_locks)
    for lock in locks:
        if lock.acquire(timeout=max(0.0, deadline - time.monotonic())):
            _held.append(lock)
    if len(_held) < len(locks):
        log.warning("the process is forked while SQLite is at work for longer than %g s", PATIENCE_SECONDS)


def _after() -> None:
    while _held:
        _held.pop().release()
    _registering.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before, after_in_parent=_after, after_in_child=_after)
