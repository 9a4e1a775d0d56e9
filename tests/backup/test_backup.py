"""A backup holds what was committed, restores onto either database, and is whole or not there."""

from __future__ import annotations

import asyncio
import errno
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import pytest
from sqlalchemy import text

from storage import ConversationMetadata, Storage
from storage.backup.archive import open_archive
from storage.backup.copying import copy_storage
from storage.backup.manifest import MANIFEST
from storage.backup.writing import TarWriter
from storage.clock import now
from storage.database.url import parse_url
from storage.errors import ArchiveDamaged, ArchiveTooNew, BackupError, KeyMismatch, TargetNotEmpty
from storage.files.backends.local import LocalFileStore
from storage.openhands.importer import import_home
from storage.openhands.reader import open_home
from tests.backup.conftest import CANARY, config, fill, lines_of
from tests.databases import MASTER_KEY, OTHER_KEY

ROOT = Path(__file__).parents[2]
SAMPLE = ROOT.parent / "shared" / "samples" / "openhands-home.tar.xz"

KINDS = pytest.mark.parametrize("name", ["backup.tar", "backup"], ids=["file", "folder"])


def contents_of(path: Path) -> bytes:
    """All bytes of an archive."""
    files = [path] if path.is_file() else sorted(each for each in path.rglob("*") if each.is_file())
    return b"".join(file.read_bytes() for file in files)


# ---- there and back


@KINDS
async def test_an_archive_restores_onto_either_database_row_by_row(
    storage: Storage, empty_url: str, tmp_path: Path, name: str
) -> None:
    report = await storage.backup(tmp_path / name, files=True)
    restored = config(empty_url, tmp_path / "target")
    done = await Storage.restore(tmp_path / name, restored)
    expected = await lines_of(str(storage.config.database_url))
    assert await lines_of(empty_url) == expected
    assert done.rows == report.rows == sum(map(len, expected.values()))
    assert (done.blobs, done.present, done.left_out) == (3, 0, 0)
    async with Storage.open(restored) as found:
        ada = found.user("ada")
        assert await ada.files.read("2.txt") == b"ada 2" * 100
        assert (await ada.secrets.get_custom_secret("NAME")).secret.get_secret_value() == CANARY
        row = await ada.conversations.get_metadata("c-ada")
        assert row.title == 'Ünïcode, "quotes" and\nlines 🙂'
        assert row.model_extra == {"further": {"b": 1, "a": [1.5, None, {"deep": "x"}]}}
        before = max(json.loads(line)[0] for line in expected["event"])
        await ada.files.write("new.txt", b"x")
        after = [json.loads(line)[0] for line in (await lines_of(empty_url))["event"]]
        assert max(after) > before, "the numbers of events go on"
        assert (await found.doctor()).is_well


@pytest.mark.skipif(not SAMPLE.exists(), reason=f"the sample home is not at {SAMPLE}")
async def test_a_real_home_survives_the_way_to_the_other_database(
    database_url: str, other_url: str, tmp_path: Path
) -> None:
    async with Storage.open(config(database_url, tmp_path / "source")) as storage:
        with open_home(SAMPLE) as home:
            await import_home(storage, home)
        await storage.backup(tmp_path / "backup", files=True)
    await Storage.restore(tmp_path / "backup", config(other_url, tmp_path / "target"))
    assert await lines_of(other_url) == await lines_of(database_url)
    async with Storage.open(config(other_url, tmp_path / "target")) as restored:
        assert (await restored.files.verify()).flaws == ()


async def test_contents_stay_out_unless_they_are_asked_for(storage: Storage, other_url: str, tmp_path: Path) -> None:
    report = await storage.backup(tmp_path / "backup.tar")
    assert (report.blobs, report.left_out) == (0, 3)
    done = await Storage.restore(tmp_path / "backup.tar", config(other_url, tmp_path / "target"))
    assert (done.blobs, done.left_out) == (0, 3)


async def test_numbers_that_were_given_out_are_not_given_out_again(
    storage: Storage, empty_url: str, tmp_path: Path
) -> None:
    """Also those of events that are gone: a consumer that remembers how far it came would pass over new ones."""
    last = max(json.loads(line)[0] for line in (await lines_of(str(storage.config.database_url)))["event"])
    async with storage.session() as session:
        await session.exec(text("DELETE FROM event"))  # type: ignore[call-overload]
        await session.commit()
    await storage.backup(tmp_path / "backup.tar")
    await Storage.restore(tmp_path / "backup.tar", config(empty_url, tmp_path / "target"))
    async with Storage.open(config(empty_url, tmp_path / "target")) as restored:
        await restored.user("ada").settings.update(language="de")
    assert min(json.loads(line)[0] for line in (await lines_of(empty_url))["event"]) > last


async def test_leases_of_the_processes_that_run_are_left_behind(storage: Storage, tmp_path: Path) -> None:
    async with storage.session() as session:
        await session.exec(  # type: ignore[call-overload]
            text(
                "INSERT INTO delivery (endpoint_id, event_seq, line, state, attempts, next_at, lease_until,"
                " lease_token, updated_at)"
                " SELECT w.id, e.seq, 1, 'pending', 1, e.created_at, e.created_at, w.id, e.created_at"
                " FROM webhook_endpoint w, event e"
            )
        )
        await session.commit()
    await storage.backup(tmp_path / "backup.tar")
    with open_archive(tmp_path / "backup.tar") as archive:
        (table,) = (table for table in archive.manifest.tables if table.name == "delivery")
        places = [index for index, column in enumerate(table.columns) if column.name.startswith("lease_")]
        rows = [json.loads(line) for line in archive.lines(table.part)]
    assert rows
    assert {row[place] for row in rows for place in places} == {None}


# ---- secrets


@KINDS
async def test_no_secret_and_no_key_is_in_an_archive(storage: Storage, tmp_path: Path, name: str) -> None:
    report = await storage.backup(tmp_path / name, files=True)
    found = contents_of(tmp_path / name)
    assert CANARY.encode() not in found
    assert MASTER_KEY.get_secret_value().encode() not in found
    assert [len(key) for key in report.master_keys] == [32], "the id of the one master key"
    paths = [tmp_path / name, *(tmp_path / name).rglob("*")]
    assert {path.stat().st_mode & 0o077 for path in paths} == {0}, "its owner's alone"


async def test_with_the_wrong_key_it_restores_locked(storage: Storage, other_url: str, tmp_path: Path) -> None:
    await storage.backup(tmp_path / "backup.tar")
    other = config(other_url, tmp_path / "target", master_key=OTHER_KEY)
    done = await Storage.restore(tmp_path / "backup.tar", other)
    assert len(done.master_keys) == 1
    async with Storage.open(other) as locked:
        assert locked.keyring.state == "locked"
        assert (await locked.user("ada").conversations.get_metadata("c-ada")).conversation_id == "c-ada"
        with pytest.raises(KeyMismatch):
            await locked.user("ada").secrets.get_custom_secret("NAME")
    async with Storage.open(config(other_url, tmp_path / "target")) as unlocked:
        found = await unlocked.user("ada").secrets.get_custom_secret("NAME")
        assert found.secret.get_secret_value() == CANARY


# ---- what is refused


async def test_a_storage_with_anything_in_it_is_refused_and_left_alone(
    storage: Storage, other_url: str, tmp_path: Path
) -> None:
    await storage.backup(tmp_path / "backup.tar", files=True)
    async with Storage.open(config(other_url, tmp_path / "target")) as target:
        await target.user("bob").settings.update(language="fr")
        before = await lines_of(other_url)
        with pytest.raises(TargetNotEmpty, match=r"rows in \w+ already"):
            await Storage.restore(tmp_path / "backup.tar", target.config)
        assert await lines_of(other_url) == before
        assert [blob async for blob in target.blobs.walk()] == []


async def test_a_file_that_is_there_and_a_folder_of_others_are_refused(storage: Storage, tmp_path: Path) -> None:
    (tmp_path / "there.tar").write_bytes(b"of somebody")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "letter.txt").write_bytes(b"of somebody")
    for name in ("there.tar", "folder"):
        with pytest.raises(TargetNotEmpty):
            await storage.backup(tmp_path / name)
    assert (tmp_path / "there.tar").read_bytes() == b"of somebody"
    assert [path.name for path in (tmp_path / "folder").iterdir()] == ["letter.txt"]
    with pytest.raises(BackupError, match="No such file"):
        await storage.backup(tmp_path / "missing" / "backup.tar")


def changed(archive: Path, path: str, content: bytes | None) -> Path:
    """A copy of a tar archive in which one file is another, or is missing."""
    target = archive.with_name("changed.tar")
    with tarfile.open(archive) as source, tarfile.open(target, "w") as made:
        for member in source:
            if member.name != path:
                made.addfile(member, source.extractfile(member))
        if content is not None:
            member = tarfile.TarInfo(path)
            member.size = len(content)
            made.addfile(member, io.BytesIO(content))
    return target


def read(archive: Path, path: str) -> bytes:
    with open_archive(archive) as found, found.open(path) as file:
        return file.read()


async def test_an_archive_that_is_not_what_was_written_restores_nothing(
    storage: Storage, other_url: str, tmp_path: Path
) -> None:
    whole = tmp_path / "backup.tar"
    await storage.backup(whole, files=True)
    manifest = json.loads(read(whole, MANIFEST))
    rows = next(table["part"]["path"] for table in manifest["tables"] if table["name"] == "conversation")
    blobs = manifest["blobs"]["part"]["path"]
    key = json.loads(read(whole, blobs).splitlines()[0])[0]
    newer = {**manifest, "version": 99}
    moved = json.loads(json.dumps(manifest).replace(rows, "../../etc/passwd"))
    other_key = read(whole, blobs).replace(key.encode(), b"blobs/../../../etc/passwd")
    for path, content in (
        (rows, read(whole, rows).replace(b"quotes", b"Quotes")),
        (rows, None),
        (key, b"otherwise"),
        (key, None),
        (MANIFEST, None),
        (MANIFEST, b"{}"),
        (MANIFEST, b"[" * 100_000),
        (MANIFEST, json.dumps(newer).encode()),
        (MANIFEST, json.dumps(moved).encode()),
        (blobs, other_key),
    ):
        with pytest.raises((ArchiveDamaged, ArchiveTooNew)):
            await Storage.restore(changed(whole, path, content), config(other_url, tmp_path / "target"))
    whole.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    with pytest.raises(ArchiveDamaged):
        await Storage.restore(whole, config(other_url, tmp_path / "target"))
    with pytest.raises(ArchiveDamaged):
        await Storage.restore(tmp_path / "missing.tar", config(other_url, tmp_path / "target"))
    async with Storage.open(config(other_url, tmp_path / "target")) as untouched:
        assert set(map(len, (await lines_of(other_url)).values())) == {0}
        assert [blob async for blob in untouched.blobs.walk()] == []


async def test_a_link_in_a_folder_leads_nowhere(storage: Storage, other_url: str, tmp_path: Path) -> None:
    await storage.backup(tmp_path / "backup", files=True)
    (blob,) = list((tmp_path / "backup" / "blobs").rglob("*-*"))[:1]
    shutil.move(blob, tmp_path / "outside")
    blob.symlink_to(tmp_path / "outside")
    with pytest.raises(ArchiveDamaged, match="is a link"):
        await Storage.restore(tmp_path / "backup", config(other_url, tmp_path / "target"))


# ---- again and again


async def test_a_second_backup_into_a_folder_copies_what_is_new(storage: Storage, tmp_path: Path) -> None:
    folder = tmp_path / "backup"
    assert (await storage.backup(folder, files=True)).copied == 3
    first = {path for path in (folder / "blobs").rglob("*") if path.is_file()}
    await storage.user("ada").files.write("new.txt", b"new")
    await storage.user("ada").files.delete("0.txt")
    async with storage.session() as session:
        await session.exec(text("UPDATE event SET blob_key = NULL"))  # type: ignore[call-overload]
        await session.commit()
    second = await storage.backup(folder, files=True)
    assert (second.blobs, second.copied) == (3, 1)
    now_there = {path for path in (folder / "blobs").rglob("*") if path.is_file()}
    assert len(now_there & first) == 2, "what only the first one named is gone"
    assert len([path for path in folder.iterdir() if path.name.startswith("data-")]) == 1
    damaged = next(iter(now_there & first))
    damaged.write_bytes(b"otherwise")
    assert (await storage.backup(folder, files=True)).copied == 1, "what is damaged is copied again"
    with open_archive(folder) as archive:
        archive.verify()


async def test_contents_that_are_missing_are_told_of(storage: Storage, tmp_path: Path) -> None:
    (key,) = [stat.path async for stat in storage.blobs.walk()][:1]
    await storage.blobs.delete(key)
    report = await storage.backup(tmp_path / "backup.tar", files=True)
    assert (report.blobs, report.missing, report.missing_number) == (2, (key,), 1)


# ---- under load, and killed


async def test_what_was_acknowledged_before_it_began_is_in_it_and_it_is_consistent(
    storage: Storage, other_url: str, tmp_path: Path
) -> None:
    acknowledged: set[str] = set()
    stop = asyncio.Event()

    async def write(number: int) -> None:
        ada, count = storage.user(f"w{number}"), 0
        while not stop.is_set():
            name = f"c-{number}-{count}"
            async with ada.transaction() as tx:
                await tx.conversations.save_metadata(ConversationMetadata(conversation_id=name, title=name))
                await tx.files.write(f"{name}.txt", name.encode())
            acknowledged.add(name)
            count += 1

    writers = [asyncio.create_task(write(number)) for number in range(64)]
    await asyncio.sleep(0.5)
    before = set(acknowledged)
    report = await storage.backup(tmp_path / "backup.tar", files=True)
    stop.set()
    await asyncio.gather(*writers)
    assert before
    assert report.missing_number == 0
    await Storage.restore(tmp_path / "backup.tar", config(other_url, tmp_path / "target"))
    async with Storage.open(config(other_url, tmp_path / "target")) as restored:
        found = await lines_of(other_url)
        conversations = {json.loads(line)[1] for line in found["conversation"]} - {"c-ada"}
        files = {json.loads(line)[1].removesuffix(".txt") for line in found["file"]} - {"0", "1", "2"}
        assert before <= conversations
        assert conversations == files, "a transaction is in it whole or not at all"
        assert (await restored.files.verify()).flaws == ()


KILLED = """
import asyncio, sys
from pathlib import Path
from storage import Storage
async def main():
    action, url, data, archive = sys.argv[1:]
    if action == "backup":
        async with Storage.open(url, data_dir=data, webhook_delivery=False) as storage:
            print("begun", flush=True)
            await storage.backup(archive, files=True)
    else:
        from storage import StorageConfig
        print("begun", flush=True)
        await Storage.restore(Path(archive), StorageConfig.load(database_url=url, data_dir=data))
asyncio.run(main())
"""


def killed_after(seconds: float, *words: str | Path) -> None:
    variables = {**os.environ, "STORAGE_MASTER_KEY": MASTER_KEY.get_secret_value(), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", KILLED, *map(str, words)]
    with subprocess.Popen(command, env=variables, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        time.sleep(seconds)
        child.send_signal(signal.SIGKILL)
        child.wait()


async def test_killed_midway_nothing_looks_whole_and_it_can_be_run_again(
    storage: Storage, other_url: str, tmp_path: Path
) -> None:
    for number in range(5):
        await fill(storage, f"user-{number}", files=30)
    source = str(storage.config.database_url)
    expected = await lines_of(source)
    killed_after(0.1, "backup", source, tmp_path / "source", tmp_path / "backup")
    if (tmp_path / "backup" / MANIFEST).exists():
        with open_archive(tmp_path / "backup") as archive:
            archive.verify()
    await storage.backup(tmp_path / "backup", files=True)
    assert len([path for path in (tmp_path / "backup").iterdir() if path.name.startswith("data-")]) == 1
    killed_after(0.1, "restore", other_url, tmp_path / "target", tmp_path / "backup")
    target = config(other_url, tmp_path / "target")
    async with Storage.open(target):
        numbers = {name: len(lines) for name, lines in (await lines_of(other_url)).items()}
    if any(numbers.values()):
        assert numbers == {name: len(lines) for name, lines in expected.items()}, "all rows or none"
    else:
        await Storage.restore(tmp_path / "backup", target)
    assert await lines_of(other_url) == expected


async def test_a_full_disk_leaves_no_half_archive(
    storage: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(TarWriter, "take", full)
    (tmp_path / "place").mkdir()
    with pytest.raises(BackupError, match="No space left on device; make room"):
        await storage.backup(tmp_path / "place" / "backup.tar")
    assert list((tmp_path / "place").iterdir()) == []


# ---- older ones, and copies


async def test_an_older_schema_is_restored_and_brought_up_to_date(empty_url: str, tmp_path: Path) -> None:
    """The archive of a release whose newest revision was 0004; its tables are those of 0005."""
    async with Storage.open(config(f"sqlite:///{tmp_path / 'source.db'}", tmp_path / "source")) as storage:
        await fill(storage)
        await storage.backup(tmp_path / "backup")
    manifest = json.loads((tmp_path / "backup" / MANIFEST).read_text())
    (tmp_path / "backup" / MANIFEST).write_text(json.dumps({**manifest, "revision": "0004"}))
    await Storage.restore(tmp_path / "backup", config(empty_url, tmp_path / "target"))
    assert await lines_of(empty_url) == await lines_of(f"sqlite:///{tmp_path / 'source.db'}")
    async with Storage.open(config(empty_url, tmp_path / "target")) as restored:
        assert (await restored.query("SELECT count(*) FROM report_conversation")).rows == [(1,)]
    (tmp_path / "backup" / MANIFEST).write_text(json.dumps({**manifest, "revision": "9999"}))
    with pytest.raises(ArchiveTooNew):
        await Storage.restore(tmp_path / "backup", config(f"sqlite:///{tmp_path / 'x.db'}", tmp_path / "x"))
    assert not (tmp_path / "x.db").exists()


async def test_a_copy_is_the_same_row_by_row_and_can_be_begun_again(
    storage: Storage, empty_url: str, tmp_path: Path
) -> None:
    blobs = LocalFileStore(tmp_path / "copied")
    source = storage.database.url
    first = await copy_storage(source, storage.files, parse_url(empty_url), blobs)
    assert first.files is not None
    assert (first.files.copied, first.files.flaws) == (3, ())
    assert await lines_of(empty_url) == await lines_of(str(storage.config.database_url))
    with pytest.raises(TargetNotEmpty):
        await copy_storage(source, storage.files, parse_url(empty_url))
    copied = config(empty_url, tmp_path / "x", file_store_path=str(tmp_path / "copied"))
    async with Storage.open(copied) as found:
        assert await found.user("ada").files.read("1.txt") == b"ada 1" * 100
        assert (await found.user("ada").secrets.get_custom_secret("NAME")).secret.get_secret_value() == CANARY


async def test_the_moment_is_that_of_the_beginning(storage: Storage, tmp_path: Path) -> None:
    began = now()
    report = await storage.backup(tmp_path / "backup.tar")
    assert began <= report.made_at <= now()
