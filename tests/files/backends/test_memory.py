"""MemoryFileStore: the contract, and the limit that is its own."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from storage.errors import FileStoreFull, InvalidInput
from storage.files.backends.memory import MemoryFileStore
from storage.testing.files import FileStoreContract, pieces


class TestMemoryFileStore(FileStoreContract):
    streams_in_bounded_memory = False

    @pytest.fixture
    async def store(self) -> AsyncIterator[MemoryFileStore]:
        async with MemoryFileStore() as store:
            yield store


async def test_a_write_beyond_the_limit_is_refused_and_keeps_the_old_content() -> None:
    store = MemoryFileStore(limit_bytes=10)
    await store.write("a", b"12345")
    await store.write("b", b"12345")
    with pytest.raises(FileStoreFull, match="10 bytes"):
        await store.write("a", b"123456")
    with pytest.raises(FileStoreFull):
        await store.write("c", pieces(b"123456", b"123456"))
    assert await store.read("a") == b"12345"
    assert await store.list() == ["a", "b"]


async def test_deleting_and_replacing_give_room_back() -> None:
    store = MemoryFileStore(limit_bytes=10)
    await store.write("a", b"1234567890")
    await store.write("a", b"1")
    await store.write("b", b"123456789")
    await store.delete("b")
    await store.write("c", b"123456789")
    with pytest.raises(FileStoreFull):
        await store.copy("c", "d")


def test_a_negative_limit_is_refused() -> None:
    with pytest.raises(InvalidInput, match="limit_bytes"):
        MemoryFileStore(limit_bytes=-1)


async def test_streams_that_come_at_once_do_not_exceed_the_limit_together() -> None:
    store = MemoryFileStore(limit_bytes=100)

    async def beside_another() -> AsyncIterator[bytes]:
        yield bytes(60)
        with pytest.raises(FileStoreFull):
            await store.write("second", pieces(bytes(30), bytes(30)))
        yield b"end"

    await store.write("first", beside_another())
    assert (await store.stat("first")).size == 63
    await store.write("third", pieces(bytes(30)))
