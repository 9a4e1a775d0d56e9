"""GoogleCloudFileStore: the contract on the emulator, and what only Google Cloud can get wrong."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from google.auth.credentials import AnonymousCredentials
from google.cloud import storage as google_storage

from storage.errors import BucketNotFound, ConfigurationError, FileStoreUnavailable, StorageClosed
from storage.files.backends.google_cloud import GoogleCloudFileStore
from storage.files.backends.retries import Retries
from storage.files.store import FileStore
from storage.testing.files import FileStoreContract
from tests.servers.fake_gcs import FakeGcsServer
from tests.servers.supervised import free_ports

_names = (f"bucket-{number}" for number in itertools.count(1))


@pytest.fixture(scope="module")
def client(fake_gcs: FakeGcsServer) -> Iterator[Any]:
    """Google's own client: what other programs do with a bucket."""
    client = google_storage.Client(
        project="tests",
        credentials=AnonymousCredentials(),  # type: ignore[no-untyped-call]
        client_options={"api_endpoint": fake_gcs.url},
    )
    yield client
    client.close()


@pytest.fixture
def bucket(client: Any) -> str:
    """An empty bucket of this test's own."""
    name = next(_names)
    client.create_bucket(name)
    return name


class TestGoogleCloudFileStore(FileStoreContract):
    many_files = 1_100

    @pytest.fixture
    async def store(self, fake_gcs: FakeGcsServer, bucket: str) -> AsyncIterator[GoogleCloudFileStore]:
        async with GoogleCloudFileStore(bucket, endpoint_url=fake_gcs.url) as store:
            yield store

    @pytest.mark.slow  # Google's client takes 3 ms of CPU time for a request
    async def test_many_files_are_listed_walked_and_deleted(self, store: FileStore) -> None:
        await super().test_many_files_are_listed_walked_and_deleted(store)

    @pytest.mark.skip(reason="the emulator keeps no condition of an upload in parts; see test_google_cloud_faults")
    async def test_conditions_hold_for_a_large_streamed_content_too(self, store: FileStore) -> None:
        """Version 1.54 forgets it; mended in fsouza/fake-gcs-server#2260."""

    @pytest.mark.slow
    async def test_a_large_file_streams_in_bounded_memory(self, store: FileStore) -> None:
        await super().test_a_large_file_streams_in_bounded_memory(store)


# ---- what others put into the bucket


async def test_names_that_break_the_path_rule_do_not_break_a_listing(
    fake_gcs: FakeGcsServer, client: Any, bucket: str
) -> None:
    foreign = ["a//b", "a/../b", "a/./b", "a/", "/", "a/\x01b", "a/b\\c", "a/\ufffe", "x" * 300]
    for name in ["a/file", "a/&<b", "a+b c%20", *foreign]:
        client.bucket(bucket).blob(name).upload_from_string(b"content")
    async with GoogleCloudFileStore(bucket, endpoint_url=fake_gcs.url) as store:
        assert [file.path async for file in store.walk()] == ["a+b c%20", "a/&<b", "a/file"]
        assert await store.list() == ["a+b c%20", "a/"]
        assert await store.list("a") == ["a/&<b", "a/file"]
        assert await store.read("a+b c%20") == b"content"


async def test_deleting_a_folder_takes_foreign_names_below_it_along(
    fake_gcs: FakeGcsServer, client: Any, bucket: str
) -> None:
    for name in ("a/file", "a//b", "a/../b", "a/", "a/\x01b", "ab//c", "a"):
        client.bucket(bucket).blob(name).upload_from_string(b"")
    async with GoogleCloudFileStore(bucket, endpoint_url=fake_gcs.url) as store:
        assert await store.delete("a") == 2
    assert [blob.name for blob in client.list_blobs(bucket)] == ["ab//c"]


# ---- where


async def test_a_missing_bucket_is_not_a_missing_file(fake_gcs: FakeGcsServer) -> None:
    async with GoogleCloudFileStore("no-such-bucket", endpoint_url=fake_gcs.url) as store:
        for asking in (store.read, store.stat, store.exists, store.delete, store.list):
            with pytest.raises(BucketNotFound, match="no-such-bucket"):
                await asking("file")
        with pytest.raises(BucketNotFound):
            await store.write("file", b"")


async def test_an_outage_is_not_a_missing_file() -> None:
    [port] = free_ports(1)
    quick = Retries(first_pause_s=0.01, give_up_s=0.1)
    async with GoogleCloudFileStore("bucket", endpoint_url=f"http://127.0.0.1:{port}", retries=quick) as store:
        for asking in (store.read, store.stat, store.exists, store.delete, store.list):
            with pytest.raises(FileStoreUnavailable):
                await asking("file")


async def test_two_prefixes_of_one_bucket_are_two_stores(fake_gcs: FakeGcsServer, bucket: str) -> None:
    async with (
        GoogleCloudFileStore(f"gs://{bucket}/one", endpoint_url=fake_gcs.url) as one,
        GoogleCloudFileStore(f"{bucket}/two/", endpoint_url=fake_gcs.url) as two,
    ):
        await one.write("file", b"1")
        assert await two.list() == []
        assert await one.list() == ["file"]
        assert one.location == f"gs://{bucket}/one/"


async def test_a_closed_store_says_so(fake_gcs: FakeGcsServer, bucket: str) -> None:
    store = GoogleCloudFileStore(bucket, endpoint_url=fake_gcs.url)
    await store.close()
    with pytest.raises(StorageClosed):
        await store.read("file")


def test_a_bucket_must_be_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GOOGLE_CLOUD_BUCKET_NAME", raising=False)
    with pytest.raises(ConfigurationError, match="GOOGLE_CLOUD_BUCKET_NAME"):
        GoogleCloudFileStore()
    monkeypatch.setenv("GOOGLE_CLOUD_BUCKET_NAME", "from-the-environment")
    assert GoogleCloudFileStore().location == "gs://from-the-environment/"
