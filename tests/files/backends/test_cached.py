"""CachedFileStore: the contract, and that it saves requests without ever giving out what is not there any more."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import random
import shutil
import stat
import subprocess
import sys
import textwrap
import time
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from storage.errors import FileNotFound, FileStoreUnavailable, InvalidInput, StorageClosed
from storage.files.backends.cached import LARGEST_BYTES, LARGEST_SHARE, CachedFileStore, uncached
from storage.files.backends.folder_cache import CHECKSUM_BYTES, LAYOUT, LEFTOVER_SECONDS, FolderCache
from storage.files.backends.local import LocalFileStore
from storage.files.backends.memory import MemoryFileStore
from storage.files.store import FileStat
from storage.testing.files import FileStoreContract

REPOSITORY = Path(__file__).parents[3]
LIMIT = 1024 * 1024


class CountingStore(MemoryFileStore):
    """A store in memory that counts what it is asked for, and can be made to wait and to fail."""

    def __init__(self) -> None:
        super().__init__()
        self.requests: Counter[str] = Counter()
        self.gate = asyncio.Event()
        self.gate.set()
        self.outage = False

    async def _read(self, path: str) -> bytes:
        self.requests["read"] += 1
        content = await super()._read(path)
        await self.gate.wait()
        if self.outage:
            raise FileStoreUnavailable("out of order")
        return content

    async def _stat(self, path: str) -> FileStat | None:
        self.requests["stat"] += 1
        return await super()._stat(path)

    def _stream(self, path: str, start: int, end: int | None, chunk_size: int) -> AsyncGenerator[bytes, None]:
        self.requests["stream"] += 1
        return super()._stream(path, start, end, chunk_size)


Made = Callable[..., CachedFileStore]


@pytest.fixture(params=["memory", "folder"])
def cached(request: pytest.FixtureRequest, tmp_path: Path) -> Made:
    """Makes a cache of both kinds over a store."""

    def make(store: MemoryFileStore, limit_bytes: int = LIMIT, *, immutable: bool = False) -> CachedFileStore:
        folder = tmp_path / "cache" if request.param == "folder" else None
        return CachedFileStore(store, limit_bytes, folder, immutable=immutable)

    return make


def kept_files(folder: Path) -> list[Path]:
    return sorted(path for path in (folder / LAYOUT).rglob("*") if path.is_file())


class TestACacheInMemory(FileStoreContract):
    streams_in_bounded_memory = False

    @pytest.fixture
    async def store(self) -> AsyncIterator[CachedFileStore]:
        async with CachedFileStore(MemoryFileStore(), LIMIT) as store:
            yield store


class TestACacheInAFolder(FileStoreContract):
    streams_in_bounded_memory = False

    @pytest.fixture
    async def store(self, tmp_path: Path) -> AsyncIterator[CachedFileStore]:
        async with CachedFileStore(MemoryFileStore(), LIMIT, tmp_path / "cache") as store:
            yield store


# ---- requests


async def test_an_immutable_file_is_asked_for_once(cached: Made) -> None:
    inner = CountingStore()
    async with cached(inner, immutable=True) as store:
        await store.write("a", b"content")
        for _ in range(3):
            assert await store.read("a") == b"content"
        assert [piece async for piece in store.stream("a", 2, 5, chunk_size=2)] == [b"nt", b"e"]
        assert inner.requests == {"read": 1}
        assert (store.statistics.hits, store.statistics.misses, store.statistics.bypassed) == (3, 1, 0)
        assert store.statistics.hit_rate == 0.75


async def test_any_other_file_is_validated_by_one_stat_and_fetched_again_when_it_changed(cached: Made) -> None:
    inner = CountingStore()
    async with cached(inner) as store:
        await inner.write("a", b"old")
        for _ in range(3):
            assert await store.read("a") == b"old"
        assert inner.requests == {"read": 1, "stat": 3}
        await inner.write("a", b"new")  # by somebody else
        assert await store.read("a") == b"new"
        assert b"".join([piece async for piece in store.stream("a")]) == b"new"
        assert inner.requests == {"read": 2, "stat": 5}
        await inner.delete("a")
        with pytest.raises(FileNotFound):
            await store.read("a")
        with pytest.raises(FileNotFound):
            _ = [piece async for piece in store.stream("a")]


async def test_what_is_written_through_an_immutable_cache_is_not_served_from_before(cached: Made) -> None:
    async with cached(CountingStore(), immutable=True) as store:
        await store.write("a", b"1")
        await store.write("b", b"2")
        assert await store.read("a") + await store.read("b") == b"12"
        await store.write("a", b"3")
        assert await store.read("a") == b"3"
        await store.copy("b", "a")
        assert await store.read("a") == b"2"
        await store.write("b", b"4")
        assert await store.read("b") == b"4"
        await store.move("b", "a")
        assert await store.read("a") == b"4"
        for path in ("a", "b"):
            await store.delete(path)
            with pytest.raises(FileNotFound):
                await store.read(path)


async def test_a_write_during_a_fetch_keeps_the_old_content_out(cached: Made) -> None:
    inner = CountingStore()
    async with cached(inner, immutable=True) as store:
        await store.write("a", b"old")
        inner.gate.clear()
        reading = asyncio.create_task(store.read("a"))
        while not inner.requests["read"]:
            await asyncio.sleep(0)
        await store.write("a", b"new")
        inner.gate.set()
        assert await reading == b"old"  # it began before
        assert await store.read("a") == b"new"


async def test_a_deleted_blob_that_is_still_kept_can_be_read_and_harms_nobody(cached: Made) -> None:
    inner = CountingStore()
    async with cached(inner, immutable=True) as store:
        await store.write("a", b"content")
        await store.read("a")
        await inner.delete("a")  # by the collector of another process
        assert await store.read("a") == b"content"
        assert not await store.exists("a")
        assert await store.list() == []


async def test_a_file_that_was_mended_behind_the_cache_is_read_anew_once_it_is_forgotten(cached: Made) -> None:
    inner = CountingStore()
    async with cached(inner, immutable=True) as store:
        await inner.write("a", b"damaged")
        assert await store.read("a") == b"damaged"
        await inner.write("a", b"mended")
        assert await store.read("a") == b"damaged"
        await store.forget("a")
        assert await store.read("a") == b"mended"


async def test_who_has_to_see_what_is_really_there_takes_the_store_behind() -> None:
    inner = MemoryFileStore()
    assert uncached(CachedFileStore(inner, LIMIT)) is inner
    assert uncached(inner) is inner


class WholeSecondsStore(CountingStore):
    """Tells etags of the bytes and times in whole seconds, as S3 does, of a clock that the test sets."""

    time = datetime(2026, 1, 1, tzinfo=UTC)

    async def _stat(self, path: str) -> FileStat | None:
        found = await super()._stat(path)
        return found and replace(found, etag=str(self._files[path].data), updated_at=self.time)


async def test_a_change_and_its_reversal_within_a_second_do_not_leave_the_content_between_them(
    cached: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    inner = WholeSecondsStore()
    clock = inner.time
    monkeypatch.setattr("storage.files.backends.cached.now", lambda: clock)
    async with cached(inner) as store:
        await inner.write("a", b"one")

        async def read_between(path: str) -> bytes:
            await inner.write(path, b"two")
            content = await MemoryFileStore._read(inner, path)
            await inner.write(path, b"one")
            return content

        with monkeypatch.context() as patch:
            patch.setattr(inner, "_read", read_between)
            assert await store.read("a") == b"two"
        assert await store.read("a") == b"one"
        clock += timedelta(seconds=3)
        assert [await store.read("a") for _ in range(2)] == [b"one"] * 2
        assert inner.requests["read"] == 2


# ---- one fetch for all


@pytest.mark.parametrize("immutable", [False, True])
async def test_concurrent_readers_of_a_missing_key_make_one_fetch(cached: Made, immutable: bool) -> None:
    inner = CountingStore()
    async with cached(inner, immutable=immutable) as store:
        await inner.write("a", b"content")
        assert await asyncio.gather(*[store.read("a") for _ in range(20)]) == [b"content"] * 20
        assert inner.requests["read"] == 1
        assert (store.statistics.misses, store.statistics.hits) == (1, 19)


async def test_a_cancelled_reader_does_not_cancel_the_others_and_the_last_one_ends_the_fetch(cached: Made) -> None:
    inner = CountingStore()
    async with cached(inner, immutable=True) as store:
        await inner.write("a", b"content")
        inner.gate.clear()
        first, second, third = (asyncio.create_task(store.read("a")) for _ in range(3))
        while not inner.requests["read"]:
            await asyncio.sleep(0)
        first.cancel()
        second.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        inner.gate.set()
        assert await third == b"content"
        assert inner.requests["read"] == 1

        inner.gate.clear()
        await inner.write("b", b"other")
        only = asyncio.create_task(store.read("b"))
        while inner.requests["read"] < 2:
            await asyncio.sleep(0)
        only.cancel()
        with pytest.raises(asyncio.CancelledError):
            await only
        assert store._flights == {}
        inner.gate.set()
        assert await store.read("b") == b"other"
        assert inner.requests["read"] == 3


async def test_an_outage_reaches_every_reader_and_is_not_remembered(cached: Made) -> None:
    inner = CountingStore()
    async with cached(inner, immutable=True) as store:
        await inner.write("a", b"content")
        inner.outage = True
        outcomes = await asyncio.gather(*[store.read("a") for _ in range(3)], return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [FileStoreUnavailable] * 3
        inner.outage = False
        assert await store.read("a") == b"content"


async def test_an_error_that_nobody_waits_for_any_more_is_no_noise(
    cached: Made, caplog: pytest.LogCaptureFixture
) -> None:
    inner = CountingStore()
    async with cached(inner, immutable=True) as store:
        inner.outage = True
        await inner.write("a", b"")
        reading = asyncio.create_task(store.read("a"))
        await asyncio.sleep(0)
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
        await asyncio.sleep(0.01)
        gc.collect()
        assert caplog.records == []


async def test_closing_ends_what_is_being_fetched(cached: Made) -> None:
    inner = CountingStore()
    store = cached(inner, immutable=True)
    await inner.write("a", b"content")
    inner.gate.clear()
    reading = asyncio.create_task(store.read("a"))
    while not inner.requests["read"]:
        await asyncio.sleep(0)
    await store.close()
    with pytest.raises(StorageClosed):
        await reading
    await store.close()


# ---- bounds


@pytest.mark.parametrize("immutable", [False, True])
async def test_a_large_file_passes_by(cached: Made, immutable: bool) -> None:
    inner = CountingStore()
    async with cached(inner, immutable=immutable) as store:
        largest = LIMIT // LARGEST_SHARE
        await store.write("kept", bytes(largest))
        await store.write("large", bytes(largest + 1))
        for _ in range(2):
            assert len(await store.read("kept")) == largest
            assert b"".join([piece async for piece in store.stream("large", 5, 8)]) == bytes(3)
        assert inner.requests["stream"] == 2
        assert inner.requests["read"] == 3  # of which two are those of the streams, as this store does them
        assert store.statistics.held_files == 1
        before = inner.requests["stat"]
        assert len(await store.read("large")) == largest + 1
        assert inner.requests["stat"] - before == (0 if immutable else 1)
        assert store.statistics.bypassed == 3


async def test_no_file_is_kept_that_is_too_long_to_pass_through_memory_for_a_range_of_it() -> None:
    assert CachedFileStore(MemoryFileStore(), 2**40)._largest == LARGEST_BYTES


@pytest.mark.parametrize("limit", [1, 100, 5_000, 20_000])
async def test_the_limit_holds_at_every_moment_and_the_least_recently_used_go_first(cached: Made, limit: int) -> None:
    chance = random.Random(7)
    async with cached(MemoryFileStore(), limit, immutable=True) as store:
        for number in range(60):
            await store.write(f"{number}", bytes([number]) * chance.randint(0, 600))
        for _ in range(3):
            for number in range(60):
                assert set(await store.read(f"{number}")) <= {number}
                await store.read("3")
                held = await store.measure()
                assert held.held_bytes <= limit
        if limit >= 5_000:
            assert store.statistics.held_files > 3
            before = store.statistics.misses
            await store.read("3")
            assert store.statistics.misses == before


def test_a_limit_of_nothing_is_refused() -> None:
    with pytest.raises(InvalidInput, match="limit_bytes"):
        CachedFileStore(MemoryFileStore(), 0)


# ---- the folder


async def test_the_folder_survives_a_restart_and_is_private_and_tells_no_path(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "cache"
    inner = CountingStore()
    async with CachedFileStore(inner, LIMIT, folder, immutable=True) as store:
        await store.write("users/alice", b"content")
        await store.read("users/alice")
    async with CachedFileStore(inner, LIMIT, folder, immutable=True) as store:
        assert await store.read("users/alice") == b"content"
        assert inner.requests["read"] == 1
        assert (await store.measure()).held_files == 1
        assert store.statistics.held_bytes == len(b"content") + CHECKSUM_BYTES
    for path in (folder, *folder.rglob("*")):
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600)
        assert "alice" not in path.name


@pytest.mark.parametrize(
    "damage",
    [
        lambda _: b"",
        lambda content: content[:-1],
        lambda content: content[1:],
        lambda content: bytes([content[0] ^ 1]) + content[1:],
        lambda content: content[:-1] + bytes([content[-1] ^ 1]),
        lambda content: bytes(len(content)),
        lambda content: content + b"more",
    ],
    ids=["emptied", "cut", "beginning lost", "a bit", "a bit of the checksum", "zeros after a crash", "longer"],
)
async def test_a_damaged_file_of_the_folder_is_fetched_again(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    inner = CountingStore()
    async with CachedFileStore(inner, LIMIT, tmp_path, immutable=True) as store:
        await store.write("a", b"content")
        await store.read("a")
        [file] = kept_files(tmp_path)
        file.write_bytes(damage(file.read_bytes()))
        assert await store.read("a") == b"content"
        assert await store.read("a") == b"content"
        assert inner.requests["read"] == 2


async def test_a_file_of_the_folder_that_was_made_enormous_is_not_read(tmp_path: Path) -> None:
    inner = CountingStore()
    async with CachedFileStore(inner, LIMIT, tmp_path, immutable=True) as store:
        await store.write("a", b"content")
        await store.read("a")
        [file] = kept_files(tmp_path)
        os.truncate(file, 2**42)  # a hole: more than there is memory
        assert await store.read("a") == b"content"
        assert kept_files(tmp_path)[0].stat().st_size < 100


async def test_a_file_of_the_folder_is_not_taken_for_another_one(tmp_path: Path) -> None:
    inner = CountingStore()
    async with CachedFileStore(inner, LIMIT, tmp_path, immutable=True) as store:
        for path in ("a", "b"):
            await store.write(path, path.encode())
            await store.read(path)
        first, second = kept_files(tmp_path)
        first.rename(second)
        assert (await store.read("a"), await store.read("b")) == (b"a", b"b")


async def test_two_stores_may_share_a_folder(tmp_path: Path) -> None:
    async with LocalFileStore(tmp_path / "one") as one, LocalFileStore(tmp_path / "two") as two:
        caches = [CachedFileStore(store, LIMIT, tmp_path / "cache", immutable=True) for store in (one, two)]
        for number, store in enumerate(caches):
            await store.write("a", f"{number}")
            await store.read("a")
        assert [await store.read("a") for store in caches] == [b"0", b"1"]
        assert len(kept_files(tmp_path / "cache")) == 2


async def test_leftovers_of_killed_writers_go_and_those_of_living_ones_stay(tmp_path: Path) -> None:
    inner = CountingStore()
    old, young = (tmp_path / LAYOUT / "00" / (".storage-tmp-" + digit * 32) for digit in "01")
    old.parent.mkdir(parents=True)
    for path in (tmp_path / LAYOUT, old.parent):
        path.chmod(0o700)
    old.write_bytes(b"half")
    young.write_bytes(b"half")
    os.utime(old, times=(0, time.time() - LEFTOVER_SECONDS - 60))
    async with CachedFileStore(inner, LIMIT, tmp_path, immutable=True) as store:
        await store.write("a", b"content")
        await store.read("a")
        assert not old.exists()
        assert young.exists()
        assert store.statistics.held_files == 1


async def degraded(store: CachedFileStore, caplog: pytest.LogCaptureFixture) -> str:
    """Read and write through a cache that cannot work; returns the one warning."""
    for _ in range(3):
        await store.write("a", b"content")
        assert await store.read("a") == b"content"
        assert b"".join([piece async for piece in store.stream("a", 1, 3)]) == b"on"
        await store.delete("a")
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "file_cache_path" in caplog.text
    return caplog.text


@pytest.mark.parametrize("immutable", [False, True])
async def test_a_file_in_the_folders_place_means_no_caching_and_one_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, immutable: bool
) -> None:
    (tmp_path / "file").write_bytes(b"")
    async with CachedFileStore(MemoryFileStore(), LIMIT, tmp_path / "file", immutable=immutable) as store:
        assert str(tmp_path / "file") in await degraded(store, caplog)


async def test_a_folder_that_others_may_write_to_is_not_trusted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / LAYOUT).mkdir()
    (tmp_path / LAYOUT).chmod(0o777)
    async with CachedFileStore(MemoryFileStore(), LIMIT, tmp_path, immutable=True) as store:
        assert "0700" in await degraded(store, caplog)
    assert kept_files(tmp_path) == []


async def test_a_link_in_the_folders_place_is_not_followed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / LAYOUT).symlink_to(tmp_path / "elsewhere")
    async with CachedFileStore(MemoryFileStore(), LIMIT, tmp_path / "cache", immutable=True) as store:
        await degraded(store, caplog)
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_a_full_disk_means_no_caching_and_one_warning(tmp_path: Path) -> None:
    """In a process of its own: RLIMIT_FSIZE is a disk without room, which the kernel enforces."""
    program = """
        import asyncio, logging, resource, signal, sys
        from pathlib import Path
        from storage.files.backends.cached import CachedFileStore
        from storage.files.backends.memory import MemoryFileStore

        async def main():
            logging.basicConfig(format="%(levelname)s", level=logging.WARNING, stream=sys.stdout)
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
            async with CachedFileStore(MemoryFileStore(), 1 << 20, Path(sys.argv[1]), immutable=True) as store:
                for path, size in (("small", 10), ("first", 1000), ("second", 1000)):
                    await store.write(path, bytes(size))
                    for _ in range(2):
                        assert await store.read(path) == bytes(size)
                print(store.statistics.held_files, store.statistics.held_bytes)
        asyncio.run(main())
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program), str(tmp_path)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == ["WARNING", "1", "42"]
    assert [path.stat().st_size for path in kept_files(tmp_path)] == [42]


async def test_a_folder_that_is_emptied_by_hand_is_filled_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    inner = CountingStore()
    async with CachedFileStore(inner, 5_000, tmp_path, immutable=True) as store:
        for number in range(40):
            await store.write(f"{number}", bytes(500))
            await store.read(f"{number}")
            if number == 20:
                shutil.rmtree(tmp_path / LAYOUT)
        assert 4 < (await store.measure()).held_files <= 10
    assert caplog.records == []


def test_several_processes_on_one_folder_read_what_is_true_and_keep_to_the_limit(tmp_path: Path) -> None:
    program = """
        import asyncio, random, sys
        from pathlib import Path
        from storage.files.backends.cached import CachedFileStore
        from storage.files.backends.local import LocalFileStore

        async def main(folder, seed):
            chance = random.Random(seed)
            async with CachedFileStore(LocalFileStore(folder / "files"), 200_000, folder / "cache") as store:
                for _ in range(400):
                    path = f"{chance.randrange(80)}"
                    if chance.random() < 0.02:
                        await store.write(path, bytes([chance.randrange(256)]) * 5_000)
                    content = await store.read(path)
                    assert len(content) == 5_000 and len(set(content)) == 1, path
                print(store.statistics.hits)

        asyncio.run(main(Path(sys.argv[1]), int(sys.argv[2])))
    """
    for number in range(80):
        path = tmp_path / "files" / f"{number}"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(bytes([number]) * 5_000)
    running = [
        subprocess.Popen(
            [sys.executable, "-W", "error", "-c", textwrap.dedent(program), str(tmp_path), str(seed)],
            cwd=REPOSITORY,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for seed in range(3)
    ]
    outcomes = [(*process.communicate(), process.returncode) for process in running]
    assert [(errors, code) for _, errors, code in outcomes] == [("", 0)] * 3
    assert all(int(hits) > 0 for hits, _, _ in outcomes)
    assert 100_000 < sum(path.stat().st_size for path in kept_files(tmp_path / "cache")) <= 200_000
    assert not any(path.name.startswith(".") for path in kept_files(tmp_path / "cache"))


async def test_two_caches_of_one_process_may_share_a_folder_and_its_files_are_used_by_age(tmp_path: Path) -> None:
    first, second = (FolderCache(tmp_path, 10_000, "store") for _ in range(2))
    for number in range(10):
        (first if number % 2 else second).put(f"{number}", "", bytes(900))
    assert second.get("0", "") is not None  # used last now
    first.put("10", "", bytes(900))
    first.put("11", "", bytes(900))
    kept = [number for number in range(12) if second.get(f"{number}", "") is not None]
    assert 0 in kept
    assert 1 not in kept
    assert 11 in kept


# ---- against a dict

PATHS = ["a", "b", "a/b", "c/d/e"]


class CacheMachine(RuleBasedStateMachine):
    """Any sequence of calls, by two users of the same store with a cache each, against a dict."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.model: dict[str, bytes] = {}
        self.inner = MemoryFileStore()
        self.stores = self.make()

    def make(self) -> list[CachedFileStore | MemoryFileStore]:
        return [CachedFileStore(self.inner, 2_000) for _ in range(2)] + [self.inner]

    def teardown(self) -> None:
        for store in self.stores:
            self.loop.run_until_complete(store.close())
        self.loop.close()

    @rule(who=st.integers(0, 2), path=st.sampled_from(PATHS), content=st.binary(max_size=300))
    def write(self, who: int, path: str, content: bytes) -> None:
        self.loop.run_until_complete(self.stores[who].write(path, content))
        self.model[path] = content

    @rule(who=st.integers(0, 2), path=st.sampled_from(PATHS))
    def read(self, who: int, path: str) -> None:
        try:
            found: bytes | None = self.loop.run_until_complete(self.stores[who].read(path))
        except FileNotFound:
            found = None
        assert found == self.model.get(path)

    @rule(
        who=st.integers(0, 2),
        path=st.sampled_from(PATHS),
        start=st.integers(0, 320),
        length=st.none() | st.integers(0, 320),
    )
    def stream(self, who: int, path: str, start: int, length: int | None) -> None:
        end = None if length is None else start + length

        async def collect() -> bytes | None:
            try:
                return b"".join([piece async for piece in self.stores[who].stream(path, start, end, chunk_size=100)])
            except FileNotFound:
                return None

        whole = self.model.get(path)
        assert self.loop.run_until_complete(collect()) == (None if whole is None else whole[start:end])

    @rule(who=st.integers(0, 2), path=st.sampled_from([*PATHS, "c"]))
    def delete(self, who: int, path: str) -> None:
        gone = [each for each in self.model if each == path or each.startswith(f"{path}/")]
        assert self.loop.run_until_complete(self.stores[who].delete(path)) == len(gone)
        for each in gone:
            del self.model[each]

    @rule(who=st.integers(0, 2), source=st.sampled_from(PATHS), to=st.sampled_from(PATHS), moving=st.booleans())
    def carry(self, who: int, source: str, to: str, moving: bool) -> None:
        store = self.stores[who]
        carried = store.move(source, to) if moving else store.copy(source, to)
        if source not in self.model:
            with pytest.raises(FileNotFound):
                self.loop.run_until_complete(carried)
            return
        self.loop.run_until_complete(carried)
        self.model[to] = self.model[source]
        if moving and source != to:
            del self.model[source]

    @invariant()
    def the_limit_holds(self) -> None:
        for store in self.stores:
            if isinstance(store, CachedFileStore):
                assert store.statistics.held_bytes <= 2_000


TestAgainstADict = CacheMachine.TestCase
TestAgainstADict.settings = settings(
    max_examples=40, stateful_step_count=30, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)


class FolderCacheMachine(CacheMachine):
    """The same, with one folder for both."""

    def make(self) -> list[CachedFileStore | MemoryFileStore]:
        import tempfile

        self.folder = tempfile.TemporaryDirectory()
        return [CachedFileStore(self.inner, 2_000, Path(self.folder.name)) for _ in range(2)] + [self.inner]

    def teardown(self) -> None:
        super().teardown()
        self.folder.cleanup()


TestAgainstADictInAFolder = FolderCacheMachine.TestCase
TestAgainstADictInAFolder.settings = settings(
    max_examples=15, stateful_step_count=25, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
