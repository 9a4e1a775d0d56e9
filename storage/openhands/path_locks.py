"""Exclusive locks of names, between the threads of all processes that use one database.

Whoever is killed lets go: PostgreSQL ends the transaction of a connection that is gone, and the operating system
unlocks the files of a process that is.
"""

from __future__ import annotations

import hashlib
import logging
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from storage.database.per_loop import PerLoop
from storage.private_folder import make_private_folder

if TYPE_CHECKING:
    from storage.database.url import DatabaseURL
    from storage.openhands.portal import Portal

log = logging.getLogger(__name__)

_POLL_SECONDS: Final = (0.001, 0.05)
"""Shortest and longest wait between two looks at a lock file: who holds one writes a few small files."""

_IDLE_CONNECTIONS: Final = 2
"""How many connections are kept for the next lock: making one costs more than all that is done under most locks."""

_CLOSE_SECONDS: Final = 2.0
"""How long a connection that is not kept may take to say good-bye."""


class PathLocks:
    """The locks of one database. Not re-entrant: a thread that asks again for what it holds waits for itself.

    Args:
        portal: where PostgreSQL's connections live.
        url: of the database; locks of a SQLite file are files in a folder beside it.
    """

    def __init__(self, portal: Portal, url: DatabaseURL) -> None:
        self._url = url
        self._threads = _ThreadLocks()
        self._portal = portal
        self._advisory = _AdvisoryLocks(url.location) if url.dialect == "postgresql" else None

    @contextmanager
    def hold(self, name: str, timeout: float) -> Iterator[None]:
        """Hold the lock of a name; blocks this thread.

        Args:
            name: any text.
            timeout: seconds to wait for it.

        Raises:
            TimeoutError: someone else held it all the time.
            DatabaseUnavailable: PostgreSQL cannot be reached.
        """
        deadline = time.monotonic() + timeout
        # First among this process's own threads, which are woken at once and use up no connections meanwhile.
        with self._threads.hold(name, timeout):
            left = max(0.0, deadline - time.monotonic())
            if self._advisory is not None:
                with self._on_postgresql(self._advisory, name, left):
                    yield
            elif self._url.file is not None:
                with _file_lock(self._url.file, name, left):
                    yield
            else:
                yield  # a database in memory is this process's alone

    @contextmanager
    def _on_postgresql(self, advisory: _AdvisoryLocks, name: str, timeout: float) -> Iterator[None]:
        # The token and not the connection is held here: whoever is interrupted while waiting has the one already.
        token = object()
        try:
            if not self._portal.call(advisory.lock, token, _number(name), timeout):
                raise TimeoutError(_taken(name, timeout))
            yield
        finally:
            self._portal.call(advisory.unlock, token)


class _ThreadLocks:
    """A lock of each name for the threads of this process; only those in use are kept."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._used: dict[str, tuple[threading.Lock, int]] = {}

    @contextmanager
    def hold(self, name: str, timeout: float) -> Iterator[None]:
        with self._guard:
            lock, users = self._used.get(name, (threading.Lock(), 0))
            self._used[name] = lock, users + 1
        try:
            if not lock.acquire(timeout=max(0.0, timeout)):
                raise TimeoutError(_taken(name, timeout))
            try:
                yield
            finally:
                lock.release()
        finally:
            with self._guard:
                lock, users = self._used[name]
                if users == 1:
                    del self._used[name]
                else:
                    self._used[name] = lock, users - 1


class _AdvisoryLocks:
    """PostgreSQL's advisory locks, each on a connection of its own and in a transaction that ends with the lock.

    Not on the pool that statements run on: holders that need it for their writes would use it up and wait for each
    other. In a transaction and not in a session, so that it holds behind a pooler in transaction mode, too. A
    transaction that read and wrote nothing keeps nothing from being vacuumed.
    """

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn
        self._connections: PerLoop[_Connections] = PerLoop(self._none_yet, _Connections.close)

    async def lock(self, token: object, number: int, timeout: float) -> bool:
        """Hold the lock under the token; False if it was not to be had in time."""
        import asyncpg

        from storage.database.postgresql_drive import DRIVER_ERRORS, translate

        connections = await self._connections.get()
        try:
            connection = await connections.take(token)
            milliseconds = max(1, round(timeout * 1000))  # 0 would wait for ever
            await connection.execute(f"BEGIN; SET LOCAL lock_timeout = {milliseconds}")
            await connection.execute(f"SELECT pg_advisory_xact_lock({number})")
        except asyncpg.LockNotAvailableError:
            return False
        except DRIVER_ERRORS as error:
            raise translate(error, "lock") from error
        return True

    async def unlock(self, token: object) -> None:
        """End what the token stands for: a lock, or the attempt to get one."""
        await (await self._connections.get()).give_back(token)

    async def _none_yet(self) -> _Connections:
        return _Connections(self._dsn)


class _Connections:
    """The connections of one event loop: those in use by their tokens, and some for the next."""

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn
        self._used: dict[object, Any] = {}
        self._idle: list[Any] = []

    async def take(self, token: object) -> Any:
        import asyncpg

        from storage.database.postgresql_lane import CONNECT_SECONDS

        while self._idle and self._idle[-1].is_closed():
            self._idle.pop()
        # No prepared statements: behind a pooler the next transaction may meet another server process.
        self._used[token] = connection = (
            self._idle.pop()
            if self._idle
            else await asyncpg.connect(self._dsn, statement_cache_size=0, timeout=CONNECT_SECONDS)
        )
        return connection

    async def give_back(self, token: object) -> None:
        connection = self._used.pop(token, None)
        if connection is None:
            return
        try:
            await connection.execute("ROLLBACK")
        except Exception as error:  # noqa: BLE001 - what was done under the lock is done; the caller is not to do it again
            log.warning("the connection of a lock was lost while it was held: %s", type(error).__name__)
            connection.terminate()
            return
        except BaseException:
            connection.terminate()
            raise
        if len(self._idle) < _IDLE_CONNECTIONS:
            self._idle.append(connection)
        else:
            await connection.close(timeout=_CLOSE_SECONDS)

    async def close(self) -> None:
        for connection in (*self._used.values(), *self._idle):
            connection.terminate()


@contextmanager
def _file_lock(database: Path, name: str, timeout: float) -> Iterator[None]:
    folder = database.with_name(f"{database.name}-locks")
    path = folder / f"{_digest(name).hex()}.lock"
    make_private_folder(folder)
    deadline = time.monotonic() + timeout
    shortest, longest = _POLL_SECONDS
    pause = shortest
    while (descriptor := _locked(path)) is None:
        if time.monotonic() >= deadline:
            raise TimeoutError(_taken(name, timeout))
        time.sleep(min(pause, max(0.0, deadline - time.monotonic())))
        pause = min(pause * 2, longest)
    try:
        yield
    finally:
        # Removed while it is held: who has it open by now sees that it is gone, and makes a new one.
        with suppress(OSError):
            path.unlink()
        os.close(descriptor)


def _locked(path: Path) -> int | None:
    """The descriptor of the locked file; None if another holds it, or has just removed it."""
    import fcntl

    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(descriptor), path.stat()):
            return descriptor
    except (BlockingIOError, FileNotFoundError):
        pass
    except BaseException:
        os.close(descriptor)
        raise
    os.close(descriptor)
    return None


def _digest(name: str) -> bytes:
    return hashlib.blake2b(name.encode(), digest_size=16, person=b"storage path lo").digest()


def _number(name: str) -> int:
    """The name as the 64-bit number that PostgreSQL takes: two names that share one wait for each other, no more."""
    return int.from_bytes(_digest(name)[:8], "big", signed=True)


def _taken(name: str, timeout: float) -> str:
    return f"the lock of {name!r} was held by someone else for {timeout:g} s"
