"""settings.json and secrets.json over rows: nothing lost, nothing readable, and two requests at once."""

from __future__ import annotations

import json
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from storage.config import StorageConfig
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

    async def rows() -> str:
        async with place.storage.session(read_only=True) as session:
            connection = await session.connection()
            tables = ("settings", "provider_token", "user_secrets", "event")
            found = [(await connection.exec_driver_sql(f"SELECT * FROM {table}")).all() for table in tables]
            return str(found)

    assert "canary" not in place.portal.call(rows)


def test_two_requests_at_once_keep_each_other_s_setting(place: ProcessStorage) -> None:
    AccountFiles(place, None).write(SETTINGS, json.dumps(PROFILES))
    one, other = AccountFiles(place, None), AccountFiles(place, None)
    by_one, by_other = json.loads(one.read(SETTINGS)), json.loads(other.read(SETTINGS))
    by_one["language"] = "ja"
    by_other["agent_settings"]["llm"]["model"] = "another"
    one.write(SETTINGS, json.dumps(by_one))
    other.write(SETTINGS, json.dumps(by_other))
    found = json.loads(AccountFiles(place, None).read(SETTINGS))
    assert (found["language"], found["agent_settings"]["llm"]["model"]) == ("ja", "another")


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


needs_app_server = pytest.mark.skipif(
    find_spec("openhands") is None
    or find_spec("openhands.app_server") is None
    or find_spec("openhands.storage") is not None,
    reason="openhands-ai 1.7 or later is not installed in this environment",
)


@needs_app_server
async def test_the_real_models_of_the_app_server_come_back_equal(
    place: ProcessStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    from openhands.app_server.secrets.secrets_models import Secrets
    from openhands.app_server.settings.settings_models import Settings

    from storage.openhands.app_server import stores

    async def this() -> ProcessStorage:
        return place

    monkeypatch.setattr(stores, "app_server_storage", this)
    settings = await stores.SQLSettingsStore.get_instance(None)
    assert await settings.load() is None
    llm = {"model": "openai/gpt-4o", "api_key": "canary-5", "base_url": "https://llm.example.com"}
    new = Settings(language="fr", agent_settings={"llm": llm})
    await settings.store(new)
    found = await (await stores.SQLSettingsStore.get_instance(None)).load()
    exposed = {"context": {"expose_secrets": True, "persist_settings": True}}
    assert found.agent_settings.llm.api_key.get_secret_value() == "canary-5"
    again = await stores.SQLSettingsStore.get_instance(None)
    await again.store(await again.load())
    assert (await again.load()).model_dump_json(**exposed) == found.model_dump_json(**exposed)
    secrets = await stores.SQLSecretsStore.get_instance(None)
    assert await secrets.load() is None
    await secrets.store(
        Secrets(
            provider_tokens={"github": {"token": "ghp-1", "host": "git.example.com"}},
            custom_secrets={"A": {"secret": "a value", "description": "d"}},
        )
    )
    loaded = await (await stores.SQLSecretsStore.get_instance(None)).load()
    assert loaded.get_env_vars() == {"A": "a value"}
    assert [token.token.get_secret_value() for token in loaded.provider_tokens.values()] == ["ghp-1"]
