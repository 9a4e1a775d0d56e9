"""What every FileStore promises, as tests that any implementation can run against itself.

A test module subclasses the suite and gives it a store that is empty at the start of each test:

    import pytest
    from storage.testing.files import FileStoreContract


    class TestDropboxFileStore(FileStoreContract):
        @pytest.fixture
        async def store(self):
            async with DropboxFileStore("app-key", folder=new_empty_folder()) as store:
                yield store

and pytest runs it like any other test. It needs the packages `pytest` and `pytest-asyncio`, and in the configuration:

    [tool.pytest.ini_options]
    asyncio_mode = "auto"

The store must be given as its users get it: without a prefix of its own, since the longest paths take all the 1,024
bytes of a key; to start empty, take a new bucket for each test, or delete what is in one. A clock of the service that
is more than ten seconds wrong fails the suite, and so does a service that shows a write, or a deletion, only later.

No test is skipped for what a store cannot do. The attributes of FileStoreContract that say so change what is expected:
a store that cannot hold `a` beside `a/b` has to refuse the second with Conflict, one that serves no URLs to say
NotSupported. Only two of them prove less: `streams_in_bounded_memory = False` leaves the memory unmeasured (the large
file is still compared byte for byte), and a `many_files` below the service's page size leaves its paging unproved.

`test_many_files_are_listed_walked_and_deleted` and `test_a_large_file_streams_in_bounded_memory` take most of the time:
on a service far away, override them with a mark and run that mark at night.

    class TestDropboxFileStore(FileStoreContract):
        @pytest.mark.slow
        async def test_many_files_are_listed_walked_and_deleted(self, store):
            await super().test_many_files_are_listed_walked_and_deleted(store)

What it does not prove: what a crash or a broken connection leaves, that errors of the service are told apart, and that
two processes can use the store at once. Those need a service that fails on order; storage's own tests have one.
"""

from __future__ import annotations

import asyncio
import gc
import io
import os
import resource
import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import ClassVar, Final

import httpx2
import pytest

from storage.clock import now
from storage.errors import (
    FileChanged,
    FileExists,
    InvalidInput,
    NotSupported,
    PathRejected,
)
from storage.files.store import Content, FileStat, FileStore
from storage.testing.file_folders import FileFolderContract
from storage.testing.file_paths import FilePathContract

EVERY_BYTE: Final = bytes(range(256)) * 5
"""As text it would be refused, and damaged by whoever takes it for text."""

LARGE_BYTES: Final = 100 * 1024 * 1024
"""Several times what a store may hold of a file that streams through it."""

HELD_BYTES: Final = 32 * 1024 * 1024
"""What a store may hold of a file that streams through it, whatever its size."""

PIECE_BYTES: Final = 1024 * 1024


def resident_bytes() -> int:
    """The memory that this process has now; its highest ever where the system only tells that."""
    statm = Path("/proc/self/statm")  # Linux only
    if statm.exists():
        return int(statm.read_text("ascii").split()[1]) * os.sysconf("SC_PAGESIZE")
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


async def pieces(*chunks: bytes) -> AsyncIterator[bytes]:
    """The chunks, one after the other, as a streamed content."""
    for chunk in chunks:
        await asyncio.sleep(0)
        yield chunk


class FileStoreContract(FileFolderContract, FilePathContract):
    """Subclass it, name the subclass `Test…`, and give it a `store` fixture that yields an empty store.

    Attributes:
        file_beside_folder: whether the store can hold a file `a` and a file `a/b` together. A store on a file system
            cannot, and then has to refuse the second one with Conflict.
        many_files: how many files one folder gets; more than the service lists in one page (S3 and Google: 1,000).
        large_bytes: size of the file that is streamed, in bytes.
        tells_cases_apart: whether `readme` and `README` are two files. On a case-insensitive file system they are not.
        streams_in_bounded_memory: whether a file of any size passes through at most 32 MiB of memory.
        signs_urls: whether signed_url() gives one that a plain HTTP client can use; otherwise it raises NotSupported.
    """

    large_bytes: ClassVar[int] = LARGE_BYTES
    streams_in_bounded_memory: ClassVar[bool] = True
    signs_urls: ClassVar[bool] = False

    # ---- content

    @pytest.mark.parametrize(
        ("content", "stored"),
        [
            ("", b""),
            ("text, \u00fcber \U0001f600\r\n", "text, \u00fcber \U0001f600\r\n".encode()),
            (b"", b""),
            (EVERY_BYTE, EVERY_BYTE),
            (bytearray(b"array"), b"array"),
            (memoryview(b"view")[1:], b"iew"),
        ],
        ids=["empty str", "str", "no bytes", "every byte", "bytearray", "memoryview"],
    )
    async def test_what_is_written_is_read_back_exactly(
        self, store: FileStore, content: Content, stored: bytes
    ) -> None:
        """Bytes in, the same bytes out; text is UTF-8."""
        stat = await store.write("folder/file", content)
        assert stat.size == len(stored)
        assert await store.read("folder/file") == stored
        assert b"".join([chunk async for chunk in store.stream("folder/file")]) == stored
        if isinstance(content, str):
            assert await store.read_text("folder/file") == content

    async def test_an_empty_file_is_a_file(self, store: FileStore) -> None:
        """Written at once or streamed: it is there, has a size and an etag, and can be read, copied and replaced."""
        written = await store.write("folder/empty", pieces())
        assert written.size == 0
        assert written.etag
        assert await store.exists("folder/empty")
        assert await store.list("folder") == ["folder/empty"]
        assert [file.size async for file in store.walk()] == [0]
        for start, end in ((None, None), (0, 0), (0, 5), (3, None)):
            assert [chunk async for chunk in store.stream("folder/empty", start, end)] == []
        assert (await store.copy("folder/empty", "copy")).size == 0
        assert await store.read("copy") == b""
        with pytest.raises(FileExists):
            await store.write("folder/empty", b"other", if_absent=True)
        assert (await store.write("folder/empty", b"other", if_match=written.etag)).size == 5

    async def test_a_megabyte_is_read_back_exactly(self, store: FileStore) -> None:
        """More than one streamed piece."""
        content = EVERY_BYTE * 820
        await store.write("large", content)
        assert await store.read("large") == content
        assert b"".join([chunk async for chunk in store.stream("large")]) == content

    async def test_a_streamed_content_is_stored_as_it_comes(self, store: FileStore) -> None:
        """Also with empty pieces, and with no piece at all."""
        stat = await store.write("streamed", pieces(b"one ", b"", b"two"))
        assert stat.size == 7
        assert await store.read("streamed") == b"one two"
        await store.write("streamed", pieces())
        assert await store.read("streamed") == b""

    async def test_a_binary_file_is_stored_from_its_position_to_its_end(self, store: FileStore) -> None:
        """And is left open; a file in text mode is refused."""
        content = EVERY_BYTE * 2_000  # more than one read
        file = io.BytesIO(b"skipped" + content)
        file.seek(7)
        assert (await store.write("file", file)).size == len(content)
        assert not file.closed
        assert await store.read("file") == content
        await store.write("file", file)
        assert await store.read("file") == b""
        with pytest.raises(InvalidInput, match="binary mode"):
            await store.write("file", io.StringIO("text"))  # type: ignore[arg-type]
        assert await store.read("file") == b""

    async def test_a_large_file_streams_in_bounded_memory(self, store: FileStore) -> None:
        """100 MiB in and out, exactly, with at most 32 MiB more memory than at the start."""
        size = self.large_bytes
        highest = 0

        def piece(number: int) -> bytes:
            return number.to_bytes(4) * (PIECE_BYTES // 4)

        async def large(length: int) -> AsyncIterator[bytes]:
            nonlocal highest
            for number in range(length // PIECE_BYTES):
                yield piece(number)
                highest = max(highest, resident_bytes())

        # What a process loads once, and the buffers that a connection keeps, are not held for each file.
        for _ in range(2):
            await store.write("warm-up", large(size // 5))
            async for chunk in store.stream("warm-up"):
                assert chunk
        gc.collect()
        start = highest = resident_bytes()
        assert (await store.write("large", large(size))).size == size
        offset = 0
        async for chunk in store.stream("large"):
            number, skipped = divmod(offset, PIECE_BYTES)
            expected = piece(number)[skipped:] + piece(number + 1)
            assert chunk == expected[: len(chunk)]
            offset += len(chunk)
            highest = max(highest, resident_bytes())
        assert offset == size
        if self.streams_in_bounded_memory:
            held = highest - start
            assert held <= HELD_BYTES, f"{held / 1024 / 1024:.0f} MiB held"
        middle = size // PIECE_BYTES // 2
        edge = middle * PIECE_BYTES
        across = [chunk async for chunk in store.stream("large", edge - 2, edge + 2)]
        assert b"".join(across) == piece(middle - 1)[-2:] + piece(middle)[:2]
        last = [chunk async for chunk in store.stream("large", size - 2)]
        assert b"".join(last) == piece(size // PIECE_BYTES - 1)[-2:]

    async def test_a_range_or_a_piece_of_any_size_is_cut_to_the_content(self, store: FileStore) -> None:
        """Also beyond what a system call or a header takes; and no memory is reserved for what is not there."""
        await store.write("file", b"content")
        beyond = 2**70
        for start, end, expected in ((2, beyond, b"ntent"), (beyond, None, b""), (beyond, beyond + 1, b"")):
            assert b"".join([chunk async for chunk in store.stream("file", start, end)]) == expected
        assert [chunk async for chunk in store.stream("file", chunk_size=2**45)] == [b"content"]

    async def test_a_streamed_content_that_fails_leaves_the_old_one(self, store: FileStore) -> None:
        """The caller's own error comes back, and nothing else is to be seen."""

        async def breaking() -> AsyncIterator[bytes]:
            yield b"half of"
            raise RuntimeError("the source broke")

        await store.write("folder/file", b"old")
        with pytest.raises(RuntimeError, match="the source broke"):
            await store.write("folder/file", breaking())
        with pytest.raises(RuntimeError, match="the source broke"):
            await store.write("folder/new", breaking())
        assert await store.read("folder/file") == b"old"
        assert await store.list("folder") == ["folder/file"]

    async def test_writing_again_replaces_the_content(self, store: FileStore) -> None:
        """Also by a shorter one."""
        await store.write("file", b"a longer content")
        await store.write("file", b"short")
        assert await store.read("file") == b"short"
        assert (await store.stat("file")).size == 5

    async def test_other_types_of_content_are_refused(self, store: FileStore) -> None:
        """And nothing is written."""
        for content in (None, 1, ["list"], object()):
            with pytest.raises(InvalidInput):
                await store.write("file", content)  # type: ignore[arg-type]
        with pytest.raises(InvalidInput):
            await store.write("file", "lone \ud800")
        assert not await store.exists("file")

    async def test_text_that_is_not_utf8_is_only_readable_as_bytes(self, store: FileStore) -> None:
        """read_text names the file and points to read()."""
        await store.write("binary", b"\xff\xfe")
        with pytest.raises(InvalidInput, match="binary"):
            await store.read_text("binary")
        assert await store.read("binary") == b"\xff\xfe"

    async def test_racing_writers_leave_one_whole_content(self, store: FileStore) -> None:
        """Each reader, too, sees one writer's content."""
        contents = [bytes([number]) * 10_000 for number in range(8)]
        await store.write("raced", contents[0])
        writes = [store.write("raced", content) for content in contents]
        *_, seen, again = await asyncio.gather(*writes, store.read("raced"), store.read("raced"))
        assert seen in contents
        assert again in contents
        assert await store.read("raced") in contents

    # ---- conditions

    async def test_another_content_gives_another_etag(self, store: FileStore) -> None:
        """And stat and walk tell the one that the write gave."""
        first = await store.write("folder/file", b"content")
        assert first.etag
        assert (await store.stat("folder/file")).etag == first.etag
        assert [file.etag async for file in store.walk("folder")] == [first.etag]
        second = await store.write("folder/file", b"changed")
        assert second.etag != first.etag

    async def test_creating_refuses_to_replace(self, store: FileStore) -> None:
        """By an error that is a FileExistsError; streamed contents too."""
        await store.write("file", b"first", if_absent=True)
        for content in (b"second", pieces(b"sec", b"ond"), io.BytesIO(b"second")):
            with pytest.raises(FileExists, match="file"):
                await store.write("file", content, if_absent=True)
        with pytest.raises(FileExistsError):
            await store.write("file", b"first", if_absent=True)
        assert await store.read("file") == b"first"
        await store.delete("file")
        await store.write("file", pieces(b"third"), if_absent=True)
        assert await store.read("file") == b"third"
        assert await store.list() == ["file"]

    async def test_replacing_needs_the_etag_of_the_file_that_is_there(self, store: FileStore) -> None:
        """A stale one, one of another file, and any one where there is no file are refused."""
        first = await store.write("file", b"first")
        second = await store.write("file", b"second", if_match=first.etag)
        for content in (b"third", pieces(b"thi", b"rd"), io.BytesIO(b"third")):
            with pytest.raises(FileChanged, match="file"):
                await store.write("file", content, if_match=first.etag)
        assert await store.read("file") == b"second"
        with pytest.raises(FileChanged):
            await store.write("missing", b"", if_match=second.etag)
        await store.write("file", pieces(b"third"), if_match=second.etag)
        assert await store.read("file") == b"third"
        await store.delete("file")
        with pytest.raises(FileChanged):
            await store.write("file", b"fourth", if_match=second.etag)
        assert await store.list() == []

    async def test_conditions_hold_for_a_large_streamed_content_too(self, store: FileStore) -> None:
        """One that a backend sends in parts; what was there stays, and nothing else is to be seen."""
        large = EVERY_BYTE * 7_000  # 9 MB
        first = await store.write("file", pieces(large), if_absent=True)
        with pytest.raises(FileExists):
            await store.write("file", pieces(large, b"second"), if_absent=True)
        second = await store.write("file", pieces(b"second", large), if_match=first.etag)
        with pytest.raises(FileChanged):
            await store.write("file", pieces(large, b"third"), if_match=first.etag)
        with pytest.raises(FileChanged):
            await store.write("missing", pieces(large), if_match=second.etag)
        assert await store.read("file") == b"second" + large
        assert await store.list() == ["file"]

    async def test_both_conditions_at_once_are_refused(self, store: FileStore) -> None:
        """They contradict each other."""
        with pytest.raises(InvalidInput, match="exclude"):
            await store.write("file", b"", if_absent=True, if_match="any")
        assert not await store.exists("file")

    @pytest.mark.parametrize("replacing", [False, True], ids=["creating", "replacing"])
    async def test_of_sixteen_racing_conditional_writers_one_wins(self, store: FileStore, *, replacing: bool) -> None:
        """The others are told, and the file is the winner's."""
        etag = (await store.write("raced/file", b"before")).etag if replacing else None
        contents = [f"writer {number}".encode() for number in range(16)]
        outcomes = await asyncio.gather(
            *(store.write("raced/file", content, if_absent=not replacing, if_match=etag) for content in contents),
            return_exceptions=True,
        )
        won = [number for number, outcome in enumerate(outcomes) if isinstance(outcome, FileStat)]
        assert len(won) == 1, outcomes
        lost = [outcome for outcome in outcomes if not isinstance(outcome, FileStat)]
        assert {type(outcome) for outcome in lost} == {FileChanged if replacing else FileExists}
        assert await store.read("raced/file") == contents[won[0]]

    # ---- signed URLs

    async def test_a_signed_url_reads_and_writes_one_file(self, store: FileStore) -> None:
        """For whoever has it; where the backend serves no URLs this is said."""
        await store.write("folder/a file?#%2e", b"content")
        if not self.signs_urls:
            with pytest.raises(NotSupported):
                await store.signed_url("folder/a file?#%2e")
            return
        async with httpx2.AsyncClient() as client:
            answer = await client.get(await store.signed_url("folder/a file?#%2e", timedelta(minutes=5)))
            assert (answer.status_code, answer.content) == (200, b"content")
            url = await store.signed_url("folder/new", timedelta(minutes=5), "PUT")
            answer = await client.put(url, content=b"by URL")
            assert answer.status_code == 200
            assert await store.read("folder/new") == b"by URL"

    async def test_an_impossible_signed_url_is_refused(self, store: FileStore) -> None:
        """On every backend alike."""
        for expires in (timedelta(0), timedelta(seconds=-1), timedelta(days=8)):
            with pytest.raises(InvalidInput):
                await store.signed_url("file", expires)
        with pytest.raises(InvalidInput):
            await store.signed_url("file", timedelta(hours=1), "DELETE")  # type: ignore[arg-type]
        with pytest.raises(PathRejected):
            await store.signed_url("folder/")

    # ---- ranges

    @pytest.mark.parametrize(
        ("start", "end"),
        [(None, None), (0, None), (0, 0), (0, 1), (3, 7), (9, 10), (9, 99), (10, None), (10, 10), (50, 60), (None, 4)],
    )
    async def test_a_range_gives_exactly_its_bytes(self, store: FileStore, start: int | None, end: int | None) -> None:
        """Half-open, cut at the end of the content."""
        await store.write("digits", b"0123456789")
        for chunk_size in (1, 3, 1000):
            got = [chunk async for chunk in store.stream("digits", start, end, chunk_size=chunk_size)]
            assert b"".join(got) == b"0123456789"[start:end]
            assert all(0 < len(chunk) <= chunk_size for chunk in got)

    async def test_an_impossible_range_is_refused(self, store: FileStore) -> None:
        """Before anything is read."""
        await store.write("digits", b"0123456789")
        for start, end in ((-1, None), (5, 4), (None, -1)):
            with pytest.raises(InvalidInput):
                store.stream("digits", start, end)
        with pytest.raises(InvalidInput):
            store.stream("digits", chunk_size=0)

    async def test_a_stream_may_be_left_early(self, store: FileStore) -> None:
        """What it held is released when it is closed."""
        await store.write("large", EVERY_BYTE * 100)
        stream = store.stream("large", chunk_size=100)
        assert await anext(stream) == EVERY_BYTE[:100]
        await stream.aclose()
        assert await store.delete("large") == 1

    # ---- stat

    async def test_stat_tells_path_size_and_time(self, store: FileStore) -> None:
        """The time is aware, and the one of the last write."""
        before = now() - timedelta(seconds=10)  # a backend on another machine has another clock
        written = await store.write("folder/page.html", b"<p>")
        stat = await store.stat("/folder/page.html")
        # An object store's own clock is only told by stat.
        assert replace(stat, updated_at=written.updated_at) == written
        assert abs(stat.updated_at - written.updated_at) < timedelta(seconds=10)
        assert stat.path == "folder/page.html"
        assert stat.size == 3
        assert before < stat.updated_at < now() + timedelta(seconds=10)
        assert stat.updated_at.utcoffset() == timedelta(0)
        assert stat.media_type == "text/html"
        assert await store.exists("folder/page.html")

    # ---- life

    async def test_closing_twice_is_no_error(self, store: FileStore) -> None:
        """The second time there is nothing left to release."""
        await store.write("file", b"")
        await store.close()
        await store.close()
