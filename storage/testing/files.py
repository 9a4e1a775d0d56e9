"""What every FileStore promises, as tests that any implementation can run against itself.

A test module subclasses the suite and gives it a store:

    class TestMyFileStore(FileStoreContract):
        @pytest.fixture
        async def store(self):
            async with MyFileStore(...) as store:
                yield store

Each test starts with an empty store. Needs pytest, and pytest-asyncio with `asyncio_mode = auto`.
"""

from __future__ import annotations

import asyncio
import io
import os
import resource
import sys
import unicodedata
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import ClassVar, Final

import httpx2
import pytest

from storage.clock import now
from storage.errors import (
    Conflict,
    FileChanged,
    FileExists,
    FileNotFound,
    InvalidInput,
    NotSupported,
    PathRejected,
)
from storage.files.store import Content, FileStat, FileStore

EVERY_BYTE = bytes(range(256)) * 5
_E_ACUTE = "\u00e9"

ACCEPTED_PATHS: dict[str, str] = {
    "a": "a",
    "/a": "a",
    "./a": "a",
    "/sessions/c1/metadata.json": "sessions/c1/metadata.json",
    "a/b/c.d": "a/b/c.d",
    "%2e%2e/a": "%2e%2e/a",
    "a%2fb": "a%2fb",
    "what?#now": "what?#now",
    "~/a": "~/a",
    "$HOME/*": "$HOME/*",
    "C:/a": "C:/a",
    ".hidden": ".hidden",
    ".../..a/a..": ".../..a/a..",
    "with space / and more ": "with space / and more ",
    "quote'\"": "quote'\"",
    "emoji/\U0001f9d1\u200d\U0001f680.txt": "emoji/\U0001f9d1\u200d\U0001f680.txt",
    "nfd/e\u0301": f"nfd/{_E_ACUTE}",
    f"nfc/{_E_ACUTE}": f"nfc/{_E_ACUTE}",
    "s" * 255: "s" * 255,
    _E_ACUTE * 127: _E_ACUTE * 127,
    "/".join(["d" * 127] * 8): "/".join(["d" * 127] * 8),  # 8 * 127 + 7 = 1,023 bytes
    "/".join(["d" * 127] * 7 + ["d" * 128]): "/".join(["d" * 127] * 7 + ["d" * 128]),  # 1,024 bytes
}
"""Paths of files and the normal form that a store gives back."""

REJECTED_PATHS: tuple[str, ...] = (
    "..",
    "../a",
    "a/..",
    "a/../b",
    "/../a",
    "./../a",
    "a/./b",
    "././a",
    "//a",
    "a//b",
    "a\0b",
    "a\nb",
    "a\tb",
    "a\x7fb",
    "a\x85b",
    "a\\b",
    "..\\a",
    "a\ud800b",
    "a\uffffb",
    "a\U0010ffff",
    "s" * 256,
    _E_ACUTE * 128,
    "/".join(["d" * 127] * 6 + ["d" * 128] * 2),  # 1,025 bytes
    ".storage-tmp-0123456789abcdef0123456789abcdef",
)
"""Paths that no method takes."""


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


class FileStoreContract:
    """Subclass it, name the subclass `Test…`, and give it a `store` fixture that yields an empty store.

    Attributes:
        file_beside_folder: whether the store can hold a file `a` and a file `a/b` together. A store on a file system
            cannot, and then has to refuse the second one with Conflict.
        streams_in_bounded_memory: whether a file of any size passes through a few megabytes of memory.
        signs_urls: whether signed_url() gives one that a plain HTTP client can use; otherwise it raises NotSupported.
    """

    file_beside_folder: ClassVar[bool] = True
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
        assert await store.read_text("folder/file") if stored and stored != EVERY_BYTE else True

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
        """100 MiB in and out, exactly, with at most 32 MiB held."""
        if not self.streams_in_bounded_memory:
            return
        highest = 0

        def piece(number: int) -> bytes:
            return number.to_bytes(4) * (PIECE_BYTES // 4)

        async def large(size: int) -> AsyncIterator[bytes]:
            nonlocal highest
            for number in range(size // PIECE_BYTES):
                yield piece(number)
                highest = max(highest, resident_bytes())

        # What a process loads once, and the buffers that a connection keeps, are not held for each file.
        await store.write("warm-up", large(LARGE_BYTES // 5))
        start = highest = resident_bytes()
        assert (await store.write("large", large(LARGE_BYTES))).size == LARGE_BYTES
        offset = 0
        async for chunk in store.stream("large"):
            number, skipped = divmod(offset, PIECE_BYTES)
            expected = piece(number)[skipped:] + piece(number + 1)
            assert chunk == expected[: len(chunk)]
            offset += len(chunk)
            highest = max(highest, resident_bytes())
        assert offset == LARGE_BYTES
        assert highest - start <= HELD_BYTES
        middle = LARGE_BYTES // 2
        across = [chunk async for chunk in store.stream("large", middle - 2, middle + 2)]
        assert b"".join(across) == piece(49)[-2:] + piece(50)[:2]

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
    @pytest.mark.parametrize("chunk_size", [1, 3, 1000])
    async def test_a_range_gives_exactly_its_bytes(
        self, store: FileStore, start: int | None, end: int | None, chunk_size: int
    ) -> None:
        """Half-open, cut at the end of the content."""
        await store.write("digits", b"0123456789")
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

    # ---- what is not there

    async def test_a_missing_file_is_not_found(self, store: FileStore) -> None:
        """By an error that is a FileNotFoundError and names the path."""
        await store.write("folder/file", b"")
        for path in ("missing", "folder", "folder/missing", "folder/file/below", "missing/below"):
            for reading in (store.read, store.read_text, store.stat):
                with pytest.raises(FileNotFound, match=path):
                    await reading(path)
            with pytest.raises(FileNotFoundError):
                await anext(store.stream(path))
            with pytest.raises(FileNotFound):
                await store.copy(path, "copy")
            with pytest.raises(FileNotFound):
                await store.move(path, "moved")
            assert not await store.exists(path)
        assert await store.list() == ["folder/"]

    async def test_a_missing_folder_is_empty(self, store: FileStore) -> None:
        """And deleting it is no error."""
        await store.write("file", b"")
        for path in ("missing", "missing/", "missing/below", "file", "file/below"):
            assert await store.list(path) == []
            assert [file async for file in store.walk(path)] == []
        assert await store.delete("missing") == 0
        assert await store.delete("file/below") == 0
        assert await store.exists("file")

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

    # ---- folders

    async def test_a_listing_shows_one_level_in_byte_order(self, store: FileStore) -> None:
        """Folders end in `/`; the paths are whole, so that they can be passed back."""
        for path in ("b/2", "b/10", "b/c/deep/er", "b-", "b0", "a", "\u00fc", "Z", "b/\U0001f600"):
            await store.write(path, b"")
        top = ["Z", "a", "b-", "b/", "b0", "\u00fc"]
        for root in ("", "/", ".", "./"):
            assert await store.list(root) == top
        inside = ["b/10", "b/2", "b/c/", "b/\U0001f600"]
        for folder in ("b", "b/", "/b", "./b/"):
            assert await store.list(folder) == inside
        assert await store.list("b/c") == ["b/c/deep/"]

    async def test_a_walk_visits_every_file_below_in_byte_order(self, store: FileStore) -> None:
        """At any depth, and not the name-sakes beside the folder."""
        paths = ["b-/x", "b/1", "b/c", "b/d-", "b/d/e/f", "b/d/g", "b/d0", "b0", "bb/x"]
        for path in reversed(paths):
            await store.write(path, path)
        assert [file.path async for file in store.walk()] == paths
        below = [file async for file in store.walk("b/")]
        assert [file.path for file in below] == paths[1:7]
        assert [file.size for file in below] == [len(path) for path in paths[1:7]]
        assert [file.path async for file in store.walk("b/d")] == ["b/d/e/f", "b/d/g"]

    async def test_a_walk_goes_on_while_its_files_are_deleted(self, store: FileStore) -> None:
        """So that a walk can be used to clean up."""
        for number in range(20):
            await store.write(f"folder/{number:02}", b"")
        async for file in store.walk():
            await store.delete(file.path)
        assert await store.list() == []

    async def test_many_files_are_listed_walked_and_deleted(self, store: FileStore) -> None:
        """More than any page of any backend holds (S3 gives 1,000)."""
        paths = [f"many/{number:04}" for number in range(2_500)]
        for start in range(0, len(paths), 50):
            await asyncio.gather(*(store.write(path, path) for path in paths[start : start + 50]))
        assert await store.list("many") == paths
        assert [file.path async for file in store.walk("many")] == paths
        assert await store.delete("many") == len(paths)
        assert await store.list() == []

    # ---- delete

    async def test_deleting_a_file_keeps_its_name_sakes(self, store: FileStore) -> None:
        """`a` is not a prefix, but a file or a folder."""
        for path in ("ab", "a-b", "a.json", "b/a"):
            await store.write(path, path)
        await store.write("a", b"")
        assert await store.delete("a") == 1
        assert await store.list() == ["a-b", "a.json", "ab", "b/"]

    async def test_deleting_a_folder_takes_everything_below_and_nothing_beside(self, store: FileStore) -> None:
        """With and without a trailing `/`."""
        for folder in ("a", "a/"):
            for path in ("a/1", "a/b/2", "a/b/c/3", "ab/4", "a-/5", "a0"):
                await store.write(path, path)
            assert await store.delete(folder) == 3
            assert await store.list() == ["a-/", "a0", "ab/"]
            assert not await store.exists("a/b/c/3")
            assert await store.delete(folder) == 0

    async def test_a_folder_is_gone_with_its_last_file(self, store: FileStore) -> None:
        """There are no empty folders."""
        await store.write("a/b/c/file", b"")
        await store.write("a/other", b"")
        await store.delete("a/b/c/file")
        assert await store.list("a") == ["a/other"]
        await store.move("a/other", "z/other")
        assert await store.list() == ["z/"]
        await store.write("a/b/c/file", b"again")
        assert await store.read("a/b/c/file") == b"again"

    async def test_the_root_is_never_deleted(self, store: FileStore) -> None:
        """A path that came out empty by mistake must not empty the store."""
        await store.write("file", b"")
        for root in ("", "/", ".", "./"):
            with pytest.raises(PathRejected):
                await store.delete(root)
        assert await store.exists("file")

    async def test_writing_and_deleting_one_folder_at_once_loses_no_acknowledged_write(self, store: FileStore) -> None:
        """A folder that vanishes with its last file must not take a new one along."""

        async def come_and_go(name: str) -> None:
            for _ in range(10):
                await store.write(f"busy/deep/{name}", name)
                assert await store.read(f"busy/deep/{name}") == name.encode()
                assert await store.delete(f"busy/deep/{name}") == 1

        await asyncio.gather(*(come_and_go(f"file{number}") for number in range(6)))
        assert await store.list() == []

    # ---- a file and a folder of one name

    async def test_a_file_and_a_folder_of_one_name(self, store: FileStore) -> None:
        """Held together, or refused with what was there before untouched."""
        await store.write("a", b"file")
        await store.write("z/b", b"below")
        if not self.file_beside_folder:
            with pytest.raises(Conflict, match="a/b"):
                await store.write("a/b", b"below")
            with pytest.raises(Conflict, match="'z'"):
                await store.write("z", b"file")
            with pytest.raises(Conflict):
                await store.move("a", "z")
            with pytest.raises(Conflict):
                await store.move("z/b", "a/b")
            assert await store.list() == ["a", "z/"]
            assert await store.list("z") == ["z/b"]
            assert await store.read("a") == b"file"
            return
        await store.write("a/b", b"below")
        await store.write("a-b", b"beside")
        assert await store.list() == ["a", "a-b", "a/", "z/"]
        assert await store.list("a") == ["a/b"]
        assert [file.path async for file in store.walk("a")] == ["a/b"]
        await store.move("a", "moved")
        assert await store.list() == ["a-b", "a/", "moved", "z/"]
        await store.copy("moved", "a")
        assert await store.delete("a") == 2
        assert await store.list() == ["a-b", "moved", "z/"]

    # ---- copy and move

    async def test_a_copy_is_a_file_of_its_own(self, store: FileStore) -> None:
        """Replacing what was there; neither copy changes with the other."""
        await store.write("from/page.html", b"content")
        await store.write("to/file", b"something longer")
        stat = await store.copy("/from/page.html", "to/file")
        assert (stat.path, stat.size) == ("to/file", 7)
        await store.write("from/page.html", b"changed")
        assert await store.read("to/file") == b"content"
        await store.delete("from")
        assert await store.read("to/file") == b"content"

    async def test_a_move_leaves_nothing_behind(self, store: FileStore) -> None:
        """Replacing what was there."""
        await store.write("from/file", b"content")
        await store.write("to/file", b"something longer")
        stat = await store.move("from/file", "./to/file")
        assert (stat.path, stat.size) == ("to/file", 7)
        assert await store.list() == ["to/"]
        assert await store.read("to/file") == b"content"

    async def test_copying_and_moving_a_file_onto_itself_keeps_it(self, store: FileStore) -> None:
        """Also where the two paths only look different."""
        await store.write("file", b"content")
        assert (await store.copy("file", "/file")).size == 7
        assert (await store.move("file", "./file")).size == 7
        assert await store.read("file") == b"content"

    # ---- the path rule

    @pytest.mark.parametrize("path", ACCEPTED_PATHS, ids=lambda path: ascii(path)[1:40])
    async def test_an_accepted_path_comes_back_in_normal_form(self, store: FileStore, path: str) -> None:
        """From every method alike."""
        normal = ACCEPTED_PATHS[path]
        assert (await store.write(path, normal)).path == normal
        assert await store.read_text(path) == normal
        assert await store.read_text(normal) == normal
        assert (await store.stat(path)).path == normal
        assert [file.path async for file in store.walk()] == [normal]
        folder, slash, _ = normal.rpartition("/")
        assert await store.list(folder + slash) == [normal]
        assert await store.delete(path) == 1
        assert await store.list() == []

    @pytest.mark.parametrize("path", REJECTED_PATHS, ids=lambda path: ascii(path)[1:40])
    async def test_a_rejected_path_is_rejected_by_every_method(self, store: FileStore, path: str) -> None:
        """As a ValueError, and nothing is changed."""
        await store.write("file", b"content")
        for refusing in (store.read, store.read_text, store.stat, store.exists, store.list, store.delete):
            with pytest.raises(PathRejected):
                await refusing(path)
        with pytest.raises(ValueError, match="path"):
            await store.write(path, b"")
        for lazily in (store.walk, store.stream):
            with pytest.raises(PathRejected):
                lazily(path)
        for both in (store.copy, store.move):
            with pytest.raises(PathRejected):
                await both("file", path)
            with pytest.raises(PathRejected):
                await both(path, "file")
        assert await store.list() == ["file"]

    @pytest.mark.parametrize("path", ["", "/", "./", "folder/", "/folder/"])
    async def test_a_folder_is_no_file(self, store: FileStore, path: str) -> None:
        """Whatever needs a file refuses a path that ends in `/`."""
        await store.write("folder/file", b"")
        for refusing in (store.read, store.stat, store.exists):
            with pytest.raises(PathRejected):
                await refusing(path)
        with pytest.raises(PathRejected):
            await store.write(path, b"")
        with pytest.raises(PathRejected):
            await store.copy("folder/file", path)

    async def test_composed_and_decomposed_names_are_one_file(self, store: FileStore) -> None:
        """The one that was typed on a Mac is found on Linux."""
        await store.write(unicodedata.normalize("NFD", "r\u00e9sum\u00e9"), b"first")
        await store.write(unicodedata.normalize("NFC", "r\u00e9sum\u00e9"), b"second")
        assert await store.list() == ["r\u00e9sum\u00e9"]
        assert await store.read(unicodedata.normalize("NFD", "r\u00e9sum\u00e9")) == b"second"

    async def test_upper_and_lower_case_are_two_files(self, store: FileStore) -> None:
        """As on every backend but a case-insensitive file system."""
        await store.write("readme", b"lower")
        await store.write("README", b"upper")
        assert await store.list() == ["README", "readme"]
        assert await store.read("readme") == b"lower"

    # ---- life

    async def test_closing_twice_is_no_error(self, store: FileStore) -> None:
        """The second time there is nothing left to release."""
        await store.write("file", b"")
        await store.close()
        await store.close()
