"""The stores with the models, routes and own stores of a real app server; it comes with openhands-ai 1.7."""

from __future__ import annotations

import asyncio
import json
import os
import warnings
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pydantic import SecretStr

from storage.openhands.process_storage import ProcessStorage, close_process_storage, process_storage
from tests.openhands.conftest import storage_config

if find_spec("openhands") is None or find_spec("openhands.app_server") is None or find_spec("openhands.storage"):
    pytest.skip(
        "openhands-ai 1.7 or later is not installed in this environment (it needs Python 3.12, and 1.6 GB)",
        allow_module_level=True,
    )
os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # else loading it asks the network for prices
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # what it builds on warns of its own affairs
    from openhands.app_server.file_store.local import LocalFileStore
    from openhands.app_server.secrets.file_secrets_store import FileSecretsStore
    from openhands.app_server.secrets.secrets_models import Secrets
    from openhands.app_server.settings.file_settings_store import FileSettingsStore
    from openhands.app_server.settings.settings_models import Settings

    from storage.openhands.app_server import opened, stores

pytestmark = pytest.mark.filterwarnings("default")

LLM: dict[str, Any] = {
    "model": "openai/gpt-4o",
    "api_key": "canary-llm",
    "base_url": "https://llm.example.com",
    "aws_secret_access_key": "canary-aws",
    "extra_headers": {"X-Key": "canary-header"},
}
MCP: dict[str, Any] = {
    "mcpServers": {
        "a": {"url": "https://x.example.com/mcp", "headers": {"X-Key": "canary-mcp"}},
        "b": {"command": "npx", "args": ["-y", "x"], "env": {"K": "canary-env"}},
    }
}


@pytest.fixture
def place(database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ProcessStorage]:
    close_process_storage()
    place = process_storage(storage_config(database_url, tmp_path))
    monkeypatch.setattr(opened, "_state_directory", lambda _: None)
    yield place
    close_process_storage()


async def settings_store() -> Any:
    return await stores.SQLSettingsStore.get_instance(None)


async def secrets_store() -> Any:
    return await stores.SQLSecretsStore.get_instance(None)


def everything() -> Any:
    settings = Settings(
        language="fr",
        search_api_key=SecretStr("canary-search"),
        sandbox_api_key=SecretStr("canary-sandbox"),
        agent_settings={"llm": LLM, "mcp_config": MCP},
        conversation_settings={"max_iterations": 7, "confirmation_mode": True},
    )
    settings.llm_profiles.save("P", settings.agent_settings.llm)
    return settings


def in_clear(settings: Any) -> dict[str, Any]:
    return stores._settings_file(settings)


async def test_settings_with_everything_in_them_come_back_equal(place: ProcessStorage) -> None:
    store = await settings_store()
    assert await store.load() is None
    settings = everything()
    await store.store(settings)
    found = await (await settings_store()).load()
    assert in_clear(found) == in_clear(settings)
    assert found.sandbox_api_key.get_secret_value() == "canary-sandbox"
    again = await settings_store()
    await again.store(await again.load())
    assert in_clear(await (await settings_store()).load()) == in_clear(settings)


async def test_no_secret_of_theirs_is_readable_in_the_database(place: ProcessStorage) -> None:
    await (await settings_store()).store(everything())

    async def rows() -> str:
        async with place.storage.session(read_only=True) as session:
            connection = await session.connection()
            tables = ("settings", "event")
            return str([(await connection.exec_driver_sql(f"SELECT * FROM {table}")).all() for table in tables])

    assert "canary" not in await place.portal.await_(rows)


async def test_a_row_and_a_file_of_the_server_s_own_load_alike(place: ProcessStorage, tmp_path: Path) -> None:
    own = FileSettingsStore(LocalFileStore(root=str(tmp_path / "own")))
    mine = await settings_store()
    settings = everything()
    settings.sandbox_api_key = None  # its own writes the mask
    for store in (own, mine):
        await store.store(settings)
    assert in_clear(await (await settings_store()).load()) == in_clear(await own.load())
    own_secrets = FileSecretsStore(own.file_store)
    new = Secrets(
        provider_tokens={"github": {"token": "ghp-1", "host": "git.example.com"}},
        custom_secrets={"A": {"secret": "a value", "description": "d"}},
    )
    for secrets in (own_secrets, await secrets_store()):
        await secrets.store(new)
    whole = {"context": {"expose_secrets": True}}
    loaded = await (await secrets_store()).load()
    assert loaded.model_dump_json(**whole) == (await own_secrets.load()).model_dump_json(**whole)


async def test_one_model_is_changed_by_one_request_and_a_server_added_by_another(place: ProcessStorage) -> None:
    await (await settings_store()).store(everything())
    one, other = await settings_store(), await settings_store()
    by_one, by_other = await one.load(), await other.load()
    by_one.update({"agent_settings_diff": {"llm": {"model": "openai/o1"}}, "language": "ja"})
    by_other.update(
        {"agent_settings_diff": {"mcp_config": {"mcpServers": {**MCP["mcpServers"], "c": {"command": "c"}}}}}
    )
    by_other.llm_profiles.save("Q", by_other.agent_settings.llm)
    await asyncio.gather(one.store(by_one), other.store(by_other))
    found = await (await settings_store()).load()
    assert (found.language, found.agent_settings.llm.model) == ("ja", "openai/o1")
    assert found.agent_settings.llm.api_key.get_secret_value() == "canary-llm"
    stored = in_clear(found)["agent_settings"]["mcp_config"]
    assert set(stored.get("mcpServers", stored)) == {"a", "b", "c"}
    assert set(found.llm_profiles.profiles) == {"P", "Q"}


async def test_a_value_that_the_release_refuses_hides_nothing_and_is_kept(place: ProcessStorage) -> None:
    user = place.storage.user(None)
    await place.portal.await_(lambda: user.settings.update(language="fr", sandbox_grouping_strategy="BY_MOON"))
    store = await settings_store()
    found = await store.load()
    assert (found.language, found.sandbox_grouping_strategy.value) == ("fr", "NO_GROUPING")
    found.language = "it"
    await store.store(found)
    row = await place.portal.await_(user.settings.load)
    assert row is not None
    assert (row.language, row.sandbox_grouping_strategy) == ("it", "BY_MOON")


async def test_a_token_of_a_provider_that_the_release_does_not_know_outlives_its_saves(place: ProcessStorage) -> None:
    stored = place.storage.user(None).secrets
    await place.portal.await_(stored.set_provider_token, "sourcehut", "a token of sr.ht")
    store = await secrets_store()
    assert dict((await store.load()).provider_tokens) == {}
    await store.store(Secrets())
    kept = await place.portal.await_(stored.get_provider_token, "sourcehut")
    assert kept.token is not None


async def test_the_model_of_a_release_before_1_7_is_the_one_that_is_used(place: ProcessStorage) -> None:
    user = place.storage.user(None)
    flat = {"llm_model": "openai/gpt-4o", "llm_api_key": "canary-llm", "llm_base_url": "https://llm.example.com"}
    await place.portal.await_(lambda: user.settings.update(**flat))
    store = await settings_store()
    found = await store.load()
    assert (found.agent_settings.llm.model, found.agent_settings.llm.base_url) == (
        flat["llm_model"],
        flat["llm_base_url"],
    )
    assert found.agent_settings.llm.api_key.get_secret_value() == "canary-llm"
    found.update({"agent_settings_diff": {"llm": {"model": "openai/o1"}}})
    await store.store(found)
    assert (await (await settings_store()).load()).agent_settings.llm.model == "openai/o1"


async def test_the_first_request_moves_the_state_directory_in(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = tmp_path / "state"
    own = FileSettingsStore(LocalFileStore(root=str(state)))
    await own.store(Settings(language="fr", agent_settings={"llm": LLM}))
    close_process_storage()
    process_storage(storage_config(database_url, tmp_path))
    config = SimpleNamespace(file_store="local", file_store_path=str(state))
    try:
        # The releases after 1.7 are asked for their configuration; given one, they take it all the same.
        found = await (await stores.SQLSettingsStore.get_instance(config, None)).load()
        assert found is not None
        assert (found.language, found.agent_settings.llm.model) == ("fr", LLM["model"])
        assert found.agent_settings.llm.api_key.get_secret_value() == "canary-llm"
    finally:
        close_process_storage()
    assert json.loads((state / ".imported-by-agent-storage").read_text())["imported"]
