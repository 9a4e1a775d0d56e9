"""The path rule as a store shows it: a table of paths with the one answer that every backend gives.

Part of storage.testing.files.FileStoreContract, which is what a store's tests subclass.
"""

from __future__ import annotations

import unicodedata
from typing import ClassVar

import pytest

from storage.errors import Conflict, PathRejected
from storage.files.store import FileStore

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


class FilePathContract:
    """What of FileStoreContract is about the paths of single files."""

    tells_cases_apart: ClassVar[bool] = True

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

    async def test_a_rejected_path_is_rejected_by_every_method(self, store: FileStore) -> None:
        """As a ValueError, and nothing is changed."""
        await store.write("file", b"content")
        for path in REJECTED_PATHS:
            await self._is_rejected(store, path)
        assert await store.list() == ["file"]

    async def _is_rejected(self, store: FileStore, path: str) -> None:
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
        """Where the store cannot tell them apart, it refuses the second with Conflict, or takes it for the first."""
        await store.write("readme", b"lower")
        if not self.tells_cases_apart:
            try:
                await store.write("README", b"upper")
            except Conflict:
                kept = b"lower"
            else:
                kept = b"upper"
            assert len(await store.list()) == 1
            assert await store.read("readme") == await store.read("README") == kept
            return
        await store.write("README", b"upper")
        assert await store.list() == ["README", "readme"]
        assert await store.read("readme") == b"lower"
