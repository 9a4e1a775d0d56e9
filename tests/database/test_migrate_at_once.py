"""Several new databases that one process opens at once: each is migrated by itself, and is whole."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from storage.database.database import Database
from storage.database.migrate import HEAD, ensure, stored_revision, upgrade
from storage.database.url import parse_url
from tests.servers.postgres import PostgresServer

NUMBER = 4


@pytest.fixture(params=["sqlite", "postgresql"])
def new_urls(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[list[str]]:
    if request.param == "sqlite":
        yield [f"sqlite:///{tmp_path / f'{number}.db'}" for number in range(NUMBER)]
        return
    server: PostgresServer = request.getfixturevalue("postgres_server")
    urls = [server.create_database() for _ in range(NUMBER)]
    yield urls
    for url in urls:
        server.drop_database(url)


async def opened(url: str) -> str | None:
    database = Database(parse_url(url))
    try:
        await ensure(database, parse_url(url))
        return await stored_revision(database)
    finally:
        await database.close()


async def test_new_databases_are_migrated_side_by_side(new_urls: list[str]) -> None:
    assert await asyncio.gather(*map(opened, new_urls)) == [HEAD] * NUMBER


async def test_one_that_is_cancelled_lets_the_next_one_begin_only_when_it_has_ended(new_urls: list[str]) -> None:
    first = asyncio.ensure_future(upgrade(parse_url(new_urls[0])))
    await asyncio.sleep(0.05)
    first.cancel()
    await asyncio.gather(first, *(upgrade(parse_url(url)) for url in new_urls[1:]), return_exceptions=True)
    assert await asyncio.gather(*map(opened, new_urls)) == [HEAD] * NUMBER
