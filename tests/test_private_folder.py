"""Folders that only their owner may enter."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from storage.encryption.providers.key_file import KeyFile
from storage.files.backends.local import LocalFileStore
from storage.private_folder import make_private_folder


@pytest.fixture(params=[0o000, 0o022, 0o077], ids=oct)
def umask(request: pytest.FixtureRequest) -> Iterator[None]:
    before = os.umask(request.param)
    yield
    os.umask(before)


def modes(folder: Path) -> dict[str, int]:
    return {str(path.relative_to(folder)): path.stat().st_mode & 0o777 for path in folder.rglob("*")}


@pytest.mark.usefixtures("umask")
def test_every_folder_that_is_made_is_private_whatever_the_umask(tmp_path: Path) -> None:
    make_private_folder(tmp_path / "a" / "b" / "c")
    assert modes(tmp_path) == {"a": 0o700, "a/b": 0o700, "a/b/c": 0o700}


def test_a_folder_that_is_there_stays_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a").chmod(0o755)
    make_private_folder(tmp_path / "a")
    assert modes(tmp_path) == {"a": 0o755}


@pytest.mark.parametrize("below", ["file", "file/folder"])
def test_a_file_in_the_way_is_an_error(tmp_path: Path, below: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"):
        make_private_folder(tmp_path / below)


@pytest.mark.usefixtures("umask")
async def test_the_key_file_and_the_files_lie_in_private_folders(tmp_path: Path) -> None:
    await KeyFile(tmp_path / "config" / "own" / "master.key").generate()
    async with LocalFileStore(tmp_path / "share" / "own" / "files") as files:
        await files.write("a/b", b"")
    found = modes(tmp_path)
    assert {found.pop("config/own/master.key"), found.pop("share/own/files/a/b")} == {0o600}
    assert set(found.values()) == {0o700}
