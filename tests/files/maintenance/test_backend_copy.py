from __future__ import annotations

import asyncio
import os
import uuid
from collections.abc import AsyncIterable
from pathlib import Path

import pytest

from storage.database.database import Database
from storage.encryption.keyring import KeyRing
from storage.encryption.providers.environment import EnvironmentKeys
from storage.errors import FileStoreUnavailable, InvalidInput
from storage.files.backends.local import LocalFileStore
from storage.files.backends.memory import MemoryFileStore
from storage.files.backends.s3 import S3FileStore
from storage.files.blobs import ContentRules, Contents
from storage.files.catalog import FileCatalog
from storage.files.maintenance import backend_copy
from storage.files.maintenance.backend_copy import Copied, copy_blobs
from storage.files.maintenance.verification import WHOLE_BYTES, present_entry, verify
from storage.files.store import FileStat, FileStore
from storage.webhooks.endpoints.model import Batching
from storage.webhooks.endpoints.rows import new_row
from storage.webhooks.table import WebhookEndpointTable
from tests.databases import MASTER_KEY, Query
from tests.files.backends.conftest import seaweed
from tests.files.backends.s3_buckets import empty_bucket
from tests.servers.seaweedfs import SeaweedServer

__all__ = ["seaweed"]

LONG = os.urandom(WHOLE_BYTES + 1)

on_one_database = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
"""For what the others' statements are asked again, and only the backends differ."""


@pytest.fixture
def migrated_url(database_url: str) -> str:
    """A database of the test's own: it looks at everybody's files."""
    return database_url


@pytest.fixture
def source() -> MemoryFileStore:
    return MemoryFileStore()


@pytest.fixture
def target() -> MemoryFileStore:
    return MemoryFileStore()


@pytest.fixture
def files(database: Database, source: MemoryFileStore) -> FileCatalog:
    return FileCatalog(database, source, "alice")


async def contents_of(store: FileStore) -> dict[str, bytes]:
    return {blob.path: await store.read(blob.path) async for blob in store.walk()}


async def blob_of(database: Database, path: str, user_id: str = "alice") -> str:
    entry = await present_entry(database, user_id, path)
    assert entry is not None
    return entry.blob_key


def found(result: Copied) -> list[tuple[str, str, str]]:
    return [(flaw.user_id, flaw.path, flaw.reason) for flaw in result.flaws]


# ---- nothing else going on


@pytest.mark.parametrize("verified", [True, False])
async def test_all_blobs_are_copied_also_those_of_nobody(
    database: Database, source: MemoryFileStore, target: MemoryFileStore, files: FileCatalog, verified: bool
) -> None:
    await files.write_many([("a", b"1"), ("b", b""), ("long", LONG)])
    await files.copy("a", "copy")
    await FileCatalog(database, source, "bob", rules=ContentRules(small_bytes=9)).write_many([("row", b"1")])
    await source.write("blobs/00/of nobody", b"1234")
    await source.write("elsewhere", b"not a blob")
    told: list[tuple[int, int | None]] = []
    result = await copy_blobs(database, source, target, verify=verified, progress=lambda *step: told.append(step))
    assert result == Copied(copied=4, already=0, bytes=len(LONG) + 5, missing=0, flaws=())
    assert told == [(1, None), (2, None), (3, None), (4, None)]
    copied = await contents_of(source)
    del copied["elsewhere"]
    assert await contents_of(target) == copied
    assert await verify(database, Contents(target)) == await verify(database, Contents(source))


@on_one_database
async def test_another_run_copies_what_is_new(
    database: Database, source: MemoryFileStore, target: MemoryFileStore, files: FileCatalog
) -> None:
    await files.write_many([(f"file-{n}", b"1") for n in range(300)])
    assert (await copy_blobs(database, source, target)).copied == 300
    await files.write("new", b"12")
    assert await copy_blobs(database, source, target) == Copied(1, 300, 2, 0, ())
    assert await copy_blobs(database, source, target, verify=False) == Copied(0, 301, 0, 0, ())


@on_one_database
async def test_it_goes_on_after_a_failure(database: Database, source: MemoryFileStore, files: FileCatalog) -> None:
    class Failing(MemoryFileStore):
        left = 50

        async def _write(
            self,
            path: str,
            content: bytes | AsyncIterable[bytes],
            media_type: str | None,
            *,
            if_absent: bool = False,
            if_match: str | None = None,
        ) -> FileStat:
            self.left -= 1
            if self.left < 0:
                raise FileStoreUnavailable("the line is cut")
            return await super()._write(path, content, media_type, if_absent=if_absent, if_match=if_match)

    await files.write_many([(f"file-{n}", b"1") for n in range(100)])
    target = Failing()
    with pytest.raises(FileStoreUnavailable, match="the line is cut"):
        await copy_blobs(database, source, target)
    target.left = 100
    assert await copy_blobs(database, source, target) == Copied(50, 50, 50, 0, ())


@on_one_database
async def test_the_present_backend_is_no_target(database: Database, source: MemoryFileStore) -> None:
    with pytest.raises(InvalidInput, match="already"):
        await copy_blobs(database, source, source)


# ---- flaws


async def test_what_neither_has_is_missing(
    database: Database, source: MemoryFileStore, target: MemoryFileStore, files: FileCatalog
) -> None:
    await files.write_many([("gone", b"1"), ("whole", b"1")])
    await files.copy("gone", "copy of it")
    await source.delete(await blob_of(database, "gone"))
    result = await copy_blobs(database, source, target)
    assert found(result) == [("alice", "copy of it", "missing"), ("alice", "gone", "missing")]
    assert (result.copied, result.missing) == (1, 1)


@on_one_database
async def test_what_the_target_has_altered_is_named_and_not_replaced(
    database: Database, source: MemoryFileStore, target: MemoryFileStore, files: FileCatalog
) -> None:
    await files.write_many([("shorter", b"12"), ("same size", b"12"), ("whole", b"12")])
    await target.write(await blob_of(database, "shorter"), b"1")
    await target.write(altered := await blob_of(database, "same size"), b"21")
    result = await copy_blobs(database, source, target, verify=False)
    assert found(result) == [("alice", "shorter", "altered")]
    result = await copy_blobs(database, source, target)
    assert found(result) == [("alice", "same size", "altered"), ("alice", "shorter", "altered")]
    assert await target.read(altered) == b"21"
    await target.delete("blobs")
    assert (await copy_blobs(database, source, target)).flaws == ()


@on_one_database
async def test_what_the_source_has_altered_is_named(
    database: Database, source: MemoryFileStore, target: MemoryFileStore, files: FileCatalog
) -> None:
    await files.write("a", b"12")
    await source.write(await blob_of(database, "a"), b"21")
    assert found(await copy_blobs(database, source, target)) == [("alice", "a", "altered")]


@on_one_database
async def test_what_does_not_read_back_as_it_was_written_is_not_left_behind(
    database: Database, source: MemoryFileStore, files: FileCatalog
) -> None:
    class Rotten(MemoryFileStore):
        async def _write(
            self,
            path: str,
            content: bytes | AsyncIterable[bytes],
            media_type: str | None,
            *,
            if_absent: bool = False,
            if_match: str | None = None,
        ) -> FileStat:
            assert isinstance(content, bytes)
            content = content.replace(b"bad", b"dab")
            return await super()._write(path, content, media_type, if_absent=if_absent, if_match=if_match)

    await files.write_many([("a", b"bad"), ("b", b"good")])
    target = Rotten()
    result = await copy_blobs(database, source, target)
    assert found(result) == [("alice", "a", "missing")]
    assert list((await contents_of(target)).values()) == [b"good"]


@on_one_database
async def test_sealed_blobs_are_compared_with_the_source(
    database: Database, source: MemoryFileStore, target: MemoryFileStore
) -> None:
    keyring = KeyRing(database, EnvironmentKeys(MASTER_KEY))
    await keyring.start()
    files = FileCatalog(database, source, "alice", keyring=keyring, rules=ContentRules(seal=True))
    await files.write_many([("altered", b"1"), ("whole", b"1"), ("lost", b"1"), ("long", LONG)])
    assert (await copy_blobs(database, source, target)).flaws == ()
    await target.write(key := await blob_of(database, "altered"), (await target.read(key))[:-1] + b"?")
    await source.delete(await blob_of(database, "lost"))
    result = await copy_blobs(database, source, target)
    assert found(result) == [("alice", "altered", "altered"), ("alice", "lost", "unreadable")]
    assert (await copy_blobs(database, source, target, verify=False)).flaws == ()
    await target.write(key, b"1")
    assert found(await copy_blobs(database, source, target, verify=False)) == [("alice", "altered", "altered")]


@on_one_database
async def test_what_is_not_remembered_is_read_once_more(
    database: Database,
    source: MemoryFileStore,
    target: MemoryFileStore,
    files: FileCatalog,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(backend_copy, "REMEMBERED", 0)
    await files.write_many([("a", b"1"), ("b", b"2")])
    assert await copy_blobs(database, source, target) == Copied(2, 0, 2, 0, ())


async def test_what_a_web_hook_is_still_to_send_is_needed(
    database: Database, source: MemoryFileStore, target: MemoryFileStore, files: FileCatalog, query: Query
) -> None:
    async with database.session() as session:
        row = new_row(
            uuid.uuid4(),
            None,
            "https://receiver.example",
            event_types=["*"],
            format_="openhands",
            mode="standard",
            batching=Batching(),
        )
        session.add(WebhookEndpointTable(**row))
        await session.commit()
    await files.write("a", b"1")
    old = await blob_of(database, "a")
    await files.write("a", b"12")
    assert (await copy_blobs(database, source, target)).flaws == ()
    await source.delete(old)
    await target.delete(old)
    result = await copy_blobs(database, source, target)
    assert found(result) == [("alice", "a", "missing")]
    assert result.flaws[0].blob_key == old
    await query("UPDATE webhook_endpoint SET state = 'disabled'")
    assert (await copy_blobs(database, source, target)).flaws == ()


# ---- while everything is in use


async def test_what_is_collected_on_the_way_is_no_flaw(database: Database, target: MemoryFileStore) -> None:
    class Busy(MemoryFileStore):
        """At the first read of a blob its file is overwritten, and the blob is collected."""

        busy = False

        async def _read(self, path: str) -> bytes:
            if self.busy:
                self.busy = False
                await files.write("a", b"12")
                await self.delete(old)
            return await super()._read(path)

    source = Busy()
    files = FileCatalog(database, source, "alice")
    await files.write("a", b"1")
    old = await blob_of(database, "a")
    source.busy = True
    assert (await copy_blobs(database, source, target)).flaws == ()
    assert await target.read(await blob_of(database, "a")) == b"12"
    assert not await target.exists(old)


async def _with_writers(database: Database, source: FileStore, target: FileStore) -> Copied:
    """Copy while writers write, overwrite and delete, and blobs that nothing names any more are collected."""
    files = FileCatalog(database, source, "alice", rules=ContentRules(small_bytes=3))
    await files.write_many([(f"file-{n}", os.urandom(n)) for n in range(60)])
    await files.write("long", LONG)
    stop = asyncio.Event()

    async def writer(number: int) -> None:
        n = 0
        while not stop.is_set():
            path = f"writer-{number}/{n % 7}"
            before = await present_entry(database, "alice", path)
            await files.write(path, os.urandom(10 + n % 100))
            if before is not None:
                await source.delete(before.blob_key)
            if n % 10 == 9:
                await files.delete(f"file-{n % 60}")
            n += 1
            await asyncio.sleep(0.005)

    writers = [asyncio.create_task(writer(number)) for number in range(3)]
    try:
        during = await copy_blobs(database, source, target)
    finally:
        stop.set()
        await asyncio.gather(*writers)
    assert during.flaws == ()
    assert during.copied >= 57  # those of four bytes and more, and the long one
    last = await copy_blobs(database, source, target)
    assert (last.flaws, last.missing) == ((), 0)
    moved, there = await verify(database, Contents(target)), await verify(database, Contents(source))
    assert moved == there
    assert moved.flaws == ()
    return last


async def test_a_folder_is_copied_into_memory_under_writers(
    database: Database, tmp_path: Path, target: MemoryFileStore
) -> None:
    async with LocalFileStore(tmp_path) as source:
        await _with_writers(database, source, target)


@pytest.mark.slow  # a server
@on_one_database
async def test_memory_is_copied_into_a_bucket_under_writers_and_back(
    database: Database, source: MemoryFileStore, seaweed: SeaweedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    with empty_bucket(seaweed.url, monkeypatch) as name:
        async with S3FileStore(name, endpoint_url=seaweed.url) as bucket:
            await _with_writers(database, source, bucket)
            back = MemoryFileStore()
            assert (await copy_blobs(database, bucket, back)).flaws == ()
            assert await verify(database, Contents(back)) == await verify(database, Contents(source))
