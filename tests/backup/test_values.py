"""Values are the same in an archive and on both databases, or the same as far as a database can tell."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from storage import ConversationMetadata, Storage
from storage.backup.archive import open_archive
from storage.backup.values import as_jsonb
from storage.errors import DatabaseError, SchemaOutdated, SchemaTooNew
from tests.backup.conftest import CANARY, config

NUMBERS = [
    1e16,
    1.2345678901234567e20,
    1.7976931348623157e308,
    5e-324,
    1e-7,
    -0.0,
    0.0,
    -1e16,
    1.0,
    0.1 + 0.2,
    2**63,
    10**40,
    -(2**53) - 1,
]


async def test_numbers_that_the_databases_write_otherwise_arrive(
    database_url: str, empty_url: str, tmp_path: Path
) -> None:
    given = {"list": NUMBERS, "deep": {"b": [{"a": 1e16}], "a": None, "": True}}
    async with Storage.open(config(database_url, tmp_path / "source")) as storage:
        row = ConversationMetadata(conversation_id="c", title="t", further=given)
        await storage.user("ada").conversations.save_metadata(row)
        await storage.backup(tmp_path / "backup.tar")
    target = config(empty_url, tmp_path / "target")
    await Storage.restore(tmp_path / "backup.tar", target)
    async with Storage.open(target) as restored:
        found = await restored.user("ada").conversations.get_metadata("c")
    assert as_jsonb(found.model_extra) == as_jsonb({"further": given})


async def test_the_forecast_of_what_postgresql_makes_of_a_number_is_right(
    postgres_server: Any, postgres_template: str, tmp_path: Path
) -> None:
    url = postgres_server.create_database(template=postgres_template)
    try:
        async with Storage.open(config(url, tmp_path)) as storage, storage.session(read_only=True) as session:
            for number in NUMBERS:
                query = text("SELECT (CAST(CAST(:number AS text) AS jsonb))::text").bindparams(
                    number=json.dumps(number)
                )
                ((found,),) = (await session.exec(query)).all()  # type: ignore[call-overload]
                assert json.dumps(as_jsonb(number)) == json.dumps(json.loads(found)), number
    finally:
        postgres_server.drop_database(url)


async def test_a_value_that_was_written_past_the_library_is_named_by_its_table(
    sqlite_storage: Storage, tmp_path: Path
) -> None:
    async with sqlite_storage.session() as session:
        statement = text("UPDATE conversation SET tags = :damaged").bindparams(damaged=f"{{{CANARY}")
        await session.exec(statement)  # type: ignore[call-overload]
        await session.commit()
    with pytest.raises(DatabaseError, match="a row of conversation has a value") as refused:
        await sqlite_storage.backup(tmp_path / "backup.tar")
    assert CANARY not in str(refused.value)
    assert not (tmp_path / "backup.tar").exists()


@pytest.mark.parametrize(("revision", "error"), [("0004", SchemaOutdated), ("9999", SchemaTooNew)])
async def test_only_a_schema_that_this_release_knows_is_backed_up(
    storage: Storage, tmp_path: Path, revision: str, error: type[Exception]
) -> None:
    """Another process may have migrated it since it was opened here."""
    async with storage.session() as session:
        statement = text("UPDATE storage_version SET version_num = :revision").bindparams(revision=revision)
        await session.exec(statement)  # type: ignore[call-overload]
        await session.commit()
    with pytest.raises(error):
        await storage.backup(tmp_path / "backup")
    assert not (tmp_path / "backup").exists()


async def test_equal_storages_make_equal_archives(storage: Storage, empty_url: str, tmp_path: Path) -> None:
    """Whichever database they are kept in."""
    await storage.backup(tmp_path / "backup.tar")
    target = config(empty_url, tmp_path / "target")
    await Storage.restore(tmp_path / "backup.tar", target)
    async with Storage.open(target) as restored:
        await restored.backup(tmp_path / "again.tar")
    hashes = []
    for name in ("backup.tar", "again.tar"):
        with open_archive(tmp_path / name) as archive:
            hashes.append({table.name: table.part.sha256 for table in archive.manifest.tables})
    assert hashes[0] == hashes[1]
