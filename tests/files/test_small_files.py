"""Small files in the database: one statement to read, and never a file's row without its content's, or the other."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Mapping
from typing import Any

import pytest
from sqlalchemy import bindparam, select

from storage.database.database import Database
from storage.database.statement import Row, Statement
from storage.errors import FileChanged, FileCorrupted, FileExists, FileStoreFull
from storage.files.backends.memory import MemoryFileStore
from storage.files.blobs import ContentRules
from storage.files.catalog import FileCatalog
from storage.files.store import Content
from storage.files.table import FileContentTable
from storage.testing.files import pieces
from tests.databases import Query

LIMIT = 100
SMALL, LARGE = b"s" * LIMIT, b"l" * (LIMIT + 1)
_content = FileContentTable.__table__  # type: ignore[attr-defined]
KEPT = Statement(
    "tests.contents",
    select(_content.c.content).where(_content.c.user_id == bindparam("user_id")).order_by(_content.c.blob_key),
    register=False,
)


@pytest.fixture
async def blobs() -> AsyncIterator[MemoryFileStore]:
    async with MemoryFileStore() as blobs:
        yield blobs


@pytest.fixture
def files(database: Database, blobs: MemoryFileStore, user_id: str) -> FileCatalog:
    return FileCatalog(database, blobs, user_id, rules=ContentRules(small_bytes=LIMIT))


async def kept(database: Database, user_id: str) -> list[bytes]:
    """What the database has of a user's contents, the oldest first."""
    return [bytes(row[0]) for row in await database.read(KEPT, {"user_id": user_id})]


async def in_backend(blobs: MemoryFileStore) -> list[bytes]:
    return [await blobs.read(blob.path) async for blob in blobs.walk()]


class Recording:
    """An executor and a backend that count what passes through them."""

    in_transaction = False

    def __init__(self, database: Database) -> None:
        self._database = database
        self.dialect = database.dialect
        self.run = database.run
        self.reads: list[str] = []

    async def read(self, statement: Statement, parameters: Mapping[str, Any], *, scan: bool = False) -> list[Row]:
        self.reads.append(statement.name)
        return await self._database.read(statement, parameters, scan=scan)


# ---- where contents are


async def test_contents_up_to_the_limit_are_rows_and_longer_ones_are_blobs(
    files: FileCatalog, blobs: MemoryFileStore, database: Database, user_id: str
) -> None:
    for path, content in (("small", SMALL), ("large", LARGE), ("empty", b"")):
        stat = await files.write(path, content)
        assert (stat.size, stat.sha256) == (len(content), hashlib.sha256(content).hexdigest())
        assert await files.read(path) == content
        assert await files.stat(path) == stat
    assert await kept(database, user_id) == [SMALL, b""]
    assert await in_backend(blobs) == [LARGE]


async def test_a_stream_is_kept_where_its_length_puts_it(
    files: FileCatalog, blobs: MemoryFileStore, database: Database, user_id: str
) -> None:
    await files.write("small", pieces(*(SMALL[index : index + 1] for index in range(LIMIT))))
    await files.write("large", pieces(*(LARGE[index : index + 7] for index in range(0, LIMIT + 1, 7)), LARGE))
    await files.write("empty", pieces())
    assert await kept(database, user_id) == [SMALL, b""]
    assert await in_backend(blobs) == [LARGE + LARGE]
    assert await files.read_many(["small", "large", "empty"]) == {
        "small": SMALL,
        "large": LARGE + LARGE,
        "empty": b"",
    }


async def test_many_are_kept_where_their_lengths_put_them(
    files: FileCatalog, blobs: MemoryFileStore, database: Database, user_id: str
) -> None:
    items: list[tuple[str, Content]] = [("small", SMALL), ("large", LARGE)]
    assert [written.outcome for written in await files.write_many(items)] == ["new", "new"]
    assert [written.outcome for written in await files.write_many(items)] == ["unchanged", "unchanged"]
    assert await kept(database, user_id) == [SMALL]
    assert await in_backend(blobs) == [LARGE]
    turned: list[tuple[str, Content]] = [("small", LARGE), ("large", pieces(SMALL))]
    assert [written.outcome for written in await files.write_many(turned)] == ["changed", "changed"]
    assert await files.read_many(["small", "large"]) == {"small": LARGE, "large": SMALL}


async def test_contents_stay_readable_when_the_limit_changes(
    files: FileCatalog, blobs: MemoryFileStore, database: Database, user_id: str
) -> None:
    await files.write_many([("small", SMALL), ("large", LARGE)])
    for limit in (0, 1, LIMIT + 1):
        other = FileCatalog(database, blobs, user_id, rules=ContentRules(small_bytes=limit))
        assert await other.read_many(["small", "large"]) == {"small": SMALL, "large": LARGE}
        assert await other.read("small") == SMALL
    await FileCatalog(database, blobs, user_id).write("new", b"1")
    assert await kept(database, user_id) == [SMALL]


async def test_users_do_not_share_contents(files: FileCatalog, database: Database, user_id: str) -> None:
    other = FileCatalog(database, MemoryFileStore(), f"{user_id}-other", rules=ContentRules(small_bytes=LIMIT))
    await files.write("file", b"mine")
    await other.write("file", b"theirs")
    assert (await files.read("file"), await other.read("file")) == (b"mine", b"theirs")
    assert await kept(database, user_id) == [b"mine"]


# ---- with the row, or not at all


async def test_a_refused_write_leaves_no_content(
    files: FileCatalog, blobs: MemoryFileStore, database: Database, user_id: str
) -> None:
    await files.write("file", b"first")
    for content in (SMALL, LARGE):
        with pytest.raises(FileExists):
            await files.write("file", content, if_absent=True)
        with pytest.raises(FileChanged):
            await files.write("file", content, if_match="another")
    assert await kept(database, user_id) == [b"first"]
    assert await in_backend(blobs) == []
    second = await files.write("file", b"second", if_match=(await files.stat("file")).etag)
    assert (await files.write("new", b"new", if_absent=True)).version == 1
    assert second.version == 2
    assert await files.read_many(["file", "new"]) == {"file": b"second", "new": b"new"}


async def test_what_is_rolled_back_leaves_no_content(
    files: FileCatalog, blobs: MemoryFileStore, database: Database, user_id: str
) -> None:
    with pytest.raises(RuntimeError, match="changed my mind"):
        async with database.transaction() as transaction:
            inside = FileCatalog(transaction, blobs, user_id, rules=ContentRules(small_bytes=LIMIT))
            await inside.write("one", b"1")
            await inside.write_many([("two", b"2"), ("three", b"3")])
            await inside.copy("one", "copy")
            assert await inside.read_many(["one", "two", "copy"]) == {"one": b"1", "two": b"2", "copy": b"1"}
            raise RuntimeError("changed my mind")
    assert await kept(database, user_id) == []
    async with database.transaction() as transaction:
        inside = FileCatalog(transaction, blobs, user_id, rules=ContentRules(small_bytes=LIMIT))
        await inside.write("one", b"1")
    assert await files.read("one") == b"1"


async def test_a_backend_that_refuses_a_large_file_leaves_none_of_the_small_ones(
    database: Database, user_id: str
) -> None:
    files = FileCatalog(database, MemoryFileStore(limit_bytes=10), user_id, rules=ContentRules(small_bytes=LIMIT))
    with pytest.raises(FileStoreFull):
        await files.write_many([("small", SMALL), ("large", LARGE)])
    assert await files.list() == []
    assert await kept(database, user_id) == []


async def test_copies_share_the_content_and_a_moved_file_keeps_it(
    files: FileCatalog, database: Database, user_id: str
) -> None:
    await files.write("file", SMALL, media_type="x/y")
    await files.copy("file", "copy")
    await files.move("file", "moved")
    assert await kept(database, user_id) == [SMALL]
    await files.delete("copy")
    assert await files.read("moved") == SMALL
    assert (await files.stat("moved")).media_type == "x/y"


# ---- reading


async def test_a_read_is_one_statement_wherever_the_content_is(
    database: Database, blobs: MemoryFileStore, user_id: str
) -> None:
    recording = Recording(database)
    files = FileCatalog(recording, blobs, user_id, rules=ContentRules(small_bytes=LIMIT))
    await files.write_many([("small", SMALL), ("large", LARGE)])
    recording.reads.clear()
    assert await files.read("small") == SMALL
    assert await files.read("large") == LARGE
    assert b"".join([piece async for piece in files.stream("small")]) == SMALL
    assert recording.reads == ["file.read"] * 3


async def test_a_thousand_small_files_are_one_statement_and_only_the_others_ask_the_backend(
    database: Database, user_id: str
) -> None:
    class Asked(MemoryFileStore):
        asked = 0

        async def _read(self, path: str) -> bytes:
            self.asked += 1
            return await super()._read(path)

    recording, backend = Recording(database), Asked()
    files = FileCatalog(recording, backend, user_id, rules=ContentRules(small_bytes=LIMIT))
    contents = {f"events/{number}.json": b"%d" % number for number in range(1_000)} | {"one": LARGE, "two": LARGE}
    await files.write_many(contents.items())
    recording.reads.clear()
    assert await files.read_many(contents) == contents
    assert (recording.reads, backend.asked) == (["file.read_all"], 2)


async def test_listings_read_no_contents(database: Database, blobs: MemoryFileStore, user_id: str) -> None:
    recording = Recording(database)
    files = FileCatalog(recording, blobs, user_id, rules=ContentRules(small_bytes=LIMIT))
    await files.write("a/file", SMALL)
    recording.reads.clear()
    await files.stat("a/file")
    await files.stat_many(["a/file"])
    assert await files.list("a") == ["a/file"]
    assert [stat.path async for stat in files.walk()] == ["a/file"]
    assert await files.exists("a/file")
    assert not {"file.read", "file.read_all", "file_content.read"} & set(recording.reads)


@pytest.mark.parametrize(
    ("start", "end"), [(0, 0), (0, 10), (10, 20), (95, None), (95, 1_000), (100, None), (200, 300)]
)
async def test_a_range_of_a_small_file_is_that_range(files: FileCatalog, start: int, end: int | None) -> None:
    content = bytes(range(LIMIT))
    await files.write("file", content)
    read = [piece async for piece in files.stream("file", start, end, chunk_size=7)]
    assert b"".join(read) == content[start:end]
    assert all(0 < len(piece) <= 7 for piece in read)


async def test_an_altered_or_lost_row_is_damage(files: FileCatalog, query: Query, user_id: str) -> None:
    await files.write("file", SMALL)
    await query("UPDATE file_content SET content = :content WHERE user_id = :user_id", content=LARGE, user_id=user_id)
    for read in (files.read("file"), files.read_many(["file"]), anext(files.stream("file", 0, 1))):
        with pytest.raises(FileCorrupted, match=r"'file'.*sha256"):
            await read
    await query("DELETE FROM file_content WHERE user_id = :user_id", user_id=user_id)
    for read in (files.read("file"), files.read_many(["file"]), anext(files.stream("file"))):
        with pytest.raises(FileCorrupted, match=r"'file'.*missing"):
            await read
    assert await files.exists("file")
