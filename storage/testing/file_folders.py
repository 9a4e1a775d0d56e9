"""What a store shows of its files together: listings, walks, deletions, copies, and what is not there.

Part of storage.testing.files.FileStoreContract, which is what a store's tests subclass.
"""

from __future__ import annotations

import asyncio
from typing import ClassVar, Final

import pytest

from storage.errors import Conflict, FileNotFound, PathRejected
from storage.files.store import FileStore

MANY_FILES: Final = 2_500
"""Two whole pages of S3's and Google Cloud Storage's listings, and a part of a third."""

WRITERS: Final = 32
"""Writes under way at once while many files are made."""


class FileFolderContract:
    """What of FileStoreContract is about more than one file."""

    file_beside_folder: ClassVar[bool] = True
    many_files: ClassVar[int] = MANY_FILES

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
        paths = [f"many/{number:05}" for number in range(self.many_files)]
        waiting = iter(paths)

        async def write_the_next() -> None:
            for path in waiting:
                await store.write(path, path)

        await asyncio.gather(*(write_the_next() for _ in range(WRITERS)))
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
            with pytest.raises(Conflict):
                await store.move("z/b", "z")
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
