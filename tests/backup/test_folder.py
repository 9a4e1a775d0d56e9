"""A folder for backups: what is somebody else's is left alone, and what was copied once is made use of."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from storage import Storage
from storage.backup.archive import open_archive
from storage.backup.folder import COPIED, FolderWriter
from storage.backup.manifest import MANIFEST, Manifest
from storage.errors import ArchiveTooNew, BackupError, InvalidInput, TargetNotEmpty


def everything_in(folder: Path) -> dict[str, bytes | None]:
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


@pytest.fixture
def somebodys(tmp_path: Path) -> Path:
    """The folder of a program that has names like ours."""
    folder = tmp_path / "application"
    (folder / "blobs" / "aa").mkdir(parents=True)
    (folder / "data-export").mkdir()
    (folder / "blobs" / "aa" / "picture").write_bytes(b"of somebody")
    (folder / "data-export" / "table").write_bytes(b"of somebody")
    (folder / MANIFEST).write_bytes(b'{"name": "an application", "start_url": "/"}')
    return folder


async def test_a_folder_that_only_looks_like_a_backup_is_left_as_it_was(storage: Storage, somebodys: Path) -> None:
    before = everything_in(somebodys)
    with pytest.raises(TargetNotEmpty, match="none of ours"):
        await storage.backup(somebodys, files=True)
    assert everything_in(somebodys) == before
    (somebodys / MANIFEST).unlink()
    del before[MANIFEST]
    with pytest.raises(TargetNotEmpty, match="no backup of ours"):
        await storage.backup(somebodys, files=True)
    assert everything_in(somebodys) == before


async def test_the_file_store_itself_is_no_place_for_a_backup(storage: Storage) -> None:
    root = Path(storage.blobs.location)
    before = everything_in(root)
    with pytest.raises(TargetNotEmpty):
        await storage.backup(root, files=True)
    assert everything_in(root) == before


async def test_a_newer_releases_backup_is_not_replaced(storage: Storage, tmp_path: Path) -> None:
    await storage.backup(tmp_path / "backup")
    manifest = tmp_path / "backup" / MANIFEST
    manifest.write_text(manifest.read_text().replace('"version": 1', '"version": 2'))
    before = everything_in(tmp_path / "backup")
    with pytest.raises(ArchiveTooNew):
        await storage.backup(tmp_path / "backup")
    assert everything_in(tmp_path / "backup") == before


async def test_what_else_is_in_the_folder_of_a_backup_stays(storage: Storage, tmp_path: Path) -> None:
    await storage.backup(tmp_path / "backup", files=True)
    (tmp_path / "backup" / "data-of-mine").mkdir()
    (tmp_path / "backup" / "letter.txt").write_bytes(b"of somebody")
    await storage.backup(tmp_path / "backup", files=True)
    assert {"data-of-mine", "letter.txt"} <= {path.name for path in (tmp_path / "backup").iterdir()}


async def test_one_backup_at_a_time_writes_to_a_folder(storage: Storage, tmp_path: Path) -> None:
    first = FolderWriter(tmp_path / "backup")
    with pytest.raises(BackupError, match="another backup is writing"):
        await storage.backup(tmp_path / "backup")
    assert first.workplace.is_dir()
    first.abandon()
    assert (await storage.backup(tmp_path / "backup", files=True)).copied == 3


async def test_what_an_interrupted_backup_has_copied_serves_the_next_one(
    storage: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: FolderWriter, manifest: Manifest) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(FolderWriter, "complete", full)
        with pytest.raises(BackupError, match="No space left"):
            await storage.backup(tmp_path / "backup", files=True)
    assert {path.name for path in (tmp_path / "backup").iterdir()} == {COPIED, "blobs"}, "nothing that looks whole"
    with (tmp_path / "backup" / COPIED).open("ab") as copied:
        copied.write(b'["blobs/00/torn')
    report = await storage.backup(tmp_path / "backup", files=True)
    assert (report.blobs, report.copied) == (3, 0)
    assert not (tmp_path / "backup" / COPIED).exists()


async def test_contents_stay_for_later_when_a_backup_leaves_them_out(storage: Storage, tmp_path: Path) -> None:
    await storage.backup(tmp_path / "backup", files=True)
    for _ in range(2):
        without = await storage.backup(tmp_path / "backup")
        assert (without.blobs, without.left_out) == (0, 3)
    report = await storage.backup(tmp_path / "backup", files=True)
    assert (report.blobs, report.copied) == (3, 0)
    with open_archive(tmp_path / "backup") as archive:
        archive.verify()


async def test_a_backup_that_fails_leaves_the_last_one_whole(
    storage: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await storage.backup(tmp_path / "backup", files=True)
    await storage.user("ada").files.write("new.txt", b"new")

    def full(self: FolderWriter, file: Path, path: str) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(FolderWriter, "take", full)
    with pytest.raises(BackupError):
        await storage.backup(tmp_path / "backup", files=True)
    with open_archive(tmp_path / "backup") as archive:
        archive.verify()
        assert archive.manifest.blobs.number == 3


@pytest.mark.parametrize("name", ["backup.tar.gz", "backup.tgz", "backup.tar.ZST", "backup.zip"])
async def test_the_name_of_a_compressed_file_makes_no_folder(storage: Storage, tmp_path: Path, name: str) -> None:
    with pytest.raises(InvalidInput, match=r"compress it afterwards"):
        await storage.backup(tmp_path / name)
    assert not (tmp_path / name).exists()
