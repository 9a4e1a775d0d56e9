"""Every value sealed again under new data keys, with users at work, on both databases."""

from __future__ import annotations

import asyncio
import uuid
from typing import Any

import pytest
from sqlalchemy import bindparam, update

from storage.conversations.sql import SQLConversationStore
from storage.database import Database
from storage.encryption.envelope import data_key_id_of
from storage.encryption.keyring import EVERYONE, KeyRing
from storage.encryption.providers.local_keys import MasterKey
from storage.encryption.rotation import reencrypt as reencrypting
from storage.encryption.rotation.generation import begin_generation
from storage.encryption.rotation.key_batches import key_sets
from storage.encryption.sealed_rows import sealed_values
from storage.encryption.status import Unreadable
from storage.errors import KeyMissing, KeyUnavailable
from storage.secrets.table import CUSTOM_SEALED
from storage.settings.sql import SQLSettingsStore
from storage.tables import CustomSecretTable, metadata
from tests.encryption.everything_sealed import (
    ALL_OWNERS,
    ALL_VALUES,
    USERS,
    VALUES_OF_A_USER,
    ConversationWithMore,
    SettingsWithMore,
    change,
    data_keys,
    environment,
    everything_else,
    fill,
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
    under,
    value_of,
)

__all__ = ["new", "old", "other_process", "ring"]

_key = metadata.tables["data_key"].c
_custom = metadata.tables["custom_secret"].c


async def states(database: Database) -> list[str]:
    return [state for _, _, _, state in await data_keys(database)]


async def test_every_value_is_sealed_again_and_nothing_else_changes(
    database: Database, ring: KeyRing, old: MasterKey
) -> None:
    before, rest, keys_before = await opened(database, ring), await everything_else(database), await under(database)
    sealed_before = {value.sealed for value in await stored(database)}
    told: list[tuple[int, int]] = []
    done = await rotation(database, ring).reencrypt(lambda *counts: told.append(counts))
    assert (done.users, done.resealed, done.resumed, done.unreadable) == (ALL_OWNERS, ALL_VALUES, False, ())
    assert told[-1] == (ALL_OWNERS, ALL_OWNERS)
    keys_after = await under(database)
    assert len(keys_after) == ALL_OWNERS
    assert not keys_after & keys_before
    assert not sealed_before & {value.sealed for value in await stored(database)}
    assert {key_id for key_id, *_ in await data_keys(database)} == keys_after, "the old keys are gone"
    assert set(await states(database)) == {"active"}
    assert await everything_else(database) == rest
    assert await opened(database, ring) == before
    assert await opened(database, await started(database, old)) == before
    again = await rotation(database, ring).reencrypt()
    assert (again.resealed, again.resumed) == (ALL_VALUES, False)
    assert await opened(database, ring) == before


async def test_an_empty_database_has_nothing_to_do(database: Database, old: MasterKey) -> None:
    done = await rotation(database, await started(database, old)).reencrypt()
    assert (done.users, done.resealed, done.resumed, done.unreadable) == (0, 0, False, ())


async def test_a_new_generation_goes_under_the_active_master_key(
    database: Database, ring: KeyRing, old: MasterKey, new: MasterKey
) -> None:
    before = await opened(database, ring)
    await rotation(database, await started(database, new, old)).reencrypt()
    assert await opened(database, await started(database, new)) == before


async def test_what_was_interrupted_is_finished_and_no_other_run_begun(database: Database, ring: KeyRing) -> None:
    before = await opened(database, ring)
    seen = 0

    def interrupt(done: int, total: int) -> None:
        nonlocal seen
        seen = done
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reencrypting, "FIRST_USERS", 2)
        with pytest.raises(KeyboardInterrupt):
            await rotation(database, ring).reencrypt(interrupt)
    assert seen == 2
    generation = {key_id for key_id, _, _, state in await data_keys(database) if state == "active"}
    assert (await rotation(database, ring).status()).unfinished == ALL_OWNERS - 2
    assert await opened(database, ring) == before
    done = await rotation(database, ring).reencrypt()
    assert (done.users, done.resumed) == (ALL_OWNERS - 2, True)
    assert await under(database) == generation, "nobody got a third key"
    assert (await rotation(database, ring).status()).unfinished == 0
    assert await opened(database, ring) == before


async def test_a_key_whose_values_were_all_replaced_is_work_too(database: Database, old: MasterKey) -> None:
    ring = await started(database, old)
    await secrets(database, ring).set_custom_secret("ONE", "1")
    await begin_generation(database, ring.master_keys)
    await secrets(database, ring).set_custom_secret("ONE", "2")
    done = await rotation(database, ring).reencrypt()
    assert (done.resealed, done.resumed) == (0, True)
    assert await states(database) == ["active"]
    assert await value_of(database, ring) == "2"


async def test_two_runs_at_once_get_in_each_others_way_but_lose_nothing(
    database: Database, other_process: Database, ring: KeyRing, old: MasterKey
) -> None:
    before = await opened(database, ring)
    other = await started(other_process, old)
    both = await asyncio.gather(rotation(database, ring).reencrypt(), rotation(other_process, other).reencrypt())
    assert [done.unreadable for done in both] == [(), ()]
    assert await opened(database, ring) == before
    while (await rotation(database, ring).reencrypt()).resumed:
        pass
    assert set(await states(database)) == {"active"}
    assert len(await data_keys(database)) == ALL_OWNERS
    assert await opened(other_process, other) == before


async def test_what_another_run_has_just_finished_is_not_taken_for_unreadable(
    database: Database, other_process: Database, ring: KeyRing, old: MasterKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = await started(other_process, old)
    await begin_generation(database, ring.master_keys)
    original = key_sets
    overtaken = False

    async def then_overtaken(executor: Any, masters: Any, user_ids: Any) -> Any:
        """The keys, read after another run has replaced the values that were read before."""
        nonlocal overtaken
        if not overtaken:
            overtaken = True
            assert (await rotation(other_process, other).reencrypt()).resumed
        return await original(executor, masters, user_ids)

    monkeypatch.setattr(reencrypting, "key_sets", then_overtaken)
    assert (await rotation(database, ring).reencrypt()).unreadable == ()
    assert overtaken


async def test_a_value_whose_data_key_does_not_exist_is_named(database: Database, ring: KeyRing) -> None:
    one = next(each for each in await sealed_values(database, CUSTOM_SEALED, ["ada"]) if each.context.name == "ONE")
    await change(
        database,
        update(CustomSecretTable).where(_custom.id == bindparam("which")).values(value=bindparam("altered")),
        which=uuid.UUID(one.context.row_id),
        altered=one.sealed[:2] + bytes(16) + one.sealed[18:],
    )
    done = await rotation(database, ring).reencrypt()
    assert done.unreadable == (Unreadable("custom_secret", "value", "ada", one.context.row_id, "ONE", "KeyMissing"),)
    assert set(await states(database)) == {"active"}


# ---- with users at work


async def test_what_a_user_writes_between_reading_and_storing_survives(
    database: Database, ring: KeyRing, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = await opened(database, ring)
    original = reencrypting._sealed_again
    loop = asyncio.get_running_loop()
    written = False

    def meanwhile(keys: Any, values: Any) -> Any:
        """On the thread that seals, while nothing of the batch has been stored."""
        nonlocal written
        found = original(keys, values)
        if not written:
            written = True

            async def write() -> None:
                await secrets(database, ring).set_custom_secret("ONE", "written meanwhile")
                await secrets(database, ring, "bob").delete_custom_secret("ONE")
                await SQLSettingsStore(database, "bob", ring, SettingsWithMore).update(llm_api_key=None, language="fr")

            asyncio.run_coroutine_threadsafe(write(), loop).result()
        return found

    monkeypatch.setattr(reencrypting, "_sealed_again", meanwhile)
    await rotation(database, ring).reencrypt()
    assert written
    assert await value_of(database, ring) == "written meanwhile"
    after = await opened(database, ring)
    gone = {("custom_secret", "value", "bob", "ONE"), ("settings", "llm_api_key", "bob")}
    assert before.keys() - after.keys() == gone
    changed = {place for place in after if after[place] != before[place]}
    assert changed == {("custom_secret", "value", "ada", "ONE")}
    settings = await SQLSettingsStore(database, "bob", ring, SettingsWithMore).load()
    assert settings is not None
    assert (settings.language, settings.version) == ("fr", 2)
    assert set(await states(database)) == {"active"}


async def test_a_transaction_that_is_open_across_the_change_of_generations_seals_and_opens(
    database: Database, other_process: Database, ring: KeyRing, old: MasterKey
) -> None:
    if database.dialect == "sqlite":
        pytest.skip("an open transaction is SQLite's only writer: the change of generations waits for it")
    other = await started(other_process, old)
    before = await opened(database, ring)
    async with other_process.transaction() as transaction:
        await secrets(transaction, other).set_custom_secret("ONE", "before the change")
        running = in_another_task(rotation(database, ring).reencrypt())
        while "retired" not in await states(database):
            await asyncio.sleep(0.01)
        await secrets(transaction, other).set_custom_secret("TWO", "after the change")
        assert await value_of(transaction, other, name="ONE") == "before the change"
        while (await states(database)).count("retired") > 1:  # the others' go
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.2)
        assert not running.done(), "the old key is held, and waited for"
        [retired] = [row for row in await data_keys(database) if row[3] == "retired"]
        assert retired[1] == "ada"
    done = await running
    assert done.unreadable == ()
    assert set(await states(database)) == {"active"}
    after = await opened(database, await started(database, old))
    changed = {place[-1]: after[place] for place in after if after[place] != before[place]}
    assert changed == {"ONE": b"before the change", "TWO": b"after the change"}


async def test_a_retired_key_outlives_whoever_is_sealing_under_it(
    database: Database, other_process: Database, old: MasterKey
) -> None:
    if database.dialect == "sqlite":
        pytest.skip("an open transaction is SQLite's only writer: the change of generations waits for it")
    ring, other = await started(database, old), await started(other_process, old)
    await secrets(database, ring).set_custom_secret("ONE", "1")
    async with other_process.transaction() as transaction:
        # A row that nobody else can see, under a key that nothing else will name.
        await secrets(transaction, other).set_custom_secret("TWO", "2")
        running = in_another_task(rotation(database, ring).reencrypt())
        while (
            len(await under(database, ["ada"]) & {key[0] for key in await data_keys(database) if key[3] == "active"})
            < 1
        ):
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.2)
        assert sorted(await states(database)) == ["active", "retired"]
        assert not running.done()
    assert (await running).resealed == 2
    assert await states(database) == ["active"]
    assert await value_of(database, ring, name="TWO") == "2"


async def test_a_run_waits_for_a_transaction_on_sqlite(
    database: Database, other_process: Database, ring: KeyRing, old: MasterKey
) -> None:
    before = await opened(database, ring)
    async with database.transaction() as transaction:
        await secrets(transaction, ring).set_custom_secret("ONE", "inside")
        running = in_another_task(rotation(database, ring).reencrypt())
        await asyncio.sleep(0.1)
        await secrets(transaction, ring).set_custom_secret("TWO", "inside too")
    assert (await running).unreadable == ()
    after = await opened(database, await started(database, old))
    assert {place[-1] for place in after if after[place] != before[place]} == {"ONE", "TWO"}


async def test_a_ring_with_stale_keys_finds_the_new_ones(
    database: Database, other_process: Database, ring: KeyRing, old: MasterKey
) -> None:
    stale = await started(other_process, old)
    before = await opened(other_process, stale)
    await rotation(database, ring).reencrypt()
    # Each of these begins with what the ring had before.
    settings = SQLSettingsStore(other_process, "ada", stale, SettingsWithMore)
    changed = await settings.update(language="it")
    assert changed.is_complete
    loaded = await settings.load()
    assert loaded is not None
    assert loaded.llm_api_key is not None
    assert loaded.llm_api_key.get_secret_value() == "llm key of ada"
    assert await opened(other_process, stale) == before


@pytest.mark.parametrize("what", ["set", "store nothing", "token without a value", "settings without secrets"])
async def test_a_unit_that_seals_nothing_is_run_again_with_the_keys_it_lacks(
    database: Database, other_process: Database, ring: KeyRing, old: MasterKey, what: str
) -> None:
    stale = await started(other_process, old)
    store = secrets(other_process, stale)
    await store.set_provider_token("gitlab", None)
    assert (await stale.keys_for(other_process, "ada")).has_active
    await rotation(database, ring).reencrypt()
    if what == "set":
        await store.set_custom_secret("ONE", "set")
    elif what == "store nothing":
        from storage.secrets.model import UserSecrets

        await store.store(UserSecrets())
    elif what == "token without a value":
        await store.set_provider_token("github", None, host="github.example")
    else:
        from storage.settings.model import Settings

        await SQLSettingsStore(other_process, "ada", stale).store(Settings(language="it"))
    fresh = await started(database, old)
    await opened(database, fresh)


async def test_a_conversation_that_was_read_before_and_is_saved_after_keeps_its_secret(
    database: Database, ring: KeyRing
) -> None:
    plain = SQLConversationStore(database, "ada", ring)
    with_secret = SQLConversationStore(database, "ada", ring, ConversationWithMore)
    read_before = await plain.get_metadata("of ada")
    await rotation(database, ring).reencrypt()
    read_before.title = "another title"
    await plain.save_metadata(read_before)
    found = await with_secret.get_metadata("of ada")
    assert isinstance(found, ConversationWithMore)
    assert found.door_code is not None
    assert (found.title, found.door_code.get_secret_value()) == ("another title", "door code of ada")
    await plain.delete_metadata("of ada")
    for save in (plain.save_metadata(read_before), plain.save_many([read_before])):
        with pytest.raises(KeyMissing, match="was replaced since"):
            await save
    assert not await plain.exists("of ada")


# ---- what cannot be opened


async def test_values_that_cannot_be_opened_are_named_and_left_with_their_key(
    database: Database, ring: KeyRing, old: MasterKey
) -> None:
    one, two = [
        value for value in await sealed_values(database, CUSTOM_SEALED, ["ada"]) if value.context.name in ("ONE", "TWO")
    ]
    # Bob's values stay as they are, and one of Ada's is not her own: it was altered.
    altered = one.sealed[:-1] + bytes([one.sealed[-1] ^ 1])
    await change(
        database,
        update(CustomSecretTable).where(_custom.id == bindparam("which")).values(value=bindparam("altered")),
        which=uuid.UUID(one.context.row_id),
        altered=altered,
    )
    named = Unreadable("custom_secret", "value", "ada", one.context.row_id, one.context.name, "Tampered")
    for _ in range(2):
        done = await rotation(database, ring).reencrypt()
        assert done.unreadable == (named,)
        assert not done.resumed, "what cannot be opened is nothing to resume"
    [left] = [
        value
        for value in await sealed_values(database, CUSTOM_SEALED, ["ada"])
        if value.context.name == one.context.name
    ]
    assert left.sealed == altered
    retired = {key_id for key_id, _, _, state in await data_keys(database) if state == "retired"}
    assert retired == {data_key_id_of(altered)}
    assert await value_of(database, ring, name=two.context.name) == (await value_of(database, ring, name="TWO"))
    await secrets(database, ring).set_custom_secret(one.context.name, "set again")
    assert (await rotation(database, ring).reencrypt()).resumed
    assert set(await states(database)) == {"active"}


async def test_a_user_whose_master_key_is_not_here_keeps_everything(
    database: Database, ring: KeyRing, old: MasterKey, new: MasterKey
) -> None:
    await fill(database, await started(database, new, old), ["dave"])
    sealed_before = {value.sealed for value in await stored(database)}
    before = await opened(database, ring)
    # A process with the new key alone: it can do nothing for the others, and harms them in nothing.
    alone = await started(database, new)
    done = await rotation(database, alone).reencrypt()
    assert (done.users, done.resealed) == (1, VALUES_OF_A_USER)
    assert {(row.table, row.reason) for row in done.unreadable} == {("data_key", "KeyMissing")}
    assert {row.user_id for row in done.unreadable} == {*USERS, EVERYONE}
    left = {value.sealed for value in await stored(database, USERS)}
    assert left <= sealed_before
    assert await opened(database, await started(database, old, new)) | before == await opened(
        database, await started(database, new, old)
    )


async def test_the_keys_that_are_waited_for_are_not_those_that_cannot_be_unwrapped(
    database: Database, ring: KeyRing, old: MasterKey, new: MasterKey
) -> None:
    """A generation was begun, and then the master key of the retired keys went missing."""
    await begin_generation(database, (await started(database, new, old)).master_keys)
    alone = await started(database, new)
    done = await rotation(database, alone).reencrypt()
    assert not done.resumed
    assert {row.reason for row in done.unreadable} == {"KeyMissing"}
    assert len(done.unreadable) == ALL_VALUES
    back = await rotation(database, await started(database, new, old)).reencrypt()
    assert (back.resealed, back.resumed, back.unreadable) == (ALL_VALUES, True, ())
    assert set(await states(database)) == {"active"}


# ---- a master key that is lost


async def test_after_a_lost_master_key_was_given_up_secrets_can_be_set_and_the_found_key_opens_the_others(
    database: Database, ring: KeyRing, old: MasterKey, new: MasterKey
) -> None:
    from storage.errors import KeyInUse, KeyMismatch

    before = await opened(database, ring)
    [old_id] = {kek for _, _, kek, _ in await data_keys(database)}
    with pytest.raises(KeyInUse, match="is not lost"):
        await rotation(database, ring).abandon(old_id)
    lost = await started(database, new)
    with pytest.raises(KeyMismatch):
        await secrets(database, lost).set_custom_secret("ONE", "anew")
    assert await rotation(database, lost).abandon(old_id) == ALL_OWNERS
    assert set(await states(database)) == {"retired"}
    assert lost.state == "new"
    with pytest.raises(KeyMissing):
        await value_of(database, lost)
    await secrets(database, lost).set_custom_secret("ONE", "anew")
    assert await value_of(database, lost) == "anew"
    assert await rotation(database, lost).abandon(old_id) == ALL_OWNERS, "again, and nothing happens"
    status = await rotation(database, lost).status()
    assert status.unfinished == 0
    assert status.ring.complete
    assert {key.kek_id: key.state for key in status.master_keys}[old_id] == "retired"
    # Nothing that was given up gets in the way of what comes after.
    rewrapped = await rotation(database, lost).rewrap()
    assert (rewrapped.moved, rewrapped.failed) == (0, ())
    done = await rotation(database, lost).reencrypt()
    assert done.resealed == 1
    assert len(done.unreadable) == ALL_VALUES - 1
    # The key was found: what was not set again opens, and is brought back under a key that is in use.
    found = await started(database, new, old)
    after = await opened(database, found)
    assert {place[-1] for place in after if after[place] != before[place]} == {"ONE"}
    assert after.keys() == before.keys()
    assert (await rotation(database, found).rewrap()).moved == ALL_OWNERS
    done = await rotation(database, found).reencrypt()
    assert (done.resealed, done.resumed, done.unreadable) == (ALL_VALUES - 1, True, ())
    assert set(await states(database)) == {"active"}
    assert await opened(database, await started(database, new)) == after


async def test_what_is_given_up_while_the_provider_does_not_answer_is_not_known_to_be_lost(
    database: Database, ring: KeyRing, old: MasterKey
) -> None:
    class Down(type(environment(old))):  # type: ignore[misc]
        async def health(self) -> Any:
            raise KeyUnavailable("the key service is down")

    from tests.encryption.everything_sealed import as_text

    [old_id] = {kek for _, _, kek, _ in await data_keys(database)}
    down = await started(database, provider=Down(as_text(old)))
    with pytest.raises(KeyUnavailable, match="is down"):
        await rotation(database, down).abandon(old_id)
    assert set(await states(database)) == {"active"}
