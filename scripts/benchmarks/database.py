"""get, page of 20 and upsert at 1 and 64 tasks: this library, the driver below it, a plain SQLModel repository.

All contenders work on the same rows of the same database and take turns in every round, so that what else the machine
does hits them alike; quote the ratios.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import tempfile
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from time import perf_counter

from rich.console import Console
from rich.table import Table

from scripts.benchmarks.contenders import Contender, Ours, PlainSQLModel, PostgreSQLFloor, SQLiteFloor, conversation
from tests.servers.postgres import PostgresServer

OPERATIONS = ("get", "page of 20", "upsert")
TASKS = (1, 64)
CALLS = {
    ("get", 1): 300,
    ("page of 20", 1): 100,
    ("upsert", 1): 60,
    ("get", 64): 640,
    ("page of 20", 64): 192,
    ("upsert", 64): 640,
}
"""Calls in one round: enough to take some tens of milliseconds in the fastest contender."""


async def timed(calls: Sequence[Callable[[], Awaitable[object]]], tasks: int) -> float:
    """Microseconds for one call when `tasks` run at once, each with its share of the calls one after the other."""

    async def work(share: Sequence[Callable[[], Awaitable[object]]]) -> None:
        for call in share:
            await call()

    started = perf_counter()
    await asyncio.gather(*[work(calls[first::tasks]) for first in range(tasks)])
    return (perf_counter() - started) / len(calls) * 1e6


def calls_of(
    contender: Contender, operation: str, rows: int, number: int, round_: int
) -> list[Callable[[], Awaitable[object]]]:
    """The calls of one round; every contender gets the same places."""
    choice = random.Random(round_)  # noqa: S311 - repeatable is what is wanted
    places = [choice.randrange(100, rows) for _ in range(number)]
    if operation == "get":
        return [partial(contender.get, place) for place in places]
    if operation == "page of 20":
        return [partial(contender.page, place) for place in places]
    items = [conversation(place, round_) for place in places]
    return [partial(contender.upsert, item) for item in items]


async def measure(contenders: Sequence[Contender], rows: int, rounds: int) -> dict[tuple[str, int], dict[str, float]]:
    """Medians in microseconds, by operation and number of tasks, by contender."""
    for contender in contenders:
        await contender.open()
    ours = contenders[0]
    assert isinstance(ours, Ours)  # noqa: S101 - a benchmark is read with its asserts
    await ours.fill(rows)
    await ours.prepare_pages(range(rows))
    figures: dict[tuple[str, int], dict[str, float]] = {}
    for operation in OPERATIONS:
        for tasks in TASKS:
            taken: dict[str, list[float]] = {contender.name: [] for contender in contenders}
            for round_ in range(rounds + 1):
                for contender in contenders:
                    number = CALLS[operation, tasks]
                    micro = await timed(calls_of(contender, operation, rows, number, round_), tasks)
                    if round_:  # the first one warms caches and pools
                        taken[contender.name].append(micro)
            figures[operation, tasks] = {name: median(values) for name, values in taken.items()}
    for contender in contenders:
        await contender.close()
    return figures


def show(title: str, figures: dict[tuple[str, int], dict[str, float]]) -> None:
    """Print one database's figures."""
    names = list(next(iter(figures.values())))
    ours, floor, plain = names
    table = Table(title=title)
    table.add_column("operation")
    table.add_column("tasks", justify="right")
    for name in names:
        table.add_column(f"{name}, µs", justify="right")
    table.add_column("ours / floor", justify="right")
    table.add_column("SQLModel / ours", justify="right")
    for (operation, tasks), row in figures.items():
        table.add_row(
            operation,
            str(tasks),
            *[f"{row[name]:,.0f}" for name in names],
            f"{row[ours] / row[floor]:.2f}",
            f"{row[plain] / row[ours]:.1f}",
        )
    Console(width=120).print(table)


def main() -> None:
    """Measure SQLite, then PostgreSQL."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--sqlite-only", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path = folder / "benchmark.db"
        url = f"sqlite:///{path}"
        figures = asyncio.run(
            measure([Ours(url, folder), SQLiteFloor(path), PlainSQLModel(url)], options.rows, options.rounds)
        )
        show(f"SQLite, {options.rows:,} rows, WAL, synchronous=FULL", figures)
        if options.sqlite_only:
            return
        with PostgresServer() as server:
            url = server.create_database()
            contenders = [Ours(url, folder), PostgreSQLFloor(url), PlainSQLModel(url)]
            figures = asyncio.run(measure(contenders, options.rows, options.rounds))
        show(f"PostgreSQL, {options.rows:,} rows, unix socket, fsync off", figures)


if __name__ == "__main__":
    main()
