"""An enterprise installation's database moved into a storage: every secret opened, sealed, and nowhere shown."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from pydantic import SecretStr

from storage.errors import ConfigurationError, DatabaseUnavailable, InvalidInput
from storage.openhands.enterprise import import_enterprise
from storage.openhands.source_database import open_source_database
from storage.settings.model import Settings
from storage.storage import Storage
from storage.tables import metadata
from tests.openhands.conftest import storage_config
from tests.openhands.installation import SECRET, early, first, installation, late, once, twice
from tests.openhands.test_legacy_values import GOLDEN_ONCE, GOLDEN_TWICE, GOLDEN_VALUE, jwe
from tests.servers.postgres import PostgresServer, database_name

if TYPE_CHECKING:
    from storage.openhands.report import ImportReport

JWT = [SecretStr(SECRET)]
ALICE = "7a1c7f9e-52a3-4a5f-9a34-6f7c1f0f0a01"
ZOE = "zoë-用户"


@pytest.fixture(scope="module")
def postgres_pair(postgres_server: PostgresServer, postgres_template: str) -> Iterator[tuple[str, str]]:
    """The storage's database and the source's, for all tests of this file: making two takes longer than a test."""
    urls = (postgres_server.create_database(template=postgres_template), postgres_server.create_database())
    yield urls
    for url in urls:
        postgres_server.drop_database(url)


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest) -> str:
    """A migrated database with no rows, once per dialect."""
    if request.param == "sqlite":
        url: str = request.getfixturevalue("sqlite_url")
        return url
    server: PostgresServer = request.getfixturevalue("postgres_server")
    url = request.getfixturevalue("postgres_pair")[0]
    tables = ", ".join(f'"{name}"' for name in metadata.tables)
    server.psql(f"TRUNCATE {tables} RESTART IDENTITY", database_name(url))
    return url


@pytest.fixture
def source(request: pytest.FixtureRequest, database_url: str) -> str:
    """An empty database for the source, of the same kind as the storage's."""
    if database_url.startswith("sqlite"):
        url: str = request.getfixturevalue("empty_sqlite_url")
        return url
    server: PostgresServer = request.getfixturevalue("postgres_server")
    url = request.getfixturevalue("postgres_pair")[1]
    server.psql("DROP SCHEMA public CASCADE; CREATE SCHEMA public", database_name(url))
    return url


def codes(report: ImportReport) -> list[str]:
    return sorted(flaw.code for flaw in report.flaws)


def counts(report: ImportReport, kind: str) -> dict[str, int]:
    total = report.total(kind)
    names = ("imported", "overwritten", "unchanged", "kept", "skipped")
    return {name: getattr(total, name) for name in names if getattr(total, name)}


def plain(secret: Any) -> Any:
    return None if secret is None else secret.get_secret_value()


async def settings_of(storage: Storage, user: str) -> Settings:
    settings = await storage.user(user).settings.load()
    assert settings is not None
    return settings


async def secrets_of(storage: Storage, user: str) -> tuple[dict[str, str], dict[str, str]]:
    """Custom secrets, and tokens by provider."""
    secrets = await storage.user(user).secrets.load()
    assert secrets is not None
    custom = {name: secret.secret.get_secret_value() for name, secret in secrets.custom_secrets.items()}
    return custom, {str(name): plain(token.token) for name, token in secrets.provider_tokens.items()}


async def fill_early(url: str) -> None:
    async with installation(url, early()) as made:
        await made.settings(
            ALICE,
            language="en",
            max_iterations=50,
            confirmation_mode=True,
            llm_model="anthropic/x",
            llm_api_key=twice("alice-llm-not-real"),
            llm_base_url="https://llm.example.com",
            billing_margin=1.5,
            accepted_tos=datetime(2025, 1, 1),  # noqa: DTZ001 - the column has no zone
            mcp_config={"shttp_servers": [{"url": "https://mcp.example.com", "api_key": "alice-mcp-not-real"}]},
            search_api_key="alice-plain-search-not-real",
            llm_api_key_for_byor=twice("alice-byor-not-real"),
        )
        await made.settings(ZOE, language="de", llm_api_key="")
        await made.secret(ALICE, "API", GOLDEN_TWICE, twice("what it is for"))
        await made.secret(ALICE, "OLD", "alice-plain-secret-not-real", "plain words")
        await made.secret(ZOE, "NAME ü", twice("zoë-secret-not-real ✓"))
        await made.token(ALICE, "github", GOLDEN_ONCE, once("alice-refresh-not-real"))
        await made.token(ZOE, "gitlab", once("zoe-token-not-real"), once("zoe-refresh-not-real"))


CANARIES = (
    GOLDEN_VALUE,
    "alice-llm-not-real",
    "alice-mcp-not-real",
    "alice-plain-search-not-real",
    "alice-byor-not-real",
    "alice-plain-secret-not-real",
    "alice-refresh-not-real",
    "zoe-token-not-real",
    "zoe-refresh-not-real",
    "-secret-not-real",
    SECRET,
)


async def test_an_early_release_arrives_whole(storage: Storage, source: str) -> None:
    await fill_early(source)
    report = await import_enterprise(storage, source, jwt_secrets=JWT)

    settings = await settings_of(storage, ALICE)
    assert (settings.language, settings.max_iterations, settings.confirmation_mode) == ("en", 50, True)
    assert (settings.llm_model, settings.llm_base_url) == ("anthropic/x", "https://llm.example.com")
    assert plain(settings.llm_api_key) == "alice-llm-not-real"
    assert plain(settings.search_api_key) == "alice-plain-search-not-real"
    assert plain(settings.mcp_config)["shttp_servers"][0]["api_key"] == "alice-mcp-not-real"
    assert settings.model_extra is not None
    assert set(settings.model_extra) == {"llm_api_key_for_byor"}
    assert plain(settings.model_extra["llm_api_key_for_byor"]) == "alice-byor-not-real"
    zoes = await settings_of(storage, ZOE)
    assert (zoes.language, zoes.llm_api_key, zoes.enable_default_condenser) == ("de", None, True)

    assert await secrets_of(storage, ALICE) == (
        {"API": GOLDEN_VALUE, "OLD": "alice-plain-secret-not-real"},
        {"github": GOLDEN_VALUE},
    )
    assert await secrets_of(storage, ZOE) == ({"NAME ü": "zoë-secret-not-real ✓"}, {"gitlab": "zoe-token-not-real"})
    secrets = await storage.user(ALICE).secrets.load()
    assert secrets is not None
    assert secrets.get_custom_secrets_descriptions() == {"API": "what it is for", "OLD": "plain words"}
    assert secrets.model_extra is not None
    assert plain(secrets.model_extra["auth_tokens.github"])["refresh_token"] == "alice-refresh-not-real"

    assert counts(report, "settings") == {"imported": 2}
    assert counts(report, "secrets") == {"imported": 7}
    assert list(report.users) == [ALICE, ZOE]
    assert codes(report) == ["unknown-field"] * 3


async def test_a_second_run_changes_nothing(storage: Storage, source: str) -> None:
    await fill_early(source)
    first_run = await import_enterprise(storage, source, jwt_secrets=JWT)
    changes: list[Any] = []
    storage.on_commit(changes.extend)
    second = await import_enterprise(storage, source, jwt_secrets=JWT)
    assert (changes, second.changed) == ([], False)
    assert counts(second, "settings") == {"unchanged": 2}
    assert counts(second, "secrets") == {"unchanged": 7}
    assert second.flaws == first_run.flaws


async def test_a_dry_run_says_the_same_and_writes_nothing(storage: Storage, source: str) -> None:
    await fill_early(source)
    dry = await import_enterprise(storage, source, jwt_secrets=JWT, dry_run=True)
    assert await storage.user(ALICE).settings.load() is None
    assert await storage.user(ALICE).secrets.load() is None
    wet = await import_enterprise(storage, source, jwt_secrets=JWT)
    assert dry.as_dict() == {**wet.as_dict(), "dry_run": True}


async def test_no_value_is_in_the_database_the_report_or_the_log(
    database_url: str, tmp_path: Path, source: str, caplog: pytest.LogCaptureFixture
) -> None:
    await fill_early(source)
    with caplog.at_level(logging.DEBUG):
        async with Storage.open(storage_config(database_url, tmp_path)) as storage:
            report = await import_enterprise(storage, source, jwt_secrets=JWT)
            await import_enterprise(storage, source, jwt_secrets=[SecretStr("wrong")], overwrite=True)
    assert counts(report, "secrets") == {"imported": 7}
    shown = [*report.lines(), str(report.as_dict()), repr(report), caplog.text]
    stored = await content(database_url)
    for canary in CANARIES:
        assert not any(canary in text for text in shown)
        assert canary.encode() not in stored
        assert canary.encode().hex().encode() not in stored
    assert b"https://llm.example.com" in stored  # what is not secret is found by this way of looking


async def content(url: str) -> bytes:
    """All that a database holds: the bytes of the file, or every row of every table as text."""
    if url.startswith("sqlite"):
        file = Path(url.removeprefix("sqlite:///"))
        return b"".join(path.read_bytes() for path in sorted(file.parent.glob(f"{file.name}*")))
    import asyncpg

    connection = await asyncpg.connect(url)
    try:
        tables = await connection.fetch("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
        rows = [row for table in tables for row in await connection.fetch(f'SELECT t::text FROM "{table[0]}" t')]
    finally:
        await connection.close()
    return "\n".join(row[0] for row in rows).encode()


# ---- without the secret


async def test_without_the_jwt_secret_what_is_encrypted_is_left_out_and_comes_later(
    storage: Storage, source: str
) -> None:
    await fill_early(source)
    report = await import_enterprise(storage, source)
    assert await secrets_of(storage, ALICE) == ({"OLD": "alice-plain-secret-not-real"}, {})
    settings = await settings_of(storage, ALICE)
    assert (settings.language, settings.llm_api_key) == ("en", None)
    assert plain(settings.search_api_key) == "alice-plain-search-not-real"
    assert counts(report, "secrets") == {"imported": 1, "skipped": 6}
    flaws = [flaw for flaw in report.flaws if flaw.code == "encrypted-secret"]
    assert all("needs --jwt-secret-file" in flaw.message for flaw in flaws)
    assert [(flaw.path, flaw.message.split()[0]) for flaw in flaws if flaw.path.endswith(ALICE)] == [
        (f"user_settings/{ALICE}", "llm_api_key"),
        (f"user_settings/{ALICE}", "llm_api_key_for_byor"),
        (f"auth_tokens/{ALICE}", "provider_tokens.github"),
        (f"auth_tokens/{ALICE}", "auth_tokens.github"),
        (f"custom_secrets/{ALICE}", "custom_secrets.API"),
    ]

    later = await import_enterprise(storage, source, jwt_secrets=JWT)
    assert plain((await settings_of(storage, ALICE)).llm_api_key) == "alice-llm-not-real"
    custom, tokens = await secrets_of(storage, ALICE)
    assert (set(custom), tokens) == ({"API", "OLD"}, {"github": GOLDEN_VALUE})
    assert counts(later, "settings") == {"imported": 1, "unchanged": 1}
    assert codes(later).count("encrypted-secret") == 0


async def test_the_wrong_secret_opens_nothing_and_stores_no_garbage(storage: Storage, source: str) -> None:
    await fill_early(source)
    report = await import_enterprise(storage, source, jwt_secrets=[SecretStr("wrong")])
    assert await secrets_of(storage, ALICE) == ({"OLD": "alice-plain-secret-not-real"}, {})
    assert (await settings_of(storage, ALICE)).llm_api_key is None
    flaws = [flaw for flaw in report.flaws if flaw.code == "encrypted-secret"]
    assert len(flaws) == 8
    assert all("not with the JWT secret at hand" in flaw.message for flaw in flaws)


async def test_overwriting_without_the_secret_deletes_no_key_that_is_there(storage: Storage, source: str) -> None:
    async with installation(source, early()) as made:
        await made.settings(ALICE, language="fr", llm_api_key=twice("theirs-not-real"))
        await made.settings("moved", llm_base_url="https://new.example.com", llm_api_key=twice("theirs-not-real"))
        await made.secret(ALICE, "A", twice("theirs-not-real"))
    for user in (ALICE, "moved"):
        await storage.user(user).settings.store(Settings(language="en", llm_api_key=SecretStr("mine-not-real")))
    await storage.user(ALICE).secrets.set_custom_secret("A", "mine-not-real")
    await import_enterprise(storage, source, overwrite=True)
    settings = await settings_of(storage, ALICE)
    assert (settings.language, plain(settings.llm_api_key)) == ("fr", "mine-not-real")
    assert (await secrets_of(storage, ALICE))[0] == {"A": "mine-not-real"}
    # A key is for the URL that it was set for, and goes to no other.
    assert (await settings_of(storage, "moved")).llm_api_key is None


async def test_rows_of_another_secret_do_not_keep_the_others_out(storage: Storage, source: str) -> None:
    async with installation(source, early()) as made:
        await made.settings(ALICE, llm_api_key=twice("x-not-real"), search_api_key=twice("y", "a former secret"))
        await made.secret(ALICE, "NOW", twice("now-not-real"))
        await made.secret(ALICE, "THEN", twice("then-not-real", "a former secret"))
        await made.secret(ALICE, "DESCRIBED", twice("z-not-real"), twice("words", "a former secret"))
    report = await import_enterprise(storage, source, jwt_secrets=JWT)
    assert (await secrets_of(storage, ALICE))[0] == {"NOW": "now-not-real", "DESCRIBED": "z-not-real"}
    assert codes(report) == ["encrypted-secret"] * 3
    assert counts(report, "secrets") == {"imported": 2, "skipped": 1}
    await import_enterprise(storage, source, jwt_secrets=[*JWT, SecretStr("a former secret")])
    assert (await secrets_of(storage, ALICE))[0]["THEN"] == "then-not-real"


# ---- what is there already


async def test_what_is_there_wins_unless_told_otherwise(storage: Storage, source: str) -> None:
    await fill_early(source)
    await storage.user(ALICE).settings.store(Settings(language="it"))
    await storage.user(ALICE).secrets.set_custom_secret("API", "mine-not-real")
    kept = await import_enterprise(storage, source, jwt_secrets=JWT)
    assert (await settings_of(storage, ALICE)).language == "it"
    custom, _ = await secrets_of(storage, ALICE)
    assert custom == {"API": "mine-not-real", "OLD": "alice-plain-secret-not-real"}
    assert [flaw.path for flaw in kept.flaws if flaw.code == "kept-existing"] == [
        f"user_settings/{ALICE}",
        f"custom_secrets/{ALICE}",
    ]
    over = await import_enterprise(storage, source, jwt_secrets=JWT, overwrite=True)
    assert (await settings_of(storage, ALICE)).language == "en"
    assert (await secrets_of(storage, ALICE))[0]["API"] == GOLDEN_VALUE
    assert (counts(over, "settings")["overwritten"], counts(over, "secrets")["overwritten"]) == (1, 1)


async def test_one_user_can_be_imported_alone(storage: Storage, source: str) -> None:
    await fill_early(source)
    seen: list[tuple[int, int]] = []
    report = await import_enterprise(
        storage, source, jwt_secrets=JWT, user=ZOE, progress=lambda done, total: seen.append((done, total))
    )
    assert (list(report.users), seen) == ([ZOE], [(1, 1)])
    assert await storage.user(ALICE).settings.load() is None
    with pytest.raises(InvalidInput, match="nothing of a user 'nobody'"):
        await import_enterprise(storage, source, user="nobody")


async def test_without_the_master_key_secrets_are_reported_and_the_rest_is_imported(
    database_url: str, tmp_path: Path, source: str
) -> None:
    await fill_early(source)
    config = storage_config(database_url, tmp_path)
    async with Storage.open(config) as storage:
        await storage.user().secrets.set_custom_secret("B", "not-real")
    assert config.master_key_file is not None
    config.master_key_file.unlink()
    async with Storage.open(config) as storage:
        report = await import_enterprise(storage, source, jwt_secrets=JWT)
        settings = await settings_of(storage, ALICE)
        assert (settings.language, settings.llm_api_key, settings.mcp_config) == ("en", None, None)
    assert counts(report, "settings") == {"imported": 2}
    assert counts(report, "secrets") == {"skipped": 7}
    assert codes(report).count("rejected") == 3
    assert not any(canary in str(report.as_dict()) for canary in CANARIES)


# ---- other releases


async def test_a_late_release_arrives_from_all_its_tables(storage: Storage, source: str) -> None:
    alice, team = uuid.UUID(ALICE), uuid.uuid4()
    async with installation(source, late()) as made:
        await made.add(
            "org",
            id=alice,
            name="personal",
            contact_email="not@imported.example.com",
            agent_settings={"agent": "CodeActAgent", "llm": {"model": "m1", "base_url": "https://a.example.com"}},
            conversation_settings={"max_iterations": 7, "confirmation_mode": True},
            llm_profiles=jwe({"v": '{"profiles": {"P": {"model": "m", "api_key": "profile-not-real"}}}'}, SECRET),
            _search_api_key=jwe({"v": "search-not-real"}, SECRET),
            default_max_iterations=3,
        )
        await made.add("org", id=team, name="team", _llm_api_key=jwe({"v": "shared-not-real"}, SECRET))
        await made.add(
            "user", id=alice, current_org_id=alice, language="en", email="a@example.com", email_verified=True
        )
        await made.member(
            alice,
            alice,
            _llm_api_key=jwe({"v": "llm-not-real"}, SECRET),
            has_custom_llm_api_key=True,
            agent_settings_diff={
                "llm": {"model": "m2", "api_key": "**********"},
                "mcp_config": {"mcpServers": {"s": {"env": {"X": f"gAAAA.jwt.{jwe({'v': 'mcp-not-real'}, SECRET)}"}}}},
                "tools": ["t"],
            },
        )
        await made.member(alice, team, _llm_api_key=twice("other-not-real"), has_custom_llm_api_key=True)
        await made.settings(
            ALICE,
            language="former",
            llm_api_key=twice("former-not-real"),
            git_user_name="Alice",
            already_migrated=True,
            updated_at=datetime(2026, 1, 1, tzinfo=UTC),
            field_of_tomorrow="kept",
        )
        await made.secret(ALICE, "A", jwe({"v": "a-not-real"}, SECRET), jwe({"v": "words"}, SECRET), org_id=alice)
        await made.secret(ALICE, "A", jwe({"v": "team-not-real"}, SECRET), org_id=team)
        await made.secret(ALICE, "B", twice("b-not-real"), org_id=team)
        await made.secret(ALICE, "C", "c-not-real")
    report = await import_enterprise(storage, source, jwt_secrets=JWT)

    settings = await settings_of(storage, ALICE)
    assert (settings.language, settings.email, settings.email_verified) == ("en", "a@example.com", True)
    assert (settings.llm_model, settings.llm_base_url, settings.agent) == (
        "m2",
        "https://a.example.com",
        "CodeActAgent",
    )
    assert (plain(settings.llm_api_key), plain(settings.search_api_key)) == ("llm-not-real", "search-not-real")
    assert (settings.max_iterations, settings.confirmation_mode, settings.git_user_name) == (7, True, "Alice")
    assert plain(settings.mcp_config) == {"mcpServers": {"s": {"env": {"X": "mcp-not-real"}}}}
    assert settings.model_extra is not None
    assert set(settings.model_extra) == {"agent_settings", "field_of_tomorrow", "llm_profiles"}
    assert plain(settings.model_extra["llm_profiles"])["profiles"]["P"]["api_key"] == "profile-not-real"
    assert settings.model_extra["agent_settings"] == {"tools": ["t"]}

    assert (await secrets_of(storage, ALICE))[0] == {"A": "a-not-real", "B": "b-not-real", "C": "c-not-real"}
    assert codes(report) == ["duplicate-row", "organization-secret", *["unknown-field"] * 3]
    assert [flaw.path for flaw in report.flaws if flaw.code == "organization-secret"] == [f"org/{team}"]
    assert list(report.users) == [ALICE]


async def test_a_member_without_a_key_of_its_own_has_the_organisations(storage: Storage, source: str) -> None:
    alice = uuid.UUID(ALICE)
    async with installation(source, late()) as made:
        await made.add("org", id=alice, name="personal", _llm_api_key=twice("used-not-real"))
        await made.add("user", id=alice, current_org_id=alice)
        await made.member(alice, alice, _llm_api_key=twice("unused-not-real"), has_custom_llm_api_key=False)
    await import_enterprise(storage, source, jwt_secrets=JWT)
    assert plain((await settings_of(storage, ALICE)).llm_api_key) == "used-not-real"


async def test_the_first_release_had_all_custom_secrets_in_one_object(storage: Storage, source: str) -> None:
    async with installation(source, first()) as made:
        await made.add(
            "user_secrets",
            keycloak_user_id=ALICE,
            custom_secrets={"A": {"secret": twice("a-not-real"), "description": None}, "B": {"secret": "b-not-real"}},
        )
        await made.add("settings", id="4711", llm_api_key=twice("unread-not-real"))
    report = await import_enterprise(storage, source, jwt_secrets=JWT)
    assert (await secrets_of(storage, ALICE))[0] == {"A": "a-not-real", "B": "b-not-real"}
    assert [(flaw.code, flaw.path) for flaw in report.flaws] == [("unread-table", "settings")]


async def test_rows_that_name_no_user_and_those_that_cannot_be_stored_are_reported(
    storage: Storage, source: str
) -> None:
    async with installation(source, early()) as made:
        await made.settings(None, language="en")
        await made.settings("", language="en")
        await made.settings("tab\tbed", language="en")
        await made.settings(ALICE, language="en", max_iterations=-1)
        await made.settings(ALICE, language="de")
        await made.secret(ALICE, "line\nbreak", "x-not-real")
        await made.secret(ALICE, "MASKED", "**********")
        await made.secret(ALICE, "MASKED INSIDE", twice("**********"))
        await made.secret(ALICE, "EMPTY", twice(""))
        await made.secret(ALICE, "TWICE", twice("first"))
        await made.secret(ALICE, "TWICE", twice("second"))
    report = await import_enterprise(storage, source, jwt_secrets=JWT)
    settings = await settings_of(storage, ALICE)
    assert (settings.language, settings.max_iterations) == ("en", None)
    assert (await secrets_of(storage, ALICE))[0] == {"EMPTY": "", "TWICE": "second"}
    assert codes(report) == [
        "bad-value",
        "duplicate-row",
        "duplicate-row",
        "empty-secret",
        "masked-secret",
        "masked-secret",
        "ownerless-row",
        "rejected",
        "settings-invalid",
    ]
    assert list(report.users) == [ALICE]


# ---- the source


async def test_more_users_than_are_read_at_once_all_arrive(
    storage: Storage, source: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("storage.openhands.enterprise._USERS_AT_ONCE", 3)
    users = [f"user-{number}" for number in range(10)]
    async with installation(source, early()) as made:
        for user in users:
            await made.settings(user, language=user[-2:])
            await made.secret(user, "A", twice(f"{user}-not-real"))
    report = await import_enterprise(storage, source, jwt_secrets=JWT)
    assert list(report.users) == users
    assert "users: 10" in report.lines()
    for user in users:
        assert (await settings_of(storage, user)).language == user[-2:]
        assert (await secrets_of(storage, user))[0] == {"A": f"{user}-not-real"}


async def test_the_source_cannot_be_written(source: str) -> None:
    await fill_early(source)
    async with open_source_database(source, ["user_settings"]) as database:
        with pytest.raises(DatabaseUnavailable, match=r"read-?only"):
            await database._connection.fetch("DELETE FROM user_settings", [])


async def test_a_source_that_is_none_is_refused(
    storage: Storage, source: str, tmp_path: Path, database_url: str
) -> None:
    with pytest.raises(DatabaseUnavailable, match="there is no database at"):
        await import_enterprise(storage, f"sqlite:///{tmp_path / 'nowhere.db'}")
    with pytest.raises(InvalidInput, match="memory"):
        await import_enterprise(storage, "sqlite:///:memory:")
    with pytest.raises(ConfigurationError):
        await import_enterprise(storage, "mysql://host/database")
    with pytest.raises(InvalidInput, match="no OpenHands enterprise database"):
        await import_enterprise(storage, database_url)
    (tmp_path / "text.db").write_text("no database at all, but long enough to look like one" * 100)
    with pytest.raises(DatabaseUnavailable, match="not a database"):
        await import_enterprise(storage, f"sqlite:///{tmp_path / 'text.db'}")


async def test_a_server_that_is_not_there_is_named_without_its_password(storage: Storage, tmp_path: Path) -> None:
    url = f"postgresql://someone:password-not-real@/gone?host={tmp_path}"
    with pytest.raises(DatabaseUnavailable, match="cannot be opened") as caught:
        await import_enterprise(storage, url)
    assert "password-not-real" not in str(caught.value)
