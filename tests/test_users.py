"""Who is there, and what is left of a user who was deleted: nothing, in any table, and no blob."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr
from sqlalchemy import insert, select

from storage import ConversationMetadata, Settings, Storage, StorageConfig
from storage.errors import FileStoreUnavailable, InvalidInput, KeyMissing, SecretNotFound
from storage.files.backends.memory import MemoryFileStore
from storage.tables import metadata
from storage.users import owned_tables
from storage.webhooks.endpoints.store import Endpoints
from storage.webhooks.sending.egress import Egress


@pytest.fixture
def config(database_url: str, tmp_path: Path) -> StorageConfig:
    return StorageConfig.load(
        database_url=database_url,
        data_dir=tmp_path / "data",
        master_key_file=tmp_path / "keys" / "master.key",
        small_files_in_database=5,
    )


@pytest.fixture
async def storage(config: StorageConfig) -> AsyncIterator[Storage]:
    async with Storage.open(config) as opened:
        yield opened


async def fill(storage: Storage, user_id: str) -> None:
    """Something of the user's in every table that has an owner."""
    user = storage.user(user_id)
    await user.conversations.save_metadata(ConversationMetadata(conversation_id=f"c-{user_id}"))
    await user.settings.store(Settings(llm_api_key=SecretStr("key")))
    await user.secrets.set_custom_secret("TOKEN", "value")
    await user.secrets.set_provider_token("github", "ghp")
    await user.files.write("a.txt", f"a of {user_id}")
    await user.files.copy("a.txt", "b.txt")
    await user.files.write("small.txt", "small")
    await Endpoints(storage.database, storage.keyring, Egress(()), user_id).add("https://hooks.example.com")


async def rows_of(storage: Storage, user_id: str) -> dict[str, int]:
    """How many rows of each table name the user, in a column of any name."""
    found = {}
    async with storage.session(read_only=True) as session:
        connection = await session.connection()
        for table in metadata.tables.values():
            rows: list[Any] = list(await connection.execute(select(table)))
            found[table.name] = sum(user_id in map(str, row) for row in rows)
    return found


async def test_a_user_who_is_deleted_has_no_row_left_in_any_table(storage: Storage) -> None:
    await fill(storage, "ada")
    await fill(storage, "bob")
    before = await rows_of(storage, "bob")
    assert all(before[table.name] for table in owned_tables()), "the test fills every table that has an owner"

    deleted = await storage.delete_user("ada")

    assert deleted.user_id == "ada"
    assert deleted.rows.keys() == {table.name for table in owned_tables()}
    assert deleted.blobs == 1
    assert deleted.blobs_left == ()
    assert not any((await rows_of(storage, "ada")).values())
    assert await rows_of(storage, "bob") == before
    assert (await storage.user("bob").secrets.get_custom_secret("TOKEN")).secret.get_secret_value() == "value"
    assert await storage.user("bob").files.read("a.txt") == b"a of bob"
    assert [user.user_id for user in await storage.list_users()] == ["bob"]


async def test_the_blobs_of_a_deleted_user_are_gone_and_no_others(storage: Storage) -> None:
    await fill(storage, "ada")
    await fill(storage, "bob")
    contents = [await storage.blobs.read(entry.path) async for entry in storage.blobs.walk()]
    assert sorted(contents) == [b"a of ada", b"a of bob"]
    await storage.delete_user("ada")
    assert [await storage.blobs.read(entry.path) async for entry in storage.blobs.walk()] == [b"a of bob"]


async def test_the_blobs_of_older_versions_of_a_deleted_users_files_are_gone_too(storage: Storage) -> None:
    ada = storage.user("ada").files
    for version in range(3):
        await ada.write("a.txt", f"version {version}")
    await ada.write("removed.txt", "was removed")
    await ada.delete("removed.txt")
    await ada.write("a.txt", "small")
    assert len([entry async for entry in storage.blobs.walk()]) == 4
    deleted = await storage.delete_user("ada")
    assert (deleted.blobs, deleted.blobs_left) == (4, ())
    assert [entry async for entry in storage.blobs.walk()] == []


async def test_a_user_who_comes_back_while_being_deleted_keeps_what_is_written_then(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    ada = storage.user("ada").files
    await ada.write("old.txt", "what was there before")
    delete = storage.blobs.delete
    written = False

    async def write_meanwhile(path: str) -> int:
        nonlocal written
        if not written:
            written = True
            await ada.write("new.txt", "what is written meanwhile")
        return await delete(path)

    monkeypatch.setattr(storage.blobs, "delete", write_meanwhile)
    await storage.delete_user("ada")
    assert await ada.list() == ["new.txt"]
    assert await ada.read("new.txt") == b"what is written meanwhile"


async def test_more_events_than_are_removed_at_once_are_all_removed(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(12):
        await storage.user("ada").settings.update(language="de" if number % 2 else "en")
    monkeypatch.setattr("storage.users._EVENTS_AT_ONCE", 5)
    assert (await storage.delete_user("ada")).rows["event"] == 12
    assert await storage.list_users() == []


async def test_a_deleted_user_may_come_back_with_a_new_key(storage: Storage) -> None:
    ada = storage.user("ada")
    await ada.secrets.set_custom_secret("TOKEN", "value")
    before = await storage.keyring.active_key(storage.database, "ada")
    await storage.delete_user("ada")
    with pytest.raises(SecretNotFound):
        await ada.secrets.get_custom_secret("TOKEN")
    await ada.secrets.set_custom_secret("TOKEN", "again")
    assert (await storage.keyring.active_key(storage.database, "ada")).id != before.id
    assert (await ada.secrets.get_custom_secret("TOKEN")).secret.get_secret_value() == "again"


async def test_what_is_restored_of_a_deleted_user_without_the_key_cannot_be_opened(storage: Storage) -> None:
    table = metadata.tables["custom_secret"]
    ada = storage.user("ada")
    await ada.secrets.set_custom_secret("TOKEN", "value")
    async with storage.session(read_only=True) as session:
        row = (await (await session.connection()).execute(select(table))).one()
    await storage.delete_user("ada")
    async with storage.session() as session:
        await (await session.connection()).execute(insert(table).values(row._asdict()))
        await session.commit()
    with pytest.raises(KeyMissing):
        await ada.secrets.get_custom_secret("TOKEN")


async def test_no_sealed_value_of_a_deleted_user_is_left_in_sqlites_file(sqlite_url: str, tmp_path: Path) -> None:
    file = Path(sqlite_url.removeprefix("sqlite:///"))
    async with Storage.open(sqlite_url, data_dir=tmp_path, master_key_file=tmp_path / "keys" / "master.key") as storage:
        ada = storage.user("ada")
        await ada.secrets.set_custom_secret("SHORT", "value")
        await ada.secrets.set_custom_secret("LONG", "value" * 5000)  # over several pages
        tables = metadata.tables
        async with storage.session(read_only=True) as session:
            connection = await session.connection()
            sealed = [*(await connection.execute(select(tables["custom_secret"].c.value))).scalars()]
            sealed += (await connection.execute(select(tables["data_key"].c.wrapped))).scalars()
        checkpoint(file)
        stored = file.read_bytes()
        assert len(sealed) == 3
        assert all(value[-24:] in stored for value in sealed)
        await storage.delete_user("ada")
        checkpoint(file)
    assert not any(value[-24:] in file.read_bytes() for value in sealed)


def checkpoint(file: Path) -> None:
    with closing(sqlite3.connect(file)) as connection:
        assert connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0] == 0


async def test_another_process_that_has_the_key_in_memory_seals_nothing_under_it(
    storage: Storage, config: StorageConfig
) -> None:
    await storage.user("ada").secrets.set_custom_secret("TOKEN", "value")
    async with Storage.open(config) as other:
        await other.user("ada").secrets.get_custom_secret("TOKEN")  # now it has the key in memory
        await storage.delete_user("ada")
        await other.user("ada").secrets.set_custom_secret("TOKEN", "after")
    assert (await storage.user("ada").secrets.get_custom_secret("TOKEN")).secret.get_secret_value() == "after"


async def test_secrets_written_while_their_owner_is_deleted_can_be_read_or_are_gone(
    storage: Storage, config: StorageConfig
) -> None:
    async with Storage.open(config) as other:

        async def write() -> None:
            for number in range(40):
                await other.user("ada").secrets.set_custom_secret(f"TOKEN_{number}", str(number))

        async def delete() -> None:
            for _ in range(10):
                await storage.delete_user("ada")
                await asyncio.sleep(0)

        await asyncio.gather(write(), delete())
    loaded = await storage.user("ada").secrets.load()
    for name, secret in loaded.custom_secrets.items() if loaded else ():
        assert name == f"TOKEN_{secret.secret.get_secret_value()}"


async def test_deleting_a_user_of_whom_nothing_is_stored_does_nothing(storage: Storage) -> None:
    assert (await storage.delete_user("nobody")).rows == {}


async def test_a_bad_user_id_deletes_nothing(storage: Storage) -> None:
    await fill(storage, "ada")
    for bad in ("", "a\0b", "x" * 256):
        with pytest.raises(InvalidInput):
            await storage.delete_user(bad)
    assert await storage.list_users() != []


async def test_blobs_that_the_file_store_keeps_are_named(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    class Unreachable(MemoryFileStore):
        async def delete(self, path: str) -> int:
            raise FileStoreUnavailable("the file store cannot be reached")

    await fill(storage, "ada")
    monkeypatch.setattr(storage, "blobs", Unreachable())
    deleted = await storage.delete_user("ada")
    assert deleted.blobs == 0
    assert len(deleted.blobs_left) == 1
    assert not any((await rows_of(storage, "ada")).values())


async def test_what_belongs_to_the_operator_is_no_users(storage: Storage) -> None:
    await storage.keyring.active_key(storage.database, "")
    await storage.user(None).settings.update(language="de")
    (local,) = await storage.list_users()
    assert local.user_id == "local"
    assert local.rows == {"event": 1, "settings": 1}
