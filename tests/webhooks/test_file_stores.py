"""WebHookFileStore and BatchedWebHookFileStore: a user's files, unchanged, with an endpoint that hears of them."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from storage.database import Database, parse_url
from storage.encryption.keyring import KeyRing
from storage.encryption.providers.environment import EnvironmentKeys
from storage.errors import ConfigurationError, EgressRefused, InvalidInput, KeyMismatch
from storage.files.backends.memory import MemoryFileStore
from storage.files.catalog import FileCatalog
from storage.files.store import FileStore
from storage.testing.files import FileStoreContract
from storage.webhooks.endpoints.model import Batching
from storage.webhooks.file_stores import BatchedWebHookFileStore, WebHookFileStore
from storage.webhooks.sending.egress import Egress
from storage.webhooks.sending.signature import new_secret
from storage.webhooks.verbs import Webhooks
from tests.databases import MASTER_KEY, Query
from tests.webhooks.endpoint_desk import (
    database,
    egress,
    keyring,
    locked_keyring,
    migrated_url,
    query,
    secrets,
    user_id,
)

__all__ = ["database", "egress", "keyring", "locked_keyring", "migrated_url", "query", "user_id"]

URL = "https://receiver.example.com/files/"


@dataclass
class Cabinet:
    """Makes catalogues as storage.user(…).files are made, all of them on one store of blobs."""

    database: Database
    keyring: KeyRing
    egress: Egress
    user_id: str
    blobs: FileStore

    def files(self, executor: Any = None, user_id: str | None = None, keyring: KeyRing | None = None) -> FileCatalog:
        executor, user_id, keyring = executor or self.database, user_id or self.user_id, keyring or self.keyring
        webhooks = Webhooks(executor, keyring, self.egress, user_id)
        return FileCatalog(executor, self.blobs, user_id, keyring=keyring, webhooks=lambda: webhooks)


@pytest.fixture
async def cabinet(database: Database, keyring: KeyRing, egress: Egress, user_id: str) -> AsyncIterator[Cabinet]:
    async with MemoryFileStore() as blobs:
        yield Cabinet(database, keyring, egress, user_id, blobs)


@pytest.fixture
def files(cabinet: Cabinet) -> FileCatalog:
    return cabinet.files()


@pytest.fixture
def webhooks(files: FileCatalog) -> Webhooks:
    assert files.webhooks is not None
    return files.webhooks


@pytest.fixture(scope="module")
def contract_url(sqlite_template: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"sqlite:///{shutil.copy(sqlite_template, tmp_path_factory.mktemp('contract') / 'storage.db')}"


class TestWebHookFileStore(FileStoreContract):
    """On one database: what differs between the two is the catalogue's, which is proved on both."""

    streams_in_bounded_memory = False  # the backend is memory
    many_files = 50  # they are the catalogue's, whose own tests have more

    @pytest.fixture
    async def store(self, contract_url: str, user_id: str, egress: Egress) -> AsyncIterator[WebHookFileStore]:
        database = Database(parse_url(contract_url))
        ring = KeyRing(database, EnvironmentKeys(MASTER_KEY))
        cabinet = Cabinet(database, ring, egress, user_id, MemoryFileStore())
        yield WebHookFileStore(cabinet.files(), URL)
        await database.close()

    @pytest.mark.slow
    async def test_a_large_file_streams_in_bounded_memory(self, store: FileStore) -> None:
        await super().test_a_large_file_streams_in_bounded_memory(store)


async def test_the_first_change_makes_the_endpoint_and_reading_does_not(files: FileCatalog, webhooks: Webhooks) -> None:
    store = WebHookFileStore(files, URL, headers={"A": "b"})
    assert await store.list() == []
    assert not await store.exists("a.txt")
    assert await webhooks.list() == []
    await store.write("a.txt", b"first")
    [endpoint] = await webhooks.list()
    assert (endpoint.url, endpoint.format, endpoint.mode) == (URL, "openhands", "standard")
    assert (endpoint.event_types, endpoint.is_signed, endpoint.has_headers) == (("file.*",), False, True)
    await store.write("a.txt", b"second")
    await store.delete("a.txt")
    assert await webhooks.list() == [endpoint] == [await store.endpoint()]


async def test_the_endpoint_hears_of_the_first_change(
    files: FileCatalog, database: Database, query: Query, user_id: str
) -> None:
    store = WebHookFileStore(files, URL)
    await store.write("a.txt", b"first")
    [event] = await query("SELECT seq FROM event WHERE user_id = :user", user=user_id)
    [endpoint] = await query("SELECT from_seq FROM webhook_endpoint WHERE user_id = :user", user=user_id)
    assert event["seq"] > endpoint["from_seq"]


async def test_batches_are_as_large_and_old_as_one_says(files: FileCatalog) -> None:
    store = BatchedWebHookFileStore(files, URL, batch_timeout_seconds=0, batch_size_limit_bytes=0)
    endpoint = await store.endpoint()
    assert (endpoint.mode, endpoint.batching) == ("batched", Batching(bytes=0, seconds=0.0))
    other = await BatchedWebHookFileStore(files, f"{URL}2/").endpoint()
    assert other.batching == Batching(events=100, bytes=1024 * 1024, seconds=5.0)


async def test_one_url_has_an_endpoint_for_each_mode_and_user(cabinet: Cabinet, webhooks: Webhooks) -> None:
    files, bob = cabinet.files(), f"bob-{cabinet.user_id}"
    for _ in range(2):
        await WebHookFileStore(files, URL).endpoint()
        await BatchedWebHookFileStore(files, URL).endpoint()
    assert sorted(endpoint.mode for endpoint in await webhooks.list()) == ["batched", "standard"]
    endpoint = await WebHookFileStore(cabinet.files(user_id=bob), URL).endpoint()
    assert endpoint.user_id == bob
    assert len(await webhooks.list()) == 2


async def test_other_arguments_bring_it_in_line(
    files: FileCatalog, webhooks: Webhooks, database: Database, keyring: KeyRing
) -> None:
    first, second = new_secret(), new_secret()
    endpoint = await WebHookFileStore(files, URL, headers={"A": "b"}, secret=SecretStr(first)).endpoint()
    found = await secrets(database, keyring, endpoint.id)
    assert (found.secrets, found.headers) == ((first,), {"A": "b"})
    await WebHookFileStore(files, URL, secret=second).endpoint()
    found = await secrets(database, keyring, endpoint.id)
    assert (found.secrets, found.headers) == ((second,), {})
    await WebHookFileStore(files, URL).endpoint()
    assert (await secrets(database, keyring, endpoint.id)).secrets == (second,)
    await webhooks.pause(endpoint.id)
    assert (await WebHookFileStore(files, URL).endpoint()).state == "paused"
    await BatchedWebHookFileStore(files, URL, batch_timeout_seconds=1).endpoint()
    changed = await BatchedWebHookFileStore(files, URL, batch_timeout_seconds=2).endpoint()
    assert changed.batching.seconds == 2.0
    assert len(await webhooks.list()) == 2


async def test_several_at_once_make_one_endpoint(cabinet: Cabinet, webhooks: Webhooks, migrated_url: str) -> None:
    other = Database(parse_url(migrated_url))
    try:
        files, elsewhere = cabinet.files(), cabinet.files(other)
        stores = [WebHookFileStore(each, URL, headers={"A": "b"}) for each in (files, files, elsewhere, elsewhere)]
        await asyncio.gather(*(store.write(f"{n}.txt", b"") for n, store in enumerate(stores)))
        assert len(await webhooks.list()) == 1
    finally:
        await other.close()


async def test_in_a_transaction_that_is_rolled_back_there_is_neither_file_nor_endpoint(
    cabinet: Cabinet, files: FileCatalog, webhooks: Webhooks
) -> None:
    with pytest.raises(ZeroDivisionError):
        async with cabinet.database.transaction() as transaction:
            store = WebHookFileStore(cabinet.files(transaction), URL)
            await store.write("a.txt", b"first")
            assert await store.read("a.txt") == b"first"
            raise ZeroDivisionError
    assert await webhooks.list() == []
    assert not await files.exists("a.txt")


async def test_a_store_without_transactions_is_refused(database: Database, user_id: str) -> None:
    for store in (MemoryFileStore(), FileCatalog(database, MemoryFileStore(), user_id)):
        for kind in (WebHookFileStore, BatchedWebHookFileStore):
            with pytest.raises(ConfigurationError, match=r"storage\.user\(…\)\.files"):
                kind(store, URL)


async def test_what_cannot_be_told_is_not_written(cabinet: Cabinet, locked_keyring: KeyRing) -> None:
    files = cabinet.files()
    for store, error in (
        (WebHookFileStore(files, "receiver"), InvalidInput),
        (WebHookFileStore(files, "https://10.0.0.1/"), EgressRefused),
        (WebHookFileStore(files, URL, headers={"Host": "a"}), InvalidInput),
        (WebHookFileStore(files, URL, secret="letmein"), InvalidInput),
        (BatchedWebHookFileStore(files, URL, batch_timeout_seconds=-1), InvalidInput),
        (WebHookFileStore(cabinet.files(keyring=locked_keyring), URL, headers={"A": "b"}), KeyMismatch),
    ):
        with pytest.raises(error):
            await store.write("a.txt", b"first")
        with pytest.raises(error):
            await store.delete("a.txt")
    assert not await files.exists("a.txt")
