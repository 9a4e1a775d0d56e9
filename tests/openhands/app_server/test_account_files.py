"""settings.json and secrets.json over rows: nothing lost, nothing readable, and two requests at once."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from storage.config import StorageConfig
from storage.errors import EncryptionError
from storage.openhands.app_server.account_files import SECRETS, SETTINGS, AccountFiles
from storage.openhands.process_storage import ProcessStorage, open_on_portal

PROFILES: dict[str, Any] = {
    "language": "en",
    "llm_profiles": {"profiles": {"Default": {"model": "m", "api_key": "canary-1"}}, "active": "Default"},
    "agent_settings": {"llm": {"model": "m", "api_key": "canary-2"}, "mcp_config": {"mcpServers": {"a": {"url": "u"}}}},
    "conversation_settings": {"max_iterations": 5},
    "marketplaces": [{"url": "https://x.example.com", "token": "canary-3"}],
    "a_flag": True,
    "v1_enabled": True,
}


@pytest.fixture
def place(database_url: str, tmp_path: Path) -> Iterator[ProcessStorage]:
    place = open_on_portal(
        StorageConfig(
            database_url=database_url,
            data_dir=tmp_path / "data",
            master_key_file=tmp_path / "keys" / "master.key",
            webhook_delivery=False,
        )
    )
    yield place
    place.close()


@pytest.mark.parametrize("path", [SETTINGS, SECRETS, "other.json"])
def test_there_is_nothing_before_the_first(place: ProcessStorage, path: str) -> None:
    with pytest.raises(FileNotFoundError):
        AccountFiles(place, None).read(path)


def test_what_is_written_is_read_with_fields_of_any_release(place: ProcessStorage) -> None:
    AccountFiles(place, "alice").write(SETTINGS, json.dumps(PROFILES))
    found = json.loads(AccountFiles(place, "alice").read(SETTINGS))
    assert {name: found[name] for name in PROFILES} == PROFILES
    with pytest.raises(FileNotFoundError):
        AccountFiles(place, "bob").read(SETTINGS)


def test_no_key_is_readable_in_the_database_however_deep_it_lies(place: ProcessStorage) -> None:
    AccountFiles(place, None).write(SETTINGS, json.dumps(PROFILES))
    secrets = {"provider_tokens": {"github": {"token": "canary-4", "host": None, "user_id": None}}}
    AccountFiles(place, None).write(SECRETS, json.dumps(secrets))

    assert "canary" not in place.portal.call(rows_of, place)


def test_what_was_sealed_once_stays_sealed_whatever_its_form(place: ProcessStorage) -> None:
    AccountFiles(place, None).write(SETTINGS, json.dumps({"greeting": {"a": "canary-6"}}))
    plain = AccountFiles(place, None)
    plain.read(SETTINGS)
    plain.write(SETTINGS, json.dumps({"greeting": "canary-7", "language": "fr"}), secret=())
    assert json.loads(AccountFiles(place, None).read(SETTINGS))["greeting"] == "canary-7"
    assert "canary" not in place.portal.call(rows_of, place)


async def rows_of(place: ProcessStorage) -> str:
    async with place.storage.session(read_only=True) as session:
        connection = await session.connection()
        tables = ("settings", "provider_token", "custom_secret", "user_secrets", "event")
        return str([(await connection.exec_driver_sql(f"SELECT * FROM {table}")).all() for table in tables])


def test_lists_that_hold_no_secret_are_not_sealed_if_the_model_says_so(place: ProcessStorage) -> None:
    """What is sealed is masked in files, and "personal" is a word of every other sentence."""
    sources = [{"name": "personal", "source": "github:acme/skills"}]
    AccountFiles(place, None).write(SETTINGS, json.dumps({"registered_marketplaces": sources}), secret=())
    assert json.loads(AccountFiles(place, None).read(SETTINGS))["registered_marketplaces"] == sources
    assert "github:acme/skills" in place.portal.call(rows_of, place)


def test_two_requests_at_once_keep_each_other_s_setting(place: ProcessStorage) -> None:
    AccountFiles(place, None).write(SETTINGS, json.dumps(PROFILES))
    one, other = AccountFiles(place, None), AccountFiles(place, None)
    by_one, by_other = json.loads(one.read(SETTINGS)), json.loads(other.read(SETTINGS))
    by_one["language"] = "ja"
    by_other["agent_settings"]["llm"]["model"] = "another"
    by_one["agent_settings"]["mcp_config"]["mcpServers"]["b"] = {"url": "v"}
    one.write(SETTINGS, json.dumps(by_one))
    other.write(SETTINGS, json.dumps(by_other))
    found = json.loads(AccountFiles(place, None).read(SETTINGS))
    assert (found["language"], found["agent_settings"]["llm"]["model"]) == ("ja", "another")
    assert set(found["agent_settings"]["mcp_config"]["mcpServers"]) == {"a", "b"}


def test_two_requests_at_once_keep_each_other_s_secret_and_delete_their_own(place: ProcessStorage) -> None:
    def custom(*names: str) -> dict[str, Any]:
        return {name: {"secret": f"value of {name}", "description": ""} for name in names}

    AccountFiles(place, None).write(SECRETS, json.dumps({"custom_secrets": custom("A", "B")}))
    one, other = AccountFiles(place, None), AccountFiles(place, None)
    one.read(SECRETS)
    other.read(SECRETS)
    one.write(SECRETS, json.dumps({"custom_secrets": custom("A", "B", "ONE")}))
    other.write(SECRETS, json.dumps({"custom_secrets": custom("B", "OTHER")}))
    found = json.loads(AccountFiles(place, None).read(SECRETS))
    assert found["custom_secrets"] == custom("B", "ONE", "OTHER")


def test_the_model_and_its_key_are_taken_over_from_releases_before(place: ProcessStorage) -> None:
    """Up to 1.6 they were settings of their own, which the app server does not look at."""
    settings = place.storage.user(None).settings
    place.portal.call(
        settings.update, llm_model="m", llm_api_key="sk-1", llm_base_url="https://m.example.com", max_iterations=7
    )
    found = json.loads(AccountFiles(place, None).read(SETTINGS))
    assert found["agent_settings"] == {"llm": {"model": "m", "api_key": "sk-1", "base_url": "https://m.example.com"}}
    assert found["conversation_settings"] == {"max_iterations": 7}


def test_without_the_master_key_the_rest_is_there_and_is_stored(
    place: ProcessStorage, caplog: pytest.LogCaptureFixture
) -> None:
    AccountFiles(place, None).write(SETTINGS, json.dumps(PROFILES))
    secrets = {"custom_secrets": {"A": {"secret": "value of A", "description": ""}}}
    AccountFiles(place, None).write(SECRETS, json.dumps(secrets))
    config = place.storage.config
    key, away = config.master_key_file, config.master_key_file.with_suffix(".away")
    key.rename(away)
    locked = open_on_portal(config)
    try:
        files = AccountFiles(locked, None)
        found = json.loads(files.read(SETTINGS))
        assert found["language"] == "en"
        assert "agent_settings" not in found
        files.write(SETTINGS, json.dumps({**found, "language": "fr"}))
        with pytest.raises(EncryptionError):
            files.write(SETTINGS, json.dumps({**found, "agent_settings": {"llm": {"api_key": "new"}}}))
        assert json.loads(AccountFiles(locked, None).read(SECRETS))["custom_secrets"] == {}
        for _ in range(3):
            AccountFiles(locked, None).read(SETTINGS)
        assert caplog.text.count("without their keys") == 1
    finally:
        locked.close()
        away.rename(key)
    again = open_on_portal(config)
    try:
        found = json.loads(AccountFiles(again, None).read(SETTINGS))
        assert (found["language"], found["agent_settings"]) == ("fr", PROFILES["agent_settings"])
        assert json.loads(AccountFiles(again, None).read(SECRETS))["custom_secrets"] == secrets["custom_secrets"]
    finally:
        again.close()
