from __future__ import annotations

import json
import multiprocessing
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from storage.errors import ConfigurationError, StorageClosed, StorageError
from storage.openhands.process_storage import close_process_storage, process_storage
from tests.openhands.conftest import storage_config
from tests.openhands.other_processes import environment

if TYPE_CHECKING:
    from collections.abc import Iterator

    from storage.config import StorageConfig


@pytest.fixture
def config(database_url: str, tmp_path: Path) -> Iterator[StorageConfig]:
    yield storage_config(database_url, tmp_path)
    close_process_storage()


def test_the_first_caller_opens_it_and_everyone_gets_the_same(config: StorageConfig) -> None:
    together = threading.Barrier(8)

    def ask(_: int) -> int:
        together.wait(30)
        return id(process_storage(config))

    with ThreadPoolExecutor(8) as threads:
        assert len(set(threads.map(ask, range(8)))) == 1
    assert process_storage() is process_storage(config)


def test_another_configuration_is_refused_while_it_is_open(config: StorageConfig, tmp_path: Path) -> None:
    process_storage(config)
    with pytest.raises(ConfigurationError, match="another configuration"):
        process_storage(storage_config(f"sqlite:///{tmp_path / 'other.db'}", tmp_path))


def test_what_is_closed_takes_no_calls_and_is_opened_anew(config: StorageConfig) -> None:
    first = process_storage(config)
    first.portal.call(first.storage.user().files.write, "a", b"1")
    close_process_storage()
    close_process_storage()
    with pytest.raises(StorageClosed):
        first.portal.call(first.storage.user().files.read, "a")
    second = process_storage(config)
    assert second is not first
    assert second.portal.call(second.storage.user().files.read, "a") == b"1"


def test_after_a_failed_opening_the_next_caller_tries_again(config: StorageConfig, tmp_path: Path) -> None:
    threads = threading.active_count()
    with pytest.raises(StorageError):
        process_storage(storage_config("postgresql://nobody@127.0.0.1:1/none", tmp_path))
    assert threading.active_count() == threads
    assert process_storage(config).portal.is_open


def test_it_holds_no_secret_in_its_repr(config: StorageConfig) -> None:
    config = config.model_copy(update={"file_store_web_hook_headers": {"Authorization": "hunter22"}})
    assert "hunter22" not in repr(process_storage(config))


def _read_in_child(config: StorageConfig, answer: multiprocessing.SimpleQueue[str]) -> None:
    place = process_storage(config)
    answer.put(place.portal.call(place.storage.user().files.read_text, "a"))
    place.portal.call(place.storage.user().files.write, "a", "the child's")
    os._exit(0)  # as a crash would


@pytest.mark.skipif(not hasattr(os, "fork") or sys.platform == "darwin", reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_a_forked_child_opens_its_own_and_leaves_the_parents_alone(config: StorageConfig) -> None:
    place = process_storage(config)
    files = place.storage.user().files
    place.portal.call(files.write, "a", "the parent's")
    context = multiprocessing.get_context("fork")
    answer = context.SimpleQueue()
    child = context.Process(target=_read_in_child, args=(config, answer))
    child.start()
    child.join(60)
    try:
        assert child.exitcode == 0
    finally:
        child.kill()  # one that hangs would keep what the tests' servers wait for
    assert answer.get() == "the parent's"
    assert process_storage() is place
    assert place.portal.call(files.read_text, "a") == "the child's"


_AT_EXIT = """
import sys, threading
from pathlib import Path
from storage.openhands.process_storage import process_storage
from storage.openhands.sync_files import SyncFileStore

SyncFileStore(process_storage()).write("a", "written and left open")
closing = process_storage().storage.close
async def close():
    await closing()
    Path(sys.argv[1]).write_text("closed")
process_storage().storage.close = close
"""


def test_a_process_that_simply_ends_closes_its_storage(config: StorageConfig, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", _AT_EXIT, str(tmp_path / "note")],
        env=environment(config),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "note").read_text() == "closed"
    place = process_storage(config)
    assert place.portal.call(place.storage.user().files.read_text, "a") == "written and left open"


def test_importing_the_package_loads_nothing_heavy() -> None:
    code = "import sys, json, storage.openhands; print(json.dumps(sorted(sys.modules)))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert not {"sqlalchemy", "asyncpg", "openhands", "pydantic"} & set(json.loads(loaded.stdout))
