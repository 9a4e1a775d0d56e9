"""An archive that somebody has made or changed, hashes and all: refused before or undone after, and never quoted."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from storage import Storage
from storage.backup.archive import open_archive
from storage.backup.copying import copy_storage
from storage.backup.manifest import MANIFEST
from storage.database.url import parse_url
from storage.errors import ArchiveDamaged, StorageError, TargetNotEmpty
from storage.files.backends.local import LocalFileStore
from tests.backup.conftest import config, lines_of

QUOTED = "what-an-error-must-not-quote"


@pytest.fixture
async def folder(sqlite_storage: Storage, tmp_path: Path) -> Path:
    await sqlite_storage.backup(tmp_path / "backup", files=True)
    return tmp_path / "backup"


def with_manifest(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    manifest = json.loads((folder / MANIFEST).read_bytes())
    change(manifest)
    (folder / MANIFEST).write_text(json.dumps(manifest))


def with_rows(folder: Path, name: str, change: Callable[[dict[str, Any]], None], *, drop: bool = False) -> None:
    """Change every row of a table, as a mapping by column, or drop all; the manifest says what fits."""

    def rewrite(manifest: dict[str, Any]) -> None:
        (table,) = (table for table in manifest["tables"] if table["name"] == name)
        path, names = folder / table["part"]["path"], [column["name"] for column in table["columns"]]
        lines = []
        for line in [] if drop else path.read_text().splitlines():
            row = dict(zip(names, json.loads(line), strict=True))
            change(row)
            lines.append(json.dumps(list(row.values()), ensure_ascii=False, separators=(",", ":")) + "\n")
        content = "".join(lines).encode()
        path.write_bytes(content)
        table["part"] |= {"lines": len(lines), "sha256": hashlib.sha256(content).hexdigest()}

    with_manifest(folder, rewrite)


def number(row: dict[str, Any]) -> None:
    row["total_tokens"] = QUOTED


def too_large(row: dict[str, Any]) -> None:
    row["total_tokens"] = 2**70


def time(row: dict[str, Any]) -> None:
    row["created_at"] = QUOTED


def nothing(row: dict[str, Any]) -> None:
    row["user_id"] = None


def nested(row: dict[str, Any]) -> None:
    row["title"] = {QUOTED: [QUOTED]}


def shorter(row: dict[str, Any]) -> None:
    row.popitem()


@pytest.mark.parametrize("change", [number, too_large, time, nothing, nested, shorter])
async def test_rows_that_a_table_cannot_hold_restore_nothing_and_are_not_quoted(
    folder: Path, empty_url: str, tmp_path: Path, change: Callable[[dict[str, Any]], None]
) -> None:
    if change in (number, time) and empty_url.startswith("sqlite"):
        pytest.skip("SQLite holds a text in a column of numbers, and gives it back as it was")
    with_rows(folder, "conversation", change)
    target = config(empty_url, tmp_path / "target")
    with pytest.raises(StorageError) as refused:
        await Storage.restore(folder, target)
    error: BaseException | None = refused.value
    while error is not None:
        assert QUOTED not in str(error)
        error = error.__cause__
    async with Storage.open(target):
        assert not any((await lines_of(empty_url)).values())


async def test_rows_that_refer_to_rows_that_are_not_there_restore_nothing(
    folder: Path, empty_url: str, tmp_path: Path
) -> None:
    with_rows(folder, "key_encryption_key", shorter, drop=True)
    target = config(empty_url, tmp_path / "target")
    with pytest.raises(ArchiveDamaged, match="data_key"):
        await Storage.restore(folder, target)
    async with Storage.open(target):
        assert not any((await lines_of(empty_url)).values())


async def test_a_table_that_is_left_out_would_hide_what_the_target_has(
    folder: Path, empty_url: str, tmp_path: Path
) -> None:
    with_manifest(folder, lambda manifest: manifest["tables"].pop())
    target = config(empty_url, tmp_path / "target")
    for _ in range(2):  # in a new database, and in one that has the tables
        with pytest.raises(ArchiveDamaged, match="the archive has no "):
            await Storage.restore(folder, target)
    async with Storage.open(target):
        assert not any((await lines_of(empty_url)).values())


async def test_a_revision_or_a_counted_table_that_never_was_is_refused(
    folder: Path, empty_url: str, tmp_path: Path
) -> None:
    whole = (folder / MANIFEST).read_bytes()
    for change in ({"revision": "0000"}, {"sequences": {"settings": 3}}):
        (folder / MANIFEST).write_text(json.dumps({**json.loads(whole), **change}))
        with pytest.raises(ArchiveDamaged):
            await Storage.restore(folder, config(empty_url, tmp_path / "target"))


async def test_a_tar_file_in_which_a_name_is_twice_is_refused(sqlite_storage: Storage, tmp_path: Path) -> None:
    await sqlite_storage.backup(tmp_path / "backup.tar", files=True)
    with tarfile.open(tmp_path / "backup.tar", "a") as tar:
        tar.addfile(tarfile.TarInfo(MANIFEST), io.BytesIO())
    with pytest.raises(ArchiveDamaged, match="twice"), open_archive(tmp_path / "backup.tar"):
        pass


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE])
async def test_a_tar_file_in_which_a_part_is_no_file_is_refused(
    sqlite_storage: Storage, tmp_path: Path, kind: bytes
) -> None:
    await sqlite_storage.backup(tmp_path / "backup.tar", files=True)
    with tarfile.open(tmp_path / "backup.tar") as source, tarfile.open(tmp_path / "changed.tar", "w") as made:
        for member in source:
            if member.name.startswith("blobs/"):
                link = tarfile.TarInfo(member.name)
                link.type, link.linkname = kind, "/etc/passwd"
                made.addfile(link)
            else:
                made.addfile(member, source.extractfile(member))
    with open_archive(tmp_path / "changed.tar") as archive, pytest.raises(ArchiveDamaged, match="is no file"):
        archive.verify()


async def test_a_content_of_the_same_length_that_is_there_already_is_replaced(
    folder: Path, empty_url: str, tmp_path: Path
) -> None:
    with open_archive(folder) as archive:
        damaged, whole, _ = list(archive.blobs())
    target = config(empty_url, tmp_path / "target")
    store = LocalFileStore(tmp_path / "target" / "files")
    await store.write(damaged.key, b"?" * damaged.size)
    await store.write(whole.key, (folder / whole.path).read_bytes())
    await store.close()
    done = await Storage.restore(folder, target)
    assert (done.blobs, done.present) == (2, 1)
    async with Storage.open(target) as restored:
        assert (await restored.files.verify()).flaws == ()


async def test_a_copy_to_a_storage_in_use_copies_no_contents_either(
    storage: Storage, empty_url: str, tmp_path: Path
) -> None:
    async with Storage.open(config(empty_url, tmp_path / "target")) as target:
        await target.user("bob").settings.update(language="fr")
    blobs = LocalFileStore(tmp_path / "copied")
    with pytest.raises(TargetNotEmpty):
        await copy_storage(storage.database.url, storage.files, parse_url(empty_url), blobs)
    assert not (tmp_path / "copied").exists()
