from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from storage.database.database import Database
from storage.encryption.keyring import KeyRing
from storage.encryption.providers.environment import EnvironmentKeys
from storage.errors import FileStoreUnavailable, InvalidInput
from storage.files.backends.local import LocalFileStore
from storage.files.backends.memory import MemoryFileStore
from storage.files.blobs import ContentRules, Contents
from storage.files.catalog import FileCatalog
from storage.files.maintenance import verification
from storage.files.maintenance.verification import Flaw, Verification, verify
from storage.files.store import FileStore
from tests.databases import MASTER_KEY, OTHER_KEY, Query

on_one_database = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
"""For what the others' statements are asked again, and only the backends differ."""


@pytest.fixture
def migrated_url(database_url: str) -> str:
    """A database of the test's own: it looks at everybody's files."""
    return database_url


@pytest.fixture
def blobs() -> MemoryFileStore:
    return MemoryFileStore()


async def blob_of(database: Database, user_id: str, path: str) -> str:
    entry = await verification.present_entry(database, user_id, path)
    assert entry is not None
    return entry.blob_key


def found(result: Verification) -> list[tuple[str, str, str]]:
    return [(flaw.user_id, flaw.path, flaw.reason) for flaw in result.flaws]


async def test_whole_files_of_everybody_have_no_flaws(database: Database, blobs: FileStore) -> None:
    for user_id in ("alice", "bob"):
        files = FileCatalog(database, blobs, user_id, rules=ContentRules(small_bytes=3))
        await files.write_many([("a/empty", b""), ("a/small", b"123"), ("b", b"12345")])
        await files.write("long", b"x" * (verification.WHOLE_BYTES + 1))
    size = verification.WHOLE_BYTES + 9
    assert await verify(database, Contents(blobs)) == Verification(8, 2 * size, 0, ())
    assert await verify(database, Contents(blobs), user_id="bob") == Verification(4, size, 0, ())
    assert await verify(database, Contents(blobs), user_id="carol") == Verification(0, 0, 0, ())


async def test_more_rows_than_a_page_are_all_checked(
    database: Database, blobs: FileStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verification, "PAGE_ROWS", 3)
    for user_id in ("alice", "bob", "carol"):
        await FileCatalog(database, blobs, user_id).write_many([(f"file-{n}", b"1") for n in range(4)])
    told: list[tuple[int, int | None]] = []
    result = await verify(database, Contents(blobs), progress=lambda *step: told.append(step))
    assert (result.checked, result.flaws) == (12, ())
    assert told == [(n, 12) for n in range(1, 13)]
    assert (await verify(database, Contents(blobs), user_id="bob")).checked == 4


async def test_what_is_missing_or_altered_is_reported_by_user_and_path(
    database: Database, blobs: MemoryFileStore
) -> None:
    long = verification.WHOLE_BYTES + 1
    for user_id in ("bob", "alice"):
        files = FileCatalog(database, blobs, user_id)
        for path, content in (("gone", b"1"), ("whole", b"1"), ("other", b"1"), ("more", b"1" * long)):
            await files.write(path, content)
    await blobs.delete(await blob_of(database, "bob", "gone"))
    await blobs.write(gone := await blob_of(database, "alice", "other"), b"2")
    await blobs.write(await blob_of(database, "alice", "more"), b"1" * long + b"2")
    result = await verify(database, Contents(blobs))
    assert found(result) == [("alice", "more", "altered"), ("alice", "other", "altered"), ("bob", "gone", "missing")]
    assert result.checked == 8
    assert isinstance(result.flaws[1], Flaw)
    assert result.flaws[1].blob_key == gone
    assert "sha256" in result.flaws[1].detail


@on_one_database
async def test_a_long_blob_that_is_gone_is_missing(database: Database, blobs: MemoryFileStore) -> None:
    await FileCatalog(database, blobs, "alice").write("long", b"1" * (verification.WHOLE_BYTES + 1))
    await blobs.delete(await blob_of(database, "alice", "long"))
    assert found(await verify(database, Contents(blobs))) == [("alice", "long", "missing")]


async def test_contents_in_the_database_are_checked_too(database: Database, blobs: FileStore, query: Query) -> None:
    files = FileCatalog(database, blobs, "alice", rules=ContentRules(small_bytes=10))
    await files.write_many([("altered", b"1"), ("gone", b"1"), ("whole", b"1")])
    key = await blob_of(database, "alice", "altered")
    await query("UPDATE file_content SET content = :content WHERE blob_key = :key", content=b"2", key=key)
    key = await blob_of(database, "alice", "gone")
    await query("DELETE FROM file_content WHERE blob_key = :key", key=key)
    result = await verify(database, Contents(blobs))
    assert found(result) == [("alice", "altered", "altered"), ("alice", "gone", "missing")]


@on_one_database
async def test_what_the_backend_refuses_to_read_is_unreadable(database: Database, tmp_path: Path) -> None:
    async with LocalFileStore(tmp_path) as blobs:
        files = FileCatalog(database, blobs, "alice")
        await files.write_many([("linked", b"1"), ("whole", b"1")])
        place = tmp_path / await blob_of(database, "alice", "linked")
        place.rename(tmp_path / "elsewhere")
        place.symlink_to(tmp_path / "elsewhere")
        result = await verify(database, Contents(blobs))
    assert found(result) == [("alice", "linked", "unreadable")]


@on_one_database
async def test_an_outage_is_raised_and_no_flaw(database: Database) -> None:
    class Down(MemoryFileStore):
        down = False

        async def _read(self, path: str) -> bytes:
            if self.down:
                raise FileStoreUnavailable("the line is cut")
            return await super()._read(path)

    blobs = Down()
    await FileCatalog(database, blobs, "alice").write("a", b"1")
    blobs.down = True
    with pytest.raises(FileStoreUnavailable, match="the line is cut"):
        await verify(database, Contents(blobs))


# ---- samples


async def test_a_sample_is_of_so_many_files_and_the_same_for_a_seed(database: Database, blobs: FileStore) -> None:
    files = FileCatalog(database, blobs, "alice")
    paths = [f"file-{n}" for n in range(20)]
    await files.write_many([(path, b"1") for path in paths])
    for path in paths:
        await blobs.delete(await blob_of(database, "alice", path))

    async def sampled(seed: int | None) -> list[str]:
        result = await verify(database, Contents(blobs), sample=5, seed=seed)
        assert result.checked == 5
        return [flaw.path for flaw in result.flaws]

    one = await sampled(1)
    assert one == sorted(one)
    assert len(set(one)) == 5
    assert await sampled(1) == one
    assert {*await sampled(2), *await sampled(3), *await sampled(4)} > set(await sampled(4))


@on_one_database
async def test_a_sample_larger_than_what_there_is_is_everything(database: Database, blobs: FileStore) -> None:
    await FileCatalog(database, blobs, "alice").write_many([("a", b"1"), ("b", b"1")])
    told: list[tuple[int, int | None]] = []
    result = await verify(database, Contents(blobs), sample=100, progress=lambda *step: told.append(step))
    assert result == Verification(2, 2, 0, ())
    assert told == [(1, 2), (2, 2)]


@on_one_database
async def test_a_sample_of_nothing_is_refused(database: Database, blobs: FileStore) -> None:
    with pytest.raises(InvalidInput, match="1 file or more"):
        await verify(database, Contents(blobs), sample=0)


# ---- sealed contents


async def ring(database: Database, *, other: bool = False) -> KeyRing:
    keyring = KeyRing(database, EnvironmentKeys(OTHER_KEY if other else MASTER_KEY))
    await keyring.start()
    return keyring


@on_one_database
async def test_sealed_contents_are_opened(database: Database, blobs: MemoryFileStore) -> None:
    keyring = await ring(database)
    files = FileCatalog(database, blobs, "alice", keyring=keyring, rules=ContentRules(small_bytes=10, seal=True))
    long = verification.WHOLE_BYTES + 1
    contents = {"altered": 100, "long": long, "longer": long, "row": 10, "whole": 100}
    for path, size in contents.items():
        await files.write(path, b"1" * size)
    assert await verify(database, Contents(blobs, keyring)) == Verification(5, sum(contents.values()), 0, ())
    for path in ("altered", "longer"):
        key = await blob_of(database, "alice", path)
        await blobs.write(key, await blobs.read(key) + b"1")
    result = await verify(database, Contents(blobs, keyring))
    assert found(result) == [("alice", "altered", "altered"), ("alice", "longer", "altered")]


@on_one_database
async def test_what_is_locked_is_counted_apart(database: Database, blobs: FileStore) -> None:
    keyring = await ring(database)
    sealing = ContentRules(seal=True)
    await FileCatalog(database, blobs, "alice", keyring=keyring, rules=sealing).write("sealed", b"1")
    await FileCatalog(database, blobs, "alice").write("clear", b"12")
    result = await verify(database, Contents(blobs, await ring(database, other=True)))
    assert result == Verification(1, 2, 1, ())


async def test_a_key_that_was_altered_makes_a_file_unreadable(
    database: Database, blobs: FileStore, query: Query
) -> None:
    keyring = await ring(database)
    files = FileCatalog(database, blobs, "alice", keyring=keyring, rules=ContentRules(seal=True))
    await files.write("a", b"1")
    await files.write("b", b"1")
    await query(
        "UPDATE file SET content_key = (SELECT content_key FROM file AS other WHERE path = 'b') WHERE path = 'a'"
    )
    assert found(await verify(database, Contents(blobs, keyring))) == [("alice", "a", "unreadable")]


# ---- while it is used


class Slow(MemoryFileStore):
    """Something happens at the first read, which is answered as if it came after that."""

    def __init__(self) -> None:
        super().__init__()
        self.reading = asyncio.Event()
        self.go_on = asyncio.Event()

    async def _read(self, path: str) -> bytes:
        self.reading.set()
        await self.go_on.wait()
        return await super()._read(path)

    async def _stream(self, path: str, start: int, end: int | None, chunk_size: int) -> AsyncGenerator[bytes, None]:
        self.reading.set()
        await self.go_on.wait()
        async for piece in super()._stream(path, start, end, chunk_size):
            yield piece


async def test_a_file_that_was_overwritten_and_collected_meanwhile_is_looked_at_again(database: Database) -> None:
    blobs = Slow()
    files = FileCatalog(database, blobs, "alice")
    await files.write("overwritten", b"1")
    await files.write("deleted", b"1")
    old = [await blob_of(database, "alice", path) for path in ("overwritten", "deleted")]
    verifying = asyncio.create_task(verify(database, Contents(blobs)))
    await blobs.reading.wait()
    await files.write("overwritten", b"123")
    await files.delete("deleted")
    for key in old:
        await blobs.delete(key)
    blobs.go_on.set()
    assert await verifying == Verification(1, 3, 0, ())
