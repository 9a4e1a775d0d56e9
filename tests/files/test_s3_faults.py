"""S3FileStore behind a proxy that fails on order: what may pass is repeated, and the rest is a typed error."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from storage.database.database import Database
from storage.errors import (
    BucketNotFound,
    FileAccessDenied,
    FileChanged,
    FileExists,
    FileStoreThrottled,
    FileStoreUnavailable,
)
from storage.files.catalog import FileCatalog
from storage.files.s3 import PART_BYTES, S3FileStore
from storage.testing.files import pieces
from tests.files.s3_buckets import BUCKET, client, empty_bucket
from tests.servers.faults import Fault, FaultProxy
from tests.servers.seaweedfs import READER_ACCESS_KEY, SeaweedServer
from tests.servers.supervised import free_ports

LARGE = bytes(range(256)) * 4096 * 7  # 7 MiB: more than one part


@pytest.fixture(scope="module")
def proxy() -> Iterator[FaultProxy]:
    with SeaweedServer() as server, FaultProxy(server.url) as proxy:
        yield proxy


@pytest.fixture
async def store(proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[S3FileStore]:
    proxy.inject()
    with empty_bucket(proxy.url, monkeypatch) as name:
        async with S3FileStore(name, endpoint_url=proxy.url) as store:
            yield store


PASSING = [
    Fault("status", status=500, times=2),
    Fault("status", status=503, code="SlowDown", times=2),
    Fault("lost", times=1),
    Fault("cut answer", times=1),
    Fault("cut request", times=1),
    pytest.param(Fault("delay", delay_s=2.0), marks=pytest.mark.slow),
]
kinds = pytest.mark.parametrize("fault", PASSING, ids=lambda fault: f"{fault.kind} {fault.status}")


@kinds
async def test_what_may_pass_is_repeated(store: S3FileStore, proxy: FaultProxy, fault: Fault) -> None:
    for content in (b"small", LARGE):
        for writing in ({}, {"streamed": True}):
            proxy.inject(fault)
            await store.write("folder/file", pieces(content[:9], content[9:]) if writing else content)
            assert proxy.hits
            proxy.inject(fault)
            assert await store.read("folder/file") == content
            proxy.inject(fault)
            assert b"".join([chunk async for chunk in store.stream("folder/file", 2)]) == content[2:]
    for reading in (store.stat, store.exists):
        proxy.inject(fault)
        assert await reading("folder/file")
    proxy.inject(fault)
    assert await store.list("folder") == ["folder/file"]
    proxy.inject(fault)
    assert [file.path async for file in store.walk()] == ["folder/file"]
    proxy.inject(fault)
    assert (await store.copy("folder/file", "copy")).size == len(LARGE)
    proxy.inject(fault)
    assert await store.delete("folder") == 1
    assert await store.list() == ["copy"]


@pytest.mark.parametrize("content", [b"small", LARGE], ids=["one request", "parts"])
async def test_a_writer_whose_answer_was_lost_recognises_its_own_file(
    store: S3FileStore, proxy: FaultProxy, content: bytes
) -> None:
    decisive = {"method": "PUT"} if content == b"small" else {"method": "POST", "query": "uploadId"}
    proxy.inject(Fault("lost", **decisive))  # type: ignore[arg-type]
    created = await store.write("file", pieces(content), if_absent=True)
    assert proxy.hits == 1
    proxy.inject(Fault("lost", **decisive))  # type: ignore[arg-type]
    replaced = await store.write("file", pieces(content + b"!"), if_match=created.etag)
    assert proxy.hits == 1
    assert await store.read("file") == content + b"!"
    with pytest.raises(FileExists):
        await store.write("file", b"", if_absent=True)
    with pytest.raises(FileChanged):
        await store.write("file", b"", if_match=created.etag)
    assert (await store.stat("file")).etag == replaced.etag


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        (Fault("status", status=500, times=1000), FileStoreUnavailable),
        (Fault("status", status=503, code="SlowDown", times=1000), FileStoreThrottled),
        (Fault("lost", times=1000), FileStoreUnavailable),
        (Fault("cut request", times=1000), FileStoreUnavailable),
    ],
    ids=["500", "503", "lost", "cut request"],
)
async def test_what_does_not_pass_is_an_outage_and_leaves_the_old_content(
    store: S3FileStore, proxy: FaultProxy, fault: Fault, expected: type[Exception]
) -> None:
    await store.write("file", b"old")
    proxy.inject(fault)
    with pytest.raises(expected):
        await store.list()
    with pytest.raises(expected):
        await store.read("file")
    if fault.kind != "lost":
        with pytest.raises(expected):
            await store.write("file", b"new")
        proxy.inject()
        assert await store.read("file") == b"old"


def uploads(proxy: FaultProxy) -> list[str]:
    """The keys of uploads that are neither complete nor aborted."""
    return [each["Key"] for each in client(proxy.url).list_multipart_uploads(Bucket=BUCKET).get("Uploads", [])]


async def test_a_part_that_fails_for_good_leaves_no_upload_and_the_old_content(
    store: S3FileStore, proxy: FaultProxy
) -> None:
    await store.write("refused", b"old")
    proxy.inject(Fault("status", status=403, code="AccessDenied", query="partNumber=2"))
    with pytest.raises(FileAccessDenied):
        await store.write("refused", pieces(LARGE, LARGE))
    assert await store.read("refused") == b"old"
    assert "refused" not in uploads(proxy)


async def test_a_source_that_fails_leaves_no_upload(store: S3FileStore, proxy: FaultProxy) -> None:
    async def breaking() -> AsyncIterator[bytes]:
        yield LARGE
        yield bytes(PART_BYTES)
        raise RuntimeError("the source broke")

    with pytest.raises(RuntimeError, match="the source broke"):
        await store.write("broken", breaking())
    assert not await store.exists("broken")
    assert "broken" not in uploads(proxy)


# ---- refusals that do not pass, told apart


async def test_a_missing_bucket_is_not_a_missing_file(proxy: FaultProxy, store: S3FileStore) -> None:
    async with S3FileStore("no-such-bucket", endpoint_url=proxy.url) as nowhere:
        for asking in (nowhere.read, nowhere.stat, nowhere.exists, nowhere.list, nowhere.delete):
            with pytest.raises(BucketNotFound, match="no-such-bucket"):
                await asking("file")
        for content in (b"", pieces(LARGE)):
            with pytest.raises(BucketNotFound):
                await nowhere.write("file", content)


@pytest.mark.parametrize(
    "environment", [{"AWS_SECRET_ACCESS_KEY": "wrong"}, {"AWS_ACCESS_KEY_ID": "nobody"}], ids=["secret", "key"]
)
async def test_wrong_credentials_are_no_outage(
    proxy: FaultProxy, store: S3FileStore, monkeypatch: pytest.MonkeyPatch, environment: dict[str, str]
) -> None:
    await store.write("file", b"")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    async with S3FileStore(BUCKET, endpoint_url=proxy.url) as refused:
        for asking in (refused.read, refused.stat, refused.exists, refused.list, refused.delete):
            with pytest.raises(FileAccessDenied):
                await asking("file")


async def test_who_may_only_read_is_refused_a_write(
    proxy: FaultProxy, store: S3FileStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    await store.write("file", b"content")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", READER_ACCESS_KEY)
    async with S3FileStore(BUCKET, endpoint_url=proxy.url) as reader:
        assert await reader.read("file") == b"content"
        contents: list[Any] = [b"", pieces(LARGE)]
        for content in contents:
            with pytest.raises(FileAccessDenied):
                await reader.write("file", content)
        with pytest.raises(FileAccessDenied):
            await reader.delete("file")
    assert await store.read("file") == b"content"


@pytest.mark.slow
async def test_an_endpoint_that_nobody_serves_is_an_outage(store: S3FileStore) -> None:
    [port] = free_ports(1)
    async with S3FileStore(BUCKET, endpoint_url=f"http://127.0.0.1:{port}") as unreachable:
        for asking in (unreachable.read, unreachable.exists, unreachable.list):
            with pytest.raises(FileStoreUnavailable):
                await asking("file")


# ---- the catalogue over it


async def test_the_catalogue_stays_true_when_the_backend_fails(
    database: Database, user_id: str, store: S3FileStore, proxy: FaultProxy
) -> None:
    files = FileCatalog(database, store, user_id)
    await files.write("file", b"old")
    proxy.inject(Fault("status", status=403, code="AccessDenied", method="PUT", times=2))
    with pytest.raises(FileAccessDenied):
        await files.write("file", b"new")
    with pytest.raises(FileAccessDenied):
        await files.write("another", b"new")
    proxy.inject(Fault("lost", method="PUT"), Fault("cut answer", method="GET"))
    assert await files.read("file") == b"old"
    assert await files.list() == ["file"]
    await files.write("file", b"new")
    assert proxy.hits == 2
    assert await files.read("file") == b"new"
