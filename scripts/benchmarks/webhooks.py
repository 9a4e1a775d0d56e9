"""Web hooks: what the outbox adds to a durable write of a file, and how fast and how soon events are delivered.

Contenders take turns in every round, so that what else the machine does hits them alike; quote the ratios. Between two
turns everything is delivered, so that none pays for what another left behind.
"""

from __future__ import annotations

import asyncio
import os
import random
import tempfile
from argparse import ArgumentParser
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager
from datetime import timedelta
from functools import partial
from pathlib import Path
from statistics import median, quantiles
from time import monotonic, perf_counter
from typing import Any, Final
from unittest.mock import patch

from rich.console import Console
from rich.table import Table
from sqlalchemy import text

from storage import Storage, StorageConfig
from storage.database.unit import Unit
from storage.files import rows as file_rows
from storage.webhooks.delivery.dispatcher import CONCURRENCY
from storage.webhooks.endpoints.model import Batching
from storage.webhooks.outbox import change, record_all
from storage.webhooks.queue.exchange import Claim, Settled, exchange
from storage.webhooks.queue.fan_out import fan_out
from tests.servers.postgres import PostgresServer
from tests.servers.receiver import ReceiverProcess

CONTENT: Final = os.urandom(1024)
PATHS: Final = 64
"""Each round writes the same files again: what an application does, and the disk stays small."""

KEYS: Final = 1000
"""Of the events that are only delivered. Those of one key go one after the other."""

BATCH: Final = Batching(events=100, seconds=0.05)
LEASE: Final = timedelta(seconds=60)
ENDPOINT: Final[dict[str, Any]] = {"event_types": ("file.*",)}
ASK_SECONDS: Final = 0.02
"""Between two looks whether all is delivered: a hundredth of what a round takes."""

IDLE_SECONDS: Final = 0.02
"""Between an event that has been acknowledged and the next: nobody is busy with the last one any more."""


class Place:
    """Where storages of one dialect are made, each in a database of its own."""

    def __init__(self, title: str, folder: Path, server: PostgresServer | None) -> None:
        self.title = title
        self.folder = folder
        self._server = server
        self._number = 0

    def new(self, **settings: Any) -> StorageConfig:
        """The configuration of a storage that is not there yet."""
        self._number += 1
        folder = self.folder / str(self._number)
        folder.mkdir(parents=True)
        url = self._server.create_database() if self._server else f"sqlite:///{folder / 'storage.db'}"
        return StorageConfig(
            database_url=url,
            data_dir=folder,
            file_store_path=str(folder / "files"),
            master_key_file=self.folder / "master.key",
            webhook_allowed_networks=("127.0.0.0/8",),
            **settings,
        )


async def query(storage: Storage, sql: str) -> list[Any]:
    """Rows of a query of one's own."""
    async with storage.session(read_only=True) as session:
        return list(await (await session.connection()).execute(text(sql)))


async def delivered(storage: Storage) -> None:
    """Wait until nothing is left to deliver; one row tells, so that asking takes little from who delivers."""
    waiting = "SELECT 1 FROM event WHERE to_fan_out IS NOT NULL AND seq > 0 LIMIT 1"
    pending = "SELECT 1 FROM delivery WHERE state = 'pending' LIMIT 1"
    while await query(storage, waiting) or await query(storage, pending):  # noqa: ASYNC110 - rows make no asyncio.Event
        await asyncio.sleep(ASK_SECONDS)


# ---- what the outbox adds to a write


@contextmanager
def left_out() -> Iterator[None]:
    """The same write without its event: neither made, nor stored, nor announced to hooks."""

    def nothing(_: Any) -> Unit[None]:
        yield from ()

    with patch.object(file_rows, "record_all", nothing), patch.object(file_rows, "_written", lambda *_: None):
        yield


async def write(storage: Storage, tasks: int, number: int) -> float:
    """Microseconds per write, so many tasks at once."""
    files = storage.user("ada").files

    async def work(first: int) -> None:
        for index in range(first, number, tasks):
            await files.write(f"folder/{index % PATHS}", CONTENT)

    started = perf_counter()
    await asyncio.gather(*(work(first) for first in range(tasks)))
    return (perf_counter() - started) / number * 1e6


async def outbox(place: Place, receiver: ReceiverProcess, rounds: int) -> None:
    """Writes with no event, with one that nobody hears of, and with one that is delivered meanwhile."""
    names = ("event left out", "no endpoint", "delivered", "delivered in batches")
    table = Table(title=f"{place.title}: µs per durable write of 1 KiB")
    for heading in ("content in", "tasks", *names, *[f"+ {name}" for name in names[1:]]):
        table.add_column(heading, justify="left" if heading == "content in" else "right")
    places: dict[str, dict[str, Any]] = {"a folder": {}, "a row": {"small_files_in_database": 1024}}
    for content_in, settings in places.items():
        async with AsyncExitStack() as opened:
            storages = [await opened.enter_async_context(Storage.open(place.new(**settings))) for _ in names]
            await storages[2].webhooks.add(receiver.url, **ENDPOINT)
            await storages[3].webhooks.add(receiver.url, mode="batched", batching=BATCH, **ENDPOINT)
            for tasks, number in ((1, 64), (32, 640)):
                taken: list[list[float]] = [[] for _ in names]
                for round_ in range(rounds + 1):
                    turns = list(enumerate(storages))
                    random.Random(round_).shuffle(turns)  # noqa: S311 - the disk is slower after some than after others
                    for index, storage in turns:
                        with ExitStack() as turn:
                            if index == 0:
                                turn.enter_context(left_out())
                            micro = await write(storage, tasks, number)
                        if index > 1:
                            await delivered(storage)
                        if round_:  # the first one warms up
                            taken[index].append(micro)
                    receiver.reset()
                figures = [median(times) for times in taken]
                added = [f"{figure / figures[0] - 1:+.0%}" for figure in figures[1:]]
                table.add_row(content_in, str(tasks), *[f"{figure:,.0f}" for figure in figures], *added)
    Console(width=160).print(table)


# ---- events a second


async def events(storage: Storage, number: int) -> None:
    """Commit so many events of the usual size, past the files, which are not what is measured."""
    facts = {"size": 1024, "sha256": "0" * 64, "media_type": "text/plain"}
    for start in range(0, number, 500):
        changes = [
            change("ada", "file.written", key=f"folder/{index % KEYS}", version=1, payload={"path": "x", **facts})
            for index in range(start, min(start + 500, number))
        ]
        await storage.database.run(partial(record_all, changes))


async def queue(place: Place, number: int, rounds: int) -> None:
    """Events that are fanned out, and claimed and acknowledged, with no network between the two."""
    kinds: dict[str, tuple[int, dict[str, Any]]] = {
        f"claimed and acknowledged, {CONCURRENCY} at a time": (CONCURRENCY, {}),
        "claimed and acknowledged, 64 at a time": (64, {}),
        f"claimed and acknowledged in batches of {BATCH.events}": (1, {"mode": "batched", "batching": BATCH}),
    }
    taken: dict[str, list[float]] = {"fanned out": [], **{name: [] for name in kinds}}
    async with AsyncExitStack() as opened:
        storages = {
            name: await opened.enter_async_context(Storage.open(place.new(webhook_delivery=False))) for name in kinds
        }
        ids = {
            name: (await storages[name].webhooks.add("http://127.0.0.1:1/", **ENDPOINT, **options)).endpoint.id
            for name, (_, options) in kinds.items()
        }
        for round_ in range(rounds + 1):
            for name, (slots, _) in kinds.items():
                database = storages[name].database
                await events(storages[name], number)
                started = perf_counter()
                while (await database.run(fan_out)).more:
                    pass
                fanned_out = perf_counter()
                settled: list[Settled] = []
                count = 0
                while True:
                    unit = partial(exchange, ids[name], settled, slots=slots, lease=LEASE, random=lambda: 1.0)
                    claims = (await database.run(unit)).claims
                    if not claims:
                        break
                    settled = [acknowledged(claim) for claim in claims]
                    count += sum(len(claim.items) for claim in claims)
                if count != number:
                    raise SystemExit(f"{count} of {number} events were claimed")
                if round_:
                    taken["fanned out"].append(fanned_out - started)
                    taken[name].append(perf_counter() - fanned_out)
    show_rates(f"{place.title}: the queue alone, {number:,} events", taken, number)


def acknowledged(claim: Claim) -> Settled:
    """What an attempt that was answered with 200 is settled as."""
    return Settled(claim, "delivered", status=200)


async def delivery(place: Place, receiver: ReceiverProcess, number: int, rounds: int) -> None:
    """Events that wait, from the start of the dispatcher to the last acknowledgement; the receiver is a process."""
    kinds: dict[str, dict[str, Any]] = {
        "one a request": {},
        f"in batches of {BATCH.events}": {"mode": "batched", "batching": BATCH},
    }
    taken: dict[str, list[float]] = {name: [] for name in kinds}
    configs = {name: place.new() for name in kinds}
    for name, options in kinds.items():
        async with Storage.open(configs[name]) as storage:
            await storage.webhooks.add(receiver.url, **ENDPOINT, **options)
    for round_ in range(rounds + 1):
        for name, config in configs.items():
            async with Storage.open(config.model_copy(update={"webhook_delivery": False})) as storage:
                await events(storage, number)
            receiver.reset()
            async with Storage.open(config) as storage:
                started = perf_counter()
                await delivered(storage)
                seconds = perf_counter() - started
            if receiver.count() < (number if name == "one a request" else number // BATCH.events):
                raise SystemExit("the receiver has not got everything")
            if round_:
                taken[name].append(seconds)
    show_rates(f"{place.title}: delivered to a local receiver, {number:,} events", taken, number)


def show_rates(title: str, taken: dict[str, list[float]], number: int) -> None:
    """Print events a second, by the median of the rounds."""
    table = Table(title=title)
    table.add_column("what")
    table.add_column("events / s", justify="right")
    table.add_column("µs per event", justify="right")
    for name, seconds in taken.items():
        each = median(seconds) / number
        table.add_row(name, f"{1 / each:,.0f}", f"{each * 1e6:,.0f}")
    Console(width=120).print(table)


# ---- from commit to arrival


@asynccontextmanager
async def opened(*configs: StorageConfig) -> AsyncIterator[list[Storage]]:
    """Several storages at once."""
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(Storage.open(config)) for config in configs]


async def latency(place: Place, receiver: ReceiverProcess, number: int, *, is_postgresql: bool) -> None:
    """Milliseconds from a commit to the arrival of its event, one at a time on a machine with nothing else to do."""
    table = Table(title=f"{place.title}: ms from a commit to the arrival, {number} events, idle")
    for heading in ("who delivers", "median", "p95", "longest"):
        table.add_column(heading, justify="left" if heading == "who delivers" else "right")
    config = place.new(small_files_in_database=1024)
    kinds: dict[str, Sequence[StorageConfig]] = {"the same storage": (config,)}
    if is_postgresql:
        writing = place.new(small_files_in_database=1024, webhook_delivery=False)
        kinds["another one, woken by NOTIFY"] = (
            writing,
            writing.model_copy(update={"webhook_delivery": True, "webhook_poll_seconds": 3600.0}),
        )
    for name, configs in kinds.items():
        receiver.reset()
        async with Storage.open(configs[0].model_copy(update={"webhook_delivery": False})) as storage:
            await storage.webhooks.add(receiver.url, **ENDPOINT)
        async with opened(*configs) as storages:
            taken = await arrivals(storages[0], receiver, number)
        p95 = quantiles(taken, n=20)[-1]
        table.add_row(name, *[f"{value * 1000:.1f}" for value in (median(taken), p95, max(taken))])
    Console(width=120).print(table)


async def arrivals(storage: Storage, receiver: ReceiverProcess, number: int) -> list[float]:
    """Seconds from each commit to its arrival; the first one connects and is left out."""
    committed: list[float] = []
    storage.on_commit(lambda _: committed.append(monotonic()))
    files = storage.user("ada").files
    for index in range(number + 1):
        await files.write(f"folder/{index}", CONTENT)
        await receiver.wait_for(index + 1)
        await delivered(storage)
        await asyncio.sleep(IDLE_SECONDS)
    came = [request.at for request in receiver.requests()]
    return [at - since for at, since in zip(came, committed, strict=True)][1:]


# ---- all of it


async def measure(place: Place, receiver: ReceiverProcess, options: Any, *, is_postgresql: bool) -> None:
    """Everything on one dialect."""
    await outbox(place, receiver, options.rounds)
    await queue(place, options.events, options.rounds)
    await delivery(place, receiver, options.events, options.rounds)
    await latency(place, receiver, options.samples, is_postgresql=is_postgresql)


def main() -> None:
    """Measure SQLite, then PostgreSQL."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--events", type=int, default=2000, help="that are delivered in one round")
    parser.add_argument("--samples", type=int, default=100, help="commits whose arrival is waited for")
    parser.add_argument("--sqlite-only", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=".") as name, ReceiverProcess() as receiver:
        place = Place("SQLite, synchronous=FULL", Path(name) / "sqlite", None)
        asyncio.run(measure(place, receiver, options, is_postgresql=False))
        if options.sqlite_only:
            return
        with PostgresServer() as server:
            place = Place("PostgreSQL, fsync off", Path(name) / "postgresql", server)
            asyncio.run(measure(place, receiver, options, is_postgresql=True))


if __name__ == "__main__":
    main()
