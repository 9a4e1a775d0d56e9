"""GoogleCloudFileStore: the contract on the emulator, and what only Google Cloud can get wrong."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Iterator

import pytest
from google.auth.credentials import AnonymousCredentials
from google.cloud import storage as google_storage

from storage.errors import BucketNotFound, ConfigurationError, FileStoreUnavailable, StorageClosed
from storage.files import google_cloud
from storage.files.google_cloud import GoogleCloudFileStore
from storage.testing.files import FileStoreContract
from tests.servers.fake_gcs import FakeGcsServer
from tests.servers.supervised import free_ports

_names = (f"bucket-{number}" for number in itertools.count(1))


@pytest.fixture(scope="module")
def server() -> Iterator[FakeGcsServer]:
    with FakeGcsServer() as server:
        yield server


@pytest.fixture
def bucket(server: FakeGcsServer) -> str:
    """An empty bucket of this test's own."""
    name = next(_names)
    client = google_storage.Client(
        project="tests",
        credentials=AnonymousCredentials(),  # type: ignore[no-untyped-call]
        client_options={"api_endpoint": server.url},
    )
    client.create_bucket(name)
    client.close()
    return name


class TestGoogleCloudFileStore(FileStoreContract):
    @pytest.fixture
    async def store(self, server: FakeGcsServer, bucket: str) -> AsyncIterator[GoogleCloudFileStore]:
        async with GoogleCloudFileStore(bucket, endpoint_url=server.url) as store:
            yield store


async def test_a_missing_bucket_is_not_a_missing_file(server: FakeGcsServer) -> None:
    async with GoogleCloudFileStore("no-such-bucket", endpoint_url=server.url) as store:
        for asking in (store.read, store.stat, store.exists, store.delete):
            with pytest.raises(BucketNotFound, match="no-such-bucket"):
                await asking("file")


async def test_an_outage_is_not_a_missing_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(google_cloud, "RETRY_TIMEOUT_S", 0.5)
    [port] = free_ports(1)
    async with GoogleCloudFileStore("bucket", endpoint_url=f"http://127.0.0.1:{port}") as store:
        for asking in (store.read, store.stat, store.exists, store.delete, store.list):
            with pytest.raises(FileStoreUnavailable):
                await asking("file")


async def test_two_prefixes_of_one_bucket_are_two_stores(server: FakeGcsServer, bucket: str) -> None:
    async with (
        GoogleCloudFileStore(f"gs://{bucket}/one", endpoint_url=server.url) as one,
        GoogleCloudFileStore(f"{bucket}/two/", endpoint_url=server.url) as two,
    ):
        await one.write("file", b"1")
        assert await two.list() == []
        assert await one.list() == ["file"]
        assert one.location == f"gs://{bucket}/one/"


async def test_a_closed_store_says_so(server: FakeGcsServer, bucket: str) -> None:
    store = GoogleCloudFileStore(bucket, endpoint_url=server.url)
    await store.close()
    with pytest.raises(StorageClosed):
        await store.read("file")


def test_a_bucket_must_be_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GOOGLE_CLOUD_BUCKET_NAME", raising=False)
    with pytest.raises(ConfigurationError, match="GOOGLE_CLOUD_BUCKET_NAME"):
        GoogleCloudFileStore()
    monkeypatch.setenv("GOOGLE_CLOUD_BUCKET_NAME", "from-the-environment")
    assert GoogleCloudFileStore().location == "gs://from-the-environment/"
