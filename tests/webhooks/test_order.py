"""Many writers, several dispatchers, dead endpoints: everything arrives once, each key in the order of its commits.

STORAGE_ORDER_CHANGES says how many changes the writers make. Which commit of a path came first is told by its versions,
which the database counted, and not by what the queue believes: a write is one version after the last, or the first one
after a deletion.
"""

from __future__ import annotations

import asyncio
import os
import random
import socket
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Final

import pytest

from storage.files.catalog import FileCatalog
from storage.storage import Storage
from storage.webhooks.delivery.dispatcher import CONCURRENCY
from storage.webhooks.endpoints.model import Batching
from tests.servers import receiver as behaviours
from tests.servers.receiver import ReceiverProcess, Recorded
from tests.webhooks.office import Office, office, rows, settled, until
from tests.webhooks.queue_place import own_url, place

__all__ = ["office", "own_url", "place"]

CHANGES: Final = int(os.environ.get("STORAGE_ORDER_CHANGES", "500"))
WRITERS: Final = 32
KEYS: Final = 50
USERS: Final = 5
FAILURE_EVERY: Final = 5
"""Requests for each that fails, where some are to: few enough that the breaker stays closed."""

PATIENCE_SECONDS: Final = 20.0
"""After so long without a single arrival, what is missing will not come."""

NEVER: Final = 3600.0
"""Seconds between polls, where only what wakes a dispatcher may explain that something arrives."""

BATCHED: Final[dict[str, Any]] = {"mode": "batched", "batching": Batching(events=40, seconds=0.05)}


class Hall(Office):
    """An office with small files in the database and with attempts that are given time: nothing here is to fail."""

    def settings(self) -> dict[str, Any]:
        return super().settings() | {"webhook_timeout": 60.0, "small_files_in_database": 1000}

    @asynccontextmanager
    async def open_many(self, number: int, **settings: Any) -> AsyncIterator[list[Storage]]:
        """Several of them at once, as several processes would."""
        async with AsyncExitStack() as opened:
            yield [await opened.enter_async_context(self.open(**settings)) for _ in range(number)]


@pytest.fixture
def hall(office: Office, own_url: str, tmp_path: Path) -> Hall:
    return Hall(own_url, tmp_path)


@pytest.fixture
def postgres_hall(postgres_url: str, tmp_path: Path) -> Hall:
    return Hall(postgres_url, tmp_path)


async def change(storages: Sequence[Storage], changes: int) -> None:
    """Have many writers write and delete the same few files of some users, all at once."""
    numbers = iter(range(changes))

    async def writer(seed: int) -> None:
        choice = random.Random(seed)
        for number in numbers:
            key = choice.randrange(KEYS)
            files = storages[seed % len(storages)].user(f"user{key % USERS}").files
            if choice.random() < 0.2:
                await files.delete(f"{key}.txt")
            else:
                await files.write(f"{key}.txt", f"{seed} {number}")

    await asyncio.gather(*(writer(seed) for seed in range(WRITERS)))


async def arrived(receiver: ReceiverProcess, storage: Storage, *, some_fail: bool = False) -> None:
    """Wait until nothing is pending, as long as requests come in.

    If none failed, even a queue that sends all at once would have everything arrive in its order, by mere luck.
    """
    clock = asyncio.get_running_loop().time
    count, failed_at, since = 0, -FAILURE_EVERY, clock()
    while await _is_waiting(storage):
        if receiver.count() > count:
            count, since = receiver.count(), clock()
        if some_fail and count >= failed_at + FAILURE_EVERY:
            receiver.behave("", behaviours.SERVER_ERROR, times=1)
            failed_at = count
        assert clock() - since < PATIENCE_SECONDS, f"nothing came any more after {count} requests"
        await asyncio.sleep(0.01)


async def _is_waiting(storage: Storage) -> bool:
    """Told from one row: counting thousands of them again and again would be most of what the test does."""
    to_fan_out = "SELECT 1 FROM event WHERE to_fan_out IS NOT NULL AND seq > 0 LIMIT 1"
    return bool(
        await rows(storage, to_fan_out) or await rows(storage, "SELECT 1 FROM delivery WHERE state = 'pending' LIMIT 1")
    )


def accepted(receiver: ReceiverProcess) -> list[Recorded]:
    """The requests that were answered with success."""
    return [request for request in receiver.requests() if request.behaviour == str(behaviours.OK)]


def heard(receiver: ReceiverProcess) -> list[tuple[str, dict[str, Any]]]:
    """The events that were accepted, by id, in the order of their arrival; those of a batch in its order."""
    found: list[tuple[str, dict[str, Any]]] = []
    for request in accepted(receiver):
        body = request.json
        items = [(item["id"], item) for item in body["data"]] if body["type"] == "batch" else [(request.id, body)]
        found += [(id_.replace("-", ""), item) for id_, item in items]
    return found


async def check(receiver: ReceiverProcess, storage: Storage) -> None:
    """Everything that was committed has arrived once, and each file's changes in their order."""
    events = await rows(storage, 'SELECT id, user_id, "key" FROM event ORDER BY seq')
    said = heard(receiver)
    assert len(said) == len(events)
    expected: dict[Any, list[str]] = defaultdict(list)
    for id_, user_id, key in events:
        expected[user_id, key].append(str(id_).replace("-", ""))
    came: dict[Any, list[str]] = defaultdict(list)
    version: dict[Any, int] = defaultdict(int)
    for id_, item in said:
        data = item["data"]
        file = data["user_id"], data["path"]
        came[file].append(id_)
        if item["type"] == "file.deleted":
            assert data["version"] == version.pop(file, 0), "what is deleted is the version before"
        else:
            version[file] += 1
            assert data["version"] == version[file], f"{file} is at its version {version[file]}"
    assert came == expected
    assert version == {
        (user, path): at for user, path, at in await rows(storage, "SELECT user_id, path, version FROM file")
    }


# ---- order


@pytest.mark.slow
@pytest.mark.parametrize(
    ("dispatchers", "options"), [(1, {}), (3, {}), (3, BATCHED)], ids=["one", "several", "several-batched"]
)
async def test_what_many_writers_change_arrives_in_the_order_of_their_commits(
    hall: Hall, receiver: ReceiverProcess, dispatchers: int, options: dict[str, Any]
) -> None:
    async with hall.open_many(dispatchers) as storages:
        await storages[0].webhooks.add(receiver.url, **options)
        await change(storages, CHANGES)
        await arrived(receiver, storages[0], some_fail=True)
        await check(receiver, storages[0])


@pytest.mark.parametrize("options", [{}, BATCHED], ids=["standard", "batched"])
async def test_a_write_after_a_deletion_is_the_last_that_is_heard_of_a_file(
    hall: Hall, receiver: ReceiverProcess, options: dict[str, Any]
) -> None:
    paths = [f"{number}.txt" for number in range(20)]

    async def thrice(files: FileCatalog, path: str) -> None:
        await files.write(path, b"first")
        await files.delete(path)
        await files.write(path, b"last")

    async with hall.open_many(2) as storages:
        alice = storages[0].user("alice")
        await alice.webhooks.add(receiver.url, format="openhands", signed=False, **options)
        await asyncio.gather(*(thrice(alice.files, path) for path in paths))
        await arrived(receiver, storages[0], some_fail=True)
    tree: dict[str, Any] = {}
    for request in accepted(receiver):
        if options:
            calls = [(item["method"], item["path"], item.get("content")) for item in request.json]
        else:
            calls = [(request.method, request.path.lstrip("/"), request.body.decode())]
        for method, path, content in calls:
            tree[path] = content if method == "POST" else None
    assert tree == dict.fromkeys(paths, "last")


# ---- several dispatchers


async def test_of_two_dispatchers_one_delivers_each_event_and_no_event_goes_twice(
    hall: Hall, receiver: ReceiverProcess
) -> None:
    async with hall.open_many(2) as storages:
        for number in range(3):
            await storages[0].webhooks.add(f"{receiver.url}/{number}", event_types=("file.*",))
        await change(storages, 120)
        await arrived(receiver, storages[0])
        [(events,)] = await rows(storages[0], "SELECT COUNT(*) FROM event")
        attempts = await rows(storages[0], "SELECT DISTINCT attempts, state FROM delivery")
    ids = [(request.path, request.id) for request in receiver.requests()]
    assert len(ids) == len(set(ids)) == 3 * events
    assert attempts == [(1, "delivered")]


# ---- endpoints that are dead


@pytest.fixture
def refusing_url() -> Iterator[str]:
    """Where connections are refused: a port that is taken, and that nobody listens at."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{taken.getsockname()[1]}/"


@pytest.mark.parametrize("kind", ["mute", "failing", "refusing"])
async def test_a_dead_endpoint_delays_another_by_less_than_a_poll(
    hall: Hall, receiver: ReceiverProcess, refusing_url: str, kind: str
) -> None:
    """There is no poll: if the living endpoint waited for the dead one, or for a poll, it would hear of nothing."""
    receiver.behave("/dead", behaviours.SILENCE if kind == "mute" else behaviours.SERVER_ERROR)
    dead = refusing_url if kind == "refusing" else f"{receiver.url}/dead"
    async with hall.open(webhook_poll_seconds=NEVER) as storage:
        await storage.webhooks.add(dead)
        await storage.webhooks.add(f"{receiver.url}/live")
        for number in range(20):
            await storage.user("alice").files.write(f"{number % 10}", str(number))
        requests = await receiver.wait_for(20, path="/live")
        said = {(request.json["data"]["path"], request.json["data"]["version"]) for request in requests}
        assert said == {(f"{number}", version) for number in range(10) for version in (1, 2)}
        [(waiting,)] = await rows(storage, "SELECT COUNT(*) FROM delivery WHERE state <> 'delivered'")
        assert waiting >= 20, "all of the dead one's"
        if kind == "mute":
            await until(lambda: receiver.count("/dead") == CONCURRENCY)


# ---- what wakes a dispatcher of another process


async def test_a_commit_elsewhere_wakes_a_dispatcher_on_postgresql(
    postgres_hall: Hall, receiver: ReceiverProcess
) -> None:
    async with postgres_hall.open(webhook_delivery=False) as writing:
        await writing.webhooks.add(receiver.url)
        async with postgres_hall.open(webhook_poll_seconds=NEVER) as delivering:
            await until(lambda: _listens(delivering))
            for number in range(1, 4):  # one after the other, so that each needs its own announcement
                await writing.user("alice").files.write("a", str(number))
                await receiver.wait_for(number)
            await settled(writing)
    assert [item["data"]["version"] for _, item in heard(receiver)] == [1, 2, 3]


async def test_behind_a_pooler_nobody_listens_and_polling_finds_what_was_committed(
    postgres_hall: Hall, receiver: ReceiverProcess
) -> None:
    async with (
        postgres_hall.open(webhook_delivery=False, postgres_prepared_statements=False) as writing,
        postgres_hall.open(postgres_prepared_statements=False) as delivering,
    ):
        await writing.webhooks.add(receiver.url)
        for number in range(1, 4):
            await writing.user("alice").files.write("a", str(number))
            await receiver.wait_for(number)
            assert not await _listens(delivering)
        await settled(writing)
    assert [item["data"]["version"] for _, item in heard(receiver)] == [1, 2, 3]


async def _listens(storage: Storage) -> bool:
    """Whether a connection that listens is open in this database."""
    found = await rows(
        storage,
        "SELECT query FROM pg_stat_activity"
        " WHERE datname = current_database() AND application_name = 'agent-storage-webhooks'",
    )
    return any("LISTEN" in query for (query,) in found)
