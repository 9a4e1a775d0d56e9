"""FileCatalog: the contract over both databases and two backends, and what holds between rows, blobs and events."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import bindparam, select

from storage.database.change import Change
from storage.database.database import Database
from storage.database.statement import Row, Statement
from storage.errors import (
    ConfigurationError,
    FileCorrupted,
    FileNotFound,
    FileStoreFull,
    InvalidInput,
    PathRejected,
)
from storage.files import catalog as catalog_module
from storage.files.backends.cached import CachedFileStore
from storage.files.backends.local import LocalFileStore
from storage.files.backends.memory import MemoryFileStore
from storage.files.catalog import FileCatalog, delete_conversation_files, total_usage
from storage.files.store import Content, FileStore
from storage.testing.files import FileStoreContract, pieces
from storage.webhooks.table import EventTable

_event = EventTable.__table__  # type: ignore[attr-defined]
EVENTS = Statement(
    "tests.file_events",
    select(_event.c.type, _event.c.key, _event.c.version, _event.c.payload)
    .where(_event.c.user_id == bindparam("user_id"))
    .order_by(_event.c.seq),
    register=False,
)


@pytest.fixture
async def folder(tmp_path: Path) -> AsyncIterator[FileStore]:
    async with LocalFileStore(tmp_path / "blobs") as blobs:
        yield blobs


@pytest.fixture
async def blobs() -> AsyncIterator[MemoryFileStore]:
    async with MemoryFileStore() as blobs:
        yield blobs


@pytest.fixture
def files(database: Database, blobs: MemoryFileStore, user_id: str) -> FileCatalog:
    return FileCatalog(database, blobs, user_id)


async def keys(blobs: FileStore) -> list[str]:
    return [blob.path async for blob in blobs.walk()]


async def events(database: Database, user_id: str) -> list[Row]:
    return await database.read(EVENTS, {"user_id": user_id})


class TestFileCatalog(FileStoreContract):
    @pytest.fixture
    async def store(self, database: Database, folder: FileStore, user_id: str) -> FileCatalog:
        return FileCatalog(database, folder, user_id)


class TestFileCatalogInATransaction(FileStoreContract):
    streams_in_bounded_memory = False  # the backend is memory

    @pytest.fixture
    async def store(self, database: Database, blobs: MemoryFileStore, user_id: str) -> AsyncIterator[FileCatalog]:
        async with database.transaction() as transaction:
            yield FileCatalog(transaction, blobs, user_id)


# ---- row, blob and event


async def test_a_write_is_a_row_a_blob_and_an_event(
    files: FileCatalog, blobs: MemoryFileStore, database: Database, user_id: str
) -> None:
    announced: list[Change] = []
    database.on_commit(announced.extend)
    first = await files.write("sessions/c1/page.html", b"one")
    second = await files.write("sessions/c1/page.html", b"two two", media_type="text/plain")
    assert (first.version, second.version) == (1, 2)
    assert first.created_at == second.created_at
    assert first.updated_at < second.updated_at
    assert second.sha256 == hashlib.sha256(b"two two").hexdigest()
    assert await files.stat("sessions/c1/page.html") == second
    stored = await keys(blobs)
    assert len(stored) == 2
    written = await events(database, user_id)
    assert [row[:3] for row in written] == [
        ("file.written", "sessions/c1/page.html", 1),
        ("file.written", "sessions/c1/page.html", 2),
    ]
    assert written[1][3] == {
        "path": "sessions/c1/page.html",
        "size": 7,
        "sha256": second.sha256,
        "media_type": "text/plain",
    }
    assert [change.version for change in announced] == [1, 2]
    assert sorted(change.blob_key or "" for change in announced) == sorted(stored)


async def test_no_name_of_a_user_reaches_the_backend(files: FileCatalog, blobs: MemoryFileStore) -> None:
    await files.write("tell-tale/name", b"")
    [key] = await keys(blobs)
    folder, shard, name = key.split("/")
    assert folder == "blobs"
    assert name.endswith(shard)
    assert name[14] == "7"


async def test_a_rolled_back_write_leaves_nothing_visible(
    files: FileCatalog, blobs: MemoryFileStore, database: Database, user_id: str
) -> None:
    announced: list[Change] = []
    database.on_commit(announced.extend)
    await files.write("kept", b"old")
    await files.write("deleted", b"old")
    with pytest.raises(RuntimeError, match="changed my mind"):
        async with database.transaction() as transaction:
            inside = FileCatalog(transaction, blobs, user_id)
            await inside.write("kept", b"new")
            await inside.write("new", b"new")
            await inside.write_many([("many/1", b"1"), ("many/2", b"2")])
            await inside.delete("deleted")
            await inside.copy("kept", "copy")
            assert await inside.read("kept") == b"new"
            assert await inside.list() == ["copy", "kept", "many/", "new"]
            assert await files.list() == ["deleted", "kept"]
            assert await files.read("kept") == b"old"
            raise RuntimeError("changed my mind")
    assert await files.list() == ["deleted", "kept"]
    assert await files.read("kept") == b"old"
    assert (await files.stat("kept")).version == 1
    assert len(await events(database, user_id)) == 2
    assert len(announced) == 2


async def test_a_committed_transaction_shows_everything_at_once(
    files: FileCatalog, blobs: MemoryFileStore, database: Database, user_id: str
) -> None:
    async with database.transaction() as transaction:
        inside = FileCatalog(transaction, blobs, user_id)
        await inside.write("a", b"a")
        await inside.write("b", b"b")
        assert await files.list() == []
    assert await files.read_many(["a", "b"]) == {"a": b"a", "b": b"b"}


async def test_a_backend_that_refuses_leaves_the_old_row(database: Database, user_id: str) -> None:
    files = FileCatalog(database, MemoryFileStore(limit_bytes=10), user_id)
    await files.write("file", b"old")
    with pytest.raises(FileStoreFull):
        await files.write("file", b"far too long")
    with pytest.raises(FileStoreFull):
        await files.write_many([("file", b"new"), ("other", b"far too long")])
    assert await files.read("file") == b"old"
    assert await files.list() == ["file"]


async def test_racing_writers_of_one_path_count_every_write(
    files: FileCatalog, database: Database, user_id: str
) -> None:
    stats = await asyncio.gather(*(files.write("raced", f"{number}") for number in range(30)))
    assert sorted(stat.version or 0 for stat in stats) == list(range(1, 31))
    assert [row[2] for row in await events(database, user_id)] == list(range(1, 31))
    last = max(stats, key=lambda stat: stat.version or 0)
    assert await files.stat("raced") == last
    assert hashlib.sha256(await files.read("raced")).hexdigest() == last.sha256


async def test_users_do_not_see_each_others_files(
    files: FileCatalog, blobs: MemoryFileStore, database: Database, user_id: str
) -> None:
    await files.write("shared/name", b"mine")
    other = FileCatalog(database, blobs, f"{user_id}-other")
    assert await other.list() == []
    with pytest.raises(FileNotFound):
        await other.read("shared/name")
    await other.write("shared/name", b"theirs")
    assert await other.delete("shared") == 1
    assert await files.read("shared/name") == b"mine"


async def test_no_user_is_the_local_user(database: Database, blobs: MemoryFileStore) -> None:
    await FileCatalog(database, blobs, None).write("of-the-local-user", b"")
    assert await FileCatalog(database, blobs, "local").delete("of-the-local-user") == 1


# ---- damage


@pytest.mark.parametrize("way", ["read", "read_many", "stream"])
async def test_a_file_that_is_overwritten_and_collected_while_it_is_read_is_read_as_it_is_then(
    database: Database, user_id: str, way: str
) -> None:
    class Overtaken(MemoryFileStore):
        overwritten = False

        async def _read(self, path: str) -> bytes:
            await self.overtake(path)
            return await super()._read(path)

        async def _stream(self, path: str, start: int, end: int | None, chunk_size: int) -> AsyncGenerator[bytes, None]:
            await self.overtake(path)
            async for piece in super()._stream(path, start, end, chunk_size):
                yield piece

        async def overtake(self, path: str) -> None:
            if not self.overwritten:
                self.overwritten = True
                await catalog.write("a", b"new")
                await self._remove(path)

    async with Overtaken() as blobs:
        catalog = FileCatalog(database, blobs, user_id)
        await catalog.write("a", b"old")
        if way == "read":
            assert await catalog.read("a") == b"new"
        elif way == "read_many":
            assert await catalog.read_many(["a"]) == {"a": b"new"}
        else:
            assert [piece async for piece in catalog.stream("a")] == [b"new"]


async def test_a_wrong_content_in_a_cache_is_fetched_anew(database: Database, user_id: str) -> None:
    async with MemoryFileStore() as blobs, CachedFileStore(blobs, 100_000, immutable=True) as cache:
        files = FileCatalog(database, cache, user_id)
        await files.write("a", b"as written")
        [key] = await keys(blobs)
        await blobs.write(key, b"as damaged")
        with pytest.raises(FileCorrupted):
            await files.read("a")
        await blobs.write(key, b"as written")  # restored from a backup
        assert await files.read("a") == b"as written"


async def test_an_altered_blob_is_never_handed_out_as_the_file(files: FileCatalog, blobs: MemoryFileStore) -> None:
    await files.write("file", b"content")
    [key] = await keys(blobs)
    for damaged in (b"c0ntent", b"content and more", b""):
        await blobs.write(key, damaged)
        with pytest.raises(FileCorrupted, match=r"'file'.*sha256"):
            await files.read("file")
        with pytest.raises(FileCorrupted):
            await files.read_many(["file"])
        with pytest.raises(FileCorrupted):
            assert [chunk async for chunk in files.stream("file")]


async def test_a_missing_blob_is_damage_and_not_a_missing_file(files: FileCatalog, blobs: MemoryFileStore) -> None:
    await files.write("file", b"content")
    await blobs.delete("blobs")
    with pytest.raises(FileCorrupted, match=r"'file'.*missing"):
        await files.read("file")
    with pytest.raises(FileCorrupted):
        await files.read_many(["file"])
    with pytest.raises(FileCorrupted):
        await anext(files.stream("file"))
    assert await files.exists("file")


# ---- many files


async def test_writing_the_same_bytes_again_brings_a_lost_blob_back(
    files: FileCatalog, blobs: MemoryFileStore, user_id: str, database: Database
) -> None:
    items: list[tuple[str, Content]] = [("lost", b"1"), ("kept", b"2")]
    await files.write_many(items)
    [lost] = [path for path in await keys(blobs) if await blobs.read(path) == b"1"]
    await blobs.delete(lost)
    assert [written.outcome for written in await files.write_many(items)] == ["changed", "unchanged"]
    assert await files.read_many(["lost", "kept"]) == {"lost": b"1", "kept": b"2"}
    assert [row[1] for row in await events(database, user_id)] == ["lost", "kept", "lost"]


async def test_writing_many_tells_new_changed_and_unchanged_apart(
    files: FileCatalog, blobs: MemoryFileStore, database: Database, user_id: str
) -> None:
    await files.write("same", b"same")
    await files.write("other", b"old")
    results = await files.write_many(
        [("/other", "new"), ("same", "same"), ("z/fresh.json", b"{}"), ("streamed", pieces(b"a", b"b"))]
    )
    assert [(result.stat.path, result.outcome, result.stat.version) for result in results] == [
        ("other", "changed", 2),
        ("same", "unchanged", 1),
        ("z/fresh.json", "new", 1),
        ("streamed", "new", 1),
    ]
    assert [result.stat for result in results] == [await files.stat(result.stat.path) for result in results]
    assert results[2].stat.media_type == "application/json"
    assert await files.read_many(["other", "same", "z/fresh.json", "streamed"]) == {
        "other": b"new",
        "same": b"same",
        "z/fresh.json": b"{}",
        "streamed": b"ab",
    }
    assert [row[1:3] for row in (await events(database, user_id))[2:]] == [
        ("other", 2),
        ("z/fresh.json", 1),
        ("streamed", 1),
    ]


async def test_writing_many_again_changes_nothing(
    files: FileCatalog, blobs: MemoryFileStore, database: Database, user_id: str
) -> None:
    items = [(f"sessions/c1/events/{number}.json", f"{number}") for number in range(300)]
    assert {result.outcome for result in await files.write_many(items)} == {"new"}
    stored, written = await keys(blobs), await events(database, user_id)
    assert {result.outcome for result in await files.write_many(items)} == {"unchanged"}
    assert await keys(blobs) == stored
    assert await events(database, user_id) == written
    streamed = [(path, pieces(content.encode())) for path, content in items[:3]]
    assert {result.outcome for result in await files.write_many(streamed)} == {"unchanged"}
    assert await events(database, user_id) == written


async def test_writing_many_is_all_or_nothing(files: FileCatalog, blobs: MemoryFileStore) -> None:
    with pytest.raises(PathRejected):
        await files.write_many([("good", b""), ("../bad", b"")])
    with pytest.raises(InvalidInput, match="given twice"):
        await files.write_many([("e\u0301", b""), ("\u00e9", b"")])
    with pytest.raises(InvalidInput):
        await files.write_many([("good", b""), ("bad", 1)])  # type: ignore[list-item]
    assert await keys(blobs) == []
    assert await files.list() == []
    assert await files.write_many([]) == []


async def test_two_writers_of_the_same_many_files_end_with_one_version_of_each(
    files: FileCatalog, database: Database, user_id: str
) -> None:
    items = [(f"folder/{number}", f"{number}") for number in range(50)]
    await asyncio.gather(*(files.write_many(items) for _ in range(4)))
    versions = [file.version async for file in files.walk()]
    written = await events(database, user_id)
    assert sum(version or 0 for version in versions) == len(written)
    assert len({row[1:3] for row in written}) == len(written)


class Recording:
    """An executor that counts what passes through it."""

    in_transaction = False

    def __init__(self, database: Database) -> None:
        self._database = database
        self.dialect = database.dialect
        self.run = database.run
        self.reads: list[str] = []

    async def read(self, statement: Statement, parameters: Mapping[str, Any], *, scan: bool = False) -> list[Row]:
        self.reads.append(statement.name)
        return await self._database.read(statement, parameters, scan=scan)


async def test_reading_a_thousand_files_is_one_statement(
    database: Database, blobs: MemoryFileStore, user_id: str
) -> None:
    recording = Recording(database)
    files = FileCatalog(recording, blobs, user_id)
    paths = [f"sessions/c1/events/{number}.json" for number in range(1_000)]
    await files.write_many([(path, path) for path in paths])
    recording.reads.clear()
    contents = await files.read_many([*paths, "missing", "/" + paths[0]])
    assert recording.reads == ["file.read_all"]
    assert contents == {**{path: path.encode() for path in paths}, "/" + paths[0]: paths[0].encode()}
    assert await files.read_many([]) == {}
    recording.reads.clear()
    stats = await files.stat_many(["missing", "/" + paths[0], *paths])
    assert recording.reads == ["file.find_all"]
    assert stats.pop("/" + paths[0]) == stats[paths[0]] == await files.stat(paths[0])
    assert list(stats) == paths


async def test_pages_of_a_listing_join_without_gap_or_repetition(
    files: FileCatalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = ["a", "a-b", "a/b", "a/c/d", "a0", "b/1", "b/2", "b/3", "c", "d/e/f", "d/e/g", "\U0001f600/x"]
    await files.write_many([(path, path) for path in paths])
    for page in range(1, 8):
        monkeypatch.setattr(catalog_module, "PAGE_ROWS", page)
        assert await files.list() == ["a", "a-b", "a/", "a0", "b/", "c", "d/", "\U0001f600/"]
        assert await files.list("a") == ["a/b", "a/c/"]
        assert [file.path async for file in files.walk()] == paths
        assert [file.path async for file in files.walk("b")] == paths[5:8]


# ---- copies, deletions, conversations, sums


async def test_a_copy_shares_the_blob_and_is_an_event(
    files: FileCatalog, blobs: MemoryFileStore, database: Database, user_id: str
) -> None:
    await files.write("source", b"content", media_type="x/y")
    await files.copy("source", "sessions/c1/target")
    assert len(await keys(blobs)) == 1
    assert (await files.stat("sessions/c1/target")).media_type == "x/y"
    await files.move("source", "moved")
    assert [row[:2] for row in await events(database, user_id)] == [
        ("file.written", "source"),
        ("file.written", "sessions/c1/target"),
        ("file.written", "moved"),
        ("file.deleted", "source"),
    ]
    assert await files.read("moved") == b"content"


async def test_each_deleted_file_is_an_event(files: FileCatalog, database: Database, user_id: str) -> None:
    await files.write_many([("a", b""), ("a/1", b""), ("a/b/2", b""), ("ab", b"")])
    await files.write("a/1", b"again")
    assert await files.delete("a") == 3
    assert (await events(database, user_id))[5:] == [
        ("file.deleted", "a", 1, {"path": "a"}),
        ("file.deleted", "a/1", 2, {"path": "a/1"}),
        ("file.deleted", "a/b/2", 1, {"path": "a/b/2"}),
    ]
    assert await files.delete("a") == 0
    assert len(await events(database, user_id)) == 8


async def test_deleting_a_conversations_files_takes_all_of_its_places_and_no_others(
    files: FileCatalog, blobs: MemoryFileStore, database: Database, user_id: str
) -> None:
    own = ["sessions/c1/metadata.json", "users/u/conversations/c1/events/0.json", "conversations/c1/x"]
    others = ["sessions/c10/metadata.json", "sessions/c1", "notes/sessions/c1/x", "sessions/c2/c1/x"]
    await files.write_many([(path, b"") for path in own + others])
    stranger = FileCatalog(database, blobs, f"{user_id}-other")
    await stranger.write(own[0], b"")
    with pytest.raises(RuntimeError, match="rolled back"):
        async with database.transaction() as transaction:
            assert await transaction.run(lambda: delete_conversation_files(user_id, "c1")) == 3
            raise RuntimeError("rolled back")
    assert len([file async for file in files.walk()]) == 7
    assert await database.run(lambda: delete_conversation_files(user_id, "c1")) == 3
    assert [file.path async for file in files.walk()] == sorted(others)
    deleted = [row[1] for row in await events(database, user_id) if row[0] == "file.deleted"]
    assert deleted == sorted(own)
    assert await stranger.exists(own[0])


async def test_usage_counts_files_and_bytes(files: FileCatalog, database: Database) -> None:
    before = await total_usage(database)
    assert await files.usage() == catalog_module.Usage(0, 0)
    await files.write_many([("a", b"12345"), ("b", b"123")])
    await files.write("a", b"1")
    assert await files.usage() == catalog_module.Usage(2, 4)
    after = await total_usage(database)
    assert (after.files - before.files, after.bytes - before.bytes) == (2, 4)


async def test_a_catalogue_cannot_be_configured_as_a_backend() -> None:
    class Configuration:
        file_store_path = None

    with pytest.raises(ConfigurationError, match="backend"):
        await FileCatalog.get_instance(Configuration())
