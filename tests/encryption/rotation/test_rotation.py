"""Rotation from end to end on both databases: keys change, secrets stay, and nothing else moves."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from sqlalchemy import bindparam, select, update

from storage.database import Database, Statement
from storage.encryption.keyring import EVERYONE, KeyRing
from storage.encryption.providers.environment import EnvironmentKeys
from storage.encryption.providers.key_file import KeyFile
from storage.encryption.providers.local_keys import MasterKey
from storage.encryption.registry import sealed_columns
from storage.encryption.rotation.key_batches import CONCURRENCY
from storage.encryption.sealed_rows import sealed_values
from storage.encryption.status import Unreadable
from storage.errors import ConfigurationError, InvalidInput, KeyInUse, KeyMismatch, KeyMissing, KeyUnavailable
from storage.secrets.table import CUSTOM_SEALED
from storage.tables import DataKeyTable, metadata
from tests.encryption.everything_sealed import (
    ALL_OWNERS,
    ALL_VALUES,
    USERS,
    as_text,
    change,
    data_keys,
    everything_else,
    fill,
    fill_many,
    in_another_task,
    new,
    old,
    opened,
    other_process,
    ring,
    rotation,
    secrets,
    started,
    stored,
    value_of,
)

__all__ = ["new", "old", "other_process", "ring"]

_key = metadata.tables["data_key"].c
_custom = metadata.tables["custom_secret"].c


# ---- what these tests start from


async def test_the_tests_fill_every_sealed_column(database: Database, ring: KeyRing) -> None:
    found = await stored(database)
    assert {value.column for value in found} == set(sealed_columns())
    assert len(found) == ALL_VALUES
    assert {value.context.user_id for value in found} == {*USERS, EVERYONE}
    assert all(text.decode("latin-1").strip('"') for text in (await opened(database, ring)).values())


async def test_values_of_some_users_are_found_without_those_of_others(database: Database, ring: KeyRing) -> None:
    for column in sealed_columns():
        assert {value.context.user_id for value in await sealed_values(database, column, ["ada", "bob"])} == {
            "ada",
            "bob",
        }
        assert await sealed_values(database, column, ["nobody known"]) == []
    [value, *_] = await sealed_values(database, CUSTOM_SEALED, ["ada"])
    assert repr(value.sealed) not in repr(value)


# ---- the master key


async def test_a_new_master_key_in_two_phases_with_two_processes(
    database: Database, other_process: Database, ring: KeyRing, old: MasterKey, new: MasterKey
) -> None:
    before, rest = await opened(database, ring), await everything_else(database)
    sealed_before = {value.sealed for value in await stored(database)}
    # Phase one: every process gets the new key behind the old one.
    first, second = await started(database, old, new), await started(other_process, old, new)
    await secrets(database, first, "carol").set_custom_secret("ONE", "made in phase one")
    # Phase two: one process puts it first, while another still has the old order.
    first = await started(database, new, old)
    await secrets(database, first, "dave").set_custom_secret("ONE", "made in phase two")
    assert await value_of(other_process, second, "dave") == "made in phase two"
    done = await rotation(database, first).rewrap()
    assert (done.moved, done.already, done.failed) == (ALL_OWNERS + 1, 1, ())
    assert {kek for _, _, kek, _ in await data_keys(database)} == {done.kek_id}
    # The process with the old order goes on, from its memory and without.
    assert await opened(other_process, second) == before
    second.forget()
    assert await opened(other_process, second) == before
    await secrets(other_process, second, "ada").set_custom_secret("THREE", "written meanwhile")
    assert await value_of(database, first, "ada", "THREE") == "written meanwhile"
    await secrets(other_process, second, "ada").delete_custom_secret("THREE")
    # Its new users are still wrapped under the old key; so the old one is in use until it has the new order too.
    await secrets(other_process, second, "erin").set_custom_secret("ONE", "made with the old order")
    [old_id] = {kek for _, user, kek, _ in await data_keys(database) if user == "erin"}
    with pytest.raises(KeyInUse, match="storage keys rewrap"):
        await rotation(database, first).retire(old_id)
    second = await started(other_process, new, old)
    assert (await rotation(other_process, second).rewrap()).moved == 1
    await rotation(database, first).retire(old_id)
    only_new = await started(database, new)
    for user in ("carol", "dave", "erin"):
        assert (await value_of(database, only_new, user)).startswith("made")
    assert await opened(database, only_new) == before
    assert {value.sealed for value in await stored(database)} == sealed_before, "no secret was touched"
    assert (await everything_else(database))["settings"] == rest["settings"]
    status = await rotation(database, only_new).status()
    assert [(key.kek_id, key.state, key.data_keys) for key in status.master_keys] == [
        (old_id, "retired", 0),
        (done.kek_id, "active", ALL_OWNERS + 3),
    ]
    assert status.ring.complete


async def test_rewrapping_changes_nothing_but_the_wrapping(
    database: Database, ring: KeyRing, old: MasterKey, new: MasterKey
) -> None:
    whole = Statement("test", select(*_key), register=False)
    rest = await everything_else(database)
    before = {row[0]: row for row in await database.read(whole, {})}
    sealed_before = {value.sealed for value in await stored(database)}
    told: list[tuple[int, int]] = []
    done = await rotation(database, await started(database, new, old)).rewrap(lambda *counts: told.append(counts))
    assert told[-1] == (ALL_OWNERS, ALL_OWNERS)
    after = {row[0]: row for row in await database.read(whole, {})}
    names = list(_key.keys())
    for row_id, row in after.items():
        changed = {name for name, was, now in zip(names, before[row_id], row, strict=True) if was != now}
        assert changed == {"kek_id", "wrapped"}
    assert {value.sealed for value in await stored(database)} == sealed_before
    assert await everything_else(database) == rest
    again = await rotation(database, await started(database, new, old)).rewrap()
    assert (again.kek_id, again.moved, again.already) == (done.kek_id, 0, ALL_OWNERS)


async def test_rewrapping_registers_a_key_under_which_nothing_was_wrapped_yet(
    database: Database, old: MasterKey
) -> None:
    done = await rotation(database, await started(database, old)).rewrap()
    assert (done.moved, done.already, done.failed) == (0, 0, ())
    [key] = (await rotation(database, await started(database, old)).status()).master_keys
    assert (key.kek_id, key.state, key.data_keys) == (done.kek_id, "active", 0)


async def test_a_data_key_that_was_moved_to_another_user_is_not_unwrapped_and_stops_nobody(
    database: Database, ring: KeyRing, old: MasterKey, new: MasterKey
) -> None:
    rows = {user: (key_id, wrapped) for key_id, user, wrapped in await database.read(WRAPPED, {})}
    for user, other in (("ada", "bob"), ("bob", "ada")):
        await change(
            database,
            update(DataKeyTable).where(_key.id == bindparam("which")).values(wrapped=bindparam("swapped")),
            which=rows[user][0],
            swapped=rows[other][1],
        )
    done = await rotation(database, await started(database, new, old)).rewrap()
    assert done.moved == ALL_OWNERS - 2
    assert sorted(done.failed, key=lambda row: row.user_id) == [
        Unreadable("data_key", "wrapped", user, str(rows[user][0]), "", "Tampered") for user in ("ada", "bob")
    ]
    for user, other in (("ada", "bob"), ("bob", "ada")):
        await change(
            database,
            update(DataKeyTable).where(_key.id == bindparam("which")).values(wrapped=bindparam("own")),
            which=rows[user][0],
            own=rows[user][1],
        )
        assert rows[other]
    assert (await rotation(database, await started(database, new, old)).rewrap()).moved == 2
    assert await value_of(database, await started(database, new)) == "first secret of ada"


WRAPPED = Statement("test", select(_key.id, _key.user_id, _key.wrapped), register=False)


class GoingDown(EnvironmentKeys):
    """A key service that can be reached for some wraps."""

    def __init__(self, left: int, *keys: MasterKey) -> None:
        super().__init__(as_text(*keys))
        self.left = left
        self.down = False

    async def health(self) -> Any:
        if self.down:
            raise KeyUnavailable("the key service is down")
        return await super().health()

    async def wrap(self, kek_id: bytes, plaintext: bytes, associated_data: bytes) -> bytes:
        if not self.left:
            raise KeyUnavailable("the key service is down")
        self.left -= 1
        return await super().wrap(kek_id, plaintext, associated_data)


async def test_a_key_service_that_fails_on_the_way_leaves_everything_open_and_the_next_run_goes_on(
    database: Database, old: MasterKey, new: MasterKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("storage.encryption.rotation.rewrap.BATCH", 2)
    ring = await started(database, old)
    await fill(database, ring)
    before = await opened(database, ring)
    provider = GoingDown(3, new, old)
    with pytest.raises(KeyUnavailable, match="is down"):
        await rotation(database, await started(database, provider=provider)).rewrap()
    moved = [kek for _, _, kek, _ in await data_keys(database)]
    assert len(set(moved)) == 2, "it stopped in the middle"
    assert await opened(database, await started(database, old, new)) == before
    done = await rotation(database, await started(database, new, old)).rewrap()
    assert 0 < done.moved < ALL_OWNERS
    assert done.moved + done.already == ALL_OWNERS
    assert await opened(database, await started(database, new)) == before


class Slow(EnvironmentKeys):
    """A key service on the network, which counts how many questions are under way at once."""

    def __init__(self, *keys: MasterKey) -> None:
        super().__init__(as_text(*keys))
        self.under_way = self.most = 0

    async def wrap(self, kek_id: bytes, plaintext: bytes, associated_data: bytes) -> bytes:
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        await asyncio.sleep(0.02)
        self.under_way -= 1
        return await super().wrap(kek_id, plaintext, associated_data)


async def test_a_slow_key_service_is_asked_several_questions_at_once_but_not_all(
    database: Database, old: MasterKey, new: MasterKey
) -> None:
    ring = await started(database, old)
    await fill(database, ring, ["ada"])
    users = [f"user {number}" for number in range(50)]
    await fill_many(database, ring, users, 1)
    provider = Slow(new, old)
    keys = rotation(database, await started(database, provider=provider))
    assert (await keys.rewrap()).moved == len(users) + 2
    assert provider.most == CONCURRENCY
    await keys.reencrypt()
    assert provider.most == CONCURRENCY
    assert len(await opened(database, await started(database, new), users)) == len(users)


async def test_the_active_master_key_and_one_in_use_are_not_retired(
    database: Database, ring: KeyRing, old: MasterKey, new: MasterKey
) -> None:
    both = await started(database, new, old)
    [old_id] = [key.kek_id for key in (await rotation(database, both).status()).master_keys]
    with pytest.raises(KeyInUse, match=f"{ALL_OWNERS} data keys .* storage keys rewrap"):
        await rotation(database, both).retire(old_id)
    with pytest.raises(KeyInUse, match="is the active one"):
        await rotation(database, ring).retire(old_id)
    done = await rotation(database, both).rewrap()
    with pytest.raises(KeyInUse, match="is the active one"):
        await rotation(database, both).retire(done.kek_id)
    await rotation(database, both).retire(old_id)
    await rotation(database, both).retire(old_id.upper())
    with pytest.raises(KeyMismatch):
        await secrets(database, await started(database, old), "frank").set_custom_secret("ONE", "1")
    with pytest.raises(InvalidInput, match="knows no master key"):
        await rotation(database, both).retire("00" * 16)


async def test_retiring_waits_for_those_who_are_wrapping_under_the_key(
    database: Database, other_process: Database, old: MasterKey, new: MasterKey
) -> None:
    await rotation(database, await started(database, old)).rewrap()
    with_new_first = await started(database, new, old)
    await rotation(database, with_new_first).rewrap()
    with_old_first = await started(other_process, old, new)
    [old_id, _] = [key.kek_id for key in (await rotation(database, with_new_first).status()).master_keys]
    async with other_process.transaction() as transaction:
        # Its first data key, under the old master key, not committed yet.
        await secrets(transaction, with_old_first).set_custom_secret("ONE", "1")
        retiring = in_another_task(rotation(database, with_new_first).retire(old_id))
        await asyncio.sleep(0.1)
        assert not retiring.done()
    with pytest.raises(KeyInUse, match="1 data keys"):
        await retiring
    assert await value_of(database, with_new_first) == "1"


async def test_a_key_file_is_rotated_by_the_verbs_alone(database: Database, key_path: Any) -> None:
    ring = await started(database, provider=KeyFile(key_path))
    await fill(database, ring)
    before = await opened(database, ring)
    keys = rotation(database, ring)
    [old_id] = [key.kek_id for key in (await keys.status()).master_keys]
    new_id = await keys.new()
    states = {key.kek_id: key.state for key in (await keys.status()).master_keys}
    assert states == {old_id: "active", new_id: "available"}
    await secrets(database, ring, "dave").set_custom_secret("ONE", "1")
    assert (await data_keys(database))[-1][2] == old_id, "nothing is wrapped under the new key yet"
    await keys.promote(new_id)
    states = {key.kek_id: key.state for key in (await keys.status()).master_keys}
    assert states == {old_id: "available", new_id: "active"}
    assert (await keys.rewrap()).moved == ALL_OWNERS + 1
    await keys.retire(old_id)
    assert await opened(database, await started(database, provider=KeyFile(key_path))) == before
    with pytest.raises(ConfigurationError, match="retired"):
        await keys.promote(old_id)
    with pytest.raises(InvalidInput, match="knows no master key 'ff"):
        await keys.promote("ff" * 16)


async def test_no_master_key_is_made_while_the_right_one_is_missing(database: Database, key_path: Any) -> None:
    await fill(database, await started(database, provider=KeyFile(key_path)), ["ada"])
    key_path.unlink()
    keys = rotation(database, await started(database, provider=KeyFile(key_path)))
    for verb in (keys.new(), keys.rewrap(), keys.reencrypt()):
        with pytest.raises(KeyMissing, match="Put it back"):
            await verb
    assert not key_path.exists()
