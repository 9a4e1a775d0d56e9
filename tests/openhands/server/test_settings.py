"""SQLSettingsStore: what the server's own store keeps, and what two requests at once keep besides."""

from __future__ import annotations

import sys
from typing import Any

import pytest
from pydantic import SecretStr

from storage.openhands.process_storage import ProcessStorage
from storage.secret_fields import secret_fields

MASKED = "**********"


@pytest.fixture
async def store(place: ProcessStorage, openhands: Any) -> Any:
    return await openhands.SQLSettingsStore.get_instance(None, None)


async def another(openhands: Any) -> Any:
    return await openhands.SQLSettingsStore.get_instance(None, None)


def settings(openhands: Any, **fields: Any) -> Any:
    values = {"llm_model": "m", "llm_api_key": SecretStr("sk-1"), "llm_base_url": "https://llm.example.com", **fields}
    return openhands.Settings(**values)


async def test_there_are_none_before_the_first(store: Any) -> None:
    assert await store.load() is None


async def test_what_is_stored_comes_back_equal(store: Any, openhands: Any) -> None:
    stored = settings(
        openhands,
        language="fr",
        max_iterations=50,
        search_api_key=SecretStr("tvly-2"),
        sandbox_api_key=SecretStr("sandbox-3"),
        mcp_config={"sse_servers": [], "stdio_servers": [], "shttp_servers": []},
    )
    await store.store(stored)
    found = await (await another(openhands)).load()
    assert found == stored
    assert found.llm_api_key.get_secret_value() == "sk-1"
    assert found.sandbox_api_key.get_secret_value() == "sandbox-3"


async def test_a_key_follows_a_change_of_its_url(store: Any, openhands: Any) -> None:
    await store.store(settings(openhands))
    changed = await store.load()
    changed.llm_base_url = "https://other.example.com"
    await store.store(changed)
    assert (await (await another(openhands)).load()).llm_api_key.get_secret_value() == "sk-1"


async def test_two_tabs_at_once_keep_each_other_s_field(openhands: Any, place: ProcessStorage) -> None:
    await (await another(openhands)).store(settings(openhands))
    one, other = await another(openhands), await another(openhands)
    by_one, by_other = await one.load(), await other.load()
    by_one.language = "ja"
    by_other.llm_model = "another"
    await one.store(by_one)
    await other.store(by_other)
    found = await (await another(openhands)).load()
    assert (found.language, found.llm_model) == ("ja", "another")
    assert found.llm_api_key.get_secret_value() == "sk-1"


async def test_two_first_saves_at_once_keep_each_other_s_field(openhands: Any, place: ProcessStorage) -> None:
    one, other = await another(openhands), await another(openhands)
    assert (await one.load(), await other.load()) == (None, None)
    empty = openhands.Settings()
    await one.store(empty.model_copy(update={"language": "ja"}))
    other._loaded = (await another(openhands))._loaded  # as it was before the first save
    await other.store(settings(openhands, language="ja"))
    found = await (await another(openhands)).load()
    assert (found.language, found.llm_model) == ("ja", "m")


async def test_a_secret_of_a_release_to_come_is_sealed_whatever_its_name(
    openhands: Any, place: ProcessStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Newer(openhands.Settings):  # type: ignore[misc]
        smtp_line: SecretStr | None = None
        mood: str = "good"

    store = await another(openhands)
    module = sys.modules[type(store).__module__]
    monkeypatch.setattr(module, "Settings", Newer)
    monkeypatch.setattr(module, "_SECRETS", secret_fields(Newer))
    await store.store(Newer(llm_model="m", smtp_line=SecretStr("canary-of-smtp"), mood="bad"))
    changed = await store.load()
    assert (changed.smtp_line.get_secret_value(), changed.mood) == ("canary-of-smtp", "bad")
    changed.mood = "better"
    await store.store(changed)
    found = await (await another(openhands)).load()
    assert (found.smtp_line.get_secret_value(), found.mood, found.llm_model) == ("canary-of-smtp", "better", "m")
    assert "canary" not in await place.portal.await_(row_of, place)


async def row_of(place: ProcessStorage) -> str:
    async with place.storage.session(read_only=True) as session:
        connection = await session.connection()
        return str((await connection.exec_driver_sql("SELECT * FROM settings")).all())


async def test_what_is_taken_out_is_unset(store: Any, openhands: Any) -> None:
    await store.store(settings(openhands, language="fr", search_api_key=SecretStr("tvly-2")))
    changed = await store.load()
    changed.language = None
    changed.search_api_key = SecretStr("")
    await store.store(changed)
    found = await (await another(openhands)).load()
    assert (found.language, found.search_api_key) == (None, None)


async def test_storing_without_having_loaded_replaces_what_differs(openhands: Any, place: ProcessStorage) -> None:
    await (await another(openhands)).store(settings(openhands, language="fr", agent="A"))
    await (await another(openhands)).store(settings(openhands, language="de"))
    found = await (await another(openhands)).load()
    assert (found.language, found.agent) == ("de", None)


async def test_no_key_is_readable_in_the_row(store: Any, openhands: Any, place: ProcessStorage) -> None:
    await store.store(
        settings(
            openhands,
            llm_api_key=SecretStr("canary-of-the-row"),
            mcp_config={
                "sse_servers": [],
                "stdio_servers": [],
                "shttp_servers": [{"url": "https://x.example.com", "api_key": "canary-2"}],
            },
        )
    )

    assert "canary" not in await place.portal.await_(row_of, place)


async def test_without_the_master_key_the_rest_is_there_and_the_keys_stay(
    store: Any, openhands: Any, place: ProcessStorage, caplog: pytest.LogCaptureFixture
) -> None:
    await store.store(settings(openhands, language="fr"))
    place.storage.config.master_key_file.rename(place.storage.config.master_key_file.with_suffix(".away"))
    config = place.storage.config
    from storage.openhands import process_storage as process

    process.close_process_storage()
    process.process_storage(config)
    locked = await another(openhands)
    found = await locked.load()
    assert (found.language, found.llm_api_key) == ("fr", None)
    assert "without their keys" in caplog.text
    found.language = "it"
    await locked.store(found)
    process.close_process_storage()
    config.master_key_file.with_suffix(".away").rename(config.master_key_file)
    process.process_storage(config)
    found = await (await another(openhands)).load()
    assert (found.language, found.llm_api_key.get_secret_value()) == ("it", "sk-1")
