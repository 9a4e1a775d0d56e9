"""The one storage that a process has open, for callers that have no place to keep it and no loop to open it on.

OpenHands makes a store for every request and asks its classes for them; all of those share this one.
"""

from __future__ import annotations

import atexit
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from storage.config import StorageConfig
from storage.errors import ConfigurationError
from storage.openhands.path_locks import PathLocks
from storage.openhands.portal import Portal
from storage.storage import Storage


@dataclass(frozen=True, slots=True)
class ProcessStorage:
    """An open storage, the portal that everything on it goes through, and locks between all who use its database."""

    portal: Portal
    storage: Storage
    locks: PathLocks = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "locks", PathLocks(self.portal, self.storage.database.url))

    def close(self) -> None:
        """Finish what was accepted, let attempts of web hooks under way end, and close. Twice does nothing."""
        if not self.portal.is_open:
            return
        try:
            self.portal.call(self.storage.close)
        finally:
            self.portal.close()


class _Process:
    """What this process has open."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.open: ProcessStorage | None = None


_process = _Process()
_of_parents: Final[list[_Process]] = []
"""Kept in a forked child, whose garbage collector must not close the parent's SQLite connections."""


def process_storage(config: StorageConfig | None = None) -> ProcessStorage:
    """The storage of this process, opened by the first who asks. Safe to call from any thread; blocks while opening.

    It is closed when the process ends, or by close_process_storage(). A child made by a fork opens its own.

    Args:
        config: what to open; the environment's configuration if None.

    Raises:
        ConfigurationError: it is open already, with another configuration than the one given.
        StorageError: what Storage.open raises; the next who asks tries again.
    """
    with _process.lock:
        if _process.open is None:
            _process.open = open_on_portal(config)
            _at_exit()
        elif config is not None and config != _process.open.storage.config:
            raise ConfigurationError(
                f"this process has {_process.open.storage!r} open already, with another configuration;"
                " ask for it without one, or call close_process_storage() first"
            )
        return _process.open


def open_on_portal(config: StorageConfig | None = None) -> ProcessStorage:
    """A storage on a portal of its own, which whoever calls this closes. See process_storage for the errors."""
    portal = Portal()
    try:

        async def opened() -> Storage:
            return await Storage.open(config)

        return ProcessStorage(portal, portal.call(opened))
    except BaseException:
        portal.close()
        raise


def close_process_storage() -> None:
    """Close what process_storage() opened; the next who asks opens it anew. Does nothing if nothing is open."""
    with _process.lock:
        place, _process.open = _process.open, None
    if place is not None:
        place.close()


_registered = False


def _at_exit() -> None:
    """Close before the interpreter refuses new work to threads, which closing needs; atexit's own hooks run after that.

    concurrent.futures ends its threads by the same hook. It runs the latest first, so ours comes before theirs.
    """
    global _registered  # noqa: PLW0603 - once per process
    if _registered:
        return
    _registered = True
    register: Callable[[Callable[[], Any]], Any] = getattr(threading, "_register_atexit", atexit.register)
    register(close_process_storage)


def _forget() -> None:
    global _process  # noqa: PLW0603 - the child's is a new one
    _of_parents.append(_process)
    _process = _Process()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
