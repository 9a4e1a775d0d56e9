"""The doctor finds what was broken on purpose, says what mends it, and mends only what it may."""

from __future__ import annotations

import os
import sqlite3
import uuid
from contextlib import closing
from datetime import datetime, timedelta
from pathlib import Path

import asyncpg
import pytest

from storage import Storage, StorageConfig
from storage.clock import now
from storage.database import parse_url
from storage.doctor.examination import CHECKS, examine
from storage.doctor.finding import CheckResult, Finding
from storage.doctor.parts import Patient
from storage.errors import DatabaseUnavailable, InvalidInput
from tests.doctor.conftest import Execute, fill
from tests.servers.postgres import database_name


async def check(storage: Storage, name: str, *, fix: bool = False) -> CheckResult:
    [found] = (await storage.doctor(only=[name], fix=fix)).checks
    assert found.name == name
    assert found.skipped == ""
    return found


async def one(storage: Storage, name: str) -> Finding:
    [finding] = (await check(storage, name)).findings
    return finding


def file_of(storage: Storage) -> Path:
    found = storage.database.url.file
    assert found is not None
    return found


async def test_a_storage_that_is_well_has_no_findings(storage: Storage) -> None:
    told: list[str] = []
    report = await storage.doctor(told=told.append)
    assert {result.name: result.findings for result in report.checks} == dict.fromkeys(CHECKS, ())
    assert report.is_well
    assert told == list(CHECKS)


async def test_a_name_that_is_no_check_is_refused_with_the_nearest(storage: Storage) -> None:
    with pytest.raises(InvalidInput, match="'drfit'; did you mean 'drift'"):
        await storage.doctor(only=["drfit"])


async def test_a_check_that_cannot_be_made_is_a_finding_and_keeps_no_other_from_it(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail() -> None:
        raise DatabaseUnavailable("the disk is gone")

    monkeypatch.setattr(storage.keys, "doctor", fail)
    report = await storage.doctor()
    broken = [result for result in report.checks if result.findings]
    assert [result.name for result in broken] == ["secrets"]
    assert "the disk is gone" in broken[0].findings[0].message
    assert not report.is_well


async def test_a_database_that_cannot_be_opened_still_has_its_machine_looked_at(config: StorageConfig) -> None:
    report = await examine(Patient(config, None))
    made = [result.name for result in report.checks if not result.skipped]
    assert made == ["permissions", "disk"]


# ---- the schema


async def test_an_index_that_is_missing_is_drift(storage: Storage, execute: Execute) -> None:
    for index in ("ix_conversation_title", "ix_file_blob_key"):
        await execute(f"DROP INDEX {index}")
    finding = await one(storage, "drift")
    assert "ix_conversation_title is missing" in finding.message
    assert "ix_file_blob_key is missing" in finding.message
    assert "storage migrate --sql" in finding.remedy


async def test_tables_and_columns_that_are_missing_are_drift(storage: Storage, execute: Execute) -> None:
    await execute("ALTER TABLE conversation RENAME COLUMN sandbox_id TO renamed")
    await execute("ALTER TABLE user_secrets RENAME TO renamed")
    finding = await one(storage, "drift")
    assert "column conversation.sandbox_id is missing" in finding.message
    assert "table user_secrets is missing" in finding.message


async def test_what_others_have_added_is_no_drift(storage: Storage, execute: Execute) -> None:
    await execute("CREATE TABLE of_another_application (id INTEGER PRIMARY KEY, name TEXT)")
    await execute("CREATE INDEX of_a_dba ON conversation (trigger)")
    await execute("CREATE VIEW of_an_analyst AS SELECT title FROM conversation")
    assert (await check(storage, "drift")).findings == ()


async def test_another_revision_is_an_error(storage: Storage, execute: Execute) -> None:
    await execute("UPDATE storage_version SET version_num = '0003'")
    assert "storage migrate" in (await one(storage, "schema")).remedy
    await execute("UPDATE storage_version SET version_num = '9999'")
    assert "upgrade this installation" in (await one(storage, "schema")).remedy


# ---- the database


async def test_an_index_that_lost_a_row_is_made_anew(sqlite_url: str, tmp_path: Path) -> None:
    file = Path(sqlite_url.removeprefix("sqlite:///"))
    with closing(sqlite3.connect(file, isolation_level=None)) as connection:
        connection.execute("PRAGMA writable_schema=ON")
        entry = connection.execute("SELECT * FROM sqlite_master WHERE name = 'ix_custom_secret_id'").fetchone()
        if entry is None:
            entry = connection.execute("SELECT * FROM sqlite_master WHERE name = 'ix_conversation_title'").fetchone()
        connection.execute("DELETE FROM sqlite_master WHERE name = ?", [entry[1]])
    options = {"data_dir": tmp_path / "data", "master_key_file": tmp_path / "key"}
    async with Storage.open(sqlite_url, **options) as storage:
        await fill(storage)
    with closing(sqlite3.connect(file, isolation_level=None)) as connection:
        connection.execute("PRAGMA writable_schema=ON")
        connection.execute("INSERT INTO sqlite_master VALUES (?, ?, ?, ?, ?)", entry)
    async with Storage.open(sqlite_url, **options) as storage:
        finding = await one(storage, "integrity")
        assert entry[1] in finding.message
        assert finding.fix is not None
        mended = await check(storage, "integrity", fix=True)
        assert (mended.findings, mended.fixed) == ((), (finding,))
        assert (await check(storage, "integrity")).findings == ()


async def test_damaged_pages_are_found_and_not_mended(sqlite_url: str, tmp_path: Path) -> None:
    file = Path(sqlite_url.removeprefix("sqlite:///"))
    with closing(sqlite3.connect(file)) as connection:
        (page,) = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = 'event'").fetchone()
        (size,) = connection.execute("PRAGMA page_size").fetchone()
    with file.open("r+b") as damaged:
        damaged.seek((page - 1) * size)
        damaged.write(b"\x55" * 200)
    async with Storage.open(sqlite_url, data_dir=tmp_path / "data", webhook_delivery=False) as storage:
        [finding] = (await check(storage, "integrity", fix=True)).findings
    assert finding.severity == "error"
    assert "backup" in finding.remedy + finding.message


async def test_rows_that_refer_to_nothing_are_removed_where_the_schema_says_so(sqlite_url: str, tmp_path: Path) -> None:
    file = Path(sqlite_url.removeprefix("sqlite:///"))
    with closing(sqlite3.connect(file)) as connection:
        connection.execute(
            "INSERT INTO delivery (endpoint_id, event_seq, line, state, attempts, next_at, updated_at)"
            " VALUES (?, 1, 1, 'pending', 0, 0, 0)",
            [uuid.uuid4().hex],
        )
        connection.commit()
    async with Storage.open(sqlite_url, data_dir=tmp_path / "data", webhook_delivery=False) as storage:
        found = (await check(storage, "foreign-keys")).findings
        assert {finding.severity for finding in found} == {"error"}
        assert all("delivery" in finding.message for finding in found)
        mended = await check(storage, "foreign-keys", fix=True)
        assert mended.findings == ()
        assert set(mended.fixed) == set(found)


async def test_a_log_that_has_grown_is_written_back(
    sqlite_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("storage.doctor.database.LARGEST_LOG_BYTES", 1000)
    async with Storage.open(sqlite_url, data_dir=tmp_path / "data") as storage:
        await storage.user("ada").settings.update(language="de")
        finding = await one(storage, "wal")
        assert finding.severity == "warning"
        mended = await check(storage, "wal", fix=True)
        assert (mended.findings, mended.fixed) == ((), (finding,))
        assert Path(f"{file_of(storage)}-wal").stat().st_size == 0


async def test_privileges_that_are_missing_are_named(postgres_url: str, tmp_path: Path) -> None:
    name = database_name(postgres_url)
    admin = await asyncpg.connect(parse_url(postgres_url).location)
    for statement in (
        "CREATE ROLE doctor_poor",
        "GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO doctor_poor",
        "REVOKE DELETE ON event FROM doctor_poor",
        f"ALTER DATABASE {name} SET role = doctor_poor",
    ):
        await admin.execute(statement)
    try:
        async with Storage.open(postgres_url, data_dir=tmp_path, webhook_delivery=False) as storage:
            finding = await one(storage, "privileges")
    finally:
        await admin.execute(f"ALTER DATABASE {name} RESET role")
        await admin.execute("DROP OWNED BY doctor_poor")
        await admin.execute("DROP ROLE doctor_poor")
        await admin.close()
    assert finding.message.endswith("privileges: event: DELETE")
    assert "GRANT" in finding.remedy


async def test_an_invalid_index_of_postgresql_is_found(postgres_url: str, tmp_path: Path) -> None:
    async with Storage.open(postgres_url, data_dir=tmp_path, webhook_delivery=False) as storage:
        async with storage.session() as session:
            connection = await session.connection()
            await connection.exec_driver_sql(
                "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'ix_file_blob_key'::regclass"
            )
            await session.commit()
        finding = await one(storage, "integrity")
    assert "ix_file_blob_key" in finding.message
    assert "REINDEX INDEX CONCURRENTLY ix_file_blob_key" in finding.remedy


# ---- the machine


async def test_a_disk_that_is_low_is_a_warning_and_one_that_is_full_an_error(
    config: StorageConfig, tmp_path: Path
) -> None:
    for limits, severity in (({"disk_warn_bytes": 2**62}, "warning"), ({"disk_refuse_bytes": 2**62}, "error")):
        async with Storage.open(config.model_copy(update=limits)) as storage:
            assert (await one(storage, "disk")).severity == severity
        [result] = (await examine(Patient(config.model_copy(update=limits), None), only=["disk"])).checks
        assert [finding.severity for finding in result.findings] == [severity]


async def test_what_others_may_read_is_closed(storage: Storage, tmp_path: Path) -> None:
    key, files = tmp_path / "keys" / "master.key", tmp_path / "data" / "files"
    key.chmod(0o644)
    files.chmod(0o755)
    expected = {str(key): 0o600, str(files): 0o750}
    if storage.database.dialect == "sqlite":
        file_of(storage).chmod(0o666)
        expected[str(file_of(storage))] = 0o660
    found = (await check(storage, "permissions")).findings
    assert [finding.severity for finding in found if str(key) in finding.message] == ["error"]
    assert all(any(path in finding.message for finding in found) for path in expected)
    mended = await check(storage, "permissions", fix=True)
    assert len(mended.fixed) == len(expected)
    assert {finding.severity for finding in mended.findings} <= {"note"}
    assert {path: Path(path).stat().st_mode & 0o777 for path in expected} == expected


@pytest.mark.skipif(os.geteuid() == 0, reason="root may use everything")
async def test_what_this_user_cannot_use_is_an_error(storage: Storage, tmp_path: Path) -> None:
    (tmp_path / "keys" / "master.key").chmod(0o000)
    assert (await one(storage, "permissions")).severity == "error"


async def test_an_event_that_is_still_to_come_tells_of_a_wrong_clock(storage: Storage, execute: Execute) -> None:
    later = now() + timedelta(hours=2)
    value: object = later if storage.database.dialect == "postgresql" else int(later.timestamp() * 1_000_000)
    await execute("UPDATE event SET created_at = :later WHERE seq = (SELECT max(seq) FROM event)", later=value)
    finding = await one(storage, "clock")
    assert "a clock is wrong" in finding.message
    assert "NTP" in finding.remedy


async def test_a_clock_that_differs_from_the_servers_is_an_error(
    postgres_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong() -> datetime:
        return now() + timedelta(minutes=3)

    async with Storage.open(postgres_url, data_dir=tmp_path, webhook_delivery=False) as storage:
        monkeypatch.setattr("storage.doctor.machine.now", wrong)
        finding = await one(storage, "clock")
    assert "differ by 180 seconds" in finding.message


# ---- what is stored


async def test_a_file_whose_content_is_gone_is_named(storage: Storage, execute: Execute) -> None:
    [blob] = [blob async for blob in storage.blobs.walk()]
    await storage.blobs.delete(blob.path)
    await execute("DELETE FROM file_content")
    finding = await one(storage, "contents")
    assert finding.message == "the contents of 2 files are missing: 'small.txt' of 'ada', 'long.txt' of 'ada'"


async def test_files_in_memory_are_missed_with_the_reason(config: StorageConfig) -> None:
    memory = config.model_copy(update={"file_store": "memory"})
    async with Storage.open(memory) as storage:
        await storage.user("ada").files.write("long.txt", "longer than five bytes")
    async with Storage.open(memory) as storage:
        assert "set file_store" in (await one(storage, "contents")).remedy


async def test_contents_that_no_file_has_are_a_note_and_are_left(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    ada = storage.user("ada")
    await ada.files.delete("long.txt")
    await ada.files.delete("small.txt")
    await storage.blobs.write("blobs/foreign", b"x")
    assert [finding.message.split()[0] for finding in (await check(storage, "contents")).findings] == ["1"]
    monkeypatch.setattr("storage.files.maintenance.collector.now", lambda: now() + timedelta(days=3))
    report = await storage.doctor(only=["contents"], fix=True)
    unnamed, foreign = report.checks[0].findings
    assert unnamed.message.startswith("2 contents, ")
    assert "storage files collect" in unnamed.remedy
    assert foreign.message.startswith("1 files under blobs/")
    assert report.is_well
    assert len([blob async for blob in storage.blobs.walk()]) == 2


async def test_blobs_beside_a_database_that_knows_no_file_are_a_warning(config: StorageConfig) -> None:
    async with Storage.open(config) as storage:
        key = f"blobs/ab/{uuid.UUID(int=0x0190_0000_0000_7000_8000_0000_0000_00AB)}"
        await storage.blobs.write(key, b"another database's")
        assert (await one(storage, "contents")).severity == "warning"


async def test_secrets_that_do_not_open_are_named_by_their_rows(storage: Storage, execute: Execute) -> None:
    await execute("UPDATE custom_secret SET name = 'MOVED'")
    finding = await one(storage, "secrets")
    assert finding.message == "1 values cannot be read (Tampered): custom_secret.value MOVED of 'ada'"
    assert "storage keys doctor" in finding.remedy


async def test_a_key_that_is_missing_is_said_once_and_how_to_mend_it(
    storage: Storage, config: StorageConfig, tmp_path: Path
) -> None:
    (tmp_path / "keys" / "master.key").rename(tmp_path / "elsewhere")
    async with Storage.open(config) as locked:
        findings = (await check(locked, "secrets")).findings
    assert "secrets are locked" in findings[0].message
    assert all(finding.severity == "error" for finding in findings)
    assert "canary-value" not in str(findings)


# ---- web hooks


async def test_web_hooks_that_wait_are_dead_or_disabled_are_warned_of(storage: Storage, execute: Execute) -> None:
    hooks = storage.webhooks
    endpoint = (await hooks.add("https://hooks.example.com/canary")).endpoint
    disabled = (await hooks.add("https://hooks.example.com/other")).endpoint
    await storage.user("ada").settings.update(language="de")
    await storage.user("ada").settings.update(language="en")
    assert (await check(storage, "web-hooks")).findings == ()
    long_ago = now() - timedelta(hours=2)
    value: object = long_ago if storage.database.dialect == "postgresql" else int(long_ago.timestamp() * 1_000_000)
    await execute("UPDATE event SET created_at = :value", value=value)
    assert "none runs" in (await one(storage, "web-hooks")).message
    identifier = endpoint.id if storage.database.dialect == "postgresql" else endpoint.id.hex
    other = disabled.id if storage.database.dialect == "postgresql" else disabled.id.hex
    await execute("UPDATE event SET to_fan_out = NULL")
    await execute("UPDATE webhook_endpoint SET state = 'disabled' WHERE id = :id", id=other)
    for state, pick in (("pending", "max"), ("dead", "min")):
        await execute(
            "INSERT INTO delivery (endpoint_id, event_seq, line, state, attempts, next_at, updated_at)"
            f" SELECT :id, {pick}(seq), 1, '{state}', 0, {pick}(created_at), {pick}(created_at) FROM event",
            id=identifier,
        )
    findings = (await check(storage, "web-hooks")).findings
    assert {finding.severity for finding in findings} == {"warning"}
    text = "\n".join(f"{finding.message} | {finding.remedy}" for finding in findings)
    assert f"1 events were given up for the web hook endpoint {endpoint.id} of everyone" in text
    assert f"storage webhooks replay {endpoint.id}" in text
    assert f"wait for the web hook endpoint {endpoint.id}" in text
    assert f"{disabled.id} of everyone is disabled" in text
    assert "canary" not in text
