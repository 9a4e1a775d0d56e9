"""Sealed files: nothing in clear in the backend or the database, and everything else as without."""

from __future__ import annotations

import hashlib
import os
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from datetime import UTC, datetime
from typing import Any, Literal

import pytest

from storage.database.database import Database
from storage.encryption.keyring import KeyRing
from storage.encryption.keyset import KeySet
from storage.encryption.registry import SealedColumn
from storage.encryption.rotation.verbs import KeyRotation
from storage.errors import ConfigurationError, FileCorrupted, KeyMismatch, KeyMissing, Tampered
from storage.files.backends.memory import MemoryFileStore
from storage.files.blobs import ContentRules, Contents
from storage.files.catalog import FileCatalog
from storage.files.rows import Entry
from storage.files.sealed_content import SEALED_SEGMENT_BYTES, SEGMENT_BYTES, sealed_size
from storage.files.store import FileStat
from storage.files.table import CONTENT_KEY
from storage.testing.files import FileStoreContract, pieces
from storage.webhooks.table import CONTENT_KEY as EVENT_CONTENT_KEY
from tests.databases import Query

LIMIT = 100
SMALL = b"tell-tale small content"
LARGE = b"tell-tale large content " * 20
SEALED = ContentRules(small_bytes=LIMIT, seal=True)
COLUMNS: tuple[SealedColumn, ...] = (CONTENT_KEY, EVENT_CONTENT_KEY)


class Backend(MemoryFileStore):
    """Remembers what was read of it, in bytes."""

    def __init__(self) -> None:
        super().__init__()
        self.given = 0

    async def _stream(self, path: str, start: int, end: int | None, chunk_size: int) -> AsyncGenerator[bytes, None]:
        async for piece in super()._stream(path, start, end, chunk_size):
            self.given += len(piece)
            yield piece


@pytest.fixture
async def blobs() -> AsyncIterator[Backend]:
    async with Backend() as blobs:
        yield blobs


@pytest.fixture
def files(database: Database, blobs: Backend, user_id: str, keyring: KeyRing) -> FileCatalog:
    return FileCatalog(database, blobs, user_id, keyring=keyring, rules=SEALED)


@pytest.mark.slow
class TestCatalogThatSealsAndKeepsSmallFilesInTheDatabase(FileStoreContract):
    streams_in_bounded_memory = False  # the backend is memory

    @pytest.fixture
    async def store(self, files: FileCatalog) -> FileCatalog:
        return files


async def in_backend(blobs: Backend) -> dict[str, bytes]:
    return {blob.path: await blobs.read(blob.path) async for blob in blobs.walk()}


async def streamed(files: FileCatalog, path: str, start: int = 0, end: int | None = None) -> bytes:
    return b"".join([piece async for piece in files.stream(path, start, end)])


# ---- what is stored


async def test_no_content_is_stored_in_clear(files: FileCatalog, blobs: Backend, query: Query, user_id: str) -> None:
    await files.write("small", SMALL)
    await files.write("large", LARGE)
    await files.write_many([("many/small", SMALL), ("many/large", pieces(LARGE[:7], LARGE[7:]))])
    rows = await query("SELECT content FROM file_content WHERE user_id = :user_id", user_id=user_id)
    stored = [bytes(row["content"]) for row in rows] + list((await in_backend(blobs)).values())
    assert sorted(map(len, stored)) == sorted(2 * [sealed_size(len(SMALL)), sealed_size(len(LARGE))])
    assert not any(b"tell-tale" in content for content in stored)
    keys = await query("SELECT content_key FROM file WHERE user_id = :user_id", user_id=user_id)
    assert len({bytes(row["content_key"]) for row in keys}) == 4
    assert await files.read_many(["small", "many/large"]) == {"small": SMALL, "many/large": LARGE}


async def test_size_and_sha256_are_those_of_the_content(files: FileCatalog) -> None:
    for path, content in (("small", SMALL), ("large", LARGE), ("empty", b"")):
        stat = await files.write(path, content)
        assert (stat.size, stat.sha256) == (len(content), hashlib.sha256(content).hexdigest())
        assert await files.stat(path) == stat
        assert await files.read(path) == await streamed(files, path) == content


async def test_writing_the_same_bytes_again_changes_nothing(files: FileCatalog, blobs: Backend) -> None:
    items = [("small", SMALL), ("large", LARGE)]
    await files.write_many(items)
    before = await in_backend(blobs)
    assert [written.outcome for written in await files.write_many(items)] == ["unchanged", "unchanged"]
    assert await in_backend(blobs) == before


async def test_a_rolled_back_write_leaves_no_row(
    database: Database, blobs: Backend, user_id: str, keyring: KeyRing, files: FileCatalog
) -> None:
    with pytest.raises(RuntimeError, match="changed my mind"):
        async with database.transaction() as transaction:
            inside = FileCatalog(transaction, blobs, user_id, keyring=keyring, rules=SEALED)
            await inside.write("small", SMALL)
            await inside.write_many([("large", LARGE)])
            assert await inside.read_many(["small", "large"]) == {"small": SMALL, "large": LARGE}
            raise RuntimeError("changed my mind")
    assert await files.list() == []


# ---- streams


async def test_a_range_reads_its_segments_only(files: FileCatalog, blobs: Backend) -> None:
    content = os.urandom(5 * SEGMENT_BYTES + 123)
    await files.write("file", pieces(*(content[start : start + 50_000] for start in range(0, len(content), 50_000))))
    for start, end in (
        (0, 0),
        (0, 1),
        (SEGMENT_BYTES - 1, SEGMENT_BYTES + 1),
        (2 * SEGMENT_BYTES, 3 * SEGMENT_BYTES),
        (5 * SEGMENT_BYTES, len(content)),
        (len(content) - 1, len(content) + 10),
        (len(content), None),
        (len(content) + 5, len(content) + 9),
    ):
        blobs.given = 0
        assert await streamed(files, "file", start, end) == content[start:end]
        assert blobs.given <= 2 * SEALED_SEGMENT_BYTES + 100
    assert await streamed(files, "file") == content
    read = [piece async for piece in files.stream("file", 10, 200_000, chunk_size=999)]
    assert max(map(len, read)) <= 999
    assert b"".join(read) == content[10:200_000]


async def test_damage_to_a_sealed_blob_is_found_also_in_a_range(files: FileCatalog, blobs: Backend) -> None:
    content = os.urandom(2 * SEGMENT_BYTES)
    await files.write("file", content)
    ((key, sealed),) = (await in_backend(blobs)).items()
    flipped = bytearray(sealed)
    flipped[-1] ^= 1
    for damaged in (bytes(flipped), sealed[:-1], sealed + b"x", sealed[:-SEALED_SEGMENT_BYTES], content, b""):
        await blobs.write(key, damaged)
        with pytest.raises(FileCorrupted, match="'file'"):
            await files.read("file")
        with pytest.raises(FileCorrupted, match="'file'"):
            await streamed(files, "file")
        with pytest.raises(FileCorrupted, match="'file'"):
            await streamed(files, "file", SEGMENT_BYTES, 2 * SEGMENT_BYTES)
    await blobs.delete("blobs")
    with pytest.raises(FileCorrupted, match="missing"):
        await streamed(files, "file", 1, 2)
    with pytest.raises(FileCorrupted, match="missing"):
        await files.read_many(["file"])


# ---- copies


@pytest.mark.parametrize("content", [SMALL, LARGE])
async def test_copies_and_moved_files_share_the_sealed_content(
    files: FileCatalog, blobs: Backend, query: Query, user_id: str, content: bytes
) -> None:
    await files.write("file", content)
    await files.copy("file", "copy")
    await files.move("file", "moved")
    rows = await query("SELECT blob_key, content_key FROM file WHERE user_id = :user_id", user_id=user_id)
    assert len(rows) == 2
    assert rows[0] == rows[1]
    assert await files.read_many(["copy", "moved"]) == {"copy": content, "moved": content}


# ---- keys


async def test_a_rotation_seals_the_content_keys_again_and_touches_no_content(  # noqa: PLR0917 - fixtures
    database: Database, files: FileCatalog, blobs: Backend, query: Query, user_id: str, keyring: KeyRing
) -> None:
    async def keys() -> list[bytes]:
        rows = await query("SELECT content_key FROM file WHERE user_id = :user_id ORDER BY path", user_id=user_id)
        return [bytes(row["content_key"]) for row in rows]

    await files.write_many([("large", LARGE), ("small", SMALL)])
    await files.copy("large", "copy")
    before, stored = await keys(), await in_backend(blobs)
    await KeyRotation(database, keyring, COLUMNS).reencrypt()
    after = await keys()
    assert len(set(before) & set(after)) == 0
    assert await in_backend(blobs) == stored
    contents = {"large": LARGE, "small": SMALL, "copy": LARGE}
    assert await files.read_many(contents) == contents
    await files.write("new", LARGE)
    await files.copy("copy", "copy of the copy")
    assert await files.read_many(["new", "copy of the copy"]) == {"new": LARGE, "copy of the copy": LARGE}


async def test_a_version_that_was_overwritten_opens_by_its_event(  # noqa: PLR0917 - fixtures
    database: Database, files: FileCatalog, blobs: Backend, query: Query, user_id: str, keyring: KeyRing
) -> None:
    async def sent(row: Mapping[str, Any], content_key: bytes) -> bytes:
        content = {1: SMALL, 2: LARGE}[row["version"]]
        stat = FileStat("file", len(content), datetime.now(UTC))
        entry = Entry(stat, row["blob_key"], hashlib.sha256(content).digest(), content_key)
        return await Contents(blobs, keyring).read(database, user_id, entry)

    for content in (SMALL, LARGE, b"at last"):
        await files.write("file", content)
    await files.copy("file", "copy")
    await KeyRotation(database, keyring, COLUMNS).reencrypt()
    rows = await query(
        "SELECT version, blob_key, content_key FROM event WHERE user_id = :user_id ORDER BY seq", user_id=user_id
    )
    keys = [bytes(row["content_key"]) for row in rows]
    assert [await sent(row, key) for row, key in zip(rows[:2], keys, strict=False)] == [SMALL, LARGE]
    assert rows[2]["blob_key"] == rows[3]["blob_key"]
    with pytest.raises(Tampered):
        await sent(rows[0], keys[1])
    await files.delete("file")
    await files.delete("copy")
    assert await sent(rows[1], keys[1]) == LARGE


async def test_a_key_that_a_rotation_replaces_while_a_file_is_read_is_looked_up_again(
    database: Database, files: FileCatalog, keyring: KeyRing, monkeypatch: pytest.MonkeyPatch
) -> None:
    await files.write("file", LARGE)
    keys_for = keyring.keys_for
    rotated = False

    async def slow(*arguments: Any) -> KeySet:
        nonlocal rotated
        if not rotated:
            rotated = True
            await KeyRotation(database, keyring, COLUMNS).reencrypt()
        return await keys_for(*arguments)

    monkeypatch.setattr(keyring, "keys_for", slow)
    for read in (files.read("file"), files.read_many(["file"]), streamed(files, "file")):
        rotated = False
        assert await read in (LARGE, {"file": LARGE})


async def test_without_the_key_sealed_files_are_locked_and_others_are_not(
    database: Database, blobs: Backend, files: FileCatalog, user_id: str, locked_keyring: KeyRing
) -> None:
    await FileCatalog(database, blobs, user_id).write("clear", LARGE)
    await files.write_many([("small", SMALL), ("large", LARGE)])
    stored = await in_backend(blobs)
    locked = FileCatalog(database, blobs, user_id, keyring=locked_keyring, rules=SEALED)
    for path in ("small", "large"):
        with pytest.raises(KeyMismatch):
            await locked.read(path)
        with pytest.raises(KeyMismatch):
            await locked.read_many(["clear", path])
        with pytest.raises(KeyMismatch):
            await streamed(locked, path, 0, 1)
    assert await locked.read("clear") == await streamed(locked, "clear") == LARGE
    assert await locked.list() == ["clear", "large", "small"]
    for content in (SMALL, LARGE, pieces(LARGE)):
        with pytest.raises(KeyMismatch):
            await locked.write("new", content)
        with pytest.raises(KeyMismatch):
            await locked.write_many([("new", SMALL), ("newer", LARGE)])
    assert await in_backend(blobs) == stored
    await locked.copy("large", "copy")
    await locked.move("small", "moved")
    assert await locked.delete("large") == 1
    assert await files.read_many(["copy", "moved"]) == {"copy": LARGE, "moved": SMALL}


async def test_a_data_key_that_is_gone_is_named(
    files: FileCatalog, query: Query, user_id: str, keyring: KeyRing
) -> None:
    await files.write("file", LARGE)
    await query("DELETE FROM data_key WHERE user_id = :user_id", user_id=user_id)
    keyring.forget()
    with pytest.raises(KeyMissing, match="data key"):
        await files.read("file")


async def test_sealing_may_be_turned_on_and_off(
    database: Database, blobs: Backend, user_id: str, keyring: KeyRing, files: FileCatalog
) -> None:
    plain = FileCatalog(database, blobs, user_id, keyring=keyring, rules=ContentRules(small_bytes=LIMIT))
    contents = {"plain/small": SMALL, "plain/large": LARGE}
    await plain.write_many(contents.items())
    await files.write_many([("sealed/small", SMALL), ("sealed/large", LARGE)])
    contents |= {"sealed/small": SMALL, "sealed/large": LARGE}
    assert await files.read_many(contents) == await plain.read_many(contents) == contents
    await plain.write("sealed/large", SMALL)
    await files.write("plain/small", LARGE)
    assert (await files.read("sealed/large"), await plain.read("plain/small")) == (SMALL, LARGE)


async def test_a_content_does_not_open_with_the_key_of_another(
    files: FileCatalog, query: Query, user_id: str, blobs: Backend
) -> None:
    await files.write_many([("one", LARGE), ("two", LARGE[::-1])])
    rows = await query(
        "SELECT path, blob_key, content_key FROM file WHERE user_id = :user_id ORDER BY path", user_id=user_id
    )
    change = "UPDATE file SET {} = :value WHERE user_id = :user_id AND path = 'one'"
    await query(change.format("content_key"), value=rows[1]["content_key"], user_id=user_id)
    with pytest.raises(Tampered):
        await files.read("one")
    await query(change.format("content_key"), value=rows[0]["content_key"], user_id=user_id)
    one, two = (await in_backend(blobs)).items()
    await blobs.write(one[0], two[1])
    await blobs.write(two[0], one[1])
    for path in ("one", "two"):
        with pytest.raises(FileCorrupted):
            await files.read(path)


@pytest.mark.parametrize("verb", ["read", "write"])
async def test_a_catalogue_without_a_key_ring_says_so(
    database: Database, blobs: Backend, user_id: str, files: FileCatalog, verb: Literal["read", "write"]
) -> None:
    await files.write("file", LARGE)
    bare = FileCatalog(database, blobs, user_id, rules=SEALED)
    with pytest.raises(ConfigurationError, match="key ring"):
        await (bare.read("file") if verb == "read" else bare.write("new", b""))
