from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import TypeAlias

import pytest

from storage.database.database import Database
from storage.encryption.keyring import KeyRing
from storage.encryption.providers.environment import EnvironmentKeys
from storage.errors import Conflict, FileAccessDenied, FileNotFound, FileStoreUnavailable, InvalidInput, KeyMismatch
from storage.files.backends.memory import MemoryFileStore
from storage.files.blobs import ContentRules, Contents
from storage.files.catalog import FileCatalog
from storage.files.maintenance import tree_export
from storage.files.maintenance.tree_export import Exported, SkippedFile, export, unholdable
from storage.files.maintenance.verification import WHOLE_BYTES, present_entry
from tests.databases import MASTER_KEY, OTHER_KEY

Exporting: TypeAlias = Callable[..., Awaitable[Exported]]

FILES = {"a": b"1", "b/c": b"12", "b/d/e": b"", "b-c": b"1234"}


@pytest.fixture
def blobs() -> MemoryFileStore:
    return MemoryFileStore()


@pytest.fixture
def files(database: Database, blobs: MemoryFileStore, user_id: str) -> FileCatalog:
    return FileCatalog(database, blobs, user_id, rules=ContentRules(small_bytes=2))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "exported"


@pytest.fixture
def exporting(database: Database, blobs: MemoryFileStore, folder: Path, user_id: str) -> Exporting:
    """The export of this user into this folder."""
    return partial(export, database, Contents(blobs), folder, user_id=user_id)


def tree(folder: Path) -> dict[str, bytes]:
    found = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    return dict(sorted(found.items()))


async def test_every_file_of_the_user_is_written_at_its_own_path(
    database: Database, blobs: MemoryFileStore, files: FileCatalog, folder: Path, *, user_id: str, exporting: Exporting
) -> None:
    await FileCatalog(database, blobs, f"{user_id}-other").write("other", b"1")
    await files.write_many(FILES.items())
    told: list[tuple[int, int | None]] = []
    done = await exporting(progress=lambda *step: told.append(step))
    assert done == Exported(files=4, bytes=7, already=0, skipped=())
    assert tree(folder) == FILES
    assert told == [(1, 4), (2, 4), (3, 4), (4, 4)]
    modes = {stat.S_IMODE(path.stat().st_mode) for path in folder.rglob("*") if path.is_file()}
    assert modes == {0o600}
    assert {stat.S_IMODE(path.stat().st_mode) for path in (folder, folder / "b", folder / "b/d")} == {0o700}


async def test_a_long_file_is_written_in_pieces(files: FileCatalog, folder: Path, exporting: Exporting) -> None:
    content = os.urandom(WHOLE_BYTES + 1)
    await files.write("long", content)
    await exporting()
    assert tree(folder) == {"long": content}


async def test_more_files_than_a_page_are_all_written(
    files: FileCatalog, folder: Path, monkeypatch: pytest.MonkeyPatch, exporting: Exporting
) -> None:
    monkeypatch.setattr(tree_export, "PAGE_ROWS", 3)
    await files.write_many([(f"file-{n}", b"1") for n in range(7)])
    assert (await exporting()).files == 7
    assert len(tree(folder)) == 7


@pytest.mark.parametrize(
    ("path", "expected"),
    [("b", ["b/c", "b/d/e"]), ("b/", ["b/c", "b/d/e"]), ("a", ["a"]), ("b/d", ["b/d/e"])],
)
async def test_a_part_keeps_its_whole_paths(
    files: FileCatalog, folder: Path, path: str, expected: list[str], exporting: Exporting
) -> None:
    await files.write_many(FILES.items())
    await exporting(path=path)
    assert list(tree(folder)) == expected


async def test_a_part_that_does_not_exist_is_an_error_and_a_user_without_files_is_none(
    folder: Path, exporting: Exporting
) -> None:
    with pytest.raises(FileNotFound):
        await exporting(path="nothing")
    assert await exporting() == Exported(0, 0, 0, ())
    assert not folder.exists()


# ---- a folder that is not empty


async def test_it_goes_on_where_it_stopped(files: FileCatalog, folder: Path, exporting: Exporting) -> None:
    await files.write_many(FILES.items())
    await exporting()
    (folder / "b-c").unlink()
    (folder / "of somebody else").write_bytes(b"stays")
    before = (folder / "a").stat()
    assert await exporting() == Exported(1, 4, 3, ())
    assert tree(folder) == {**FILES, "of somebody else": b"stays"}
    assert (folder / "a").stat().st_ino == before.st_ino


async def test_two_at_once_into_one_folder_write_each_file_once(
    files: FileCatalog, folder: Path, exporting: Exporting
) -> None:
    contents = {f"folder/{number}": str(number).encode() for number in range(40)}
    await files.write_many(contents.items())
    done = await asyncio.gather(exporting(), exporting())
    assert sum(each.files for each in done) == 40
    assert [each.files + each.already for each in done] == [40, 40]
    assert tree(folder) == contents


async def test_another_content_is_refused_before_anything_is_written(
    files: FileCatalog, folder: Path, exporting: Exporting
) -> None:
    await files.write_many(FILES.items())
    (folder / "b").mkdir(parents=True)
    (folder / "b/c").write_bytes(b"21")
    with pytest.raises(Conflict, match=r"another content at 'b/c'.*nothing was written"):
        await exporting()
    assert tree(folder) == {"b/c": b"21"}
    assert (await exporting(overwrite=True)).files == 4
    assert tree(folder) == FILES


async def test_an_error_names_a_few_of_many_files_in_the_way(
    files: FileCatalog, folder: Path, exporting: Exporting
) -> None:
    await files.write_many([(f"file-{n}", b"1") for n in range(9)])
    folder.mkdir()
    for n in range(9):
        (folder / f"file-{n}").write_bytes(b"2")
    with pytest.raises(Conflict, match="'file-4' and 4 more"):
        await exporting()


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("kind", ["link", "link to a folder", "folder", "file"])
async def test_what_is_no_plain_file_or_folder_is_refused_and_not_followed(
    files: FileCatalog, folder: Path, tmp_path: Path, *, kind: str, overwrite: bool, exporting: Exporting
) -> None:
    await files.write_many(FILES.items())
    outside = tmp_path / "outside"
    outside.mkdir()
    folder.mkdir()
    if kind == "link":
        (folder / "a").symlink_to(outside / "a")
    elif kind == "link to a folder":
        (folder / "b").symlink_to(outside)
    elif kind == "folder":
        (folder / "a").mkdir()
    else:
        (folder / "b").write_bytes(b"")
    before = sorted(folder.rglob("*"))
    with pytest.raises(Conflict, match=r"in the way.*nothing was written"):
        await exporting(overwrite=overwrite)
    assert sorted(folder.rglob("*")) == before
    assert list(outside.iterdir()) == []


async def test_a_target_that_is_a_file_is_refused(files: FileCatalog, folder: Path, exporting: Exporting) -> None:
    await files.write("a", b"1")
    folder.write_bytes(b"")
    with pytest.raises(InvalidInput, match="no folder"):
        await exporting()


# ---- what a file system does not hold


async def test_a_file_with_a_folder_of_its_name_is_named_as_skipped(
    files: FileCatalog, folder: Path, exporting: Exporting
) -> None:
    await files.write_many([("a", b"1"), ("a-b", b"1"), ("a/b/c", b"1"), ("a/b", b"1")])
    done = await exporting()
    assert [skipped.path for skipped in done.skipped] == ["a", "a/b"]
    assert "folder" in done.skipped[0].reason
    assert list(tree(folder)) == ["a-b", "a/b/c"]
    assert (await exporting()).already == 2


async def test_names_that_differ_by_case_are_two_files_where_the_file_system_says_so(
    files: FileCatalog, folder: Path, exporting: Exporting
) -> None:
    await files.write_many([("A", b"1"), ("a", b"2")])
    done = await exporting()
    assert done.files + len(done.skipped) == 2
    assert len(tree(folder)) == done.files
    assert sorted(path.name for path in folder.iterdir()) == sorted(tree(folder)), (
        "nothing is left of asking the file system"
    )


def test_where_case_does_not_count_the_first_of_a_name_is_kept() -> None:
    paths = ["A/X", "Straße", "a", "a/x", "a/y", "strasse", "É", "é"]
    assert unholdable(paths, folds_case=False) == [
        SkippedFile("a", "a folder of this name has other files, and takes its place")
    ]
    skipped = {each.path: each.reason for each in unholdable(paths, folds_case=True)}
    assert list(skipped) == ["a", "a/x", "strasse", "é"]
    assert "'A/X'" in skipped["a/x"]


async def test_a_name_that_is_too_long_is_named_as_skipped(
    database: Database, blobs: MemoryFileStore, files: FileCatalog, tmp_path: Path, user_id: str
) -> None:
    # As long as a path may be for the system's calls, less a little: what is below does not fit any more.
    deep = tmp_path
    while len(str(deep)) < 3700:
        deep /= "d" * 200
    long = "/".join(["n" * 200] * 4)
    await files.write_many([("a", b"1"), (long, b"1")])
    done = await export(database, Contents(blobs), deep, user_id=user_id)
    assert [skipped.path for skipped in done.skipped] == [long]
    assert "longer" in done.skipped[0].reason
    assert tree(deep) == {"a": b"1"}


# ---- contents that cannot be had


async def test_a_flawed_file_is_named_as_skipped_and_the_others_are_written(
    database: Database, blobs: MemoryFileStore, files: FileCatalog, folder: Path, *, user_id: str, exporting: Exporting
) -> None:
    await files.write_many([("flawed", b"123"), ("whole", b"123")])
    await files.write("long", b"1" * (WHOLE_BYTES + 1))
    for path in ("flawed", "long"):
        entry = await present_entry(database, user_id, path)
        assert entry is not None
        await blobs.write(entry.blob_key, b"2" * entry.stat.size)
    done = await exporting()
    assert [skipped.path for skipped in done.skipped] == ["flawed", "long"]
    assert "sha256" in done.skipped[0].reason
    assert tree(folder) == {"whole": b"123"}


async def test_sealed_files_are_opened_and_without_the_key_it_says_so(
    database: Database, blobs: MemoryFileStore, folder: Path, user_id: str
) -> None:
    keyring = KeyRing(database, EnvironmentKeys(MASTER_KEY))
    await keyring.start()
    sealing = FileCatalog(database, blobs, user_id, keyring=keyring, rules=ContentRules(small_bytes=2, seal=True))
    await sealing.write_many(FILES.items())
    await export(database, Contents(blobs, keyring), folder, user_id=user_id)
    assert tree(folder) == FILES
    (folder / "a").unlink()
    other = KeyRing(database, EnvironmentKeys(OTHER_KEY))
    await other.start()
    with pytest.raises(KeyMismatch):
        await export(database, Contents(blobs, other), folder, user_id=user_id)


async def test_what_changes_meanwhile_is_written_as_it_is_then(database: Database, user_id: str, folder: Path) -> None:
    class Busy(MemoryFileStore):
        """The first read finds the file overwritten, and what it was to read collected."""

        busy = False
        one_at_a_time = asyncio.Lock()

        async def _read(self, path: str) -> bytes:
            async with self.one_at_a_time:
                if self.busy:
                    self.busy = False
                    await files.write("overwritten", b"12")
                    await files.delete("deleted")
                    for key in old:
                        await self.delete(key)
                return await super()._read(path)

    blobs = Busy()
    files = FileCatalog(database, blobs, user_id)
    await files.write_many([("deleted", b"1"), ("overwritten", b"1")])
    entries = [await present_entry(database, user_id, path) for path in ("deleted", "overwritten")]
    old = [entry.blob_key for entry in entries if entry is not None]
    blobs.busy = True
    assert await export(database, Contents(blobs), folder, user_id=user_id) == Exported(1, 2, 0, ())
    assert tree(folder) == {"overwritten": b"12"}


async def test_a_copy_of_what_changes_meanwhile_is_not_replaced_unasked(
    database: Database, user_id: str, folder: Path
) -> None:
    class Busy(MemoryFileStore):
        """A read finds another file overwritten."""

        async def _read(self, path: str) -> bytes:
            await catalogue.write("z", b"12")
            return await super()._read(path)

    blobs = Busy()
    catalogue = FileCatalog(database, blobs, user_id, rules=ContentRules(small_bytes=2))
    await catalogue.write("z", b"1")
    await export(database, Contents(blobs), folder, user_id=user_id)
    await catalogue.write_many([(f"file-{n}", b"123") for n in range(tree_export.FILES_AT_ONCE)])
    done = await export(database, Contents(blobs), folder, user_id=user_id)
    assert done.files == tree_export.FILES_AT_ONCE
    assert (folder / "z").read_bytes() == b"1"
    assert done.already + len(done.skipped) == 1
    with pytest.raises(Conflict, match="'z'"):
        await export(database, Contents(blobs), folder, user_id=user_id)


async def test_an_outage_is_raised_and_another_run_goes_on(database: Database, user_id: str, folder: Path) -> None:
    class Failing(MemoryFileStore):
        left = 0

        async def _read(self, path: str) -> bytes:
            self.left -= 1
            if self.left < 0:
                raise FileStoreUnavailable("the line is cut")
            return await super()._read(path)

    blobs = Failing()
    await FileCatalog(database, blobs, user_id).write_many([(f"file-{n}", b"1") for n in range(20)])
    blobs.left = 10
    with pytest.raises(FileStoreUnavailable, match="the line is cut"):
        await export(database, Contents(blobs), folder, user_id=user_id)
    assert not list(folder.glob(".*")), "no temporary file is left"
    blobs.left = 20
    done = await export(database, Contents(blobs), folder, user_id=user_id)
    assert done.files + done.already == 20
    assert len(tree(folder)) == 20


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
async def test_a_folder_that_may_not_be_written_is_an_error(
    files: FileCatalog, folder: Path, exporting: Exporting
) -> None:
    await files.write("a", b"1")
    folder.mkdir(mode=0o500)
    with pytest.raises(FileAccessDenied):
        await exporting()
