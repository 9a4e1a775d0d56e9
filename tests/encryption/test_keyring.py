"""The key ring on real databases: the right key opens, nothing else does, and nothing is ever overwritten."""

from __future__ import annotations

import asyncio
import re
import sqlite3
import subprocess
import sys
import traceback
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr
from sqlalchemy import bindparam, delete, insert, select, text, update

from storage.clock import now
from storage.database import Database, Row, Statement, Unit, execute
from storage.encryption import statements as sql
from storage.encryption.envelope import DataKey, SealContext, data_key_id_of
from storage.encryption.keyring import KeyRing
from storage.encryption.keyset import Keys, KeySet
from storage.encryption.master_keys import wrap_context
from storage.encryption.providers.environment import EnvironmentKeys
from storage.encryption.providers.key_file import KeyFile
from storage.encryption.providers.local_keys import MasterKey
from storage.encryption.rotation.rewrap import rewrap
from storage.encryption.rotation.verbs import KeyRotation
from storage.encryption.table import DataKeyTable, KeyEncryptionKeyTable
from storage.errors import Conflict, KeyMismatch, KeyMissing, KeyUnavailable, Tampered
from storage.secrets.table import UserSecretsTable

CONTEXT = SealContext("custom_secret.value/1", "alice", "1", "TOKEN")
SECRET = b"a secret worth keeping"

_kek = KeyEncryptionKeyTable.__table__.c  # type: ignore[attr-defined]
_key = DataKeyTable.__table__.c  # type: ignore[attr-defined]


def statement(element: Any) -> Statement:
    return Statement("test", element, register=False)


ALL_KEKS = statement(select(_kek.kek_id, _kek.check_value, _kek.retired_at))
ALL_DATA_KEYS = statement(select(_key.id, _key.user_id, _key.kek_id, _key.wrapped, _key.state))


async def rows(database: Database) -> tuple[list[Row], list[Row]]:
    """Everything that the key ring stores."""
    keks = await database.read(ALL_KEKS, {})
    return sorted(keks), sorted(await database.read(ALL_DATA_KEYS, {}))


async def change(database: Database, element: Any, **parameters: Any) -> None:
    def unit() -> Unit[None]:
        yield from execute(statement(element), **parameters)

    await database.run(unit)


def environment(*keys: MasterKey) -> EnvironmentKeys:
    return EnvironmentKeys(SecretStr(",".join(key.encoded() for key in keys)))


async def started(database: Database, provider: Any, **options: Any) -> KeyRing:
    ring = KeyRing(database, provider, **options)
    await ring.start()
    return ring


async def seal(ring: KeyRing, database: Any, user_id: str = "alice") -> bytes:
    context = SealContext(CONTEXT.label, user_id, CONTEXT.row_id, CONTEXT.name)

    def unit(keys: KeySet) -> Unit[bytes]:
        yield from ()
        return keys.seal(context, SECRET)

    return await ring.run(database, user_id, unit)


async def open_(ring: KeyRing, database: Any, sealed: bytes) -> bytes:
    return (await ring.keys_for(database, "alice", [sealed])).open(CONTEXT, sealed)


# ---- starting


async def test_opening_a_new_database_writes_nothing(database: Database, key_path: Path) -> None:
    ring = await started(database, KeyFile(key_path))
    assert ring.state == "new"
    ring.require_unlocked()
    assert await rows(database) == ([], [])
    assert not key_path.exists()
    assert not (await ring.keys_for(database, "alice")).ids


async def test_the_first_secret_makes_the_key_file_and_a_restart_finds_it(database: Database, key_path: Path) -> None:
    ring = await started(database, KeyFile(key_path))
    sealed = await seal(ring, database)
    assert ring.state == "unlocked"
    keks, data_keys = await rows(database)
    assert len(keks) == len(data_keys) == 1
    assert data_keys[0][0].bytes == data_key_id_of(sealed)
    again = await started(database, KeyFile(key_path))
    assert again.state == "unlocked"
    assert await open_(again, database, sealed) == SECRET
    assert await rows(database) == (keks, data_keys)


async def test_a_ring_that_nobody_started_starts_itself(database: Database, key_path: Path) -> None:
    sealed = await seal(KeyRing(database, KeyFile(key_path)), database)
    assert await open_(KeyRing(database, KeyFile(key_path)), database, sealed) == SECRET


async def test_a_wrong_key_locks_the_ring_and_changes_nothing(database: Database, key_path: Path) -> None:
    await seal(await started(database, KeyFile(key_path)), database)
    before, file_before = await rows(database), key_path.read_bytes()
    wrong = await started(database, environment(MasterKey.generate()))
    assert wrong.state == "locked"
    with pytest.raises(KeyMismatch, match="is not the one"):
        wrong.require_unlocked()
    with pytest.raises(KeyMismatch):
        await wrong.keys_for(database, "alice")
    for user_id in ("alice", "bob"):
        with pytest.raises(KeyMismatch):
            await seal(wrong, database, user_id)
    assert await rows(database) == before
    assert key_path.read_bytes() == file_before
    status = await wrong.status()
    assert (status.state, status.reason, status.complete, status.kek_id) == ("locked", "KeyMismatch", False, None)


async def test_a_missing_key_is_not_replaced_by_a_new_one_and_works_again_once_restored(
    database: Database, key_path: Path
) -> None:
    sealed = await seal(await started(database, KeyFile(key_path)), database)
    before, kept = await rows(database), key_path.with_name("kept")
    key_path.rename(kept)
    ring = await started(database, KeyFile(key_path), retry_seconds=0)
    with pytest.raises(KeyMissing, match="Put it back"):
        ring.require_unlocked()
    for user_id in ("alice", "bob"):
        with pytest.raises(KeyMissing):
            await seal(ring, database, user_id)
    assert not key_path.exists()
    assert await rows(database) == before
    kept.rename(key_path)
    assert await open_(ring, database, sealed) == SECRET
    assert ring.state == "unlocked"


async def test_no_key_is_generated_while_the_database_knows_one_even_without_data_keys(
    database: Database, key_path: Path
) -> None:
    await seal(await started(database, KeyFile(key_path)), database)
    await change(database, delete(DataKeyTable))
    key_path.unlink()
    with pytest.raises(KeyMissing):
        await seal(KeyRing(database, KeyFile(key_path)), database)
    assert not key_path.exists()


async def test_an_unreadable_key_locks_the_ring_and_says_how_to_mend_it(database: Database, key_path: Path) -> None:
    sealed = await seal(await started(database, KeyFile(key_path)), database)
    key_path.chmod(0o644)
    ring = await started(database, KeyFile(key_path), retry_seconds=0)
    with pytest.raises(KeyUnavailable, match=re.escape(f"chmod 600 '{key_path}'")):
        await open_(ring, database, sealed)
    key_path.chmod(0o600)
    assert await open_(ring, database, sealed) == SECRET


async def test_a_broken_key_file_locks_the_ring_even_on_a_new_database(database: Database, key_path: Path) -> None:
    key_path.parent.mkdir()
    key_path.touch(0o600)
    ring = await started(database, KeyFile(key_path))
    with pytest.raises(KeyUnavailable, match="holds no master key"):
        await seal(ring, database)
    assert key_path.read_bytes() == b""
    assert await rows(database) == ([], [])


async def test_data_keys_without_a_registered_master_key_lock_the_ring(database: Database, key_path: Path) -> None:
    await seal(await started(database, KeyFile(key_path)), database)
    if database.url.file is not None:
        other = sqlite3.connect(database.url.file)  # does not enforce foreign keys unless told to
        other.execute("DELETE FROM key_encryption_key")
        other.commit()
        other.close()
    else:
        await change(database, text("ALTER TABLE data_key DROP CONSTRAINT fk_data_key_kek_id"))
        await change(database, delete(KeyEncryptionKeyTable))
    key_path.unlink()
    with pytest.raises(KeyMismatch, match="Restore that table"):
        await seal(KeyRing(database, KeyFile(key_path)), database)
    assert not key_path.exists()


async def test_no_key_is_generated_over_values_whose_keys_were_not_restored(database: Database, key_path: Path) -> None:
    sealed = await seal(await started(database, environment(MasterKey.generate())), database)
    await change(database, delete(DataKeyTable))
    await change(database, delete(KeyEncryptionKeyTable))
    columns = {"user_id": "alice", "version": 1, "extra": {}, "created_at": now(), "updated_at": now()}
    await change(database, insert(UserSecretsTable).values(columns | {"sealed_extra": sealed}))
    ring = await started(database, KeyFile(key_path))
    with pytest.raises(KeyMismatch, match="none is made over them"):
        await seal(ring, database)
    assert not key_path.exists()
    assert await rows(database) == ([], [])
    # It is made when a person says so.
    await KeyRotation(database, ring, ()).new()
    assert data_key_id_of(await seal(ring, database)) != data_key_id_of(sealed)


async def test_a_provider_that_hangs_does_not_hang_the_ring(database: Database) -> None:
    class Hanging(EnvironmentKeys):
        async def health(self) -> Any:
            await asyncio.Event().wait()

    hanging = Hanging(SecretStr(MasterKey.generate().encoded()))
    ring = await started(database, hanging, provider_seconds=0.01)
    with pytest.raises(KeyUnavailable, match=r"did not answer within 0\.01 s"):
        ring.require_unlocked()


async def test_a_provider_that_cannot_be_reached_is_unavailable(database: Database) -> None:
    class Down(EnvironmentKeys):
        async def identify(self, registered: Any) -> Any:
            raise ConnectionRefusedError(111, "Connection refused")

    key = MasterKey.generate()
    await seal(await started(database, environment(key)), database)
    ring = await started(database, Down(SecretStr(key.encoded())))
    with pytest.raises(KeyUnavailable, match="Connection refused"):
        ring.require_unlocked()


class Odd(EnvironmentKeys):
    """Breaks one promise of a provider."""

    def __init__(self, key: MasterKey, method: str, answer: Any) -> None:
        super().__init__(SecretStr(key.encoded()))

        async def broken(*arguments: Any) -> Any:
            if isinstance(answer, Exception):
                raise answer
            return answer

        setattr(self, method, broken)


ODD_ANSWERS: tuple[object, ...] = (
    *(RuntimeError("it was s3cr3t"), KeyError("s3cr3t"), MemoryError(), Conflict("s3cr3t")),
    *(None, "s3cr3t", 7, b"", b"s3cr3t", bytes(32), []),
)


@pytest.mark.parametrize("method", ["health", "identify", "enrol", "wrap", "unwrap"])
async def test_whatever_a_provider_does_the_ring_has_an_error_of_its_own_and_nothing_changes(
    database: Database, method: str, caplog: pytest.LogCaptureFixture
) -> None:
    key, successor = MasterKey.generate(), MasterKey.generate()
    sealed = await seal(await started(database, environment(key)), database)
    before = await rows(database)
    for answer in ODD_ANSWERS:
        ring = await started(database, Odd(key, method, answer))
        if method in ("health", "identify", "unwrap"):
            with pytest.raises((KeyUnavailable, Tampered)) as opening:
                await open_(ring, database, sealed)
            assert "s3cr3t" not in "".join(traceback.format_exception(opening.value))
        with pytest.raises(KeyUnavailable) as sealing:
            await seal(ring, database, "bob")
        assert "s3cr3t" not in "".join(traceback.format_exception(sealing.value))
        assert await rows(database) == before
    assert "s3cr3t" not in caplog.text
    ring = await started(database, environment(key, successor))
    assert await open_(ring, database, sealed) == SECRET


async def test_a_wrapped_key_that_does_not_open_never_replaces_one_that_does(database: Database) -> None:
    old, new = MasterKey.generate(), MasterKey.generate()

    class Careless(EnvironmentKeys):
        async def wrap(self, kek_id: bytes, plaintext: bytes, associated_data: bytes) -> bytes:
            return await super().wrap(kek_id, plaintext, associated_data + b"?")

    sealed = await seal(await started(database, environment(old)), database)
    data_keys = (await rows(database))[1]
    ring = await started(database, Careless(SecretStr(f"{new.encoded()},{old.encoded()}")))
    with pytest.raises(KeyUnavailable, match="does not open again"):
        await rewrap(database, ring.master_keys)
    assert (await rows(database))[1] == data_keys
    assert await open_(ring, database, sealed) == SECRET


# ---- transactions


async def test_a_rolled_back_first_secret_leaves_no_trace_and_the_next_one_works(
    database: Database, key_path: Path
) -> None:
    ring = await started(database, KeyFile(key_path))
    lost = b""

    async def fail() -> None:
        nonlocal lost
        async with database.transaction() as transaction:
            lost = await seal(ring, transaction)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fail()
    assert await rows(database) == ([], [])
    sealed = await seal(ring, database)
    assert data_key_id_of(sealed) != data_key_id_of(lost)
    keks, data_keys = await rows(database)
    assert len(keks) == len(data_keys) == 1
    assert await open_(await started(database, KeyFile(key_path)), database, sealed) == SECRET


async def test_a_key_made_in_a_transaction_serves_in_it_and_after_it(database: Database, key_path: Path) -> None:
    ring = await started(database, KeyFile(key_path))
    async with database.transaction() as transaction:
        sealed = await seal(ring, transaction)
        assert data_key_id_of(await seal(ring, transaction)) == data_key_id_of(sealed)
        assert await open_(ring, transaction, sealed) == SECRET
    assert await open_(ring, database, sealed) == SECRET
    assert data_key_id_of(await seal(ring, database)) == data_key_id_of(sealed)


async def test_a_transaction_does_not_wait_for_those_who_wait_for_it(database: Database, key_path: Path) -> None:
    ring = await started(database, KeyFile(key_path))
    async with database.transaction() as transaction:
        await seal(ring, transaction, "bob")  # holds SQLite's writer
        # In a task with a context of its own, as another request would be.
        outside = asyncio.create_task(outside_transaction(ring, database))
        await asyncio.sleep(0)
        sealed = await seal(ring, transaction)
    await outside
    assert await open_(ring, database, sealed) == SECRET
    _, data_keys = await rows(database)
    assert sorted(row[1] for row in data_keys) == ["alice", "bob"]


async def outside_transaction(ring: KeyRing, database: Database) -> bytes:
    import contextvars

    loop = asyncio.get_running_loop()
    return await loop.create_task(seal(ring, database), context=contextvars.Context())


# ---- races


async def test_of_rings_that_start_at_once_all_end_with_one_master_key_and_one_data_key(
    database: Database, key_path: Path
) -> None:
    others = [Database(database.url) for _ in range(7)]
    try:
        everywhere = [database, *others]
        rings = [await started(each, KeyFile(key_path)) for each in everywhere]
        sealed = await asyncio.gather(*(seal(ring, each) for ring, each in zip(rings, everywhere, strict=True)))
        keks, data_keys = await rows(database)
        assert len(keks) == len(data_keys) == 1
        for ring, each in zip(rings, everywhere, strict=True):
            for value in sealed:
                assert await open_(ring, each, value) == SECRET
    finally:
        for each in others:
            await each.close()


async def test_of_machines_with_different_keys_one_wins_and_the_others_stay_locked(
    database: Database, tmp_path: Path
) -> None:
    others = [Database(database.url) for _ in range(3)]
    try:
        everywhere = [database, *others]
        files = [KeyFile(tmp_path / f"machine {number}" / "master.key") for number in range(4)]
        rings = [await started(each, file) for each, file in zip(everywhere, files, strict=True)]
        outcomes = await asyncio.gather(
            *(seal(ring, each) for ring, each in zip(rings, everywhere, strict=True)), return_exceptions=True
        )
        sealed = [outcome for outcome in outcomes if isinstance(outcome, bytes)]
        assert len(sealed) == 1
        # KeyMissing: it saw the winner's key before it had made one of its own.
        lost = [outcome for outcome in outcomes if outcome not in sealed]
        assert all(isinstance(outcome, KeyMismatch | KeyMissing) for outcome in lost), outcomes
        keks, data_keys = await rows(database)
        assert len(keks) == len(data_keys) == 1
        winner = outcomes.index(sealed[0])
        assert [ring.state for ring in rings] == ["unlocked" if at == winner else "locked" for at in range(4)]
        assert await open_(await started(database, files[winner]), database, sealed[0]) == SECRET
    finally:
        for each in others:
            await each.close()


# Forks once everything is imported, so that the processes really start together.
RACERS = """
import asyncio, os, pathlib, sys
from storage.database import Database, parse_url
from storage.encryption.providers.key_file import KeyFile
from storage.encryption.keyring import KeyRing

async def race(url, path):
    database = Database(parse_url(url))
    ring = KeyRing(database, KeyFile(path))
    await ring.start()
    keys = [await ring.active_key(database, user) for user in ("alice", "bob", "carol")]
    os.write(1, (" ".join(key.id.hex() for key in keys) + "\\n").encode())
    await database.close()

start, gate = os.pipe()
children = []
for _ in range(8):
    child = os.fork()
    if not child:
        os.close(gate)
        os.read(start, 1)
        try:
            asyncio.run(race(sys.argv[1], pathlib.Path(sys.argv[2])))
        except BaseException as error:
            os.write(1, repr(error).encode())
        os._exit(0)
    children.append(child)
os.close(gate)
for child in children:
    os.waitpid(child, 0)
"""


async def test_processes_that_open_a_new_installation_at_once_agree_on_every_key(
    database: Database, database_url: str, key_path: Path
) -> None:
    command = [sys.executable, "-c", RACERS, database_url, str(key_path)]
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    assert finished.stderr == ""
    answers = finished.stdout.splitlines()
    assert answers == [answers[0]] * 8
    keks, data_keys = await rows(database)
    assert len(keks) == 1
    assert {row[0].hex for row in data_keys} == set(answers[0].split())
    assert (await started(database, KeyFile(key_path))).state == "unlocked"


# ---- keys that change under a running process


async def test_nothing_is_sealed_under_a_key_that_was_deleted_meanwhile(database: Database, key_path: Path) -> None:
    ring = await started(database, KeyFile(key_path))
    before = await seal(ring, database)
    await change(database, delete(DataKeyTable).where(_key.user_id == bindparam("user_id")), user_id="alice")
    after = await seal(ring, database)
    assert data_key_id_of(after) != data_key_id_of(before)
    _, data_keys = await rows(database)
    assert [row[0].bytes for row in data_keys] == [data_key_id_of(after)]
    with pytest.raises(KeyMissing, match=data_key_id_of(before).hex()):
        await open_(ring, database, before)


async def add_key(database: Database, ring: KeyRing, user_id: str, state: str) -> DataKey:
    """What a rotation in another process would leave."""
    key, provider = DataKey.generate(), ring.master_keys.provider
    kek_id = provider.active_id
    assert kek_id is not None
    wrapped = await provider.wrap(kek_id, key.reveal(), wrap_context(user_id, key.id, kek_id))
    await change(
        database,
        DataKeyTable.__table__.insert(),  # type: ignore[attr-defined]
        id=uuid.UUID(bytes=key.id),
        user_id=user_id,
        kek_id=kek_id,
        wrapped=wrapped,
        state=state,
        created_at=now(),
    )
    return key


async def test_a_value_sealed_by_another_process_under_a_younger_key_opens(database: Database, key_path: Path) -> None:
    ring = await started(database, KeyFile(key_path))
    old = await seal(ring, database)
    await change(database, update(DataKeyTable).values(state="retired"))
    younger = await add_key(database, ring, "alice", "active")
    sealed = KeySet("alice", {younger.id: younger}, younger.id).seal(CONTEXT, SECRET)
    assert await open_(ring, database, sealed) == SECRET
    assert await open_(ring, database, old) == SECRET
    assert data_key_id_of(await seal(ring, database)) == younger.id


async def test_a_unit_that_meets_a_younger_key_is_run_again_with_it(database: Database, key_path: Path) -> None:
    ring = await started(database, KeyFile(key_path))
    await seal(ring, database)
    other = await add_key(database, ring, "alice", "retired")
    sealed = KeySet("alice", {other.id: other}, other.id).seal(CONTEXT, SECRET)
    seen = []

    def unit(keys: KeySet) -> Unit[bytes]:
        yield from ()
        seen.append(len(keys))
        return keys.open(CONTEXT, sealed)

    assert await ring.run(database, "alice", unit) == SECRET
    assert seen == [1, 2]


async def test_a_key_that_is_really_gone_is_reported_once(database: Database, key_path: Path) -> None:
    ring = await started(database, KeyFile(key_path))
    gone = DataKey.generate()
    sealed = KeySet("alice", {gone.id: gone}, gone.id).seal(CONTEXT, SECRET)

    def unit(keys: KeySet) -> Unit[bytes]:
        yield from ()
        return keys.open(CONTEXT, sealed)

    with pytest.raises(KeyMissing, match=gone.id.hex()):
        await ring.run(database, "alice", unit)


async def test_what_a_unit_raises_reaches_the_caller_and_undoes_it(database: Database, key_path: Path) -> None:
    ring = await started(database, KeyFile(key_path))

    def unit(keys: KeySet) -> Unit[None]:
        yield from execute(statement(update(DataKeyTable).values(state="retired")))
        raise LookupError

    with pytest.raises(LookupError):
        await ring.run(database, "alice", unit)
    _, data_keys = await rows(database)
    assert [row[4] for row in data_keys] == [sql.ACTIVE]


async def test_one_broken_data_key_breaks_only_what_it_sealed(database: Database, key_path: Path) -> None:
    ring = await started(database, KeyFile(key_path))
    good = await seal(ring, database)
    broken = await add_key(database, ring, "alice", "retired")
    await change(
        database,
        update(DataKeyTable).where(_key.id == bindparam("broken")).values(wrapped=b"\x01" + bytes(60)),
        broken=uuid.UUID(bytes=broken.id),
    )
    keys = await started(database, KeyFile(key_path))
    held = await keys.keys_for(database, "alice")
    assert not held.is_whole
    assert held.open(CONTEXT, good) == SECRET
    for _ in range(2):
        with pytest.raises(Tampered, match="data_key"):
            held.get(broken.id)


async def test_a_wrapped_key_does_not_work_for_another_user(database: Database, key_path: Path) -> None:
    ring = await started(database, KeyFile(key_path))
    sealed = await seal(ring, database)
    await change(database, update(DataKeyTable).values(user_id="bob"))
    ring.forget()
    stolen = await ring.keys_for(database, "bob")
    with pytest.raises(Tampered):
        stolen.get(data_key_id_of(sealed))
    with pytest.raises(Tampered):
        await seal(ring, database, "bob")


# ---- several master keys


async def test_a_new_first_key_wraps_new_data_keys_and_the_old_one_still_opens(database: Database) -> None:
    old, new = MasterKey.generate(), MasterKey.generate()
    sealed = await seal(await started(database, environment(old)), database)
    ring = await started(database, environment(new, old))
    assert await open_(ring, database, sealed) == SECRET
    await seal(ring, database, "bob")
    keks, data_keys = await rows(database)
    assert len(keks) == 2
    assert len({row[2] for row in data_keys}) == 2
    # A process that was started before the new key came into use finds it by itself.
    late = await started(database, environment(old, new))
    await seal(await started(database, environment(new, old)), database, "carol")
    assert (await late.keys_for(database, "carol")).has_active


async def test_a_process_that_runs_through_a_rotation_goes_on_under_the_new_key(
    database: Database, key_path: Path
) -> None:
    running = await started(database, KeyFile(key_path))
    await seal(running, database)
    rotation = KeyRotation(database, await started(database, KeyFile(key_path)), ())
    old = (await rotation.status()).master_keys[0].kek_id
    new = await rotation.new()
    await rotation.promote(new)
    await seal(running, database, "bob")
    assert {row[1]: row[2].hex() for row in (await rows(database))[1]} == {"alice": old, "bob": new}
    await rotation.rewrap()
    await rotation.retire(old)
    late = await started(database, KeyFile(key_path))
    for number, ring in enumerate((running, late)):
        await seal(ring, database, f"user-{number}")


async def test_servers_with_either_order_of_keys_run_through_a_rotation(database: Database) -> None:
    old, new = MasterKey.generate(), MasterKey.generate()
    running = await started(database, environment(old, new))
    await seal(running, database)
    first = (await rows(database))[0][0][0]
    switched = await started(database, environment(new, old))
    await asyncio.gather(*(seal(ring, database, f"user-{n}") for n, ring in enumerate([running, switched] * 5)))
    rotation = KeyRotation(database, switched, ())
    await rotation.rewrap()
    await rotation.retire(first.hex())
    await seal(running, database, "late")
    assert all(row[2] != first for row in (await rows(database))[1])


async def test_nothing_new_is_wrapped_under_a_key_that_is_gone_from_its_place(
    database: Database, key_path: Path
) -> None:
    ring = await started(database, KeyFile(key_path), retry_seconds=0)
    sealed = await seal(ring, database)
    before, kept = await rows(database), key_path.read_text()
    key_path.unlink()
    with pytest.raises(KeyMissing, match="Put it back"):
        await seal(ring, database, "bob")
    key_path.write_text(MasterKey.generate().encoded())
    key_path.chmod(0o600)
    with pytest.raises(KeyMismatch):
        await seal(ring, database, "bob")
    assert await rows(database) == before
    key_path.write_text(kept)
    await seal(ring, database, "bob")
    assert await open_(ring, database, sealed) == SECRET


async def test_a_ring_learns_of_a_key_that_another_process_registered(database: Database) -> None:
    old, new = MasterKey.generate(), MasterKey.generate()
    await seal(await started(database, environment(old)), database)
    early = await started(database, environment(old, new))
    await seal(await started(database, environment(new, old)), database, "bob")
    assert (await early.keys_for(database, "bob")).has_active


async def test_without_the_old_key_only_its_users_are_locked_out(database: Database) -> None:
    old, new = MasterKey.generate(), MasterKey.generate()
    sealed = await seal(await started(database, environment(old)), database)
    await seal(await started(database, environment(new, old)), database, "bob")
    ring = await started(database, environment(new))
    assert (await ring.keys_for(database, "bob")).has_active
    with pytest.raises(KeyMissing, match="add that key"):
        await open_(ring, database, sealed)
    status = await ring.status()
    assert (status.state, status.complete) == ("unlocked", False)
    assert "some data keys are wrapped under the master key" in status.message


async def test_nothing_is_wrapped_under_a_retired_master_key(database: Database) -> None:
    key = MasterKey.generate()
    sealed = await seal(await started(database, environment(key)), database)
    await change(database, update(KeyEncryptionKeyTable).values(retired_at=now()))
    ring = await started(database, environment(key))
    assert await open_(ring, database, sealed) == SECRET
    with pytest.raises(KeyMismatch, match="was retired"):
        await seal(ring, database, "bob")


# ---- the policy that no key is made


async def test_where_no_key_may_be_made_none_is(database: Database, key_path: Path) -> None:
    ring = await started(database, KeyFile(key_path), may_generate=False, retry_seconds=0)
    assert (await ring.status()).state == "locked"
    with pytest.raises(KeyMissing, match="require_master_key"):
        await seal(ring, database)
    assert not key_path.exists()
    assert await rows(database) == ([], [])
    await KeyFile(key_path).generate()
    await open_(ring, database, await seal(ring, database))
    assert ring.state == "unlocked"


async def test_where_no_key_may_be_made_one_that_is_there_is_used(database: Database) -> None:
    key = MasterKey.generate()
    sealed = await seal(await started(database, environment(key), may_generate=False), database)
    assert await open_(await started(database, environment(key), may_generate=False), database, sealed) == SECRET


# ---- master keys that were all retired


async def retire_all(database: Database) -> None:
    await change(database, update(KeyEncryptionKeyTable).values(retired_at=now()))


async def test_with_all_master_keys_retired_another_one_is_as_good_as_the_first(database: Database) -> None:
    old, new = MasterKey.generate(), MasterKey.generate()
    sealed = await seal(await started(database, environment(old)), database)
    await retire_all(database)
    await change(database, update(DataKeyTable).values(state="retired"))
    alone = await started(database, environment(new))
    status = await alone.status()
    assert (status.state, status.reason, status.complete) == ("new", "", True)
    assert "all master keys were retired" in status.message
    with pytest.raises(KeyMissing, match="add that key"):
        await open_(alone, database, sealed)
    assert data_key_id_of(await seal(alone, database)) != data_key_id_of(sealed)
    assert alone.state == "unlocked"
    assert await open_(await started(database, environment(new, old)), database, sealed) == SECRET


async def test_with_all_master_keys_retired_none_is_made_by_itself(database: Database, key_path: Path) -> None:
    await seal(await started(database, KeyFile(key_path)), database)
    await retire_all(database)
    key_path.unlink()
    ring = await started(database, KeyFile(key_path))
    assert ring.state == "new"
    with pytest.raises(KeyMissing, match="storage keys new"):
        await seal(ring, database, "bob")
    assert not key_path.exists()


async def test_a_master_key_that_was_retired_is_the_wrong_one_while_another_is_in_use(database: Database) -> None:
    old, new = MasterKey.generate(), MasterKey.generate()
    await seal(await started(database, environment(old)), database)
    await retire_all(database)
    await seal(await started(database, environment(new, old)), database, "bob")
    assert (await started(database, environment(old))).state == "locked"
    assert (await started(database, environment(old, new))).state == "unlocked"


# ---- units that seal nothing


async def test_a_unit_that_seals_nothing_is_told_why_there_are_no_keys(database: Database, key_path: Path) -> None:
    await seal(await started(database, KeyFile(key_path)), database)
    locked = await started(database, environment(MasterKey.generate()))

    def unit(keys: Keys) -> Unit[str]:
        yield from ()
        return type(keys).__name__

    assert await locked.run_with_what_is_held(database, "alice", unit) == "KeyMismatch"
    ring = await started(database, KeyFile(key_path))
    assert await ring.run_with_what_is_held(database, "alice", unit) == "KeySet"
    assert await ring.run_with_what_is_held(database, "bob", unit) == "KeySet"
    _, data_keys = await rows(database)
    assert [row[1] for row in data_keys] == ["alice"], "no key is made for it"


async def test_a_unit_that_seals_nothing_is_run_again_once_with_a_key_it_lacks(
    database: Database, key_path: Path
) -> None:
    ring = await started(database, KeyFile(key_path))
    await seal(ring, database)
    other = await add_key(database, ring, "alice", "retired")
    sealed = KeySet("alice", {other.id: other}, other.id).seal(CONTEXT, SECRET)
    seen = []

    def unit(keys: Keys) -> Unit[bytes]:
        yield from ()
        assert isinstance(keys, KeySet)
        seen.append(len(keys))
        return keys.open(CONTEXT, sealed)

    assert await ring.run_with_what_is_held(database, "alice", unit) == SECRET
    assert seen == [1, 2]
    await change(
        database,
        delete(DataKeyTable).where(_key.id == bindparam("gone")),
        gone=uuid.UUID(bytes=other.id),
    )
    ring.forget()
    seen.clear()
    with pytest.raises(KeyMissing, match=other.id.hex()):
        await ring.run_with_what_is_held(database, "alice", unit)
    assert seen == [1]


# ---- the cache


class Counting(EnvironmentKeys):
    """Counts unwraps, and lets a test hold them up."""

    def __init__(self, key: MasterKey) -> None:
        super().__init__(SecretStr(key.encoded()))
        self.unwraps = 0
        self.open = asyncio.Event()
        self.open.set()

    async def unwrap(self, kek_id: bytes, wrapped: bytes, associated_data: bytes) -> bytes:
        self.unwraps += 1
        await self.open.wait()
        return await super().unwrap(kek_id, wrapped, associated_data)


@pytest.fixture
async def counting(database: Database) -> Callable[[], Counting]:
    key = MasterKey.generate()
    for user_id in ("alice", "bob", "carol"):
        await seal(await started(database, environment(key)), database, user_id)
    return lambda: Counting(key)


async def test_a_key_is_unwrapped_once_and_then_kept(database: Database, counting: Callable[[], Counting]) -> None:
    provider = counting()
    ring = await started(database, provider)
    for _ in range(5):
        await ring.keys_for(database, "alice")
        await seal(ring, database)
    assert provider.unwraps == 1
    ring.forget("alice")
    await ring.keys_for(database, "alice")
    assert provider.unwraps == 2


async def test_tasks_that_want_the_same_key_at_once_ask_for_it_once(
    database: Database, counting: Callable[[], Counting]
) -> None:
    provider = counting()
    ring = await started(database, provider)
    provider.open.clear()
    tasks = [asyncio.create_task(ring.keys_for(database, "alice")) for _ in range(20)]
    while not provider.unwraps:
        await asyncio.sleep(0)
    provider.open.set()
    assert len({id(await task) for task in tasks}) == 1
    assert provider.unwraps == 1
    assert not ring._loading


async def test_the_cache_is_bounded_in_number_and_age(database: Database, counting: Callable[[], Counting]) -> None:
    provider = counting()
    ring = await started(database, provider, cached_users=2)
    for user_id in ("alice", "bob", "carol", "carol", "bob", "alice"):
        await ring.keys_for(database, user_id)
    assert provider.unwraps == 4
    assert len(ring._cache) == 2
    provider = counting()
    ring = await started(database, provider, cache_seconds=0)
    for _ in range(3):
        await ring.keys_for(database, "alice")
    assert provider.unwraps == 3


async def test_a_wrong_key_takes_back_what_was_cached_and_a_provider_that_is_down_does_not(
    database: Database, key_path: Path
) -> None:
    ring = await started(database, KeyFile(key_path))
    sealed = await seal(ring, database)
    key_path.chmod(0o644)
    await ring.start()
    assert ring.state == "locked"
    assert await open_(ring, database, sealed) == SECRET
    key_path.unlink()
    await ring.start()
    with pytest.raises(KeyMissing):
        await open_(ring, database, sealed)


# ---- what people see


async def test_status_tells_the_state_of_the_keys(database: Database, key_path: Path) -> None:
    ring = await started(database, KeyFile(key_path))
    status = await ring.status()
    assert (status.state, status.reason, status.complete) == ("new", "", True)
    assert (status.kek_id, status.provider, status.data_keys) == (None, "key-file", 0)
    assert str(key_path) in status.where
    await seal(ring, database)
    await seal(ring, database, "bob")
    status = await ring.status()
    keks, _ = await rows(database)
    assert (status.state, status.kek_id, status.data_keys) == ("unlocked", keks[0][0].hex(), 2)


async def test_no_key_is_logged_or_shown(database: Database, key_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    ring = await started(database, KeyFile(key_path))
    await seal(ring, database)
    data_key = (await ring.active_key(database, "alice")).reveal()
    encoded = key_path.read_text().splitlines()[-1]
    keys = await ring.keys_for(database, "alice")
    other = await started(database, environment(MasterKey.generate()))
    assert "secrets are locked" in caplog.text
    shown = [caplog.text, repr(ring), repr(keys), repr(await ring.status()), repr(await other.status())]
    for line in [*shown, repr(vars(ring))]:
        assert encoded not in line
        assert data_key.hex() not in line
        assert repr(data_key)[2:-1] not in line
        assert SECRET.decode() not in line


async def test_a_key_set_refuses_another_users_values(database: Database, key_path: Path) -> None:
    ring = await started(database, KeyFile(key_path))
    sealed = await seal(ring, database)
    await seal(ring, database, "bob")
    bobs = await ring.keys_for(database, "bob")
    with pytest.raises(ValueError, match="neither seal nor open"):
        bobs.open(CONTEXT, sealed)
    with pytest.raises(ValueError, match="neither seal nor open"):
        bobs.seal(CONTEXT, SECRET)
