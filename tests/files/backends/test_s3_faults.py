"""S3FileStore behind a proxy that fails on order: what may pass is repeated, and the rest is a typed error."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from storage.errors import (
    BucketNotFound,
    ConfigurationError,
    FileAccessDenied,
    FileChanged,
    FileExists,
    FileNotFound,
    FileStoreError,
    FileStoreFull,
    FileStoreThrottled,
    FileStoreUnavailable,
    InvalidInput,
    StorageClosed,
    StorageError,
)
from storage.files.backends.retries import Retries
from storage.files.backends.s3 import S3FileStore
from storage.files.backends.s3_upload import PART_BYTES, _ending
from storage.testing.files import pieces
from tests.files.backends.s3_buckets import BUCKET, QUICK, client, empty_bucket
from tests.servers.faults import PASSING, Fault, FaultProxy, in_short
from tests.servers.seaweedfs import READER_ACCESS_KEY
from tests.servers.supervised import free_ports

LARGE = bytes(range(256)) * 4096 * 7  # 7 MiB: more than one part


@pytest.fixture
def proxy(seaweed_proxy: FaultProxy) -> FaultProxy:
    seaweed_proxy.inject()
    return seaweed_proxy


@pytest.fixture
async def store(proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[S3FileStore]:
    with empty_bucket(proxy.url, monkeypatch) as name:
        async with S3FileStore(name, endpoint_url=proxy.url, retries=QUICK) as store:
            yield store


@pytest.mark.parametrize("fault", PASSING, ids=str)
async def test_what_may_pass_is_repeated(store: S3FileStore, proxy: FaultProxy, fault: Fault) -> None:
    for content, streamed in ((b"small", False), (LARGE, True)):
        proxy.inject(fault)
        await store.write("folder/file", pieces(content[:9], content[9:]) if streamed else content)
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


async def test_a_slow_answer_is_waited_for(store: S3FileStore, proxy: FaultProxy) -> None:
    for path in ("read", "streamed", "copied", "deleted"):
        await store.write(path, path)
    slow: list[Any] = [
        store.write("written", b"content"),
        store.write("in parts", pieces(LARGE)),
        store.read("read"),
        store.stat("streamed"),
        store.list(),
        store.copy("copied", "copy"),
        store.delete("deleted"),
    ]
    proxy.inject(Fault("delay", delay_s=2.0, times=len(slow)))  # the first request of each
    await asyncio.gather(*slow)
    assert proxy.hits == len(slow)
    assert [file.path async for file in store.walk()] == ["copied", "copy", "in parts", "read", "streamed", "written"]
    assert await store.read("in parts") == LARGE


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        (Fault("status", status=500, times=1000), FileStoreUnavailable),
        (Fault("status", status=503, code="SlowDown", times=1000), FileStoreThrottled),
        (Fault("lost", times=1000), FileStoreUnavailable),
        (Fault("cut request", times=1000), FileStoreUnavailable),
    ],
    ids=in_short,
)
async def test_what_does_not_pass_is_an_outage_and_leaves_the_old_content(
    store: S3FileStore, proxy: FaultProxy, fault: Fault, expected: type[Exception]
) -> None:
    await store.write("file", b"old")
    proxy.inject(fault)
    asking: list[Any] = [store.list(), store.read("file"), store.stat("file"), store.exists("file")]
    asking += [store.copy("file", "copy"), store.delete("other")]
    asking += [] if fault.kind == "lost" else [store.write("file", b"new"), store.write("file", pieces(LARGE))]
    outcomes = await asyncio.gather(*asking, return_exceptions=True)
    assert {type(outcome) for outcome in outcomes} == {expected}, outcomes
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


async def until_hit(proxy: FaultProxy) -> None:
    while not proxy.hits:
        await asyncio.sleep(0.01)


@pytest.mark.parametrize("when", [{"method": "POST", "query": "uploads"}, {"method": "PUT"}], ids=["begin", "part"])
async def test_a_writer_that_is_cancelled_twice_leaves_no_upload(
    store: S3FileStore, proxy: FaultProxy, when: dict[str, str]
) -> None:
    proxy.inject(Fault("delay", delay_s=0.5, times=2, **when))  # type: ignore[arg-type]
    writing = asyncio.create_task(store.write("cancelled", pieces(LARGE, LARGE)))
    await until_hit(proxy)
    await asyncio.sleep(0.1)  # the server has begun
    writing.cancel()
    await asyncio.sleep(0)
    writing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await writing
    for _ in range(100):
        if not _ending:
            break
        await asyncio.sleep(0.05)
    await asyncio.sleep(0.5)  # what the proxy delays comes later than what was sent after it
    assert "cancelled" not in uploads(proxy)


async def test_an_upload_whose_last_answer_was_lost_is_recognised_without_a_condition(
    store: S3FileStore, proxy: FaultProxy
) -> None:
    proxy.inject(Fault("lost", method="POST", query="uploadId"))
    written = await store.write("file", pieces(LARGE))
    assert proxy.hits == 1
    found = await store.stat("file")
    assert (written.size, written.etag) == (len(LARGE), found.etag)
    # SeaweedFS completes twice; others no longer know the upload, as the second fault has it.
    proxy.inject(
        Fault("lost", method="POST", query="uploadId"),
        Fault("status", status=404, code="NoSuchUpload", method="POST", query="uploadId"),
    )
    written = await store.write("file", pieces(LARGE + b"!"))
    assert proxy.hits == 2
    assert (written.size, written.etag) == (len(LARGE) + 1, (await store.stat("file")).etag)


async def test_an_upload_that_somebody_else_ended_is_no_missing_file(store: S3FileStore, proxy: FaultProxy) -> None:
    proxy.inject(Fault("status", status=404, code="NoSuchUpload", query="partNumber=2"))
    with pytest.raises(FileStoreUnavailable, match="ended"):
        await store.write("file", pieces(LARGE))
    assert not await store.exists("file")


# ---- refusals that do not pass, told apart


async def test_a_conflict_without_a_condition_is_not_called_a_failed_condition(
    store: S3FileStore, proxy: FaultProxy
) -> None:
    await store.write("file", b"old")
    asking: list[Any] = [store.write("file", b""), store.copy("file", "copy"), store.delete("file"), store.list()]
    for each in asking:
        proxy.inject(Fault("status", status=409, code="OperationAborted", times=9))
        with pytest.raises(FileStoreError, match="409") as raised:
            await each
        assert type(raised.value) is FileStoreError


async def test_an_answer_that_is_not_from_s3_is_not_a_missing_file(store: S3FileStore, proxy: FaultProxy) -> None:
    await store.write("file", b"content")
    async with S3FileStore(BUCKET, endpoint_url=proxy.url, retries=QUICK) as other:
        asking: list[Any] = [other.read("file"), anext(other.stream("file")), other.list(), other.exists("file")]
        for each in asking:
            proxy.inject(Fault("status", status=404, code="", times=9))
            with pytest.raises((FileStoreUnavailable, BucketNotFound)):
                await each


async def test_without_credentials_access_is_denied_by_every_method(
    store: S3FileStore, proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
        monkeypatch.setenv(name, "/nonexistent")
    async with S3FileStore(BUCKET, endpoint_url=proxy.url, retries=QUICK) as nobody:
        asking: list[Any] = [nobody.write("file", b""), nobody.read("file"), nobody.stat("file"), nobody.list()]
        asking += [nobody.write("file", pieces(LARGE)), nobody.signed_url("file")]
        for each in asking:
            with pytest.raises(FileAccessDenied, match="credentials"):
                await each


@pytest.mark.parametrize("url", ["http://user:secret@host", "http://:secret@host", "http://@host"])
def test_an_endpoint_with_credentials_is_refused_without_repeating_them(url: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        S3FileStore(BUCKET, endpoint_url=url, region="r")
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        (Fault("status", status=404, code="NoSuchKey", times=9), FileNotFound),
        (Fault("status", status=404, code="NoSuchBucket", times=9), BucketNotFound),
        (Fault("status", status=403, code="AccessDenied", times=9), FileAccessDenied),
        (Fault("status", status=429, code="TooManyRequests", times=99), FileStoreThrottled),
        (Fault("status", status=503, code="SlowDown", times=99), FileStoreThrottled),
        (Fault("status", status=507, code="InsufficientStorage", times=99), FileStoreFull),
        (Fault("status", status=500, times=99), FileStoreUnavailable),
        (Fault("lost", times=99), FileStoreUnavailable),
    ],
    ids=in_short,
)
async def test_every_refusal_has_its_own_error(
    store: S3FileStore, proxy: FaultProxy, fault: Fault, expected: type[StorageError]
) -> None:
    proxy.inject(fault)
    with pytest.raises(expected) as read:
        await store.read("file")
    assert type(read.value) is expected
    if expected is not FileNotFound:
        proxy.inject(fault)
        with pytest.raises(expected) as listed:
            await store.list()
        assert type(listed.value) is expected


async def test_a_missing_bucket_is_not_a_missing_file(proxy: FaultProxy, store: S3FileStore) -> None:
    async with S3FileStore("no-such-bucket", endpoint_url=proxy.url, retries=QUICK) as nowhere:
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


async def test_an_endpoint_that_nobody_serves_is_an_outage(store: S3FileStore) -> None:
    [port] = free_ports(1)
    async with S3FileStore(BUCKET, endpoint_url=f"http://127.0.0.1:{port}", retries=QUICK) as unreachable:
        for asking in (unreachable.read, unreachable.exists, unreachable.list):
            with pytest.raises(FileStoreUnavailable):
                await asking("file")


async def test_what_is_under_way_when_the_store_is_closed_is_told_so(store: S3FileStore, proxy: FaultProxy) -> None:
    await store.list()
    proxy.inject(Fault("delay", delay_s=0.3))
    listing = asyncio.create_task(store.list())
    await until_hit(proxy)
    await store.close()
    with pytest.raises(StorageClosed):
        await listing


async def test_without_retries_the_first_failure_is_reported(
    store: S3FileStore, proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    await store.write("file", b"")
    async with S3FileStore(BUCKET, endpoint_url=proxy.url, retries=Retries(attempts=1)) as impatient:
        for asking in (impatient.read, impatient.list):
            proxy.inject(Fault("status", status=500, times=99))
            with pytest.raises(FileStoreUnavailable):
                await asking("file")
            assert proxy.hits == 1


def test_impossible_retries_are_refused() -> None:
    for arguments in ({"attempts": 0}, {"first_pause_s": -1.0}, {"give_up_s": -1.0}):
        with pytest.raises(InvalidInput):
            Retries(**arguments)
