"""Contents of the file store on their way into an archive and out of it: compared, several at once, short and long."""

from __future__ import annotations

import asyncio
import hashlib
import io
import tarfile
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

from storage import Storage
from storage.backup.archive import PIECE, Archive, ArchivedBlob, open_archive
from storage.backup.folder import FolderWriter
from storage.backup.loading import restore
from storage.database.url import parse_url
from storage.errors import ArchiveDamaged, BackupError, InvalidInput
from storage.files.backends.memory import MemoryFileStore
from storage.files.store import Content, FileStat
from tests.backup.conftest import config

KINDS = pytest.mark.parametrize("name", ["backup.tar", "backup"], ids=["file", "folder"])


@KINDS
async def test_long_contents_arrive_as_short_ones_do(sqlite_storage: Storage, tmp_path: Path, name: str) -> None:
    ada = sqlite_storage.user("ada")
    sizes = [0, 1, PIECE - 1, PIECE, PIECE + 1, 3 * PIECE + 7]
    for size in sizes:
        await ada.files.write(f"long/{size}", hashlib.sha256(str(size).encode()).digest() * (size // 32 + 1))
    await sqlite_storage.backup(tmp_path / name, files=True)
    target = config(f"sqlite:///{tmp_path / 'restored.db'}", tmp_path / "target")
    await Storage.restore(tmp_path / name, target)
    async with Storage.open(target) as restored:
        for size in sizes:
            found = await restored.user("ada").files.read(f"long/{size}")
            assert found == await ada.files.read(f"long/{size}")


@KINDS
@pytest.mark.parametrize("sealed", [False, True], ids=["plain", "sealed"])
async def test_contents_that_are_not_what_was_written_are_told_of(
    database_url: str, tmp_path: Path, name: str, sealed: bool
) -> None:
    async with Storage.open(config(database_url, tmp_path / "source", seal_files=sealed)) as storage:
        for number in range(3):
            await storage.user("ada").files.write(f"{number}.txt", b"content" * 100)
        key = [stat.path async for stat in storage.blobs.walk()][1]
        stored = await storage.blobs.read(key)
        await storage.blobs.delete(key)
        await storage.blobs.write(key, stored[:-1] if sealed else b"?" + stored[1:])
        report = await storage.backup(tmp_path / name, files=True)
    assert (report.blobs, report.missing_number) == (3, 0)
    assert (report.damaged, report.damaged_number) == ((key,), 1)


async def test_an_earlier_backups_whole_content_is_not_replaced_by_a_damaged_one(
    storage: Storage, tmp_path: Path
) -> None:
    await storage.backup(tmp_path / "backup", files=True)
    key = await anext(stat.path async for stat in storage.blobs.walk())
    await storage.blobs.delete(key)
    await storage.blobs.write(key, b"damaged since")
    report = await storage.backup(tmp_path / "backup", files=True)
    assert (report.copied, report.damaged) == (0, ())
    with open_archive(tmp_path / "backup") as archive:
        archive.verify()


async def test_what_was_compared_with_an_earlier_backups_list_is_not_read_once_more(
    sqlite_storage: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await sqlite_storage.backup(tmp_path / "backup", files=True)
    await sqlite_storage.user("ada").files.write("new.txt", b"new")
    read, pieces = list[int](), Archive.pieces

    def watched(self: Archive, blob: ArchivedBlob) -> Generator[bytes, None, None]:
        read.append(blob.size)
        return pieces(self, blob)

    monkeypatch.setattr(Archive, "pieces", watched)
    await sqlite_storage.backup(tmp_path / "backup", files=True)
    assert read == [3], "the new one, after it was written"


class Slow(MemoryFileStore):
    """Far away: an answer takes a moment."""

    under_way = most = 0

    async def write(self, path: str, content: Content, **options: Any) -> FileStat:
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        await asyncio.sleep(0.01)
        try:
            return await super().write(path, content, **options)
        finally:
            self.under_way -= 1


@KINDS
async def test_contents_are_restored_several_at_a_time(sqlite_storage: Storage, tmp_path: Path, name: str) -> None:
    for number in range(10):
        size = 2 * PIECE if number % 2 else 10
        await sqlite_storage.user("ada").files.write(f"more-{number}", b"x" * size)
    await sqlite_storage.backup(tmp_path / name, files=True)
    store = Slow()
    with open_archive(tmp_path / name) as archive:
        done = await restore(archive, parse_url(f"sqlite:///{tmp_path / 'restored.db'}"), store)
    assert done.blobs == 13
    assert store.most > 1


async def test_a_folder_is_not_read_while_a_backup_writes_to_it_nor_written_while_it_is_read(
    sqlite_storage: Storage, tmp_path: Path
) -> None:
    await sqlite_storage.backup(tmp_path / "backup")
    with (
        open_archive(tmp_path / "backup"),
        open_archive(tmp_path / "backup"),
        pytest.raises(BackupError, match="a restore reading"),
    ):
        await sqlite_storage.backup(tmp_path / "backup")
    writer = FolderWriter(tmp_path / "backup")
    with pytest.raises(BackupError, match="another backup is writing"), open_archive(tmp_path / "backup"):
        pass
    writer.abandon()
    await sqlite_storage.backup(tmp_path / "backup")


async def test_rows_that_change_after_they_were_compared_are_not_restored(
    sqlite_storage: Storage, empty_url: str, tmp_path: Path
) -> None:
    await sqlite_storage.backup(tmp_path / "backup")
    with open_archive(tmp_path / "backup") as archive:
        path = tmp_path / "backup" / next(table.part.path for table in archive.manifest.tables if table.part.lines)

        def told(done: int, total: int | None) -> None:
            path.write_bytes(path.read_bytes().replace(b"0", b"1"))

        archive.verify(told)
        with pytest.raises(ArchiveDamaged):
            await restore(archive, parse_url(empty_url), MemoryFileStore())


async def test_a_sparse_file_in_a_tar_file_is_refused(sqlite_storage: Storage, tmp_path: Path) -> None:
    """It would be as long as it says, of zeros that are nowhere."""
    await sqlite_storage.backup(tmp_path / "backup.tar", files=True)
    with tarfile.open(tmp_path / "backup.tar") as source, tarfile.open(tmp_path / "changed.tar", "w") as made:
        for member in source:
            content = source.extractfile(member)
            if member.name.startswith("blobs/"):
                sparse = tarfile.TarInfo(member.name)
                sparse.pax_headers = {"GNU.sparse.map": "0,0", "GNU.sparse.size": str(2**60)}
                member, content = sparse, io.BytesIO()  # noqa: PLW2901 - in its place
            made.addfile(member, content)
    with open_archive(tmp_path / "changed.tar") as archive, pytest.raises(ArchiveDamaged, match="is no file"):
        archive.verify()


async def test_a_database_in_memory_is_no_place_to_restore_into(sqlite_storage: Storage, tmp_path: Path) -> None:
    await sqlite_storage.backup(tmp_path / "backup.tar")
    with pytest.raises(InvalidInput, match="in memory"):
        await Storage.restore(tmp_path / "backup.tar", "sqlite:///:memory:")
