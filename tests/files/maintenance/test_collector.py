"""Collecting what nothing names: what goes, what stays and why, and that it races with nobody."""

from __future__ import annotations

import asyncio
import random
import uuid
from collections.abc import AsyncIterator, Awaitable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import bindparam, delete, insert, null, select, update

from storage.clock import now
from storage.database.database import Database
from storage.database.statement import Statement
from storage.database.unit import Unit, execute
from storage.database.url import parse_url
from storage.errors import (
    ConfigurationError,
    FileNotFound,
    FileStoreUnavailable,
    InvalidInput,
    TransactionAborted,
)
from storage.files import blobs as contents_module
from storage.files.backends import memory
from storage.files.backends.memory import MemoryFileStore
from storage.files.blobs import ContentRules, blob_key
from storage.files.catalog import FileCatalog
from storage.files.maintenance import collector
from storage.files.maintenance.collector import Collected, collect, shortest_grace
from storage.files.table import FileTable
from storage.webhooks.endpoints.model import Batching
from storage.webhooks.endpoints.rows import new_row
from storage.webhooks.table import DeliveryTable, EventTable, WebhookEndpointTable

FILE: Any = FileTable.__table__  # type: ignore[attr-defined]
EVENT: Any = EventTable.__table__  # type: ignore[attr-defined]
ENDPOINT: Any = WebhookEndpointTable.__table__  # type: ignore[attr-defined]
DELIVERY: Any = DeliveryTable.__table__  # type: ignore[attr-defined]

TWO_DAYS = timedelta(days=2)


def statement(element: Any) -> Statement:
    return Statement("test.collector", element, register=False)


ADD_ENDPOINT = statement(insert(ENDPOINT).values({column.name: bindparam(column.name) for column in ENDPOINT.c}))
ADD_DELIVERY = statement(insert(DELIVERY).values({column.name: bindparam(column.name) for column in DELIVERY.c}))
REMOVE_ENDPOINTS = statement(delete(ENDPOINT))
EVENTS = statement(select(EVENT.c.seq).where(EVENT.c.user_id == bindparam("user_id")))
FANNED_OUT = statement(update(EVENT).where(EVENT.c.user_id == bindparam("owner")).values(to_fan_out=null()))
KEYS = statement(select(FILE.c.path, FILE.c.blob_key).where(FILE.c.user_id == bindparam("user_id")))


async def run(database: Database, what: Statement, **parameters: Any) -> None:
    def unit() -> Unit[None]:
        yield from execute(what, **parameters)

    await database.run(unit)


@dataclass
class Place:
    """A user's files, in a backend of this test's own."""

    database: Database
    blobs: MemoryFileStore
    user_id: str

    def files(self, small_bytes: int = 0, executor: Any = None) -> FileCatalog:
        rules = ContentRules(small_bytes=small_bytes)
        return FileCatalog(executor or self.database, self.blobs, self.user_id, rules=rules)

    async def stored(self) -> set[str]:
        return {file.path async for file in self.blobs.walk()}

    async def collect(self, **options: Any) -> Collected:
        return await collect(self.database, self.blobs, **options)

    async def collect_later(self, after: timedelta = TWO_DAYS, **options: Any) -> Collected:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(collector, "now", lambda: now() + after)
            return await self.collect(**options)

    async def endpoint(self, **values: Any) -> uuid.UUID:
        row = new_row(
            uuid.uuid4(),
            self.user_id,
            "https://example.org",
            event_types=["*"],
            format_="standard",
            mode="standard",
            batching=Batching(),
            include="content",
        )
        await run(self.database, ADD_ENDPOINT, **{**row, **values})
        return uuid.UUID(str(row["id"]))

    async def fan_out(self) -> None:
        """No event of the user waits any more for deliveries to be made of it."""
        await run(self.database, FANNED_OUT, owner=self.user_id)

    async def deliver(self, endpoint_id: uuid.UUID, state: str) -> None:
        """To this endpoint, all events of the user."""
        await self.fan_out()
        nothing: dict[str, Any] = dict.fromkeys(("batch_id", "lease_until", "lease_token", "last_status", "last_error"))
        for (seq,) in await self.database.read(EVENTS, {"user_id": self.user_id}):
            row = {"endpoint_id": endpoint_id, "event_seq": seq, "line": 1, "state": state, "attempts": 1}
            await run(self.database, ADD_DELIVERY, **nothing, **row, next_at=now(), updated_at=now())


@pytest.fixture
async def place(database: Database, user_id: str) -> AsyncIterator[Place]:
    found = Place(database, MemoryFileStore(), user_id)
    await found.collect_later()  # what other tests have left in the database
    yield found
    await run(database, REMOVE_ENDPOINTS)


def old_key(age: timedelta) -> str:
    """A key as it was made so long ago."""
    return aged_key(now() - age)


def aged_key(at: datetime) -> str:
    milliseconds = int(at.timestamp() * 1000)
    key = str(uuid.UUID(f"{milliseconds:012x}{str(uuid.uuid4()).replace('-', '')[12:]}"))
    return f"blobs/{key[-2:]}/{key[:14]}7{key[15:]}"


async def test_what_was_overwritten_deleted_or_never_named_goes_and_what_a_file_has_stays(place: Place) -> None:
    files = place.files()
    await files.write("kept.txt", b"kept")
    await files.write("shared.txt", b"shared")
    await files.copy("shared.txt", "copy.txt")
    await files.delete("shared.txt")
    await files.write("new.txt", b"old")
    await files.write("new.txt", b"new")
    await files.write("gone.txt", b"gone!")
    await files.delete("gone.txt")
    await place.blobs.write(blob_key(), b"orphan")
    assert await place.collect_later() == Collected(3, 3 + 5 + 6, 0, 0, 0, 0)
    contents = await files.read_many(["kept.txt", "copy.txt", "new.txt"])
    assert contents == {"kept.txt": b"kept", "copy.txt": b"shared", "new.txt": b"new"}
    assert len(await place.stored()) == 3
    assert await place.collect_later() == Collected(0, 0, 0, 0, 0, 0)


async def test_contents_in_the_database_go_and_stay_by_the_same_rules(place: Place) -> None:
    files = place.files(small_bytes=100)
    await files.write("new.txt", b"old")
    await files.write("new.txt", b"new")
    await files.copy("new.txt", "copy.txt")
    await files.write("gone.txt", b"gone!")
    await files.delete("gone.txt")
    assert await place.collect() == Collected(0, 0, 2, 0, 0, 0)
    assert await place.collect_later(dry_run=True) == Collected(0, 8, 0, 0, 2, 0)
    assert await place.collect_later() == Collected(0, 8, 0, 0, 2, 0)
    assert await files.read_many(["new.txt", "copy.txt"]) == {"new.txt": b"new", "copy.txt": b"new"}
    assert await place.collect_later() == Collected(0, 0, 0, 0, 0, 0)


async def test_what_is_younger_than_the_grace_is_kept(place: Place) -> None:
    key = blob_key()
    await place.blobs.write(key, b"orphan")
    assert await place.collect() == Collected(0, 0, 1, 0, 0, 0)
    assert await place.collect_later(timedelta(hours=5), grace=timedelta(hours=6)) == Collected(0, 0, 1, 0, 0, 0)
    assert await place.collect_later(timedelta(hours=7), grace=timedelta(hours=6)) == Collected(1, 6, 0, 0, 0, 0)


async def test_an_upload_that_began_long_ago_is_as_young_as_its_end(place: Place) -> None:
    await place.blobs.write(old_key(TWO_DAYS), b"slowly")
    assert await place.collect() == Collected(0, 0, 1, 0, 0, 0)


async def test_a_blob_is_as_young_as_its_key_where_the_backends_clock_is_behind(place: Place) -> None:
    key = blob_key()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(memory, "now", lambda: now() - TWO_DAYS)
        await place.blobs.write(key, b"new")
    assert await place.collect() == Collected(0, 0, 1, 0, 0, 0)


@pytest.mark.parametrize("small_bytes", [0, 100], ids=["in the backend", "in the database"])
@pytest.mark.parametrize(
    ("values", "delivery", "needed"),
    [
        ({}, None, True),
        ({"user_id": None}, None, True),
        ({"state": "paused"}, None, True),
        ({}, "pending", True),
        ({}, "dead", True),
        ({}, "delivered", False),
        ({"user_id": None}, "delivered", False),
        ({"state": "disabled"}, None, False),
        ({"user_id": "somebody else"}, None, False),
        ({"from_seq": 2**62}, None, False),
        ({"include": "nothing"}, None, False),
        ({"include": "nothing"}, "pending", False),
        ({"include": "nothing", "format": "openhands"}, None, True),
        ({"include": "link"}, "pending", True),
        ({"state": "disabled"}, "dead", False),
        ({}, "is not for it", False),
    ],
    ids=str,
)
async def test_what_a_web_hook_may_still_have_to_send_is_kept_though_no_file_has_it(
    place: Place, small_bytes: int, values: dict[str, Any], delivery: str | None, needed: bool
) -> None:
    files = place.files(small_bytes)
    await files.write("a.txt", b"first")
    await files.write("a.txt", b"second")
    await files.delete("a.txt")
    endpoint_id = await place.endpoint(**values)
    if delivery == "is not for it":
        await place.fan_out()
    elif delivery is not None:
        await place.deliver(endpoint_id, delivery)
    collected = await place.collect_later()
    assert (collected.kept_for_web_hooks, collected.blobs + collected.rows) == ((2, 0) if needed else (0, 2))
    if needed and delivery != "pending":
        await run(place.database, REMOVE_ENDPOINTS)
        collected = await place.collect_later()
        assert collected.blobs + collected.rows == 2, "nobody needs them any more"


async def test_one_endpoint_of_several_that_lacks_the_event_keeps_the_blob(place: Place) -> None:
    files = place.files()
    await files.write("a.txt", b"content")
    await files.delete("a.txt")
    await place.deliver(await place.endpoint(user_id=None), "delivered")
    await place.deliver(await place.endpoint(), "pending")
    assert await place.collect_later() == Collected(0, 0, 0, 1, 0, 0)


async def test_what_has_another_form_is_left_and_counted(place: Place) -> None:
    key = blob_key()
    digits = key.split("/")[1]
    other = "00" if digits != "00" else "ff"
    foreign = {
        "blobs/readme.txt",
        f"blobs/{other}/{key[9:]}",
        f"blobs/{digits}/{key[9:].upper()}",
        f"blobs/{digits}/{uuid.uuid4()}",
        f"{key}/below",
        f"{key}.txt",
    }
    elsewhere = {"else.txt", key.replace("blobs/", "blob/"), key.replace("blobs/", "users/x/blobs/")}
    for path in foreign | elsewhere:
        await place.blobs.write(path, b"theirs")
    await place.blobs.write(key, b"ours")
    assert await place.collect_later() == Collected(1, 4, 0, 0, 0, len(foreign))
    assert await place.stored() == foreign | elsewhere


async def test_a_grace_that_a_transaction_may_outlast_is_refused(place: Place) -> None:
    shortest = shortest_grace(place.database)
    assert shortest == timedelta(seconds=30, minutes=10)
    for grace in (shortest - timedelta(microseconds=1), timedelta(0), timedelta(days=-1)):
        with pytest.raises(InvalidInput, match="give 0:10:30 or more"):
            await place.collect(grace=grace)
    await place.collect(grace=shortest)


async def test_the_blobs_of_another_database_are_left(database_url: str) -> None:
    blobs = MemoryFileStore()
    await blobs.write(blob_key(), b"theirs")
    async with AsyncExitStack() as opened:
        database = Database(parse_url(database_url))
        opened.push_async_callback(database.close)
        stranger = Place(database, blobs, "ada")
        with pytest.raises(ConfigurationError, match=r"knows of no file at all.*--empty-catalog"):
            await stranger.collect_later()
        assert len(await stranger.stored()) == 1
        assert (await stranger.collect_later(empty_catalog=True)).blobs == 1


async def test_a_grace_of_ages_is_refused(place: Place) -> None:
    with pytest.raises(InvalidInput, match="36,500 days"):
        await place.collect(grace=timedelta(days=999_999))


async def test_a_dry_run_counts_and_removes_nothing(place: Place) -> None:
    for number in range(3):
        await place.blobs.write(blob_key(), b"%d" % number)
    before = await place.stored()
    assert await place.collect_later(dry_run=True) == Collected(3, 3, 0, 0, 0, 0)
    assert await place.stored() == before
    assert await place.collect_later() == Collected(3, 3, 0, 0, 0, 0)


async def test_it_goes_by_pages_and_tells_how_far_it_is(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collector, "PAGE", 3)
    files, small = place.files(), place.files(small_bytes=100)
    for number in range(4):
        await files.write(f"{number}.txt", b"kept")
        await small.write(f"small/{number}.txt", b"kept")
    for number in range(4):
        await place.blobs.write(blob_key(), b"orphan")
        await small.write("small/again.txt", b"%d" % number)
    told: list[tuple[int, int | None]] = []
    collected = await place.collect_later(progress=lambda done, total: told.append((done, total)))
    assert (collected.blobs, collected.rows) == (4, 3)
    assert [done for done, _ in told[:3]] == [3, 6, 8]
    assert {total for _, total in told} == {None}
    assert len(await files.read_many([file.path async for file in files.walk()])) == 9


class FailingStore(MemoryFileStore):
    """Answers so many removals, and then no more."""

    left = 2

    async def _remove(self, path: str) -> bool:
        if self.left == 0:
            raise FileStoreUnavailable("the backend does not answer")
        self.left -= 1
        return await super()._remove(path)


async def test_a_backend_that_fails_in_the_middle_is_raised_and_the_next_run_does_the_rest(place: Place) -> None:
    place.blobs = blobs = FailingStore()
    files = place.files()
    for number in range(5):
        await files.write("a.txt", b"%d" % number)
    with pytest.raises(FileStoreUnavailable):
        await place.collect_later()
    assert len(await place.stored()) == 3
    assert await files.read("a.txt") == b"4"
    blobs.left = 100
    assert (await place.collect_later()).blobs == 2
    assert await files.read("a.txt") == b"4"


async def test_two_at_once_remove_each_content_once(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    small = place.files(small_bytes=100)
    for number in range(20):
        await place.blobs.write(blob_key(), b"orphan")
        await small.write("a.txt", b"%d" % number)
    monkeypatch.setattr(collector, "now", lambda: now() + TWO_DAYS)
    runs = await asyncio.gather(*[place.collect() for _ in range(3)])
    assert sum(run.blobs for run in runs) == 20
    assert sum(run.rows for run in runs) == 19
    assert await small.read("a.txt") == b"19"


@asynccontextmanager
async def another(database: Database, migrated_url: str) -> AsyncIterator[Database]:
    """As another process would open it."""
    opened = Database(parse_url(migrated_url))
    try:
        yield opened
    finally:
        await opened.close()


async def test_a_deletion_that_is_not_committed_does_not_count(place: Place, migrated_url: str) -> None:
    await place.files().write("a.txt", b"content")
    async with another(place.database, migrated_url) as elsewhere:
        with pytest.raises(ValueError, match="roll back"):
            async with elsewhere.transaction() as transaction:
                assert await place.files(executor=transaction).delete("a.txt") == 1
                assert (await place.collect_later()).blobs == 0
                raise ValueError("roll back")
    assert await place.files().read("a.txt") == b"content"


async def test_a_file_that_is_on_its_way_to_another_path_keeps_its_blob(place: Place, migrated_url: str) -> None:
    await place.files().write("a.txt", b"content")
    async with another(place.database, migrated_url) as elsewhere, elsewhere.transaction() as transaction:
        files = place.files(executor=transaction)
        await files.move("a.txt", "b.txt")
        await files.move("b.txt", "c.txt")
        assert (await place.collect_later()).blobs == 0
    assert await place.files().read("c.txt") == b"content"
    assert (await place.collect_later()).blobs == 0


# ---- racing


class Epochs:
    """A clock that jumps by more than half the grace, again and again, but never passes a grace within one call.

    So the collector's promise is stretched to its limit, however fast or slow the machine is.
    """

    def __init__(self, grace: timedelta) -> None:
        self.at = now()
        self._jump = grace * 0.6
        self._under_way: set[asyncio.Task[Any]] = set()

    def now(self) -> datetime:
        return self.at

    def new_id(self) -> uuid.UUID:
        return uuid.UUID(aged_key(self.at).rpartition("/")[2])

    async def call(self, work: Awaitable[Any]) -> Any:
        task = asyncio.ensure_future(work)
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)
        return await task

    async def jump(self) -> None:
        """Once all calls that are under way now have ended; so none sees two jumps."""
        if self._under_way:
            await asyncio.wait(set(self._under_way))
        self.at += self._jump


class Undone(Exception):
    """Ends a transaction."""


PATHS = [f"{name}.txt" for name in "abcdef"]
WORKERS = 16
CALLS = 20


async def changes(place: Place, dice: random.Random, epochs: Epochs) -> None:
    async def several() -> None:
        async with place.database.transaction() as transaction:
            files = place.files(50, transaction)
            path = dice.choice(PATHS)
            await files.write(path, dice.randbytes(dice.choice([10, 90])))
            await files.write_many([(path, b"same" * 20)])
            if dice.random() < 0.5:
                raise Undone

    async def one() -> None:
        files = place.files(50)
        # In one order, as PostgreSQL takes a second to find a deadlock.
        path, other = sorted(dice.sample(PATHS, 2))
        await dice.choice(
            [
                lambda: files.write(path, dice.randbytes(dice.choice([10, 90]))),
                lambda: files.write_many([(path, b"same" * 20), (other, b"same too" * 3)]),
                lambda: files.copy(path, other),
                lambda: files.move(path, other),
                lambda: files.delete(path),
                several,
            ]
        )()

    for _ in range(CALLS):
        try:
            await epochs.call(one())
        except (FileNotFound, Undone, TransactionAborted):
            continue


async def missing(place: Place) -> list[str]:
    """Files whose content is not there."""
    lost = []
    for path in PATHS:
        try:
            entry = await place.files()._find(path)
        except FileNotFound:
            continue
        there = entry.content is not None or await place.blobs.exists(entry.blob_key)
        # Overwritten since it was found, then collected: nothing is lost.
        if not there and (await place.files().stat(path)).etag == entry.stat.etag:
            lost.append(f"{path}: {entry.blob_key}")
    return lost


async def test_nothing_that_a_file_has_is_ever_missing_while_sixteen_change_files_and_two_collect(
    place: Place, migrated_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    grace = shortest_grace(place.database)
    epochs = Epochs(grace)
    monkeypatch.setattr(collector, "now", epochs.now)
    monkeypatch.setattr(memory, "now", epochs.now)
    monkeypatch.setattr(contents_module, "new_id", epochs.new_id)
    removed = rounds = 0
    done = False

    async def collecting(database: Database) -> None:
        nonlocal removed, rounds
        while not done:
            collected = await collect(database, place.blobs, grace=grace)
            removed += collected.blobs + collected.rows
            rounds += 1

    async def jumping() -> None:
        while not done:
            await asyncio.sleep(0)  # a read of SQLite and of memory does not wait for anything
            await epochs.jump()
            assert await missing(place) == []

    async with another(place.database, migrated_url) as elsewhere:
        others = [asyncio.create_task(work) for work in (collecting(place.database), collecting(elsewhere), jumping())]
        workers = [changes(place, random.Random(seed), epochs) for seed in range(WORKERS)]
        try:
            await asyncio.gather(*workers)
        finally:
            done = True
            await asyncio.gather(*others)
    assert await missing(place) == []
    assert removed > WORKERS, "they did collect meanwhile"
    assert rounds > 2
    for _ in range(3):
        await epochs.jump()
    await collect(place.database, place.blobs, grace=grace)
    named = {key for _, key in await place.database.read(KEYS, {"user_id": place.user_id})}
    assert await place.stored() == {key for key in named if key.startswith("blobs/")}, "and nothing is left over"
    contents = await place.files().read_many(PATHS)
    assert len(contents) >= len(named), "each is read and verified; copies share theirs"
