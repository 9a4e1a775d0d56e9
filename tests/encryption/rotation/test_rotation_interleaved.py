"""Rotation and stores of several processes, interleaved one statement at a time where a secret could be lost."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from sqlalchemy import update

from storage.database import Database
from storage.encryption.keyring import KeyRing
from storage.encryption.providers.local_keys import MasterKey
from storage.encryption.rotation import reencrypt
from storage.encryption.rotation.generation import begin_generation
from storage.errors import Tampered
from storage.settings.sql import SQLSettingsStore
from storage.tables import metadata
from tests.encryption.everything_sealed import (
    change,
    data_keys,
    new,
    old,
    opened,
    other_process,
    ring,
    rotation,
    secrets,
    started,
    under,
    value_of,
)

__all__ = ["new", "old", "other_process", "ring"]


class Between:
    """A Database that lets something happen just before its next unit of work begins."""

    def __init__(self, database: Database, happens: Callable[[], Awaitable[Any]]) -> None:
        self._database = database
        self._happens: Callable[[], Awaitable[Any]] | None = happens

    def __getattr__(self, name: str) -> Any:
        return getattr(self._database, name)

    async def run(self, unit: Any) -> Any:
        happens, self._happens = self._happens, None
        if happens is not None:
            await happens()
        return await self._database.run(unit)


async def test_nothing_is_given_up_that_a_re_encryption_seals_again_meanwhile(
    database: Database, other_process: Database, ring: KeyRing, old: MasterKey
) -> None:
    before = await opened(database, ring)
    other = rotation(other_process, await started(other_process, old))

    store = secrets(Between(database, other.reencrypt), ring)
    assert await store.discard_unreadable() == ()
    settings = SQLSettingsStore(Between(database, other.reencrypt), "ada", ring)
    assert await settings.discard_unreadable() == ()

    assert await opened(database, ring) == before


async def test_a_slow_run_seals_nothing_under_a_data_key_that_others_have_replaced_and_deleted(
    database: Database,
    other_process: Database,
    ring: KeyRing,
    old: MasterKey,
    new: MasterKey,
) -> None:
    # The old values are under data keys that only the slow run can unwrap, so that the others leave them as they are.
    ours = await started(database, new, old)
    before = await opened(database, ring)
    await begin_generation(database, ours.master_keys)
    theirs = rotation(other_process, await started(other_process, new))
    sealed_again, done = reencrypt._sealed_again, asyncio.Event()
    loop = asyncio.get_running_loop()

    async def run_theirs() -> None:
        await theirs.reencrypt()

    def slow(*arguments: Any) -> Any:
        changes = sealed_again(*arguments)
        if changes[0] and not done.is_set():
            done.set()
            asyncio.run_coroutine_threadsafe(run_theirs(), loop).result()
        return changes

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(reencrypt, "_sealed_again", slow)
        await rotation(database, ours).reencrypt()

    assert done.is_set()
    assert await under(database) <= {row[0] for row in await data_keys(database)}
    ours.forget()
    assert await opened(database, ours) == before


async def test_a_user_whose_data_key_was_altered_can_give_up_what_it_sealed_and_go_on(
    database: Database, ring: KeyRing, old: MasterKey
) -> None:
    keys = metadata.tables["data_key"]
    await change(database, update(keys).where(keys.c.user_id == "ada").values(wrapped=b"altered"))
    ring.forget()
    with pytest.raises(Tampered):
        await secrets(database, ring).set_custom_secret("ONE", "again")

    assert "custom secret 'ONE'" in await secrets(database, ring).discard_unreadable()
    await secrets(database, ring).set_custom_secret("ONE", "again")

    assert await value_of(database, ring) == "again"
    assert [state for _, user, _, state in await data_keys(database) if user == "ada"].count("retired") == 1


async def test_what_is_told_of_progress_never_gets_less_when_a_run_walks_twice(
    database: Database, ring: KeyRing, old: MasterKey, new: MasterKey
) -> None:
    # Retired keys that cannot be unwrapped are walked first, and then the new generation.
    await begin_generation(database, (await started(database, new, old)).master_keys)
    told: list[tuple[int, int]] = []
    await rotation(database, await started(database, new)).reencrypt(lambda *progress: told.append(progress))
    assert told == sorted(told)
    assert all(done <= total for done, total in told)
    assert told[-1][0] == told[-1][1]
