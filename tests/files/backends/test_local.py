"""LocalFileStore: the contract, and what only a file system can get wrong."""

from __future__ import annotations

import asyncio
import fcntl
import os
import stat
import subprocess
import sys
import textwrap
import time
import unicodedata
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from storage.errors import (
    ConfigurationError,
    Conflict,
    FileAccessDenied,
    FileChanged,
    FileNotFound,
    FileStoreUnavailable,
    PathRejected,
    StorageClosed,
)
from storage.files.backends.draft import other_spelling
from storage.files.backends.local import LocalFileStore
from storage.files.backends.removal import remove_folder, unlink
from storage.files.backends.tree import LEFTOVER_SECONDS
from storage.testing.files import FileStoreContract, pieces

REPOSITORY = Path(__file__).parents[3]


class TestLocalFileStore(FileStoreContract):
    file_beside_folder = False

    @pytest.fixture
    async def store(self, tmp_path: Path) -> AsyncIterator[LocalFileStore]:
        async with LocalFileStore(tmp_path / "files") as store:
            yield store


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[LocalFileStore]:
    async with LocalFileStore(tmp_path / "files") as store:
        yield store


def names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


async def run_python(program: str, *arguments: str | Path) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        textwrap.dedent(program),
        *map(str, arguments),
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


# ---- where and how files lie


async def test_a_file_lies_at_its_own_path_and_is_private(store: LocalFileStore) -> None:
    await store.write("sessions/c1/metadata.json", b"{}")
    path = store.root / "sessions" / "c1" / "metadata.json"
    assert path.read_bytes() == b"{}"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    for folder in (store.root, store.root / "sessions", store.root / "sessions" / "c1"):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert names(store.root) == ["sessions", "sessions/c1", "sessions/c1/metadata.json"]


async def test_the_root_is_made_at_the_first_write_and_not_before(store: LocalFileStore) -> None:
    assert await store.list() == []
    assert await store.delete("a") == 0
    assert not store.root.exists()
    await store.write("a", b"")
    assert store.root.is_dir()


async def test_the_store_goes_on_when_its_root_is_taken_away(store: LocalFileStore) -> None:
    await store.write("a", b"")
    await store.delete("a")
    store.root.rmdir()
    await store.write("b", b"again")
    assert await store.read("b") == b"again"


async def test_a_root_that_is_a_file_is_an_outage_and_not_a_missing_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    async with LocalFileStore(tmp_path / "file") as store:
        with pytest.raises(FileStoreUnavailable, match="not a folder"):
            await store.read("a")
        with pytest.raises(FileStoreUnavailable, match="not a folder"):
            await store.write("a", b"")


async def test_a_new_file_is_flushed_then_renamed_and_then_its_folder_flushed(
    store: LocalFileStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    await store.write("folder/file", b"old")
    steps: list[str] = []
    fsync, rename = os.fsync, os.rename

    def watched_fsync(descriptor: int) -> None:
        steps.append("fsync folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "fsync file")
        fsync(descriptor)

    def watched_rename(source: str, target: str, *, src_dir_fd: int, dst_dir_fd: int) -> None:
        steps.append("rename")
        rename(source, target, src_dir_fd=src_dir_fd, dst_dir_fd=dst_dir_fd)

    monkeypatch.setattr(os, "fsync", watched_fsync)
    monkeypatch.setattr(os, "rename", watched_rename)
    await store.write("folder/file", b"new")
    assert steps == ["fsync file", "rename", "fsync folder"]
    steps.clear()
    await store.write("folder/new/file", pieces(b"n", b"ew"))
    assert steps == ["fsync folder", "fsync file", "rename", "fsync folder"]


# ---- what leads out of the root


@dataclass
class Outside:
    folder: Path
    secret: Path


@pytest.fixture
def outside(tmp_path: Path, store: LocalFileStore) -> Outside:
    folder = tmp_path / "outside"
    folder.mkdir()
    secret = folder / "secret"
    secret.write_bytes(b"secret")
    store.root.mkdir()
    return Outside(folder, secret)


async def test_a_symbolic_link_to_a_folder_is_not_followed(store: LocalFileStore, outside: Outside) -> None:
    (store.root / "link").symlink_to(outside.folder)
    with pytest.raises(FileAccessDenied, match="symbolic link"):
        await store.read("link/secret")
    with pytest.raises(FileAccessDenied, match="symbolic link"):
        await store.write("link/new", b"")
    with pytest.raises(FileAccessDenied, match="symbolic link"):
        await store.write("link/new/file", b"")
    with pytest.raises(FileAccessDenied, match="symbolic link"):
        await store.delete("link/secret")
    with pytest.raises(FileAccessDenied, match="symbolic link"):
        await store.list("link")
    assert await store.list() == []
    assert [file async for file in store.walk()] == []
    assert names(outside.folder) == ["secret"]


async def test_a_symbolic_link_to_a_file_is_not_followed(store: LocalFileStore, outside: Outside) -> None:
    (store.root / "link").symlink_to(outside.secret)
    with pytest.raises(FileAccessDenied, match="symbolic link"):
        await store.read("link")
    assert not await store.exists("link")
    await store.write("link", b"a file of our own")
    assert outside.secret.read_bytes() == b"secret"
    assert await store.read("link") == b"a file of our own"


async def test_deleting_a_folder_removes_its_links_and_not_what_they_point_to(
    store: LocalFileStore, outside: Outside
) -> None:
    await store.write("folder/file", b"")
    (store.root / "folder" / "to-folder").symlink_to(outside.folder)
    (store.root / "folder" / "to-file").symlink_to(outside.secret)
    assert await store.delete("folder") == 1
    assert names(store.root) == []
    assert outside.secret.read_bytes() == b"secret"


async def test_the_root_itself_may_be_a_symbolic_link(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "files").symlink_to(tmp_path / "disk")
    async with LocalFileStore(tmp_path / "files") as store:
        await store.write("a/b", b"content")
    assert (tmp_path / "disk" / "a" / "b").read_bytes() == b"content"


async def test_dots_do_not_lead_out(store: LocalFileStore, outside: Outside) -> None:
    with pytest.raises(PathRejected):
        await store.read("../outside/secret")
    with pytest.raises(FileNotFound):
        await store.read("%2e%2e/outside/secret")


# ---- what others leave in the folder


async def test_names_that_the_store_cannot_have_given_do_not_break_a_listing(store: LocalFileStore) -> None:
    await store.write("good", b"")
    root = os.fsencode(store.root)
    for name in (b"new\nline", b"back\\slash", b"not-utf8-\xff", "e\u0301".encode()):
        Path(os.fsdecode(root + b"/" + name)).write_bytes(b"")
    os.mkfifo(store.root / "fifo")
    assert await store.list() == ["good"]
    assert [file.path async for file in store.walk()] == ["good"]
    with pytest.raises(FileNotFound):
        await store.read("fifo")


async def test_a_leftover_of_a_crash_is_not_shown_and_goes_with_its_folder(store: LocalFileStore) -> None:
    await store.write("folder/file", b"content")
    leftover = store.root / "folder" / (".storage-tmp-" + "0" * 32)
    leftover.write_bytes(b"half")
    assert await store.list("folder") == ["folder/file"]
    assert [file.path async for file in store.walk()] == ["folder/file"]
    assert await store.delete("folder") == 1
    assert names(store.root) == []


async def test_the_first_write_into_a_folder_removes_what_killed_writers_left_there(tmp_path: Path) -> None:
    folder = tmp_path / "files" / "blobs"
    folder.mkdir(parents=True)
    old, young, locked = (folder / (".storage-tmp-" + digit * 32) for digit in "012")
    for path in (old, young, locked):
        path.write_bytes(b"half")
    other = folder / ".storage-tmp-notes"
    other.write_bytes(b"somebody else's")
    for path in (old, locked, other):
        os.utime(path, (0, time.time() - LEFTOVER_SECONDS - 60))
    with locked.open("rb") as writer:
        fcntl.flock(writer, fcntl.LOCK_EX)
        async with LocalFileStore(tmp_path / "files") as store:
            await store.write("elsewhere/file", b"")
            assert old.exists()
            await store.write("blobs/file", pieces(b"con", b"tent"))
    assert names(folder) == [*sorted(path.name for path in (young, locked, other)), "file"]


async def test_what_was_too_young_at_the_first_write_is_removed_by_a_later_one(
    store: LocalFileStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    await store.write("blobs/first", b"")
    leftover = store.root / "blobs" / (".storage-tmp-" + "0" * 32)
    leftover.write_bytes(b"half")
    os.utime(leftover, (0, time.time() - LEFTOVER_SECONDS - 60))
    await store.write("blobs/second", b"")
    assert leftover.exists()  # not looked at by every write
    later = time.monotonic() + LEFTOVER_SECONDS + 1
    monkeypatch.setattr(time, "monotonic", lambda: later)
    await store.write("blobs/third", b"")
    assert not leftover.exists()


async def test_a_write_that_fails_leaves_no_folders_behind(store: LocalFileStore) -> None:
    async def breaking() -> AsyncIterator[bytes]:
        yield b"half"
        raise RuntimeError("the source broke")

    await store.write("kept/file", b"")
    for path in ("new/deep/file", "kept/deep/file"):
        with pytest.raises(RuntimeError, match="the source broke"):
            await store.write(path, breaking())
        with pytest.raises(FileChanged):
            await store.write(path, b"", if_match="etag")
    assert names(store.root) == ["kept", "kept/file"]


async def test_a_folder_without_files_is_not_shown(store: LocalFileStore) -> None:
    (store.root / "a" / "b" / "c").mkdir(parents=True)  # as a writer leaves them that was killed just then
    (store.root / "a" / "b" / (".storage-tmp-" + "0" * 32)).write_bytes(b"half")
    assert await store.list() == []
    await store.write("a/b/d/file", b"")
    assert await store.list() == ["a/"]
    assert await store.list("a/b") == ["a/b/d/"]


async def test_a_write_that_the_store_was_closed_under_leaves_nothing(tmp_path: Path) -> None:
    store = LocalFileStore(tmp_path)

    async def closing() -> AsyncIterator[bytes]:
        yield b"half"
        await store.close()
        yield b"the rest"

    before = len(list(Path("/dev/fd").iterdir()))
    with pytest.raises(StorageClosed):
        await store.write("folder/file", closing())
    assert names(tmp_path) == []
    assert len(list(Path("/dev/fd").iterdir())) == before


def test_what_another_one_replaced_since_it_was_seen_is_left_to_that_one(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"where a folder was")
    (tmp_path / "folder").mkdir()  # where a file was
    parent = os.open(tmp_path, os.O_RDONLY)
    try:
        assert remove_folder(parent, "file") == 0
        assert unlink("folder", parent, stat.S_IFREG) == 0
    finally:
        os.close(parent)
    assert names(tmp_path) == ["file", "folder"]


async def test_a_leftover_that_cannot_be_removed_is_no_reason_to_refuse_a_write(store: LocalFileStore) -> None:
    store.root.mkdir()
    leftover = store.root / (".storage-tmp-" + "0" * 32)
    leftover.symlink_to("nowhere")
    os.utime(leftover, (0, 0), follow_symlinks=False)
    await store.write("file", b"content")
    assert await store.list() == ["file"]


async def test_deleting_a_folder_spares_what_is_being_written_into_it(store: LocalFileStore) -> None:
    await store.write("folder/old", b"")

    async def deleting_midway() -> AsyncIterator[bytes]:
        yield b"first "
        assert await store.delete("folder") == 1
        yield b"second"

    await store.write("folder/new", deleting_midway())
    assert await store.read("folder/new") == b"first second"
    assert names(store.root) == ["folder", "folder/new"]


# ---- file systems that do not tell upper and lower case apart


@pytest.fixture
def folding(monkeypatch: pytest.MonkeyPatch) -> None:
    """Names are looked up as such a file system does: by any spelling, if it is not there in the given one."""
    real_stat, real_open, real_rename = os.stat, os.open, os.rename

    def spelled(name: Any, folder: int | None) -> Any:
        if folder is None:
            return name
        there = os.listdir(folder)  # noqa: PTH208 - of a descriptor
        same = [each for each in there if each.casefold() == name.casefold()]
        return name if name in there or not same else same[0]

    def folding_stat(path: Any, *, dir_fd: int | None = None, follow_symlinks: bool = True) -> os.stat_result:
        return real_stat(spelled(path, dir_fd), dir_fd=dir_fd, follow_symlinks=follow_symlinks)

    def folding_open(path: Any, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        return real_open(spelled(path, dir_fd), flags, mode, dir_fd=dir_fd)

    def folding_rename(source: Any, target: Any, *, src_dir_fd: int, dst_dir_fd: int) -> None:
        here = spelled(source, src_dir_fd)
        there = target if spelled(target, dst_dir_fd) == here else spelled(target, dst_dir_fd)
        real_rename(here, there, src_dir_fd=src_dir_fd, dst_dir_fd=dst_dir_fd)

    monkeypatch.setattr(os, "supports_dir_fd", os.supports_dir_fd | {folding_open})
    monkeypatch.setattr(os, "stat", folding_stat)
    monkeypatch.setattr(os, "open", folding_open)
    monkeypatch.setattr(os, "rename", folding_rename)


@pytest.mark.usefixtures("folding")
async def test_a_file_is_not_replaced_by_one_that_differs_in_case_only(store: LocalFileStore) -> None:
    await store.write("src/readme", b"lower")
    for content in (b"upper", pieces(b"up", b"per")):
        for path in ("src/README", "SRC/readme", "Src/other"):
            with pytest.raises(Conflict, match="does not tell"):
                await store.write(path, content)
    await store.write("other", b"")
    with pytest.raises(Conflict, match="does not tell"):
        await store.move("other", "src/README")
    with pytest.raises(Conflict, match="does not tell"):
        await store.copy("other", "src/README")
    assert await store.read("src/readme") == b"lower"
    assert names(store.root) == ["other", "src", "src/readme"]


@pytest.mark.usefixtures("folding")
async def test_a_file_can_be_replaced_and_respelled_where_cases_are_not_told_apart(store: LocalFileStore) -> None:
    await store.write("src/readme", b"first")
    await store.write("src/readme", b"second", if_match=(await store.stat("src/readme")).etag)
    await store.write("src/123", b"no case")
    await store.write("src/123", b"at all")
    await store.move("src/readme", "src/README")
    assert names(store.root / "src") == ["123", "README"]
    assert await store.read("src/README") == b"second"


def test_another_spelling_is_found_by_what_the_name_leads_to() -> None:
    decomposed = unicodedata.normalize("NFD", "r\u00e9sum\u00e9")
    assert other_spelling("readme", 7, [("a", 1), ("README", 7)]) == "README"
    assert other_spelling("stra\u00dfe", 7, [("STRASSE", 7)]) == "STRASSE"
    assert other_spelling("readme", 7, [("a", 1), ("readme", 7)]) is None
    assert other_spelling("readme", 7, [("README", 7), ("readme", 7)]) is None  # two names of one file
    assert other_spelling("r\u00e9sum\u00e9", 7, [(decomposed, 7)]) is None
    assert other_spelling("readme", 7, []) is None


# ---- errors and crashes


async def test_a_full_disk_is_a_typed_error_and_leaves_the_old_content(tmp_path: Path) -> None:
    limited = await run_python(
        """
        import asyncio, resource, sys
        from storage.errors import FileStoreFull
        from storage.files.backends.local import LocalFileStore

        async def main():
            async with LocalFileStore(sys.argv[1]) as store:
                await store.write("folder/file", b"old")
                resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
                for path in ("folder/file", "folder/new"):
                    try:
                        await store.write(path, bytes(200_000))
                    except FileStoreFull as error:
                        print(type(error.__cause__).__name__, path in str(error))
                await store.write("folder/small", b"fits")
                print(await store.read("folder/file"), await store.list("folder"))

        asyncio.run(main())
        """,
        tmp_path / "files",
    )
    output, errors = await limited.communicate()
    assert errors.decode() == ""
    assert output.decode().splitlines() == [
        "OSError True",
        "OSError True",
        "b'old' ['folder/file', 'folder/small']",
    ]
    assert names(tmp_path / "files") == ["folder", "folder/file", "folder/small"]


@pytest.mark.skipif(os.geteuid() == 0, reason="the super-user is refused nothing")
async def test_a_refused_access_is_a_typed_error_and_not_a_missing_file(store: LocalFileStore) -> None:
    await store.write("folder/file", b"old")
    folder = store.root / "folder"
    folder.chmod(0o500)
    with pytest.raises(FileAccessDenied, match="folder/file"):
        await store.write("folder/file", b"new")
    folder.chmod(0o000)
    with pytest.raises(FileAccessDenied, match="folder/file"):
        await store.read("folder/file")
    with pytest.raises(FileAccessDenied):
        await store.exists("folder/file")
    folder.chmod(0o700)
    assert await store.read("folder/file") == b"old"


async def test_a_refused_access_is_a_typed_error_also_when_the_tests_run_as_root(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("the test before this one covers it")
    store = LocalFileStore(tmp_path / "files")
    await store.write("file", b"old")
    unprivileged = await run_python(
        """
        import asyncio, os, sys
        from storage.errors import FileAccessDenied
        from storage.files.backends.local import LocalFileStore

        async def main():
            root = os.open(sys.argv[1], os.O_RDONLY)
            os.setuid(65534)
            async with LocalFileStore(f"/proc/self/fd/{root}") as store:
                for reading in (store.read("file"), store.write("file", b"new"), store.exists("file")):
                    try:
                        print(await reading)
                    except FileAccessDenied as error:
                        print(type(error.__cause__).__name__)

        asyncio.run(main())
        """,
        store.root,
    )
    output, errors = await unprivileged.communicate()
    assert errors.decode() == ""
    assert output.decode().split() == ["PermissionError"] * 3
    assert await store.read("file") == b"old"
    await store.close()


async def test_killing_a_writer_leaves_the_old_or_the_new_content(tmp_path: Path) -> None:
    root = tmp_path / "files"
    for _ in range(3):
        writer = await run_python(
            """
            import asyncio, sys
            from storage.files.backends.local import LocalFileStore

            async def main():
                store = LocalFileStore(sys.argv[1])
                async def keep_writing(path):
                    while True:
                        for number in range(256):
                            await store.write(path, bytes([number]) * 300_000)
                            print(path, number, flush=True)
                await asyncio.gather(*(keep_writing(f"folder/{name}") for name in "abcd"))

            asyncio.run(main())
            """,
            root,
        )
        assert writer.stdout is not None
        acknowledged: dict[str, int] = {}
        for _ in range(25):
            path, number = (await writer.stdout.readline()).decode().split()
            acknowledged[path] = int(number)
        writer.kill()
        rest, _ = await writer.communicate()
        for line in rest.decode().splitlines(keepends=True):
            if line.endswith("\n"):
                path, number = line.split()
                acknowledged[path] = int(number)
        async with LocalFileStore(root) as store:
            assert await store.list("folder") == [f"folder/{name}" for name in "abcd"]
            for path, last in acknowledged.items():
                content = await store.read(path)
                assert len(content) == 300_000
                assert len(set(content)) == 1
                # The write after the last acknowledged one may have ended, too.
                assert content[0] in (last, (last + 1) % 256)
    async with LocalFileStore(root) as store:
        await store.delete("folder")
    assert names(root) == []


async def test_two_writers_and_four_readers_never_see_a_mix(store: LocalFileStore) -> None:
    contents = [bytes([number]) * 100_000 for number in range(2)]
    await store.write("file", contents[0])
    done = asyncio.Event()

    async def keep_writing(content: bytes) -> None:
        for _ in range(25):
            await store.write("file", content)

    async def keep_reading() -> int:
        seen = 0
        while not done.is_set():
            assert await store.read("file") in contents
            seen += 1
        return seen

    readers = [asyncio.create_task(keep_reading()) for _ in range(4)]
    await asyncio.gather(*(keep_writing(content) for content in contents))
    done.set()
    assert all(await asyncio.gather(*readers))


async def test_a_cancelled_write_leaves_no_temporary_file(store: LocalFileStore) -> None:
    await store.write("file", b"old")
    waiting = asyncio.Event()

    async def endless() -> AsyncIterator[bytes]:
        yield b"first"
        waiting.set()
        await asyncio.Event().wait()

    task = asyncio.create_task(store.write("file", endless()))
    await waiting.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert names(store.root) == ["file"]
    assert await store.read("file") == b"old"


async def test_no_descriptor_is_left_open(store: LocalFileStore) -> None:
    async def use_everything() -> None:
        await store.write("a/b/file", b"content")
        await store.write("a/b/streamed", pieces(b"content"))
        await store.read("a/b/file")
        await anext(stream := store.stream("a/b/file", chunk_size=1))
        await stream.aclose()
        await store.copy("a/b/file", "a/copy")
        await store.move("a/copy", "a/moved")
        await store.list("a")
        assert [file.path async for file in store.walk()] == ["a/b/file", "a/b/streamed", "a/moved"]
        for failing in (store.read("a"), store.read("missing"), store.write("a/b", b""), store.move("a/b", "c")):
            with pytest.raises(Exception, match=r"a|missing"):
                await failing
        await store.delete("a")

    await use_everything()
    before = len(list(Path("/dev/fd").iterdir()))
    for _ in range(3):
        await use_everything()
    assert len(list(Path("/dev/fd").iterdir())) == before


async def test_a_file_of_a_hundred_megabytes_streams_in_bounded_memory(tmp_path: Path) -> None:
    measured = await run_python(
        """
        import asyncio, resource, sys
        from storage.files.backends.local import LocalFileStore

        async def hundred_megabytes():
            for number in range(400):
                yield bytes([number % 256]) * 262_144

        async def main():
            async with LocalFileStore(sys.argv[1]) as store:
                await store.write("warm", b"")
                before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
                await store.write("large", hundred_megabytes())
                size = 0
                async for chunk in store.stream("large"):
                    size += len(chunk)
                grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
                print(size, grown * (1 if sys.platform == "darwin" else 1024) < 32 * 1024 * 1024)

        asyncio.run(main())
        """,
        tmp_path,
    )
    output, errors = await measured.communicate()
    assert errors.decode() == ""
    assert output.decode().split() == ["104857600", "True"]


# ---- configuration and life


async def test_a_closed_store_says_so(tmp_path: Path) -> None:
    store = LocalFileStore(tmp_path)
    await store.write("file", b"")
    await store.close()
    with pytest.raises(StorageClosed, match="closed"):
        await store.read("file")


async def test_a_configured_store_uses_the_configured_folder(tmp_path: Path) -> None:
    @dataclass
    class Configuration:
        file_store_path: Path | str | None

    async with await LocalFileStore.get_instance(Configuration(tmp_path / "here")) as store:
        await store.write("file", b"content")
    assert (tmp_path / "here" / "file").read_bytes() == b"content"
    with pytest.raises(ConfigurationError, match="file_store_path"):
        await LocalFileStore.get_instance(Configuration(None))


def test_a_tilde_is_the_home_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert LocalFileStore("~/files").root == tmp_path / "files"


# ---- conditions, between processes


async def test_of_several_processes_one_creates_each_file_and_no_increment_is_lost(tmp_path: Path) -> None:
    program = """
        import asyncio, sys
        from storage.errors import FileChanged, FileExists
        from storage.files.backends.local import LocalFileStore

        async def main():
            created = 0
            async with LocalFileStore(sys.argv[1]) as store:
                for number in range(40):
                    try:
                        await store.write(f"folder/{number}", b"", if_absent=True)
                        created += 1
                    except FileExists:
                        pass
                for _ in range(40):
                    while True:
                        # The etag first: what is read after it is at least as new.
                        etag = (await store.stat("counter")).etag
                        count = int(await store.read("counter"))
                        try:
                            await store.write("counter", str(count + 1), if_match=etag)
                            break
                        except FileChanged:
                            pass
            print(created)

        asyncio.run(main())
    """
    async with LocalFileStore(tmp_path / "files") as store:
        await store.write("counter", "0")
        processes = [await run_python(program, tmp_path / "files") for _ in range(4)]
        outputs = [await process.communicate() for process in processes]
        assert [process.returncode for process in processes] == [0] * 4, outputs
        assert sum(int(out) for out, _ in outputs) == 40
        assert await store.read("counter") == b"160"
        assert len(await store.list("folder")) == 40
