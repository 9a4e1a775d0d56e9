"""SQLSecretsStore: tokens and custom secrets as the server's requests read, change and replace them."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import SecretStr

from storage.openhands.process_storage import ProcessStorage


@pytest.fixture
async def store(place: ProcessStorage, openhands: Any) -> Any:
    return await another(openhands)


async def another(openhands: Any) -> Any:
    return await openhands.SQLSecretsStore.get_instance(None, None)


def secrets(openhands: Any, tokens: dict[str, str] | None = None, **custom: str) -> Any:
    return openhands.Secrets(
        provider_tokens={
            openhands.ProviderType(name): openhands.ProviderToken(token=SecretStr(token), host="git.example.com")
            for name, token in (tokens or {}).items()
        },
        custom_secrets={
            name: openhands.CustomSecret(secret=SecretStr(value), description=f"of {name}")
            for name, value in custom.items()
        },
    )


def clear(found: Any) -> tuple[dict[str, str], dict[str, str]]:
    return (
        {provider.value: token.token.get_secret_value() for provider, token in found.provider_tokens.items()},
        {name: custom.secret.get_secret_value() for name, custom in found.custom_secrets.items()},
    )


async def test_there_are_none_before_the_first(store: Any) -> None:
    assert await store.load() is None


async def test_what_is_stored_comes_back(store: Any, openhands: Any) -> None:
    await store.store(secrets(openhands, {"github": "ghp-1", "gitlab": "glpat-2"}, A="a value", B="b value"))
    found = await (await another(openhands)).load()
    assert clear(found) == ({"github": "ghp-1", "gitlab": "glpat-2"}, {"A": "a value", "B": "b value"})
    assert found.provider_tokens[openhands.ProviderType.GITHUB].host == "git.example.com"
    assert found.custom_secrets["A"].description == "of A"


async def test_two_requests_at_once_keep_each_other_s_secret(openhands: Any, place: ProcessStorage) -> None:
    await (await another(openhands)).store(secrets(openhands, {"github": "ghp-1"}, A="a value"))
    one, other = await another(openhands), await another(openhands)
    await one.load()
    await other.load()
    await one.store(secrets(openhands, {"github": "ghp-1"}, A="a value", ONE="1st value"))
    await other.store(secrets(openhands, {"github": "ghp-new"}, A="a value", OTHER="2nd value"))
    found = await (await another(openhands)).load()
    assert clear(found) == ({"github": "ghp-new"}, {"A": "a value", "ONE": "1st value", "OTHER": "2nd value"})


async def test_what_is_taken_out_is_deleted(store: Any, openhands: Any) -> None:
    await store.store(secrets(openhands, {"github": "ghp-1"}, A="a value", B="b value"))
    await store.load()
    await store.store(secrets(openhands, {}, B="b value"))
    assert clear(await (await another(openhands)).load()) == ({}, {"B": "b value"})


async def test_a_token_of_a_provider_that_the_release_does_not_know_outlives_its_saves(
    store: Any, openhands: Any, place: ProcessStorage
) -> None:
    stored = place.storage.user(None).secrets
    await place.portal.await_(stored.set_provider_token, "sourcehut", "a token of sr.ht")
    await store.store(secrets(openhands, {"github": "ghp-1"}, A="a value"))
    loading = await another(openhands)
    assert clear(await loading.load()) == ({"github": "ghp-1"}, {"A": "a value"})
    await loading.store(secrets(openhands, {}))
    assert clear(await (await another(openhands)).load()) == ({}, {})
    kept = await place.portal.await_(stored.get_provider_token, "sourcehut")
    assert kept.token is not None
    assert kept.token.get_secret_value() == "a token of sr.ht"


async def test_one_that_cannot_be_opened_hides_no_other_and_is_not_deleted(
    store: Any, openhands: Any, place: ProcessStorage, caplog: pytest.LogCaptureFixture
) -> None:
    await store.store(secrets(openhands, {"github": "ghp-1"}, A="a value", B="b value"))

    async def spoil() -> None:
        async with place.storage.session() as session:
            connection = await session.connection()
            await connection.exec_driver_sql(
                "UPDATE custom_secret SET value = (SELECT token FROM provider_token) WHERE name = 'A'"
            )
            await session.commit()

    await place.portal.await_(spoil)
    for _ in range(2):
        await (await another(openhands)).load()
    found = await (await another(openhands)).load()
    assert clear(found) == ({"github": "ghp-1"}, {"B": "b value"})
    assert [record.levelname for record in caplog.records].count("ERROR") == 1, "the log says it once"
    changing = await another(openhands)
    await changing.load()
    await changing.store(secrets(openhands, {"github": "ghp-1"}, B="new value"))
    infos = await place.portal.await_(place.storage.user(None).secrets.list)
    assert sorted(info.name for info in infos) == ["A", "B", "github"]


async def test_storing_without_having_loaded_replaces_everything(openhands: Any, place: ProcessStorage) -> None:
    await (await another(openhands)).store(secrets(openhands, {"github": "ghp-1"}, A="a value"))
    await (await another(openhands)).store(secrets(openhands, {}, B="b value"))
    assert clear(await (await another(openhands)).load()) == ({}, {"B": "b value"})


async def test_an_agent_s_event_hides_what_the_event_stream_of_the_server_would_let_through(
    store: Any, openhands: Any, place: ProcessStorage
) -> None:
    from storage.openhands.sync_files import SyncFileStore

    await store.store(secrets(openhands, {"github": "ghp-canary-token"}, A="canary value"))
    files = SyncFileStore(place)
    # The server leaves the top-level message alone, and knows no other spelling than the plain one.
    event = (
        '{"id": 0, "message": "it is canary value", "args": {"b64": "Y2FuYXJ5IHZhbHVl", "token": "ghp-canary-token"}}'
    )

    def write_and_read() -> str:
        files.write("sessions/c1/events/0.json", event)
        return files.read("sessions/c1/events/0.json")

    import asyncio

    written = await asyncio.to_thread(write_and_read)
    for hidden in ("canary value", "Y2FuYXJ5IHZhbHVl", "ghp-canary-token"):
        assert hidden not in written
