"""Everything of one user, of every table that has an owner, and nothing of anybody else."""

from __future__ import annotations

import json
import zipfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr
from sqlalchemy import select

from storage import ConversationMetadata, Storage, StorageConfig
from storage.encryption.registry import sealed_columns
from storage.errors import Conflict, InvalidInput, KeyMismatch, NotFound
from storage.tables import metadata
from storage.users import owned_tables
from tests.databases import MASTER_KEY, OTHER_KEY

CANARY = "canary-of-ada"
OTHERS = "canary-of-bob"


def config(database_url: str, tmp_path: Path, **more: Any) -> StorageConfig:
    given = {"data_dir": tmp_path / "data", "master_key": MASTER_KEY, "webhook_delivery": False, **more}
    return StorageConfig.load(database_url=database_url, **given)


async def fill(storage: Storage, user: str, secret: str) -> None:
    """A row in every table that has an owner."""
    one = storage.user(user)
    row = ConversationMetadata(conversation_id=f"c-{user}", title=f"of {user}", tags=["a"])
    await one.conversations.save_metadata(row)
    await one.secrets.set_custom_secret("NAME", secret)
    await one.secrets.set_provider_token("gitlab", secret)
    await one.settings.update(language="fr", llm_api_key=SecretStr(secret))
    await one.webhooks.add("https://hooks.example.com/x")
    await one.files.write("small.txt", f"small of {user}".encode())
    await one.files.write("folder/large.txt", f"large of {user}".encode() * 100)


@pytest.fixture
async def storage(database_url: str, tmp_path: Path) -> AsyncIterator[Storage]:
    async with Storage.open(config(database_url, tmp_path, small_files_in_database=50)) as opened:
        await fill(opened, "ada", CANARY)
        await fill(opened, "bob", OTHERS)
        yield opened


async def rows_of(storage: Storage, name: str, user_id: str) -> list[Any]:
    table = metadata.tables[name]
    async with storage.session(read_only=True) as session:
        connection = await session.connection()
        return list(await connection.execute(select(table).where(table.c.user_id == user_id)))


def everything(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


async def test_every_table_with_an_owner_is_filled_by_this_test(storage: Storage) -> None:
    """Or what follows would prove nothing about a table that is added later."""
    for table in owned_tables():
        assert await rows_of(storage, table.name, "ada"), f"fill() puts nothing into {table.name}"


async def test_every_row_and_every_file_of_the_user_is_in_it_and_nobody_elses(storage: Storage, tmp_path: Path) -> None:
    done = await storage.export_user("ada", tmp_path / "export")
    found = everything(tmp_path / "export")
    for table in owned_tables():
        lines = [json.loads(line) for line in found[f"tables/{table.name}.jsonl"].splitlines()]
        assert len(lines) == len(await rows_of(storage, table.name, "ada")) == done.rows[table.name]
        assert {line["user_id"] for line in lines} == {"ada"}
        left_out = set(table.columns.keys()) - set(lines[0])
        assert left_out == {"data_key": {"wrapped"}, "file_content": {"content"}}.get(table.name, set())
    assert found["files/small.txt"] == b"small of ada"
    assert found["files/folder/large.txt"] == b"large of ada" * 100
    assert done.files == 2
    text = b"".join(found.values())
    assert b"bob" not in text
    assert CANARY.encode() not in text
    assert {path.stat().st_mode & 0o077 for path in (tmp_path / "export").rglob("*")} == {0}


async def test_sealed_values_stand_as_such(storage: Storage, tmp_path: Path) -> None:
    await storage.export_user("ada", tmp_path / "export")
    found = everything(tmp_path / "export")
    for sealed in sealed_columns():
        file = found.get(f"tables/{sealed.table}.jsonl", b"")
        values = {json.loads(line)[sealed.column] for line in file.splitlines()}
        assert values <= {None, "(sealed)"}, sealed
    [row] = [json.loads(line) for line in found["tables/settings.jsonl"].splitlines()]
    assert (row["language"], row["llm_api_key"], row["search_api_key"]) == ("fr", "(sealed)", None)
    assert row["created_at"].endswith("+00:00")


async def test_secrets_are_in_it_when_they_are_asked_for(storage: Storage, tmp_path: Path) -> None:
    await storage.export_user("ada", tmp_path / "export", reveal=True)
    found = json.loads((tmp_path / "export" / "secrets.json").read_text())
    assert found["settings"]["llm_api_key"] == CANARY
    assert found["provider_tokens"]["gitlab"]["token"] == CANARY
    assert found["custom_secrets"]["NAME"]["secret"] == CANARY
    assert OTHERS not in json.dumps(found)


async def test_a_zip_file_has_the_same(storage: Storage, tmp_path: Path) -> None:
    await storage.export_user("ada", tmp_path / "export")
    await storage.export_user("ada", tmp_path / "export.zip")
    with zipfile.ZipFile(tmp_path / "export.zip") as made:
        inside = {name: made.read(name) for name in made.namelist() if not name.endswith("/")}
    folder = everything(tmp_path / "export")
    assert {**inside, "export.json": b""} == {**folder, "export.json": b""}
    assert (tmp_path / "export.zip").stat().st_mode & 0o077 == 0
    assert sorted(path.name for path in tmp_path.iterdir() if "export" in path.name) == ["export", "export.zip"]


async def test_nothing_is_written_where_something_is_or_nothing_is_stored(storage: Storage, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "letter.txt").write_text("x")
    (tmp_path / "there.zip").write_text("x")
    with pytest.raises(Conflict):
        await storage.export_user("ada", tmp_path / "there")
    with pytest.raises(InvalidInput):
        await storage.export_user("ada", tmp_path / "there.zip")
    for name in ("nobody", "nobody.zip"):
        with pytest.raises(NotFound):
            await storage.export_user("nobody'; --", tmp_path / name)
        assert not (tmp_path / name).exists()


async def test_without_the_key_only_what_is_not_sealed_can_be_had(
    storage: Storage, database_url: str, tmp_path: Path
) -> None:
    async with Storage.open(config(database_url, tmp_path, master_key=OTHER_KEY)) as locked:
        with pytest.raises(KeyMismatch):
            await locked.export_user("ada", tmp_path / "export", reveal=True)
        assert not (tmp_path / "export").exists()
        assert (await locked.export_user("ada", tmp_path / "export")).files == 2


async def test_after_a_deletion_no_table_and_no_blob_has_anything_of_the_user(storage: Storage) -> None:
    bobs = {table.name: await rows_of(storage, table.name, "bob") for table in owned_tables()}
    await storage.delete_user("ada")
    for table in owned_tables():
        assert await rows_of(storage, table.name, "ada") == [], table.name
        assert await rows_of(storage, table.name, "bob") == bobs[table.name], table.name
    blobs = [await storage.blobs.read(stat.path) async for stat in storage.blobs.walk()]
    assert blobs == [b"large of bob" * 100]
    with pytest.raises(NotFound):
        await storage.export_user("ada", Path("never"))
    assert not Path("never").exists()
