"""Rotation against eight writers: no write is lost or undone, and nothing but sealed columns is rotated."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from sqlalchemy import select

from storage.database import Database, Statement, parse_url
from storage.encryption.envelope import data_key_id_of
from storage.encryption.keyring import EVERYONE, KeyRing
from storage.encryption.providers.local_keys import MasterKey
from storage.encryption.sealed_rows import SealedValue
from storage.secrets.sql import SQLSecretsStore
from storage.settings.sql import SQLSettingsStore
from storage.tables import metadata
from tests.encryption.everything_sealed import (
    USERS,
    data_keys,
    everything_else,
    fill,
    opened,
    rotation,
    started,
    stored,
)

ROUNDS = 6
"""Re-encryptions and rewraps while the writers write."""

WRITERS = 8

_set = metadata.tables["user_secrets"].c
_custom = metadata.tables["custom_secret"].c
VERSIONS = Statement("test", select(_set.user_id, _set.version), register=False)
MOMENTS = Statement("test", select(_custom.user_id, _custom.name, _custom.updated_at), register=False)


class Writer:
    """Counts upwards in a secret and a setting of its own, beside another writer of the same user elsewhere."""

    def __init__(self, number: int, database: Database, ring: KeyRing) -> None:
        self.user = f"writer {number // 2}"
        self.name = f"COUNT_{number}"
        self.field = "llm_api_key" if number % 2 else "search_api_key"
        self.secrets = SQLSecretsStore(database, self.user, ring)
        self.settings = SQLSettingsStore(database, self.user, ring)
        self.written = 0

    async def write(self, done: asyncio.Event) -> None:
        while not done.is_set() or self.written < ROUNDS:
            number = str(self.written + 1)
            await self.secrets.set_custom_secret(self.name, number)
            await self.settings.update(**{self.field: number})
            self.written += 1
            assert await self.read() == (number, number), "a write was lost or undone"

    async def read(self) -> tuple[str, str]:
        secret = await self.secrets.get_custom_secret(self.name)
        settings = await self.settings.load()
        assert settings is not None
        value: Any = getattr(settings, self.field)
        return secret.secret.get_secret_value(), value.get_secret_value()


async def whole_rows(database: Database) -> dict[str, list[tuple[Any, ...]]]:
    """What belongs to those who do not write: everything but the sealed columns."""
    found = await everything_else(database)
    return {
        table: [row for row in rows if not any(str(value).startswith("writer ") for value in row)]
        for table, rows in found.items()
    }


@pytest.mark.slow
async def test_eight_writers_in_two_processes_lose_nothing_to_a_rotation(database_url: str) -> None:
    first, second = MasterKey.generate(), MasterKey.generate()
    here, there, rotating = [Database(parse_url(database_url)) for _ in range(3)]
    try:
        rings = [await started(here, first, second), await started(there, first, second)]
        await fill(here, rings[0])
        before, rest = await opened(here, rings[0]), await whole_rows(here)
        writers = [Writer(number, (here, there)[number % 2], rings[number % 2]) for number in range(WRITERS)]
        done = asyncio.Event()
        resealed = moved = 0
        async with asyncio.TaskGroup() as group:
            for writer in writers:
                group.create_task(writer.write(done))
            for turn in range(ROUNDS):
                order = (second, first) if turn % 2 == 0 else (first, second)
                keys = rotation(rotating, await started(rotating, *order))
                found = await keys.rewrap()
                assert found.failed == ()
                moved += found.moved
                again = await keys.reencrypt()
                assert again.unreadable == ()
                resealed += again.resealed
            done.set()
        assert moved
        assert resealed > ROUNDS * len(before) // 2
        users = sorted({writer.user for writer in writers})
        for writer in writers:
            number = str(writer.written)
            assert await writer.read() == (number, number)
        versions: dict[str, int] = {row[0]: row[1] for row in await here.read(VERSIONS, {})}
        for user in users:
            written = sum(writer.written for writer in writers if writer.user == user)
            assert versions[user] == written, "each write counts once, and no rotation counts"
        assert await opened(here, await started(here, second, first)) == before
        assert await whole_rows(here) == rest
        # What is left of retired keys is named by values, and the next run sees to it.
        last = rotation(rotating, await started(rotating, first, second))
        await last.rewrap()
        while (await last.reencrypt()).resumed:
            pass
        diagnosis = await last.doctor()
        assert (diagnosis.unreadable, diagnosis.problems) == ((), ())
        everybody = [*USERS, *users, EVERYONE]
        active = {user: key_id for key_id, user, _, _ in await data_keys(here)}
        assert {_under(value) for value in await stored(here, everybody)} == set(active.items())
    finally:
        for database in (here, there, rotating):
            await database.close()


def _under(value: SealedValue) -> tuple[str, bytes]:
    return value.context.user_id, data_key_id_of(value.sealed)
