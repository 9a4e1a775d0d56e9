"""The report views: the same names, columns and figures on both databases, and never a value that is secret."""

from __future__ import annotations

import runpy
import uuid
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from pydantic import SecretStr
from sqlalchemy.exc import DBAPIError

from storage import Storage
from storage.database.migrate import HEAD, migrations_folder
from storage.encryption.registry import sealed_columns
from storage.reporting.cost import cost_report
from storage.reporting.usage import usage_report
from storage.reporting.views import INTERFACE_VERSION, VIEWS
from storage.reporting.views.install import differing, fingerprint
from tests.databases import MASTER_KEY
from tests.reporting.reading import rows_of
from tests.reporting.rows import DAY, conversation, delivery, endpoint, file, happened, save

NAMES = [view.name for view in VIEWS]


@pytest.fixture
async def storage(database_url: str, tmp_path: Path) -> AsyncIterator[Storage]:
    options = {"data_dir": tmp_path, "master_key": MASTER_KEY, "webhook_delivery": False}
    async with Storage.open(database_url, **options) as opened:
        yield opened


# ---- what there is


async def test_the_database_has_exactly_these_views_with_exactly_these_columns(storage: Storage) -> None:
    names = {
        "sqlite": "SELECT name FROM sqlite_schema WHERE type = 'view'",
        "postgresql": "SELECT viewname FROM pg_views WHERE schemaname = current_schema()",
    }
    async with storage.session(read_only=True) as session:
        connection = await session.connection()
        found = await connection.exec_driver_sql(names[storage.database.dialect])
        assert sorted(name for (name,) in found) == sorted(NAMES)
        for view in VIEWS:
            result = await connection.exec_driver_sql(f"SELECT * FROM {view.name}")
            assert list(result.keys()) == [column.name for column in view.columns], view.name
            assert all(column.about for column in view.columns)


async def test_the_version_of_the_interface_can_be_asked_for(storage: Storage) -> None:
    assert await rows_of(storage, "report_interface") == [{"version": INTERFACE_VERSION}]


def test_a_change_to_a_view_comes_with_a_migration() -> None:
    """Otherwise databases that are up to date keep the old view. Not yet released, the newest one may be changed."""
    (newest,) = (migrations_folder() / "versions").glob(f"{HEAD}_*.py")
    assert runpy.run_path(str(newest))["VIEWS"] == fingerprint()


@pytest.mark.parametrize("name", NAMES)
async def test_a_view_cannot_be_written(storage: Storage, name: str) -> None:
    async with storage.session() as session:
        connection = await session.connection()
        with pytest.raises(DBAPIError):
            await connection.exec_driver_sql(f"DELETE FROM {name}")


async def test_views_that_are_gone_or_other_than_ours_are_told_of(storage: Storage) -> None:
    assert await differing(storage.database, storage.database.dialect) == []
    async with storage.session() as session:
        connection = await session.connection()
        await connection.exec_driver_sql("DROP VIEW report_user")
        await connection.exec_driver_sql("DROP VIEW report_model")
        await connection.exec_driver_sql("CREATE VIEW report_model AS SELECT 'x' AS model")
        await session.commit()
    assert await differing(storage.database, storage.database.dialect) == ["report_user", "report_model"]
    report = await storage.doctor(only=["views"], fix=True)
    assert [len(check.fixed) for check in report.checks] == [1]
    assert await differing(storage.database, storage.database.dialect) == []


async def test_a_view_that_something_is_built_on_is_mended_if_that_can_be_and_named_if_not(storage: Storage) -> None:
    async def run(*statements: str) -> None:
        async with storage.session() as session:
            connection = await session.connection()
            for statement in statements:
                await connection.exec_driver_sql(statement)
            await session.commit()

    await run("CREATE VIEW of_an_analyst AS SELECT user_id FROM report_user", "DROP VIEW report_model")
    report = await storage.doctor(only=["views"], fix=True)
    assert report.checks[0].findings == (), "nothing is built on this one"
    if storage.database.dialect == "postgresql":
        await run("COMMENT ON VIEW report_user IS 'another'")
        report = await storage.doctor(only=["views"], fix=True)
        assert "nothing was changed" in str(report)
        assert "of_an_analyst" in str(report)
        await run("DROP VIEW of_an_analyst")
        await storage.doctor(only=["views"], fix=True)
    assert await differing(storage.database, storage.database.dialect) == []
    assert (await storage.query("SELECT * FROM report_model JOIN report_user ON true")).rows == []


# ---- what they say


async def test_a_conversation_is_one_row_with_its_files(storage: Storage) -> None:
    await save(
        storage,
        conversation(
            "ada",
            "c1",
            title="A title",
            selected_repository="acme/api",
            selected_branch="main",
            git_provider="github",
            trigger="gui",
            llm_model="large",
            accumulated_cost=1.25,
            max_budget_per_task=2.0,
            prompt_tokens=2**62,
            context_window=128_000,
            pr_number=[1, 2],
            tags=["a"],
            public=True,
            parent_conversation_id="c0",
            sandbox_id="s",
        ),
        file("ada", "a", 10, conversation_id="c1"),
        file("ada", "b", 5, conversation_id="c1"),
        file("bob", "a", 7, conversation_id="c1"),
    )
    [row] = await rows_of(storage, "report_conversation")
    assert row == {
        "user_id": "ada",
        "conversation_id": "c1",
        "title": "A title",
        "repository": "acme/api",
        "branch": "main",
        "git_provider": "github",
        "trigger": "gui",
        "model": "large",
        "cost_usd": 1.25,
        "budget_usd": 2.0,
        "prompt_tokens": 2**62,
        "completion_tokens": 0,
        "total_tokens": 0,
        "cache_read_tokens": 0,
        "cache_write_tokens": 0,
        "reasoning_tokens": 0,
        "context_window": 128_000,
        "pr_numbers": [1, 2],
        "tags": ["a"],
        "is_public": True,
        "parent_conversation_id": "c0",
        "parent_title": None,
        "sandbox_id": "s",
        "created_day": "2026-03-01",
        "created_at": DAY.isoformat(),
        "updated_at": DAY.isoformat(),
        "files": 2,
        "file_bytes": 15,
    }


@pytest.mark.parametrize(
    "moment",
    [
        DAY,
        DAY + timedelta(microseconds=1),
        datetime(1969, 12, 31, 23, 59, 59, 1, tzinfo=UTC),
        datetime(9999, 12, 31, 23, 59, 59, 999_998, tzinfo=UTC),
    ],
    ids=["the end of a day", "the beginning of one", "before 1970", "the last there is"],
)
async def test_times_and_days_are_exact(storage: Storage, moment: datetime) -> None:
    await save(storage, conversation("ada", "c1", created_at=moment, last_updated_at=DAY))
    [row] = await rows_of(storage, "report_conversation")
    assert (row["created_at"], row["created_day"]) == (moment.isoformat(timespec="auto"), moment.date().isoformat())
    assert row["updated_at"] == DAY.isoformat()


async def test_usage_is_added_up_by_day_user_model_trigger_and_repository(storage: Storage) -> None:
    same = {"llm_model": "large", "trigger": "gui", "selected_repository": "acme/api"}
    await save(
        storage,
        conversation("ada", "c1", accumulated_cost=0.1, total_tokens=2**52, **same),
        conversation("ada", "c2", accumulated_cost=0.2, total_tokens=1, **same),
        conversation("ada", "c3", created_at=DAY + timedelta(microseconds=1), **same),
        conversation("bob", "c4", **same),
        conversation("bob", "c5"),
    )
    rows = await rows_of(storage, "report_usage_daily")
    keys = ("day", "user_id", "model", "conversations", "cost_usd", "total_tokens")
    assert sorted([tuple(row[key] for key in keys) for row in rows], key=str) == [
        ("2026-03-01", "ada", "large", 2, 0.3, 2**52 + 1),
        ("2026-03-01", "bob", "large", 1, 0.0, 0),
        ("2026-03-01", "bob", None, 1, 0.0, 0),
        ("2026-03-02", "ada", "large", 1, 0.0, 0),
    ]


async def test_figures_that_no_sum_can_hold_break_no_view(storage: Storage) -> None:
    """One user's nonsense would otherwise take the reports of all away."""
    huge = {"total_tokens": 2**63 - 1, "accumulated_cost": 1.7e308, "llm_model": "m", "selected_repository": "r"}
    await save(storage, conversation("ada", "c1", **huge), conversation("ada", "c2", **huge))
    for name in ("report_usage_daily", "report_user", "report_model", "report_repository"):
        [row] = await rows_of(storage, name)
        assert (row["total_tokens"], row["cost_usd"]) == (2**63 - 1, 2e300), name


async def test_models_and_repositories_count_their_users(storage: Storage) -> None:
    both = {"llm_model": "large", "selected_repository": "acme/api", "git_provider": "github"}
    later = DAY + timedelta(days=1)
    await save(
        storage,
        conversation("ada", "c1", accumulated_cost=1.0, **both),
        conversation("bob", "c2", accumulated_cost=2.0, last_updated_at=later, **both),
        conversation("bob", "c3"),
    )
    [unknown, large] = sorted(await rows_of(storage, "report_model"), key=lambda row: row["conversations"])
    assert (unknown["model"], unknown["users"], unknown["conversations"]) == (None, 1, 1)
    assert (large["users"], large["conversations"], large["cost_usd"]) == (2, 2, 3.0)
    assert (large["first_used_at"], large["last_used_at"]) == (DAY.isoformat(), later.isoformat())
    [repository] = await rows_of(storage, "report_repository")
    assert (repository["repository"], repository["users"], repository["cost_usd"]) == ("acme/api", 2, 3.0)


async def test_a_user_is_whoever_owns_anything(storage: Storage) -> None:
    await save(storage, conversation("ada", "c1", accumulated_cost=1.0, total_tokens=5), file("bob", "b", 7))
    cyd = storage.user("cyd")
    await cyd.secrets.set_custom_secret("NAME", "canary")
    await cyd.secrets.set_provider_token("github", "canary")
    await cyd.settings.update(language="fr")
    await cyd.webhooks.add("https://hooks.example.com/x")
    rows = {row["user_id"]: row for row in await rows_of(storage, "report_user")}
    ada, bob, cyd_row = rows["ada"], rows["bob"], rows["cyd"]
    assert (ada["conversations"], ada["cost_usd"], ada["total_tokens"], ada["has_settings"]) == (1, 1.0, 5, False)
    assert ada["first_conversation_at"] == ada["last_conversation_at"] == DAY.isoformat()
    assert (bob["files"], bob["file_bytes"], bob["first_conversation_at"]) == (1, 7, None)
    kept = (cyd_row["custom_secrets"], cyd_row["provider_tokens"], cyd_row["webhooks"], cyd_row["has_settings"])
    assert kept == (1, 1, 1, True)


async def test_files_say_where_and_how_they_are_kept(storage: Storage, database_url: str, tmp_path: Path) -> None:
    options = {"data_dir": tmp_path, "master_key": MASTER_KEY, "small_files_in_database": 10, "seal_files": True}
    async with Storage.open(database_url, **options) as sealing:
        await sealing.user("ada").files.write("small.json", b"{}")
        await sealing.user("ada").files.write("large.txt", b"x" * 11)
    await storage.user("ada").files.write("plain.txt", b"")
    rows = await rows_of(storage, "report_file")
    assert [(row["path"], row["size_bytes"], row["in_database"], row["sealed"]) for row in rows] == [
        ("large.txt", 11, False, True),
        ("plain.txt", 0, False, False),
        ("small.json", 2, True, True),
    ]
    assert rows[1]["sha256"] == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


async def test_storage_grows_day_by_day_for_each_user(storage: Storage) -> None:
    later = DAY + timedelta(days=2)
    await save(
        storage,
        file("ada", "a", 10),
        file("ada", "b", 5),
        file("ada", "c", 1, created_at=later),
        file("bob", "a", 7, created_at=later),
    )
    rows = [tuple(row.values()) for row in await rows_of(storage, "report_storage_usage")]
    assert rows == [
        ("2026-03-01", "ada", 2, 15, 2, 15),
        ("2026-03-03", "ada", 1, 1, 3, 16),
        ("2026-03-03", "bob", 1, 7, 1, 7),
    ]


async def test_secrets_are_named_and_never_shown(storage: Storage) -> None:
    ada = storage.user("ada")
    await ada.secrets.set_custom_secret("DEPLOY_KEY", "canary-secret", "canary-description")
    await ada.secrets.set_provider_token("gitlab", "canary-token", "git.example.com")
    await ada.settings.update(llm_api_key=SecretStr("canary-key"), language="fr")
    rows = await rows_of(storage, "report_secret")
    assert {row.pop("age_days") for row in rows} == {0}
    found = {(row["kind"], row["name"]): (row["host"], row["state"], row["data_key_state"]) for row in rows}
    assert found == {
        ("custom_secret", "DEPLOY_KEY"): (None, "set", "active"),
        ("provider_token", "gitlab"): ("git.example.com", "set", "active"),
        ("setting", "llm_api_key"): (None, "set", "active"),
        ("setting", "search_api_key"): (None, "unset", None),
        ("setting", "sandbox_api_key"): (None, "unset", None),
        ("setting", "mcp_config"): (None, "unset", None),
    }


async def test_a_secret_whose_data_key_is_gone_is_unreadable(storage: Storage) -> None:
    await storage.user("ada").secrets.set_custom_secret("NAME", "canary")
    async with storage.session() as session:
        connection = await session.connection()
        await connection.exec_driver_sql("DELETE FROM data_key")
        await session.commit()
    [row] = await rows_of(storage, "report_secret")
    assert (row["state"], row["data_key_state"]) == ("unreadable", None)


async def with_deliveries(storage: Storage) -> None:
    later = DAY + timedelta(hours=1)
    await save(storage, endpoint("ada", "https://ada.example.com:8443/T0/secret-path?x=1#y"))
    await save(storage, endpoint(None, "https://ops.example.com?key=secret", id=uuid.UUID(int=2), failures=3))
    await save(
        storage,
        happened("ada", 1),
        happened("ada", 2, created_at=later),
        happened("ada", 3, created_at=later),
        happened("bob", 4),
    )
    await save(
        storage,
        delivery(1, 1, "delivered", updated_at=later),
        delivery(1, 2, "pending"),
        delivery(1, 3, "pending"),
        delivery(2, 1, "dead"),
        delivery(2, 4, "delivered"),
    )


async def test_web_hooks_say_how_they_are_doing_and_not_their_path(storage: Storage) -> None:
    await with_deliveries(storage)
    later = (DAY + timedelta(hours=1)).isoformat()
    ada, operator = sorted(await rows_of(storage, "report_webhook"), key=lambda row: row["webhook_id"])
    assert ada["webhook_id"] == "00000000-0000-0000-0000-000000000001"
    assert (ada["user_id"], ada["origin"]) == ("ada", "https://ada.example.com:8443")
    assert (ada["pending"], ada["delivered"], ada["dead"]) == (2, 1, 0)
    assert (ada["oldest_pending_at"], ada["last_delivered_at"]) == (later, later)
    assert (operator["user_id"], operator["origin"], operator["failures"]) == (None, "https://ops.example.com", 3)
    assert (operator["pending"], operator["delivered"], operator["dead"]) == (0, 1, 1)


async def test_events_are_counted_by_day_with_what_became_of_them(storage: Storage) -> None:
    await with_deliveries(storage)
    assert [tuple(row.values()) for row in await rows_of(storage, "report_event_daily")] == [
        ("2026-03-01", "ada", "file.created", 1, 2, 1, 0, 1),
        ("2026-03-01", "bob", "file.created", 1, 1, 1, 0, 0),
        ("2026-03-02", "ada", "file.created", 2, 2, 0, 2, 0),
    ]
    assert [tuple(row.values()) for row in await rows_of(storage, "report_event_daily", "ada")] == [
        ("2026-03-01", "ada", "file.created", 1, 1, 1, 0, 0),
        ("2026-03-02", "ada", "file.created", 2, 2, 0, 2, 0),
    ]


# ---- whose


@pytest.mark.parametrize("name", NAMES[1:])
async def test_one_users_rows_are_those_of_a_storage_with_nobody_else(
    storage: Storage, tmp_path: Path, name: str
) -> None:
    """Sums, counts of users, running totals: nothing of another user is in them."""
    alone = f"sqlite:///{tmp_path / 'alone.db'}"
    options = {"data_dir": tmp_path / "alone", "master_key": MASTER_KEY, "webhook_delivery": False}
    async with Storage.open(alone, **options) as without_others:
        for target, users in ((storage, ("ada", "bob'; --")), (without_others, ("ada",))):
            for number, user in enumerate(users):
                row = conversation(user, f"c{number}", accumulated_cost=1.0, llm_model="m", selected_repository="r")
                await save(target, row, file(user, "a", 3 + number))
                await save(target, endpoint(user, "https://h.example.com", id=uuid.UUID(int=number + 1)))
                await save(target, happened(user, number + 1))
                await save(target, delivery(number + 1, number + 1, "dead"))
        expected = await rows_of(without_others, name)
        assert expected or name == "report_secret"
        assert await rows_of(storage, name, "ada") == expected
    assert await rows_of(storage, name, "nobody'); DROP TABLE file; --") == []


async def test_no_view_gives_a_sealed_value(storage: Storage) -> None:
    ada = storage.user("ada")
    await ada.secrets.set_custom_secret("NAME", "canary")
    await ada.settings.update(llm_api_key=SecretStr("canary"))
    async with storage.session(read_only=True) as session:
        connection = await session.connection()
        for view in VIEWS:
            for row in await connection.exec_driver_sql(f"SELECT * FROM {view.name}"):
                text = repr(tuple(row))
                assert "canary" not in text
                assert "\\xe1\\x01" not in text
                assert "e101" not in text
    names = {column.name for view in VIEWS for column in view.columns}
    assert names.isdisjoint({sealed.column for sealed in sealed_columns()} - {"headers"})


async def test_the_views_agree_with_the_reports(storage: Storage) -> None:
    await save(
        storage,
        conversation("ada", "c1", accumulated_cost=0.1, llm_model="m", total_tokens=3),
        conversation("bob", "c2", accumulated_cost=0.7, total_tokens=4),
        file("ada", "a", 10, conversation_id="c1"),
    )
    report = await cost_report(storage.database)
    models = await rows_of(storage, "report_model")
    assert {(row["model"], row["conversations"], row["cost_usd"]) for row in models} == {
        (line.name, line.conversations, line.cost) for line in report.by_model
    }
    usage = await usage_report(storage.database)
    users = {
        row["user_id"]: (row["conversations"], row["files"], row["file_bytes"])
        for row in await rows_of(storage, "report_user")
    }
    assert users == {user.user_id: (user.conversations, user.files, user.bytes) for user in usage.users}
