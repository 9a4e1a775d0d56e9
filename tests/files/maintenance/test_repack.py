"""Repacking puts contents where the limit says, under writers and interruptions, and no file is ever without one."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import aclosing
from typing import Any, TypeAlias

import pytest

from storage.database.database import Database
from storage.database.unit import Unit
from storage.encryption.keyring import KeyRing
from storage.encryption.rotation.verbs import KeyRotation
from storage.errors import FileChanged, FileStoreUnavailable
from storage.files.backends.memory import MemoryFileStore
from storage.files.blobs import BLOB_CONCURRENCY, ContentRules, Contents
from storage.files.catalog import FileCatalog
from storage.files.maintenance import repack as repack_module
from storage.files.maintenance import verification
from storage.files.maintenance.repack import Repacked, repack
from storage.files.store import FileStat
from storage.files.table import CONTENT_KEY
from tests.databases import Query

LIMIT = 100
SMALL = b"tell-tale small".ljust(LIMIT, b".")
LARGE = SMALL + b"!"
CONTENTS = {"small": SMALL, "large": LARGE, "empty": b"", "folder/tiny": b"1"}
FITTING = {"small", "empty", "folder/tiny"}

Hook: TypeAlias = Callable[[], Awaitable[Any]]
Run: TypeAlias = Callable[..., Coroutine[Any, Any, Repacked]]


class Backend(MemoryFileStore):
    """Lets a test step in at a read, or behind a write; each hook is for one call."""

    def __init__(self) -> None:
        super().__init__()
        self.at_read: Hook | None = None
        self.behind_write: Hook | None = None

    async def _read(self, path: str) -> bytes:
        hook, self.at_read = self.at_read, None
        if hook is not None:
            await hook()
        return await super()._read(path)

    async def _write(
        self,
        path: str,
        content: bytes | AsyncIterable[bytes],
        media_type: str | None,
        *,
        if_absent: bool = False,
        if_match: str | None = None,
    ) -> FileStat:
        hook, self.behind_write = self.behind_write, None
        stat = await super()._write(path, content, media_type, if_absent=if_absent, if_match=if_match)
        if hook is not None:
            await hook()
        return stat


@pytest.fixture
async def blobs() -> AsyncIterator[Backend]:
    async with Backend() as blobs:
        yield blobs


@pytest.fixture
def plain(database: Database, blobs: Backend, user_id: str) -> FileCatalog:
    """Stores everything in the backend."""
    return FileCatalog(database, blobs, user_id)


@pytest.fixture
def packed(database: Database, blobs: Backend, user_id: str) -> FileCatalog:
    """Stores contents up to the limit in the database."""
    return FileCatalog(database, blobs, user_id, rules=ContentRules(small_bytes=LIMIT))


@pytest.fixture
def run(database: Database, blobs: Backend, user_id: str, keyring: KeyRing) -> Run:
    """Repacks the test's user."""

    async def run(limit: int, *, ring: KeyRing | None = keyring, seal: bool = False, **more: Any) -> Repacked:
        contents = Contents(blobs, ring, ContentRules(small_bytes=limit, seal=seal))
        return await repack(database, contents, user_id=user_id, **more)

    return run


class Stored:
    """What is stored for the test's user, read past the catalogue."""

    def __init__(self, query: Query, user_id: str) -> None:
        self._query = query
        self._user = user_id

    async def keys(self) -> dict[str, str]:
        rows = await self._query("SELECT path, blob_key FROM file WHERE user_id = :user", user=self._user)
        return {row["path"]: row["blob_key"] for row in rows}

    async def in_rows(self) -> set[str]:
        """The paths whose content is in the database."""
        rows = await self._query(
            "SELECT path FROM file JOIN file_content USING (user_id, blob_key) WHERE user_id = :user", user=self._user
        )
        return {row["path"] for row in rows}

    async def contents(self) -> dict[str, bytes]:
        rows = await self._query("SELECT blob_key, content FROM file_content WHERE user_id = :user", user=self._user)
        return {row["blob_key"]: bytes(row["content"]) for row in rows}

    async def sealed_keys(self) -> dict[str, bytes | None]:
        rows = await self._query("SELECT path, content_key FROM file WHERE user_id = :user", user=self._user)
        return {row["path"]: row["content_key"] for row in rows}

    async def events(self) -> list[Any]:
        return await self._query("SELECT seq, blob_key FROM event WHERE user_id = :user ORDER BY seq", user=self._user)


@pytest.fixture
def stored(query: Query, user_id: str) -> Stored:
    return Stored(query, user_id)


@pytest.fixture
def behind_a_page(monkeypatch: pytest.MonkeyPatch) -> Callable[[Hook], None]:
    """Have something happen between the reading of the rows and that of the contents."""

    def set_hook(hook: Hook) -> None:
        async def pages(*arguments: Any) -> AsyncGenerator[Any, None]:
            async with aclosing(verification.pages(*arguments)) as every:
                async for page in every:
                    await hook()
                    yield page

        monkeypatch.setattr(repack_module, "pages", pages)

    return set_hook


async def held(blobs: Backend) -> dict[str, bytes]:
    return {blob.path: await blobs.read(blob.path) async for blob in blobs.walk()}


async def write_all(files: FileCatalog) -> None:
    await files.write_many(list(CONTENTS.items()))


# ---- where contents go


async def test_with_a_limit_small_contents_go_into_the_database(
    plain: FileCatalog, run: Run, stored: Stored, blobs: Backend
) -> None:
    await write_all(plain)
    before = await held(blobs)
    assert await run(LIMIT) == Repacked(to_rows=3, to_blobs=0, bytes=LIMIT + 1)
    assert await stored.in_rows() == FITTING
    assert await plain.read_many(list(CONTENTS)) == CONTENTS
    assert await held(blobs) == before, "what was replaced is the collector's"


async def test_without_one_all_contents_go_to_the_backend(
    packed: FileCatalog, run: Run, stored: Stored, blobs: Backend
) -> None:
    await write_all(packed)
    assert await stored.in_rows() == FITTING
    assert await run(0) == Repacked(to_rows=0, to_blobs=3, bytes=LIMIT + 1)
    assert await stored.in_rows() == set()
    assert await packed.read_many(list(CONTENTS)) == CONTENTS
    assert sorted((await held(blobs)).values()) == sorted(CONTENTS.values())


async def test_another_limit_moves_what_is_on_the_wrong_side_of_it_either_way(
    packed: FileCatalog, run: Run, stored: Stored
) -> None:
    await write_all(packed)
    assert await run(LIMIT - 1) == Repacked(to_rows=0, to_blobs=1, bytes=LIMIT)
    assert await stored.in_rows() == FITTING - {"small"}
    assert await run(LIMIT + 1) == Repacked(to_rows=2, to_blobs=0, bytes=2 * LIMIT + 1)
    assert await stored.in_rows() == set(CONTENTS)
    assert await packed.read_many(list(CONTENTS)) == CONTENTS


async def test_a_second_run_finds_nothing_to_do(plain: FileCatalog, run: Run, stored: Stored, blobs: Backend) -> None:
    await write_all(plain)
    await run(LIMIT)
    keys, contents = await stored.keys(), await held(blobs)
    assert await run(LIMIT) == Repacked(to_rows=0, to_blobs=0, bytes=0)
    assert (await stored.keys(), await held(blobs)) == (keys, contents)


async def test_it_stays_the_same_file_but_for_its_etag(plain: FileCatalog, run: Run, stored: Stored) -> None:
    before = await plain.write("file", SMALL, media_type="x/y")
    events = await stored.events()
    await run(LIMIT)
    after = await plain.stat("file")
    assert after.etag != before.etag
    assert (after.version, after.updated_at, after.created_at, after.media_type, after.sha256, after.size) == (
        before.version,
        before.updated_at,
        before.created_at,
        before.media_type,
        before.sha256,
        before.size,
    )
    assert await stored.events() == events, "nobody is told, and what was told is left as it was"
    with pytest.raises(FileChanged):
        await plain.write("file", b"2", if_match=before.etag)
    await plain.write("file", b"2", if_match=after.etag)


async def test_files_that_share_a_content_share_it_afterwards(plain: FileCatalog, run: Run, stored: Stored) -> None:
    await plain.write("a", SMALL)
    await plain.copy("a", "b")
    await plain.copy("b", "z/c")
    assert await run(LIMIT) == Repacked(to_rows=1, to_blobs=0, bytes=LIMIT)
    assert len(set((await stored.keys()).values())) == len(await stored.contents()) == 1
    assert await run(0) == Repacked(to_rows=0, to_blobs=1, bytes=LIMIT)
    assert len(set((await stored.keys()).values())) == 1
    assert set((await plain.read_many(["a", "b", "z/c"])).values()) == {SMALL}


async def test_more_files_than_a_page_are_moved_and_told_of(
    plain: FileCatalog, run: Run, stored: Stored, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verification, "PAGE_ROWS", 3)
    await plain.write_many([(f"f{number}", b"%d" % number) for number in range(7)])
    await plain.copy("f0", "z")  # on another page than what it shares its content with
    told: list[tuple[int, int | None]] = []
    assert await run(LIMIT, progress=lambda done, total: told.append((done, total))) == Repacked(7, 0, 7)
    assert told == [(3, 8), (6, 8), (8, 8)]
    assert len(await stored.in_rows()) == 8


async def test_everybodys_contents_are_moved(  # noqa: PLR0917 - fixtures
    database: Database, blobs: Backend, plain: FileCatalog, stored: Stored, user_id: str, keyring: KeyRing
) -> None:
    other = FileCatalog(database, blobs, f"{user_id}-other")
    await plain.write("file", SMALL)
    await other.write("file", b"theirs")
    await repack(database, Contents(blobs, keyring, ContentRules(small_bytes=LIMIT)))
    assert await stored.in_rows() == {"file"}
    assert (await plain.read("file"), await other.read("file")) == (SMALL, b"theirs")


# ---- sealed contents


@pytest.fixture
def sealed(database: Database, blobs: Backend, user_id: str, keyring: KeyRing) -> FileCatalog:
    """Seals, and stores everything in the backend."""
    return FileCatalog(database, blobs, user_id, keyring=keyring, rules=ContentRules(seal=True))


@pytest.fixture
def rotation(database: Database, keyring: KeyRing) -> KeyRotation:
    return KeyRotation(database, keyring, (CONTENT_KEY,))


async def test_sealed_contents_are_sealed_again_with_new_keys_whatever_the_rules_say(
    sealed: FileCatalog, run: Run, stored: Stored, blobs: Backend
) -> None:
    await write_all(sealed)
    await sealed.copy("small", "copy")
    keys = await stored.sealed_keys()
    for limit, expected in ((LIMIT, Repacked(3, 0, LIMIT + 1)), (0, Repacked(0, 3, LIMIT + 1))):
        before = await stored.sealed_keys()
        assert await run(limit) == expected
        after = await stored.sealed_keys()
        assert None not in after.values()
        assert all(after[path] != before[path] for path in FITTING)
        assert after["copy"] == after["small"]
        assert await sealed.read_many([*CONTENTS, "copy"]) == {**CONTENTS, "copy": SMALL}
        everything = b"".join([*(await held(blobs)).values(), *(await stored.contents()).values()])
        assert b"tell-tale" not in everything
    assert (await stored.sealed_keys())["large"] == keys["large"], "what fits is left alone"


async def test_contents_in_clear_are_sealed_where_the_rules_seal_and_stay_so_where_not(
    plain: FileCatalog, sealed: FileCatalog, run: Run, stored: Stored
) -> None:
    await write_all(plain)
    await run(LIMIT)
    assert set((await stored.sealed_keys()).values()) == {None}
    await run(0, seal=True)
    assert {path for path, key in (await stored.sealed_keys()).items() if key is not None} == FITTING
    assert await sealed.read_many(list(CONTENTS)) == CONTENTS


async def test_a_data_key_that_is_replaced_and_deleted_meanwhile_harms_nothing(
    sealed: FileCatalog,
    run: Run,
    stored: Stored,
    behind_a_page: Callable[[Hook], None],
    rotation: KeyRotation,
) -> None:
    await sealed.write("file", SMALL)
    before = await stored.sealed_keys()

    async def rotate() -> None:
        await rotation.reencrypt()
        assert await stored.sealed_keys() != before

    behind_a_page(rotate)
    assert await run(LIMIT) == Repacked(1, 0, LIMIT)
    assert await stored.in_rows() == {"file"}
    assert await sealed.read("file") == SMALL


async def test_what_cannot_be_opened_now_is_left_where_it_is_and_counted(
    plain: FileCatalog, sealed: FileCatalog, run: Run, stored: Stored, locked_keyring: KeyRing
) -> None:
    await sealed.write("sealed", SMALL)
    await plain.write("plain", SMALL)
    keys = await stored.keys()
    assert await run(LIMIT, ring=locked_keyring) == Repacked(1, 0, LIMIT, locked=1)
    assert await stored.in_rows() == {"plain"}
    assert (await stored.keys())["sealed"] == keys["sealed"]
    assert await run(0, ring=locked_keyring, seal=True) == Repacked(0, 0, 0, locked=1), "nor is it sealed"
    assert await run(LIMIT) == Repacked(1, 0, LIMIT)
    assert await sealed.read("sealed") == SMALL


# ---- contents that are not what was written


async def test_a_content_that_is_missing_or_altered_is_left_for_verification_to_name(
    plain: FileCatalog, run: Run, stored: Stored, blobs: Backend
) -> None:
    await plain.write_many([("altered", b"1"), ("gone", b"2"), ("whole", b"3")])
    keys = await stored.keys()
    await blobs.write(keys["altered"], b"x")
    await blobs.delete(keys["gone"])
    assert await run(LIMIT) == Repacked(1, 0, 1, left=2)
    assert await stored.keys() == {**keys, "whole": (await stored.keys())["whole"]}
    assert await stored.in_rows() == {"whole"}


# ---- others at the same time


@pytest.mark.parametrize("moment", ["before it is read", "before its row is changed"])
@pytest.mark.parametrize("change", ["overwritten", "deleted", "moved", "copied"])
async def test_files_that_are_changed_meanwhile_are_what_the_change_made_of_them(  # noqa: PLR0917 - fixtures
    plain: FileCatalog, packed: FileCatalog, run: Run, stored: Stored, blobs: Backend, moment: str, change: str
) -> None:
    into_rows = moment == "before it is read"
    await (plain if into_rows else packed).write("file", SMALL)

    async def step_in() -> None:
        if change == "overwritten":
            await plain.write("file", LARGE)
        elif change == "deleted":
            await plain.delete("file")
        elif change == "moved":
            await plain.move("file", "other")
        else:
            await plain.copy("file", "other")

    expected = {
        "overwritten": {"file": LARGE},
        "deleted": {},
        "moved": {"other": SMALL},
        "copied": {"file": SMALL, "other": SMALL},
    }[change]
    if into_rows:
        blobs.at_read = step_in
    else:
        blobs.behind_write = step_in
    moved = int(change in ("moved", "copied"))
    done = await run(LIMIT if into_rows else 0)
    assert done == (Repacked(moved, 0, moved * LIMIT) if into_rows else Repacked(0, moved, moved * LIMIT))
    assert await plain.read_many(["file", "other"]) == expected
    assert await stored.in_rows() == (set(expected) if into_rows and moved else set())
    assert len(await stored.contents()) == (moved if into_rows else 1)
    if not into_rows and not moved:
        assert list((await held(blobs)).values()) == list(expected.values()), "what no row names is removed at once"


@pytest.mark.parametrize("verb", ["copy", "move"])
async def test_what_comes_of_a_transaction_that_it_waits_for_is_pointed_at_the_new_content_too(  # noqa: PLR0917 - fixtures
    database: Database,
    plain: FileCatalog,
    packed: FileCatalog,
    run: Run,
    stored: Stored,
    blobs: Backend,
    user_id: str,
    verb: str,
) -> None:
    await packed.write("file", SMALL)
    await packed.copy("file", "second")
    put = asyncio.Event()

    async def wait_for_it() -> None:
        put.set()

    blobs.behind_write = wait_for_it
    async with database.transaction() as transaction:
        inside = FileCatalog(transaction, blobs, user_id)
        await (inside.copy if verb == "copy" else inside.move)("file", "other")
        running = asyncio.create_task(run(0), context=contextvars.Context())
        await asyncio.wait_for(put.wait(), 10)
        await asyncio.sleep(0.05)  # into the update, which waits
        await inside.copy("other", "another")
    assert await running == Repacked(0, 1, LIMIT)
    keys = await stored.keys()
    assert set(keys) == {"second", "other", "another"} | ({"file"} if verb == "copy" else set())
    assert len(set(keys.values())) == 1
    assert await stored.in_rows() == set()
    assert set((await plain.read_many(list(keys))).values()) == {SMALL}


async def test_a_file_whose_content_was_collected_since_its_row_was_read_is_looked_at_again(
    plain: FileCatalog, run: Run, stored: Stored, blobs: Backend, behind_a_page: Callable[[Hook], None]
) -> None:
    await plain.write_many([("file", SMALL), ("gone", b"1"), ("longer", b"2")])
    before = await stored.keys()

    async def write_and_collect() -> None:
        await plain.write_many([("file", b"newer"), ("longer", LARGE)])
        await plain.delete("gone")
        for key in before.values():
            await blobs.delete(key)

    behind_a_page(write_and_collect)
    assert await run(LIMIT) == Repacked(1, 0, 5)
    assert await stored.in_rows() == {"file"}
    assert await plain.read_many(list(before)) == {"file": b"newer", "longer": LARGE}


async def test_two_runs_at_once_move_each_content_once_and_leave_no_second_one(
    packed: FileCatalog, run: Run, stored: Stored, blobs: Backend
) -> None:
    count = 2 * BLOB_CONCURRENCY
    await packed.write_many([(f"f{number}", b"%d" % number) for number in range(count)])
    done = await asyncio.gather(run(0), run(0))
    assert sum(repacked.to_blobs for repacked in done) == count
    assert sorted((await stored.keys()).values()) == sorted(await held(blobs))
    assert await packed.read_many(["f0", "f9"]) == {"f0": b"0", "f9": b"9"}


async def test_readers_and_writers_notice_nothing(
    plain: FileCatalog, packed: FileCatalog, run: Run, stored: Stored
) -> None:
    names = [f"f{number}" for number in range(20)]
    latest = dict.fromkeys(names, b"0")
    await plain.write_many(list(latest.items()))
    ended = False

    async def write(files: FileCatalog, mine: list[str]) -> None:
        turn = 0
        while not ended:
            turn += 1
            name = mine[turn % len(mine)]
            content = b"%d" % turn
            await files.write(name, content)
            latest[name] = content
            assert await files.read(name) == content

    async def read() -> None:
        while not ended:
            assert len(await plain.read_many(names)) == len(names)

    others = [asyncio.create_task(work) for work in (write(plain, names[:6]), write(packed, names[6:12]), read())]
    for limit in (LIMIT, 0, LIMIT, 0):
        await run(limit)
    ended = True
    await asyncio.gather(*others)
    await run(LIMIT)
    assert await stored.in_rows() == set(names)
    assert await plain.read_many(names) == latest


# ---- interrupted


async def test_a_backend_that_fails_in_the_middle_loses_nothing_and_the_next_run_ends_it(
    packed: FileCatalog, run: Run, stored: Stored, blobs: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    contents = {f"f{number:02}": b"%d" % number for number in range(2 * BLOB_CONCURRENCY)}
    await packed.write_many(list(contents.items()))
    room, write = BLOB_CONCURRENCY + 3, blobs.write

    async def failing(*arguments: Any, **more: Any) -> FileStat:
        nonlocal room
        room -= 1
        if room < 0:
            raise FileStoreUnavailable("on order")
        return await write(*arguments, **more)

    monkeypatch.setattr(blobs, "write", failing)
    with pytest.raises(FileStoreUnavailable):
        await run(0)
    left = await stored.in_rows()
    assert 0 < len(left) < len(contents)
    assert await packed.read_many(list(contents)) == contents
    monkeypatch.undo()
    assert (await run(0)).to_blobs == len(left)
    assert await stored.in_rows() == set()
    assert await packed.read_many(list(contents)) == contents


@pytest.mark.parametrize("limit", [LIMIT, 0])
async def test_a_transaction_that_dies_after_the_rows_were_changed_changes_none(  # noqa: PLR0917 - fixtures
    plain: FileCatalog, packed: FileCatalog, run: Run, stored: Stored, monkeypatch: pytest.MonkeyPatch, limit: int
) -> None:
    await (plain if limit else packed).write("file", SMALL)
    keys, contents = await stored.keys(), await stored.contents()

    def dying(*_: Any) -> Unit[None]:
        yield from ()
        raise RuntimeError("killed")

    monkeypatch.setattr(repack_module, "add_contents", dying)
    with pytest.raises(RuntimeError, match="killed"):
        await run(limit)
    assert (await stored.keys(), await stored.contents()) == (keys, contents)
    assert await plain.read("file") == SMALL
    monkeypatch.undo()
    await run(limit)
    assert await stored.in_rows() == ({"file"} if limit else set())
    assert await plain.read("file") == SMALL


async def test_a_cancelled_run_leaves_every_file_readable(
    packed: FileCatalog, run: Run, stored: Stored, blobs: Backend
) -> None:
    await write_all(packed)
    started = asyncio.Event()

    async def stop_here() -> None:
        started.set()
        await asyncio.Event().wait()

    blobs.behind_write = stop_here
    running = asyncio.create_task(run(0))
    await started.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert await packed.read_many(list(CONTENTS)) == CONTENTS
    await run(0)
    assert await stored.in_rows() == set()
    assert await packed.read_many(list(CONTENTS)) == CONTENTS
