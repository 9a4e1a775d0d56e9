"""Retention: how long writers wait while it removes conversations with their files, and events.

Writers save settings all the time, in the process that removes and in another one. Quoted are their waits, from the
call to its return, without and with retention running; the longest is what the promise of 50 ms is about.
"""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
from argparse import ArgumentParser
from collections.abc import Callable, Coroutine
from datetime import timedelta
from pathlib import Path
from statistics import median, quantiles
from time import monotonic, perf_counter
from typing import Any, Final, cast

from rich.console import Console
from rich.table import Table

from storage import ConversationMetadata, Storage
from storage.clock import now
from storage.retention.policy import RetentionPolicy
from tests.servers.postgres import PostgresServer

WRITERS: Final = 4
"""In each of the two processes."""

PAUSE_SECONDS: Final = 0.002
"""Between two saves of a writer: a busy application, and not one that fills the disk."""

QUIET_SECONDS: Final = 5.0
SPREAD: Final = (1, 20, 300)
"""Files of a conversation, in turn; now and then there is one with very many."""

LARGE: Final = 20_000


def options(folder: Path) -> dict[str, Any]:
    """What a storage of this benchmark is opened with."""
    return {"data_dir": folder, "master_key_file": folder / "key", "webhook_delivery": False}


async def fill(url: str, folder: Path, conversations: int) -> int:
    """Conversations of a hundred days ago, with files; returns how many files."""
    files = 0
    async with Storage.open(url, **options(folder), small_files_in_database=100) as storage:
        for number in range(conversations):
            ada = storage.user(f"user-{number % 10}")
            name = f"c{number}"
            metadata = ConversationMetadata(conversation_id=name, created_at=now() - timedelta(days=100))
            await ada.conversations.save_metadata(metadata)
            wanted = LARGE if number == conversations // 2 else SPREAD[number % len(SPREAD)]
            for start in range(0, wanted, 2000):
                paths = range(start, min(start + 2000, wanted))
                await ada.files.write_many([(f"sessions/{name}/events/{path}.json", b"{}") for path in paths])
            files += wanted
    return files


async def write(storage: Storage, user_id: str, waits: list[float], stopped: Callable[[], bool]) -> None:
    """Save settings again and again, and note how long each save took."""
    user = storage.user(user_id)
    number = 0
    while not stopped():
        number += 1
        began = perf_counter()
        await user.settings.update(language=f"l{number}")
        waits.append(perf_counter() - began)
        await asyncio.sleep(PAUSE_SECONDS)


async def other_process(url: str, folder: Path) -> None:
    """Writes until its standard input ends, and prints its waits; `mark` on the input begins a new list."""
    lists: list[list[float]] = [[]]
    ended = False
    async with Storage.open(url, **options(folder)) as storage:

        def follow() -> None:
            nonlocal ended
            lists.extend([] for _ in sys.stdin)
            ended = True

        async def keep(user_id: str) -> None:
            user = storage.user(user_id)
            number = 0
            while not ended:
                number += 1
                into, began = lists[-1], perf_counter()
                await user.settings.update(language=f"l{number}")
                into.append(perf_counter() - began)
                await asyncio.sleep(PAUSE_SECONDS)

        following = asyncio.create_task(asyncio.to_thread(follow))
        await asyncio.gather(*(keep(f"other-{number}") for number in range(WRITERS)))
        await following
    print(json.dumps(lists))


async def measured(storage: Storage, work: Callable[[], Coroutine[Any, Any, Any]]) -> tuple[list[float], float, Any]:
    """Waits of this process's writers during the work, how long it took, and its result."""
    waits: list[float] = []
    done = False
    writers = [
        asyncio.create_task(write(storage, f"writer-{number}", waits, lambda: done)) for number in range(WRITERS)
    ]
    began = monotonic()
    result = await work()
    seconds = monotonic() - began
    done = True
    await asyncio.gather(*writers)
    return waits, seconds, result


async def measure(title: str, url: str, folder: Path, conversations: int, table: Table) -> None:
    """Fill a database, remove it all by retention beside the writers, and add their waits to the table."""
    files = await fill(url, folder, conversations)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "scripts.benchmarks.retention", "--write", url, str(folder)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    entrance = cast("asyncio.StreamWriter", process.stdin)
    async with Storage.open(url, **options(folder)) as storage:

        async def remove() -> Any:
            return await storage.retention.run(RetentionPolicy(conversation_age=timedelta(days=1)))

        async def prune() -> Any:
            return await storage.retention.run(RetentionPolicy(events_per_user=10))

        steps: list[tuple[str, Callable[[], Coroutine[Any, Any, Any]]]] = [
            ("nothing", lambda: asyncio.sleep(QUIET_SECONDS)),
            (f"{conversations} conversations, {files} files", remove),
            ("events", prune),
        ]
        await asyncio.sleep(3.0)  # until the other process writes too
        own = []
        for name, work in steps:
            entrance.write(b"mark\n")
            await entrance.drain()
            own.append((name, *await measured(storage, work)))
    entrance.close()  # communicate() closes it only where it is given something to send
    output, _ = await process.communicate()
    others = json.loads(output)[1:]
    for (name, waits, seconds, result), other in zip(own, others, strict=True):
        print(f"{title}, {name}: {result}", file=sys.stderr)
        table.add_row(title, name, f"{seconds:.1f}", "same process", *_figures(waits))
        table.add_row(title, name, f"{seconds:.1f}", "other process", *_figures(other))


def _figures(waits: list[float]) -> list[str]:
    cuts = quantiles(waits, n=1000)
    return [
        f"{len(waits):,}",
        *(f"{value * 1000:.1f}" for value in (median(waits), cuts[989], cuts[998], max(waits))),
        f"{sum(value > 0.05 for value in waits):,}",  # noqa: PLR2004 - the promise
    ]


async def main() -> None:
    """Measure on both databases."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--conversations", type=int, default=300)
    parser.add_argument("--sqlite-only", action="store_true")
    parser.add_argument("--write", nargs=2, help="(its own second process)")
    given = parser.parse_args()
    if given.write:
        await other_process(given.write[0], Path(given.write[1]))
        return
    titles = ("while", "s", "writer", "saves", "median ms", "p99", "p99.9", "longest", "> 50 ms")
    table = Table("", *titles, title="Waits of writers")
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        await measure("SQLite", f"sqlite:///{place / 'a.db'}", place / "sqlite", given.conversations, table)
        if not given.sqlite_only:
            with PostgresServer() as server:
                await measure("PostgreSQL", server.create_database(), place / "postgresql", given.conversations, table)
    Console(width=150).print(table)


if __name__ == "__main__":
    asyncio.run(main())
