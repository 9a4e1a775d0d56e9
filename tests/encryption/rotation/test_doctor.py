"""The doctor tries everything on both databases, names what does not open, and shows nothing."""

from __future__ import annotations

import uuid
from typing import Any

import pytest
from sqlalchemy import bindparam, delete, select, update

from storage.database import Database, Statement
from storage.encryption.keyring import EVERYONE, KeyRing
from storage.encryption.providers.local_keys import MasterKey
from storage.encryption.registry import sealed_columns
from storage.encryption.rotation import doctor as examining
from storage.encryption.rotation.generation import begin_generation
from storage.encryption.sealed_rows import sealed_values
from storage.encryption.status import Unreadable
from storage.secrets.table import CUSTOM_SEALED, TOKEN_SEALED
from storage.tables import CustomSecretTable, DataKeyTable, WebhookEndpointTable, metadata
from storage.webhooks.table import SECRET
from tests.encryption.everything_sealed import (
    ALL_OWNERS,
    ALL_VALUES,
    USERS,
    VALUES_OF_A_USER,
    change,
    data_keys,
    everything_else,
    fill,
    new,
    old,
    opened,
    other_process,
    ring,
    rotation,
    secrets,
    started,
    stored,
)

__all__ = ["new", "old", "other_process", "ring"]

_key = metadata.tables["data_key"].c
_custom = metadata.tables["custom_secret"].c
_hook = metadata.tables["webhook_endpoint"].c
WHOLE_KEYS = Statement("test", select(*_key), register=False)


async def test_all_is_well(database: Database, ring: KeyRing) -> None:
    rest = await everything_else(database)
    before = (await database.read(WHOLE_KEYS, {}), {value.sealed for value in await stored(database)})
    told: list[tuple[int, int]] = []
    found = await rotation(database, ring).doctor(lambda *counts: told.append(counts))
    assert (found.unreadable, found.problems) == ((), ())
    assert found.data_keys == ALL_OWNERS
    assert set(found.sealed) == {f"{column.table}.{column.column}" for column in sealed_columns()}
    assert found.sealed["custom_secret.value"] == 2 * len(USERS)
    assert found.sealed["webhook_endpoint.secret"] == ALL_OWNERS
    assert sum(found.sealed.values()) == ALL_VALUES
    [key] = found.master_keys
    assert (key.state, key.data_keys) == ("active", ALL_OWNERS)
    assert told[-1][0] == told[-1][1]
    after = (await database.read(WHOLE_KEYS, {}), {value.sealed for value in await stored(database)})
    assert (await everything_else(database), after) == (rest, before), "it changes nothing"


async def test_an_empty_database_is_well(database: Database, old: MasterKey) -> None:
    found = await rotation(database, await started(database, old)).doctor()
    assert (found.master_keys, found.data_keys, found.unreadable, found.problems) == ((), 0, (), ())
    assert set(found.sealed.values()) == {0}


async def test_users_are_read_page_by_page_and_none_is_left_out(
    database: Database, ring: KeyRing, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(examining, "MOST_USERS", 2)
    found = await rotation(database, ring).doctor()
    assert (found.data_keys, sum(found.sealed.values()), found.problems) == (ALL_OWNERS, ALL_VALUES, ())


async def test_a_row_that_was_altered_is_named(database: Database, ring: KeyRing) -> None:
    one = next(each for each in await sealed_values(database, CUSTOM_SEALED, ["bob"]) if each.context.name == "ONE")
    await change(
        database,
        update(CustomSecretTable).where(_custom.id == bindparam("which")).values(value=bindparam("altered")),
        which=uuid.UUID(one.context.row_id),
        altered=one.sealed[:-1] + bytes([one.sealed[-1] ^ 1]),
    )
    [hook] = [each for each in await sealed_values(database, SECRET, [EVERYONE]) if not each.context.user_id]
    await change(
        database,
        update(WebhookEndpointTable).where(_hook.user_id.is_(None)).values(url=bindparam("elsewhere")),
        elsewhere="https://other.example",
    )
    found = await rotation(database, ring).doctor()
    assert set(found.unreadable) == {
        Unreadable("custom_secret", "value", "bob", one.context.row_id, "ONE", "Tampered"),
        Unreadable("webhook_endpoint", "secret", "", hook.context.row_id, "", "Tampered"),
        Unreadable("webhook_endpoint", "previous_secret", "", hook.context.row_id, "", "Tampered"),
        Unreadable("webhook_endpoint", "headers", "", hook.context.row_id, "", "Tampered"),
    }
    assert found.problems == ()
    assert sum(found.sealed.values()) == ALL_VALUES


async def test_a_data_key_that_was_deleted_is_missed(database: Database, ring: KeyRing) -> None:
    await change(database, delete(DataKeyTable).where(_key.user_id == bindparam("who")), who="bob")
    found = await rotation(database, ring).doctor()
    assert {(row.user_id, row.reason) for row in found.unreadable} == {("bob", "KeyMissing")}
    assert len(found.unreadable) == VALUES_OF_A_USER
    [problem] = found.problems
    assert problem.startswith(f"{VALUES_OF_A_USER} values name a data key that does not exist")


async def test_a_data_key_that_does_not_unwrap_is_named_with_its_values(database: Database, ring: KeyRing) -> None:
    await change(
        database,
        update(DataKeyTable).where(_key.user_id == bindparam("who")).values(wrapped=b"\x01" + bytes(60)),
        who="bob",
    )
    [key_id] = [key_id for key_id, user, _, _ in await data_keys(database) if user == "bob"]
    found = await rotation(database, ring).doctor()
    assert Unreadable("data_key", "wrapped", "bob", str(uuid.UUID(bytes=key_id)), "", "Tampered") in found.unreadable
    assert len(found.unreadable) == VALUES_OF_A_USER + 1
    assert found.data_keys == ALL_OWNERS
    assert found.problems == ()


async def test_a_master_key_that_is_missing_is_a_problem(
    database: Database, ring: KeyRing, old: MasterKey, new: MasterKey
) -> None:
    await secrets(database, await started(database, new, old), "dave").set_custom_secret("ONE", "1")
    [old_id] = {kek for _, user, kek, _ in await data_keys(database) if user == "ada"}
    found = await rotation(database, await started(database, new)).doctor()
    assert {key.kek_id: key.state for key in found.master_keys}[old_id] == "missing"
    [problem] = found.problems
    assert f"{ALL_OWNERS} data keys are wrapped under the master key {old_id}" in problem
    assert {row.reason for row in found.unreadable} == {"KeyMissing"}
    assert len(found.unreadable) == ALL_VALUES + ALL_OWNERS
    # Given up, it is a problem of another kind, until the secrets were set again.
    await rotation(database, await started(database, new)).abandon(old_id)
    found = await rotation(database, await started(database, new)).doctor()
    given_up, inactive = found.problems
    assert "which is retired; it was given up" in given_up
    assert inactive.startswith("no active data key have the users '', 'ada', 'bob'")
    found = await rotation(database, await started(database, new, old)).doctor()
    assert found.unreadable == ()
    assert any("storage keys rewrap" in problem for problem in found.problems)


async def test_a_locked_ring_is_the_first_problem_and_nothing_opens(
    database: Database, ring: KeyRing, new: MasterKey
) -> None:
    found = await rotation(database, await started(database, new)).doctor()
    assert found.problems[0].startswith("secrets are locked: the master key in STORAGE_MASTER_KEY is not the one")
    assert len(found.unreadable) == ALL_VALUES + ALL_OWNERS
    assert sum(found.sealed.values()) == ALL_VALUES


async def test_an_unfinished_re_encryption_is_a_problem_and_opens_all_the_same(
    database: Database, ring: KeyRing
) -> None:
    await begin_generation(database, ring.master_keys)
    found = await rotation(database, ring).doctor()
    assert found.unreadable == ()
    assert found.problems == (f"{ALL_OWNERS} data keys are still to be replaced; run: storage keys reencrypt",)
    assert found.data_keys == 2 * ALL_OWNERS


async def test_what_changes_while_it_is_looked_at_is_looked_at_again(
    database: Database, other_process: Database, ring: KeyRing, old: MasterKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = await started(other_process, old)
    rotated = False

    async def then_rotated(executor: Any, column: Any, user_ids: Any) -> Any:
        """The values as they were read just before the old data keys were deleted."""
        nonlocal rotated
        found = await sealed_values(executor, column, user_ids)
        if column == TOKEN_SEALED and not rotated:
            rotated = True
            await rotation(other_process, other).reencrypt()
        return found

    monkeypatch.setattr(examining, "sealed_values", then_rotated)
    found = await rotation(database, ring).doctor()
    assert rotated
    assert (found.unreadable, found.problems) == ((), ())
    assert sum(found.sealed.values()) == ALL_VALUES


async def test_no_value_is_shown(
    database: Database, ring: KeyRing, new: MasterKey, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    values = await opened(database, ring)
    await fill(database, ring, ["dave"])
    shown = repr(await rotation(database, await started(database, new)).doctor()) + caplog.text
    for value in values.values():
        assert value.decode("latin-1") not in shown
