"""Too little room on a disk: new contents are refused with nothing left behind, and everything else goes on."""

from __future__ import annotations

import logging
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from storage import ConversationMetadata, Storage
from storage.config import StorageConfig
from storage.database.url import parse_url
from storage.errors import DiskSpaceLow, FileStoreFull
from storage.files.backends.cached import CachedFileStore
from storage.files.backends.local import LocalFileStore
from storage.files.backends.memory import MemoryFileStore
from storage.files.disk_guard import DiskGuard, guard_for
from storage.testing.files import pieces
from tests.databases import MASTER_KEY

PLENTY = 10**15


class Usage(NamedTuple):
    total: int
    used: int
    free: int


class Disk:
    """What the file system says, as a test has it."""

    def __init__(self, free: int) -> None:
        self.free = free
        self.total = PLENTY

    def usage(self, path: Path) -> Usage:
        assert path.exists()
        return Usage(self.total, self.total - self.free, self.free)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    disk = Disk(PLENTY)
    monkeypatch.setattr(shutil, "disk_usage", disk.usage)
    # Each look is a new one.
    monkeypatch.setattr("storage.files.disk_guard.FRESH_SECONDS", 0.0)
    return disk


def options(tmp_path: Path, **more: Any) -> dict[str, Any]:
    limits = {"disk_warn_bytes": 2_000, "disk_refuse_bytes": 1_000}
    return {"data_dir": tmp_path / "data", "master_key": MASTER_KEY, **limits, **more}


@pytest.fixture(params=[0, 50], ids=["in the file store", "in the database"])
async def storage(
    request: pytest.FixtureRequest, database_url: str, tmp_path: Path, disk: Disk
) -> AsyncIterator[Storage]:
    more = options(tmp_path, small_files_in_database=request.param)
    async with Storage.open(database_url, **more) as opened:
        yield opened


async def blobs_of(storage: Storage) -> int:
    return len([blob async for blob in storage.blobs.walk()])


async def test_below_the_reserve_new_contents_are_refused_and_all_else_goes_on(storage: Storage, disk: Disk) -> None:
    ada = storage.user("ada")
    await ada.files.write("before.txt", b"x" * 10)
    kept = await blobs_of(storage)
    disk.free = 1_005
    for content in (b"x" * 10, pieces(b"x" * 4, b"x" * 6)):
        with pytest.raises(DiskSpaceLow, match="disk_refuse_bytes") as refused:
            await ada.files.write("new.txt", content)
        assert isinstance(refused.value, FileStoreFull)
    with pytest.raises(DiskSpaceLow):
        await ada.files.write_many([("a.txt", b"x"), ("b.txt", b"x" * 10)])
    assert await blobs_of(storage) == kept
    assert await ada.files.list() == ["before.txt"]
    assert await ada.files.read("before.txt") == b"x" * 10
    await ada.files.copy("before.txt", "copy.txt")
    await ada.files.move("copy.txt", "moved.txt")
    await ada.files.delete("moved.txt")
    await ada.settings.update(language="de")
    await ada.secrets.set_custom_secret("TOKEN", "value")
    await ada.conversations.save_metadata(ConversationMetadata(conversation_id="c1"))
    assert await ada.conversations.delete_metadata("c1")
    await storage.files.collect()
    disk.free = 1_010
    await ada.files.write("new.txt", b"x" * 10)


async def test_a_stream_is_refused_where_it_would_use_the_reserve(storage: Storage, disk: Disk) -> None:
    files = storage.user("ada").files

    async def filling() -> AsyncIterator[bytes]:
        for _ in range(5):
            yield b"x" * 100
            disk.free -= 100

    disk.free = 1_250
    with pytest.raises(DiskSpaceLow):
        await files.write("stream", filling())
    assert disk.free == 1_050
    assert await blobs_of(storage) == 0


async def test_what_this_process_stores_is_taken_off_the_last_reading(
    tmp_path: Path, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("storage.files.disk_guard.FRESH_SECONDS", 3600.0)
    guard = DiskGuard({"files": tmp_path}, 0, 1_000)
    disk.free = 1_100
    await guard.admit(60)
    disk.free = PLENTY
    with pytest.raises(DiskSpaceLow):
        await guard.admit(60)
    await guard.admit(40)


async def test_it_is_warned_once_until_there_is_room_again(
    tmp_path: Path, disk: Disk, caplog: pytest.LogCaptureFixture
) -> None:
    guard = DiskGuard({"files": tmp_path / "not made yet"}, 2_000, 1_000)
    disk.free = 1_500
    with caplog.at_level(logging.WARNING, "storage"):
        for _ in range(3):
            await guard.admit(1)
        assert len(caplog.records) == 1
        assert "1500 bytes are free" in caplog.text
        disk.free = PLENTY
        await guard.admit(1)
        disk.free = 1_500
        await guard.admit(1)
    assert len(caplog.records) == 2


@pytest.mark.parametrize(("free", "state"), [(999, "full"), (1_000, "low"), (1_999, "low"), (2_000, "ok")])
async def test_a_disk_is_ok_low_or_full(tmp_path: Path, disk: Disk, free: int, state: str) -> None:
    disk.free = free
    [found] = DiskGuard({"database": tmp_path, "files": tmp_path / "files"}, 2_000, 1_000).read()
    assert (found.place, found.path, found.state) == ("database, files", str(tmp_path), state)


async def test_zero_refuses_and_warns_of_nothing(tmp_path: Path, disk: Disk, caplog: pytest.LogCaptureFixture) -> None:
    disk.free = 0
    await DiskGuard({"files": tmp_path}, 0, 0).admit(10**9)
    assert not caplog.records


async def test_a_disk_that_does_not_tell_its_size_refuses_nothing(tmp_path: Path, disk: Disk) -> None:
    disk.total = disk.free = 0
    guard = DiskGuard({"files": tmp_path}, 2_000, 1_000)
    assert guard.read() == ()
    await guard.admit(10**9)


@pytest.mark.parametrize(
    ("url", "local", "places"),
    [
        ("sqlite:///{0}/a.db", True, {"database, files"}),
        ("sqlite:///{0}/a.db", False, {"database"}),
        ("postgresql://db/a", True, {"files"}),
        ("postgresql://db/a", False, set()),
        ("sqlite:///:memory:", False, set()),
    ],
)
async def test_it_looks_at_the_disks_of_this_machine_only(
    tmp_path: Path, disk: Disk, url: str, local: bool, places: set[str]
) -> None:
    store = CachedFileStore(LocalFileStore(tmp_path / "files") if local else MemoryFileStore(), 1_000)
    async with store:
        guard = guard_for(StorageConfig(), parse_url(url.format(tmp_path)), store)
    assert {found.place for found in guard.read()} == places


async def test_repacking_needs_room_too(database_url: str, tmp_path: Path, disk: Disk) -> None:
    more = options(tmp_path)
    async with Storage.open(database_url, **more) as storage:
        await storage.user("ada").files.write("a.txt", b"x" * 10)
    disk.free = 1_005
    async with Storage.open(database_url, **more, small_files_in_database=50) as storage:
        with pytest.raises(DiskSpaceLow):
            await storage.files.repack()
        assert await storage.user("ada").files.read("a.txt") == b"x" * 10
