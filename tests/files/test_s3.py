"""S3FileStore: the contract on two servers, and what only S3 can get wrong."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest

from storage.files.s3 import S3FileStore
from storage.testing.files import FileStoreContract
from tests.files.s3_buckets import empty_bucket
from tests.servers.moto import MotoServer
from tests.servers.seaweedfs import SeaweedServer


@pytest.fixture(scope="module")
def seaweed() -> Iterator[SeaweedServer]:
    with SeaweedServer() as server:
        yield server


class TestS3FileStoreOnSeaweedFS(FileStoreContract):
    signs_urls = True

    @pytest.fixture
    async def store(self, seaweed: SeaweedServer, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[S3FileStore]:
        with empty_bucket(seaweed.url, monkeypatch) as name:
            async with S3FileStore(name, endpoint_url=seaweed.url) as store:
                yield store


@pytest.fixture(scope="module")
def moto() -> Iterator[MotoServer]:
    with MotoServer() as server:
        yield server


class TestS3FileStoreOnMoto(FileStoreContract):
    signs_urls = True

    @pytest.fixture(params=[True], ids=["flat"])
    async def store(
        self, request: pytest.FixtureRequest, moto: MotoServer, monkeypatch: pytest.MonkeyPatch
    ) -> AsyncIterator[S3FileStore]:
        with empty_bucket(moto.url, monkeypatch) as name:
            async with S3FileStore(name, endpoint_url=moto.url, ordered_listing=request.param) as store:
                yield store
