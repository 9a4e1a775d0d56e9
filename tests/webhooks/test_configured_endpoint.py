"""The operator's endpoint of the configuration: made once, kept in line, and left alone where nothing can be done."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any, TypeAlias

import pytest
from pydantic import SecretStr

from storage.config import StorageConfig
from storage.database import Database, parse_url
from storage.encryption.keyring import KeyRing
from storage.encryption.providers.environment import EnvironmentKeys
from storage.errors import ConfigurationError, Conflict
from storage.webhooks.endpoints.configured import CONFIGURED_ID, Wanted, ensure, ensure_configured
from storage.webhooks.endpoints.model import Batching, Endpoint
from storage.webhooks.endpoints.store import Endpoints
from storage.webhooks.sending.egress import Egress
from tests.databases import MASTER_KEY, OTHER_KEY, Query
from tests.webhooks.endpoint_desk import (
    add_event,
    alice,
    database,
    edit,
    egress,
    keyring,
    migrated_url,
    operator,
    query,
    row_of,
    secrets,
    user_id,
)

__all__ = ["alice", "database", "egress", "keyring", "migrated_url", "operator", "query", "user_id"]

URL = "http://127.0.0.1:9/files/"
Ensure: TypeAlias = Callable[..., Awaitable[Endpoint | None]]


@pytest.fixture(autouse=True)
async def nothing_configured_yet(query: Query) -> None:
    await query("DELETE FROM webhook_endpoint")


def config(url: str | None = URL, headers: dict[str, str] | None = None, *, batch: bool = False) -> StorageConfig:
    return StorageConfig(
        file_store_web_hook_url=url, file_store_web_hook_headers=headers, file_store_web_hook_batch=batch
    )


async def opened_by(database: Database, keyring: KeyRing, *arguments: Any, **options: Any) -> Endpoint | None:
    """As opening a storage does it."""
    environment = options.pop("environment", {})
    return await ensure_configured(
        database, keyring, Egress((), ["127.0.0.1"]), config(*arguments, **options), environment
    )


async def test_it_sends_what_the_seed_system_sends(database: Database, keyring: KeyRing, operator: Endpoints) -> None:
    before = await add_event(database)
    made = await opened_by(database, keyring)
    assert made is not None
    assert made == await operator.get(CONFIGURED_ID)
    assert (made.user_id, made.url, made.format, made.mode) == (None, URL, "openhands", "standard")
    assert (made.event_types, made.is_signed, made.has_headers) == (("file.*",), False, False)
    assert (await row_of(database, CONFIGURED_ID))["from_seq"] >= before


async def test_the_session_key_is_sent_where_no_headers_are_configured(database: Database, keyring: KeyRing) -> None:
    environment = {"SESSION_API_KEY": "session-key-1"}
    await opened_by(database, keyring, environment=environment)
    assert (await secrets(database, keyring, CONFIGURED_ID)).headers == {"X-Session-API-Key": "session-key-1"}
    await opened_by(database, keyring, URL, {"A": "b"}, environment=environment)
    assert (await secrets(database, keyring, CONFIGURED_ID)).headers == {"A": "b"}
    await opened_by(database, keyring, URL, {}, environment=environment)
    assert (await secrets(database, keyring, CONFIGURED_ID)).headers == {}


async def test_opening_again_changes_nothing(database: Database, keyring: KeyRing) -> None:
    await opened_by(database, keyring, URL, {"A": "b"})
    before = await row_of(database, CONFIGURED_ID)
    await add_event(database)
    await opened_by(database, keyring, URL, {"A": "b"})
    assert await row_of(database, CONFIGURED_ID) == before


async def test_another_configuration_brings_it_in_line(
    database: Database, keyring: KeyRing, operator: Endpoints
) -> None:
    first = await opened_by(database, keyring, URL, {"A": "b"})
    signing = await operator.rotate_secret(CONFIGURED_ID)
    await operator.update(CONFIGURED_ID, description="ours", on_dead="block")
    changed = await opened_by(database, keyring, "http://127.0.0.1:9/elsewhere/", {"C": "d"}, batch=True)
    assert changed is not None
    assert first is not None
    assert (changed.url, changed.mode, changed.is_signed) == ("http://127.0.0.1:9/elsewhere/", "batched", True)
    assert (changed.description, changed.on_dead, changed.created_at) == ("ours", "block", first.created_at)
    found = await secrets(database, keyring, CONFIGURED_ID)
    assert (found.secrets, found.headers) == ((signing.get_secret_value(),), {"C": "d"})
    again = await opened_by(database, keyring, "http://127.0.0.1:9/elsewhere/", {"C": "d"}, batch=True)
    assert again == changed
    assert await operator.list() == [changed]


async def test_without_a_configuration_what_is_there_stays(
    database: Database, keyring: KeyRing, operator: Endpoints
) -> None:
    assert await opened_by(database, keyring, None) is None
    assert await operator.list() == []
    made = await opened_by(database, keyring)
    assert await opened_by(database, keyring, None) is None
    assert await operator.list() == [made]


async def test_a_person_may_have_paused_it_and_another_url_is_another_receiver(
    database: Database, keyring: KeyRing, operator: Endpoints
) -> None:
    await opened_by(database, keyring)
    await operator.pause(CONFIGURED_ID)
    for url in (URL, f"{URL}2/"):
        found = await opened_by(database, keyring, url)
        assert found is not None
        assert found.state == "paused"
    await edit(database, CONFIGURED_ID, state="disabled", state_reason="gone", failures=3)
    found = await opened_by(database, keyring, f"{URL}2/")
    assert found is not None
    assert (found.state, found.state_reason) == ("disabled", "gone")
    found = await opened_by(database, keyring, f"{URL}3/")
    assert found is not None
    assert (found.state, found.state_reason, found.failures) == ("active", None, 0)


async def test_headers_that_open_no_longer_are_set_again(database: Database, keyring: KeyRing) -> None:
    await opened_by(database, keyring, URL, {"A": "b"})
    row = await row_of(database, CONFIGURED_ID)
    await edit(database, CONFIGURED_ID, headers=row["headers"][:-1] + bytes([row["headers"][-1] ^ 1]))
    await opened_by(database, keyring, URL, {"A": "b"})
    assert (await secrets(database, keyring, CONFIGURED_ID)).headers == {"A": "b"}


async def test_while_locked_headers_stay_as_they_are_with_a_warning(
    database: Database, keyring: KeyRing, caplog: pytest.LogCaptureFixture
) -> None:
    await opened_by(database, keyring, URL, {"A": "first-value"})
    before = await row_of(database, CONFIGURED_ID)
    locked = KeyRing(database, EnvironmentKeys(OTHER_KEY))
    await locked.start()
    assert await opened_by(database, locked, URL, {"A": "second-value"}) is None
    assert await row_of(database, CONFIGURED_ID) == before
    [record] = [record for record in caplog.records if record.name == "storage.webhooks.endpoints.configured"]
    assert "file_store_web_hook_url stays as it is" in record.getMessage()
    assert "-value" not in caplog.text


async def test_while_locked_one_that_needs_no_key_is_made(database: Database, keyring: KeyRing) -> None:
    await keyring.active_key(database, "someone")
    locked = KeyRing(database, EnvironmentKeys(OTHER_KEY))
    await locked.start()
    assert locked.state == "locked"
    made = await opened_by(database, locked)
    assert made is not None
    moved = await opened_by(database, locked, f"{URL}2/", batch=True)
    assert moved is not None
    assert (moved.url, moved.mode) == (f"{URL}2/", "batched")


async def test_what_cannot_be_used_is_an_error_of_the_configuration(
    database: Database, keyring: KeyRing, operator: Endpoints
) -> None:
    for url, headers in (("ftp://a.example/", None), (URL, {"A": "secret\nvalue"}), ("http://10.0.0.1/", None)):
        with pytest.raises(ConfigurationError, match="file_store_web_hook_url") as refused:
            await opened_by(database, keyring, url, headers)
        assert "secret" not in str(refused.value)
    assert await operator.list() == []


# ---- several processes


@pytest.fixture
async def processes(migrated_url: str) -> AsyncIterator[list[tuple[Database, KeyRing]]]:
    """The same database as several processes have it open: connections and keys of their own."""
    async with AsyncExitStack() as opened:
        found = []
        for _ in range(4):
            database = Database(parse_url(migrated_url))
            opened.push_async_callback(database.close)
            ring = KeyRing(database, EnvironmentKeys(MASTER_KEY))
            await ring.start()
            found.append((database, ring))
        yield found


async def test_several_processes_that_open_at_once_make_one(
    processes: list[tuple[Database, KeyRing]], operator: Endpoints, keyring: KeyRing, database: Database, query: Query
) -> None:
    for round_ in range(5):
        await query("DELETE FROM webhook_endpoint")
        headers = {"A": f"value-{round_}"}
        made = await asyncio.gather(*(opened_by(*process, URL, headers) for process in processes))
        assert [endpoint.id for endpoint in await operator.list()] == [CONFIGURED_ID]
        assert {endpoint.id for endpoint in made if endpoint is not None} == {CONFIGURED_ID}
        assert (await secrets(database, keyring, CONFIGURED_ID)).headers == headers


async def test_several_processes_that_change_it_at_once_leave_one_of_the_configurations(
    processes: list[tuple[Database, KeyRing]], operator: Endpoints, keyring: KeyRing, database: Database
) -> None:
    await opened_by(database, keyring, URL, {"A": "b"})
    signing = await operator.rotate_secret(CONFIGURED_ID)
    for round_ in range(5):
        await asyncio.gather(
            *(
                opened_by(*process, f"{URL}{round_}/{number}/", {"A": f"{round_} {number}"}, batch=number % 2 == 0)
                for number, process in enumerate(processes)
            )
        )
        [endpoint] = await operator.list()
        found = await secrets(database, keyring, CONFIGURED_ID)
        assert found.secrets == (signing.get_secret_value(),)
        assert endpoint.url == f"{URL}{found.headers['A'].replace(' ', '/')}/"


async def test_an_id_that_is_somebody_elses_is_left_alone(
    database: Database, keyring: KeyRing, alice: Endpoints, user_id: str
) -> None:
    added = await alice.add("https://receiver.example.com/", headers={"A": "b"})
    before = await row_of(database, added.endpoint.id)
    for owner in (None, f"bob-{user_id}"):
        for headers in ({}, {"C": "d"}):
            wanted = Wanted(added.endpoint.id, owner, URL, "standard", headers, batching=Batching())
            with pytest.raises(Conflict):
                await ensure(database, keyring, wanted)
    assert await row_of(database, added.endpoint.id) == before


def test_what_is_wanted_shows_no_secret() -> None:
    wanted = Wanted(uuid.UUID(int=1), None, URL, "standard", {"A": "letmein"}, SecretStr("whsec_x").get_secret_value())
    assert "letmein" not in repr(wanted)
    assert "whsec_" not in repr(wanted)
