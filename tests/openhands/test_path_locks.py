from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import text

from storage.database.url import parse_url
from storage.openhands.path_locks import PathLocks
from storage.openhands.portal import Portal
from storage.openhands.process_storage import ProcessStorage, open_on_portal
from tests.openhands.conftest import storage_config
from tests.openhands.other_processes import other_process

if TYPE_CHECKING:
    from collections.abc import Iterator

    from storage.config import StorageConfig

_HOLDER = """
import sys
from storage.openhands.process_storage import process_storage
with process_storage().locks.hold("a", 30):
    print("held", flush=True)
    sys.stdin.readline()
print("let go", flush=True)
"""

_COUNTER = """
import sys
from pathlib import Path
from tests.openhands.test_path_locks import count
from storage.openhands.process_storage import process_storage
locks = process_storage().locks
print("ready", flush=True)
sys.stdin.readline()
count(locks, Path(sys.argv[1]), int(sys.argv[2]))
"""

_THREADS = 3


@pytest.fixture
def config(database_url: str, tmp_path: Path) -> StorageConfig:
    return storage_config(database_url, tmp_path)


@pytest.fixture
def place(config: StorageConfig) -> Iterator[ProcessStorage]:
    opened = open_on_portal(config)
    yield opened
    opened.close()


def count(locks: PathLocks, file: Path, times: int) -> None:
    """Raise the number in the file, by several threads that each read it, wait and write it."""

    def raise_it(_: int) -> None:
        with locks.hold("counter", 60):
            number = int(file.read_text())
            time.sleep(0.001)
            file.write_text(str(number + 1))

    with ThreadPoolExecutor(_THREADS) as threads:
        list(threads.map(raise_it, range(times)))


def test_threads_exclude_each_other(place: ProcessStorage, tmp_path: Path) -> None:
    file = tmp_path / "count"
    file.write_text("0")
    count(place.locks, file, 30)
    assert file.read_text() == "30"


def test_processes_exclude_each_other(place: ProcessStorage, config: StorageConfig, tmp_path: Path) -> None:
    file = tmp_path / "count"
    file.write_text("0")
    with (
        other_process(_COUNTER, config, str(file), "40") as one,
        other_process(_COUNTER, config, str(file), "40") as two,
    ):
        assert one.hear() == two.hear() == "ready"
        one.say("go")
        two.say("go")
        count(place.locks, file, 40)
        one.end()
        two.end()
    assert file.read_text() == "120"


def test_waiting_for_another_process_ends_with_a_timeout(place: ProcessStorage, config: StorageConfig) -> None:
    with other_process(_HOLDER, config) as holder:
        assert holder.hear() == "held"
        for _ in range(2):
            with pytest.raises(TimeoutError, match="lock of 'a'"), place.locks.hold("a", 0.05):
                pass
        with place.locks.hold("b", 5):  # another name is free
            pass
        holder.say("let go")
        assert holder.hear() == "let go"
        with place.locks.hold("a", 5):
            pass


def test_the_lock_of_a_killed_process_is_free(place: ProcessStorage, config: StorageConfig) -> None:
    with other_process(_HOLDER, config) as holder:
        assert holder.hear() == "held"
        with ThreadPoolExecutor(1) as threads:
            waiting = threads.submit(_hold_and_let_go, place.locks)
            holder.kill()
            waiting.result(timeout=60)


def _hold_and_let_go(locks: PathLocks) -> None:
    with locks.hold("a", 60):
        pass


def test_waiting_for_a_thread_ends_with_a_timeout(place: ProcessStorage) -> None:
    with ThreadPoolExecutor(1) as threads, place.locks.hold("a", 5):
        waiting = threads.submit(place.locks.hold("a", 0.05).__enter__)
        with pytest.raises(TimeoutError, match="lock of 'a'"):
            waiting.result(timeout=30)


def test_a_thread_that_asks_again_for_what_it_holds_times_out(place: ProcessStorage) -> None:
    with place.locks.hold("a", 5):
        with pytest.raises(TimeoutError), place.locks.hold("a", 0.05):
            pass
        with place.locks.hold("b", 5):  # but it may hold several
            pass


def test_a_lock_is_let_go_when_its_block_fails(place: ProcessStorage) -> None:
    with pytest.raises(ZeroDivisionError), place.locks.hold("a", 5):
        raise ZeroDivisionError
    with place.locks.hold("a", 0):
        pass


def test_nothing_is_left_behind(place: ProcessStorage, config: StorageConfig) -> None:
    for number in range(20):
        with place.locks.hold(f"sessions/{number}/events/.lock", 5):
            pass
    assert place.locks._threads._used == {}
    database = place.storage.database.url.file
    if database is not None:
        folder = database.with_name(f"{database.name}-locks")
        assert list(folder.iterdir()) == []
        assert folder.stat().st_mode & 0o777 == 0o700


def test_more_holders_than_statements_may_have_connections_can_all_write(place: ProcessStorage) -> None:
    size = place.storage.config.postgres_pool_size + 2
    together = threading.Barrier(size)

    def write(number: int) -> None:
        with place.locks.hold(str(number), 30):
            together.wait(30)
            place.portal.call(place.storage.user().files.write, str(number), b"x")

    with ThreadPoolExecutor(size) as threads:
        list(threads.map(write, range(size)))


def test_a_database_in_memory_has_locks_for_its_threads() -> None:
    portal = Portal()
    locks = PathLocks(portal, parse_url("sqlite:///:memory:"))
    with locks.hold("a", 1), pytest.raises(TimeoutError), locks.hold("a", 0.01):
        pass
    portal.close()


def test_a_connection_that_is_lost_under_a_lock_is_logged_and_not_raised(
    postgres_url: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    place = open_on_portal(storage_config(postgres_url, tmp_path))
    with place.locks.hold("a", 5):
        place.portal.call(_end_other_connections, place)
    assert "was lost while it was held" in caplog.text
    with place.locks.hold("a", 5):
        pass
    place.close()


async def _end_other_connections(place: ProcessStorage) -> None:
    async with place.storage.session() as session:
        connection = await session.connection()
        await connection.execute(
            text(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND state = 'idle in transaction' AND pid <> pg_backend_pid()"
            )
        )
