"""The longest file and the quota: refused with nothing left behind, exactly, and never in the way of making room."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator

import pytest
from pydantic import SecretStr

from storage import Storage
from storage.database.database import Database
from storage.errors import FileExists, FileStoreUnavailable, FileTooLarge, QuotaExceeded
from storage.files.backends.memory import MemoryFileStore
from storage.files.blobs import ContentRules
from storage.files.catalog import FileCatalog, Usage
from storage.files.quota import Quota
from storage.files.store import Content
from storage.testing.files import pieces
from tests.databases import MASTER_KEY, Query

MEGABYTE = 1024 * 1024


@pytest.fixture
async def blobs() -> AsyncIterator[MemoryFileStore]:
    async with MemoryFileStore() as blobs:
        yield blobs


@pytest.fixture(params=[0, 50], ids=["in the backend", "in the database"])
def rules(request: pytest.FixtureRequest) -> ContentRules:
    return ContentRules(small_bytes=request.param)


@pytest.fixture
def files(database: Database, blobs: MemoryFileStore, user_id: str, rules: ContentRules) -> FileCatalog:
    """At most 100 bytes in at most 3 files."""
    return FileCatalog(database, blobs, user_id, rules=rules, quota=Quota(bytes=100, files=3))


async def stored(blobs: MemoryFileStore, query: Query, user_id: str) -> int:
    """How many contents there are, in the backend and in the database."""
    rows = await query("SELECT blob_key FROM file_content WHERE user_id = :user_id", user_id=user_id)
    return len(rows) + len([blob async for blob in blobs.walk()])


# ---- the longest file


@pytest.mark.parametrize("small_bytes", [0, 5, 50])
async def test_a_file_that_is_too_long_is_refused_and_nothing_is_left_of_it(
    database: Database, blobs: MemoryFileStore, query: Query, user_id: str, small_bytes: int
) -> None:
    files = FileCatalog(database, blobs, user_id, rules=ContentRules(small_bytes=small_bytes, max_bytes=10))
    await files.write("longest", b"x" * 10)
    await files.write("streamed", pieces(b"x" * 4, b"x" * 6))
    for content in (b"x" * 11, pieces(b"x" * 4, b"x" * 7), pieces(b"x" * 11)):
        with pytest.raises(FileTooLarge, match=r"'longest'.*10 bytes"):
            await files.write("longest", content)
    many: list[tuple[str, Content]] = [("a", b"1"), ("b", b"x" * 10), ("c", pieces(b"x" * 6, b"x" * 6)), ("d", b"2")]
    with pytest.raises(FileTooLarge, match="'c'"):
        await files.write_many(many)
    assert await files.list() == ["longest", "streamed"]
    assert await stored(blobs, query, user_id) == 2


async def test_an_endless_stream_is_read_no_further_than_the_longest_file(
    database: Database, blobs: MemoryFileStore, user_id: str
) -> None:
    given = 0

    async def endless() -> AsyncGenerator[bytes, None]:
        nonlocal given
        while True:
            given += 1000
            yield b"x" * 1000

    with pytest.raises(FileTooLarge):
        await FileCatalog(database, blobs, user_id, rules=ContentRules(max_bytes=5000)).write("file", endless())
    assert given <= 6000
    with pytest.raises(QuotaExceeded):
        await FileCatalog(database, blobs, user_id, quota=Quota(bytes=9000)).write("file", endless())
    assert given <= 6000 + 10_000
    assert [blob async for blob in blobs.walk()] == []


# ---- the quota


async def test_a_quota_is_used_to_the_last_byte_and_no_further(
    files: FileCatalog, blobs: MemoryFileStore, query: Query, user_id: str
) -> None:
    await files.write("a", b"x" * 60)
    await files.write("b", b"x" * 40)
    contents: list[Content] = [b"x" * 41, pieces(b"x" * 40, b"x")]
    for content in contents:
        with pytest.raises(QuotaExceeded, match=r"bytes, and the quota is 100.*quota_bytes"):
            await files.write("b", content)
    with pytest.raises(QuotaExceeded):
        await files.write_many([("b", b"x" * 39), ("c", b"x" * 2)])
    assert await files.usage() == Usage(2, 100)
    assert await stored(blobs, query, user_id) == 2
    await files.write_many([("b", b"x" * 39), ("c", b"x")])
    assert await files.usage() == Usage(3, 100)


async def test_no_more_files_than_the_quota(
    files: FileCatalog, blobs: MemoryFileStore, query: Query, user_id: str
) -> None:
    await files.write_many([("a", b"1"), ("b", b"2"), ("c", b"3")])
    contents: list[Content] = [b"", b"x", pieces(b"x")]
    for content in contents:
        with pytest.raises(QuotaExceeded, match=r"4 files, and the quota is 3.*quota_files"):
            await files.write("d", content)
    with pytest.raises(QuotaExceeded):
        await files.write_many([("c", b"new"), ("d", b"")])
    with pytest.raises(QuotaExceeded):
        await files.copy("a", "d")
    assert await stored(blobs, query, user_id) == 3
    await files.write("c", b"new")
    await files.copy("a", "b")
    await files.move("a", "d")
    assert await files.list() == ["b", "c", "d"]
    await files.delete("b")
    await files.write("e", b"")
    assert (await files.usage()).files == 3


async def test_a_copy_counts_and_a_move_does_not(files: FileCatalog) -> None:
    await files.write("a", b"x" * 60)
    with pytest.raises(QuotaExceeded):
        await files.copy("a", "b")
    await files.move("a", "b")
    await files.write("a", b"x" * 40)
    await files.copy("a", "b")
    assert await files.usage() == Usage(2, 80)


async def test_what_is_over_a_new_quota_may_shrink_and_stay_but_not_grow(
    database: Database, blobs: MemoryFileStore, user_id: str, rules: ContentRules
) -> None:
    before = FileCatalog(database, blobs, user_id, rules=rules)
    await before.write_many([(name, b"x" * 100) for name in "abcde"])
    files = FileCatalog(database, blobs, user_id, rules=rules, quota=Quota(bytes=100, files=3))
    await files.write("a", b"y" * 100)
    await files.write("b", b"x" * 99)
    await files.write("c", pieces(b"x" * 50, b"x" * 48))
    await files.copy("a", "d")
    await files.move("e", "f")
    await files.write_many([("a", b"x" * 150), ("d", b"x" * 50)])
    assert await files.usage() == Usage(5, 497)
    for path, content in (("a", b"x" * 151), ("c", b"x" * 99), ("g", b"")):
        with pytest.raises(QuotaExceeded):
            await files.write(path, content)
        with pytest.raises(QuotaExceeded):
            await files.write(path, pieces(content))
    await files.delete("a")
    assert await files.usage() == Usage(4, 347)


async def test_racing_writers_do_not_pass_the_quota_together(
    database: Database, blobs: MemoryFileStore, query: Query, user_id: str, rules: ContentRules
) -> None:
    files = FileCatalog(database, blobs, user_id, rules=rules, quota=Quota(bytes=100, files=15))
    writes = [files.write(f"{number}", b"x" * 10) for number in range(15)]
    outcomes = await asyncio.gather(*writes, *(files.copy("0", f"copy {n}") for n in range(3)), return_exceptions=True)
    assert await files.usage() == Usage(10, 100)
    assert len([outcome for outcome in outcomes if not isinstance(outcome, BaseException)]) == 10
    copies = len([path for path in await files.list() if path.startswith("copy")])
    assert await stored(blobs, query, user_id) == 10 - copies


async def test_racing_writers_do_not_make_more_files_than_the_quota(files: FileCatalog) -> None:
    batches = [files.write_many([(f"{number}/1", b""), (f"{number}/2", b"")]) for number in range(5)]
    outcomes = await asyncio.gather(*batches, return_exceptions=True)
    assert len([outcome for outcome in outcomes if isinstance(outcome, QuotaExceeded)]) == 4
    assert (await files.usage()).files == 2


async def test_the_quota_of_one_user_is_no_other_users(
    files: FileCatalog, database: Database, blobs: MemoryFileStore, user_id: str
) -> None:
    await files.write("a", b"x" * 100)
    other = FileCatalog(database, blobs, f"{user_id}-other", quota=Quota(bytes=100))
    await other.write("a", b"x" * 100)


async def test_a_transaction_is_held_to_the_quota_with_its_own_writes(
    database: Database, blobs: MemoryFileStore, user_id: str, rules: ContentRules, files: FileCatalog
) -> None:
    async with database.transaction() as transaction:
        inside = FileCatalog(transaction, blobs, user_id, rules=rules, quota=Quota(bytes=100))
        await inside.write("a", b"x" * 90)
        with pytest.raises(QuotaExceeded):
            await inside.write("b", b"x" * 11)
        await inside.delete("a")
        await inside.write("b", b"x" * 11)
    assert await files.usage() == Usage(1, 11)


async def test_a_large_upload_is_refused_before_it_begins(
    database: Database, user_id: str, rules: ContentRules
) -> None:
    class Refusing(MemoryFileStore):
        async def write(self, *_: object, **__: object) -> None:  # type: ignore[override]
            raise AssertionError("nothing is to be uploaded")

    files = FileCatalog(database, Refusing(), user_id, rules=rules, quota=Quota(bytes=MEGABYTE, files=1))
    with pytest.raises(QuotaExceeded):
        await files.write("file", b"x" * (MEGABYTE + 1))
    with pytest.raises(QuotaExceeded):
        await files.write_many([("a", pieces(b"x")), ("b", pieces(b"x"))])


async def test_a_refused_condition_leaves_no_blob(
    files: FileCatalog, blobs: MemoryFileStore, query: Query, user_id: str
) -> None:
    await files.write("file", b"1")
    with pytest.raises(FileExists):
        await files.write("file", b"2", if_absent=True)
    assert await stored(blobs, query, user_id) == 1


async def test_a_blob_that_cannot_be_removed_again_is_left_to_the_collector(
    database: Database, user_id: str, caplog: pytest.LogCaptureFixture
) -> None:
    class Stubborn(MemoryFileStore):
        async def delete(self, path: str) -> int:
            raise FileStoreUnavailable("the file store cannot be reached")

    blobs = Stubborn()
    files = FileCatalog(database, blobs, user_id, quota=Quota(bytes=10))
    with pytest.raises(QuotaExceeded):
        await files.write("file", b"x" * 11)
    [blob] = [blob async for blob in blobs.walk()]
    assert f"{blob.path} is not needed, and is left to the collector" in caplog.text


async def test_a_masked_copy_counts_as_the_file_that_it_makes(
    migrated_url: str, tmp_path: object, user_id: str
) -> None:
    options = {"data_dir": str(tmp_path), "file_store": "memory", "master_key": MASTER_KEY, "quota_bytes": 60}
    async with Storage.open(migrated_url, **options) as storage:
        user = storage.user(user_id)
        await user.secrets.set_custom_secret("A", SecretStr("12345678"))
        await user.files.write("notes.txt", "12345678" * 5)
        for verb in (user.files.copy, user.files.move):
            with pytest.raises(QuotaExceeded):
                await verb("notes.txt", "events/1.json")
        assert await user.files.usage() == Usage(1, 40)
        assert len([blob async for blob in storage.blobs.walk()]) == 1
        await user.files.write("notes.txt", "12345678 and more")
        await user.files.move("notes.txt", "events/1.json")
        assert await user.files.usage() == Usage(1, len("<secret_hidden> and more"))
