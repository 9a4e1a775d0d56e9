"""Listings of every store against a plain model, and what a listing of the catalogue costs."""

from __future__ import annotations

import asyncio
import tempfile
import uuid
from typing import cast

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Table, text

from storage.database.database import Database
from storage.database.url import parse_url
from storage.errors import Conflict
from storage.files import sql
from storage.files.backends.local import LocalFileStore
from storage.files.backends.memory import MemoryFileStore
from storage.files.catalog import FileCatalog
from storage.files.paths import under
from storage.files.store import FileStore
from storage.files.table import FileTable
from tests.reading_costs import reading_cost

# Neighbours of "/" in byte order, and characters of two and four bytes.
SEGMENT = st.text(st.sampled_from("a-0.é😀"), min_size=1, max_size=2).filter(lambda name: name.strip("."))
PATH = st.lists(SEGMENT, min_size=1, max_size=4).map("/".join)
STEPS = st.lists(
    st.tuples(st.sampled_from(["write", "write", "write", "delete", "move", "copy"]), PATH, PATH), max_size=25
)


def beside(paths: set[str], path: str) -> bool:
    """Whether a file system could not hold `path` together with the others."""
    return any(other.startswith(f"{path}/") or path.startswith(f"{other}/") for other in paths)


def level(paths: set[str], folder: str) -> list[str]:
    prefix = f"{folder}/" if folder else ""
    entries = set()
    for path in paths:
        if path.startswith(prefix):
            name, slash, _ = path.removeprefix(prefix).partition("/")
            entries.add(prefix + name + slash)
    return sorted(entries)


async def agree(store: FileStore, steps: list[tuple[str, str, str]], *, file_beside_folder: bool) -> None:
    model: set[str] = set()
    for verb, path, other in steps:
        if verb == "delete":
            gone = {name for name in model if name == path or name.startswith(f"{path}/")}
            assert await store.delete(path) == len(gone)
            model -= gone
            continue
        if verb == "write":
            if not file_beside_folder and beside(model, path):
                with pytest.raises(Conflict):
                    await store.write(path, b"")
                continue
            await store.write(path, b"")
            model.add(path)
            continue
        if path not in model or (not file_beside_folder and beside(model, other)):
            continue
        await (store.copy(path, other) if verb == "copy" else store.move(path, other))
        model.add(other)
        if verb == "move" and path != other:
            model.discard(path)
    assert [file.path async for file in store.walk()] == sorted(model)
    folders = {"", *(path.rpartition("/")[0] for path in model), *(path for _, path, _ in steps)}
    for folder in folders:
        assert await store.list(folder) == level(model, folder)
        below = [path for path in sorted(model) if path.startswith(f"{folder}/")] if folder else sorted(model)
        assert [file.path async for file in store.walk(folder)] == below


@given(STEPS)
def test_memory_lists_what_a_model_lists(steps: list[tuple[str, str, str]]) -> None:
    asyncio.run(agree(MemoryFileStore(), steps, file_beside_folder=True))


@given(STEPS)
@settings(deadline=None)
def test_a_folder_lists_what_a_model_lists(steps: list[tuple[str, str, str]]) -> None:
    async def run(root: str) -> None:
        async with LocalFileStore(root) as store:
            await agree(store, steps, file_beside_folder=False)

    with tempfile.TemporaryDirectory() as root:
        asyncio.run(run(root))


@given(STEPS)
@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_catalogue_lists_what_a_model_lists(migrated_url: str, steps: list[tuple[str, str, str]]) -> None:
    async def run() -> None:
        database = Database(parse_url(migrated_url))
        try:
            store = FileCatalog(database, MemoryFileStore(), uuid.uuid4().hex)
            await agree(store, steps, file_beside_folder=True)
        finally:
            await database.close()

    asyncio.run(run())


async def test_a_listing_costs_by_its_children_and_not_by_what_is_below_them(database: Database, user_id: str) -> None:
    files = FileCatalog(database, MemoryFileStore(), user_id)
    low, high = under("top")
    parameters = {"user_id": user_id, "low": low, "high": high, "folder_length": len(low), "limit": 100}
    costs = []
    for count in (50, 200, 1_000):  # a handful PostgreSQL reads and sorts as a whole
        await files.write_many([(f"top/{name}/{count}/{number}", b"") for name in "abc" for number in range(count)])
        assert await files.list("top") == ["top/a/", "top/b/", "top/c/"]
        costs.append(await reading_cost(database.url, sql.CHILDREN, parameters))
    assert costs[0] == costs[1] == costs[2]


async def test_two_hundred_thousand_files_below_a_folder_are_not_read_to_list_it(database_url: str) -> None:
    table = cast("Table", FileTable.__table__)  # type: ignore[attr-defined]
    others = ", ".join(column.name for column in table.columns if column.name != "path")
    more = f"""
        INSERT INTO file ({others}, path)
        WITH RECURSIVE file_number(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM file_number WHERE n < 200000)
        SELECT {others}, path || n FROM file, file_number WHERE path = 'top/a/b/0'
    """
    parameters = {"user_id": "local", "low": "top/", "high": "top0", "folder_length": 4, "limit": 100}
    database = Database(parse_url(database_url))
    try:
        files = FileCatalog(database, MemoryFileStore(), None)
        await files.write_many((path, b"") for path in ("top/0", "top/a/b/0", "top/z/0"))
        few = await reading_cost(database.url, sql.CHILDREN, parameters)
        async with database.session() as session:
            connection = await session.connection()
            for index in table.indexes:
                await connection.execute(
                    text(f"DROP INDEX {index.name}")
                )  # filling them takes time, and a listing uses none
            await connection.execute(text(more))
            await session.commit()
        assert (await files.usage()).files == 200_003
        assert await files.list("top") == ["top/0", "top/a/", "top/z/"]
        assert await reading_cost(database.url, sql.CHILDREN, parameters) == few
    finally:
        await database.close()
