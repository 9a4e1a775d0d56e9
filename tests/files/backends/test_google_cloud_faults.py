"""GoogleCloudFileStore behind a proxy that fails on order: what may pass is repeated, the rest is a typed error.

The emulator checks no credentials, so what a refusal of them looks like is the proxy's, not a server's.
"""

from __future__ import annotations

import asyncio
import gc
import itertools
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from storage.errors import (
    BucketNotFound,
    FileAccessDenied,
    FileChanged,
    FileExists,
    FileNotFound,
    FileStoreError,
    FileStoreFull,
    FileStoreThrottled,
    FileStoreUnavailable,
    StorageError,
)
from storage.files.backends.google_cloud import PART_BYTES, GoogleCloudFileStore
from storage.files.backends.retries import Retries
from storage.testing.files import pieces
from tests.servers.fake_gcs import FakeGcsServer
from tests.servers.faults import PASSING, Fault, FaultProxy, in_short

LARGE = bytes(range(256)) * 4096 * 9  # 9 MiB: two parts and a piece

QUICK = Retries(first_pause_s=0.01, longest_pause_s=0.1, give_up_s=10.0)
HASTY = Retries(first_pause_s=0.01, longest_pause_s=0.1, give_up_s=0.2)

# Google's client leaves the connection of a failed download to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.fixture(scope="module", autouse=True)
def _collected() -> Iterator[None]:
    """While the mark above still holds."""
    yield
    gc.collect()


_names = (f"faulty-{number}" for number in itertools.count(1))


@pytest.fixture
def proxy(fake_gcs_proxy: FaultProxy) -> FaultProxy:
    fake_gcs_proxy.inject()
    return fake_gcs_proxy


@pytest.fixture
def bucket(fake_gcs: FakeGcsServer) -> str:
    """An empty bucket of this test's own."""
    return fake_gcs.create_bucket(next(_names))


@pytest.fixture
async def store(proxy: FaultProxy, bucket: str) -> AsyncIterator[GoogleCloudFileStore]:
    async with GoogleCloudFileStore(bucket, endpoint_url=proxy.url, retries=QUICK) as store:
        yield store


@pytest.mark.parametrize("fault", PASSING, ids=str)
async def test_what_may_pass_is_repeated(store: GoogleCloudFileStore, proxy: FaultProxy, fault: Fault) -> None:
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
    await store.delete("folder")
    assert await store.list() == ["copy"]


# In one request only: of a part that it gets twice the emulator keeps both; Google's servers go by its range.
async def test_a_writer_whose_answer_was_lost_recognises_its_own_file(
    store: GoogleCloudFileStore, proxy: FaultProxy
) -> None:
    proxy.inject(Fault("lost", method="POST"))
    created = await store.write("file", b"content", if_absent=True)
    assert proxy.hits == 1
    proxy.inject(Fault("lost", method="POST"))
    replaced = await store.write("file", b"content!", if_match=created.etag)
    assert proxy.hits == 1
    assert await store.read("file") == b"content!"
    with pytest.raises(FileExists):
        await store.write("file", b"", if_absent=True)
    with pytest.raises(FileChanged):
        await store.write("file", b"", if_match=created.etag)
    assert (await store.stat("file")).etag == replaced.etag


async def test_a_large_streamed_write_carries_its_condition_and_tells_that_it_was_refused(
    store: GoogleCloudFileStore, proxy: FaultProxy
) -> None:
    first = await store.write("file", b"old")
    # The emulator keeps no condition of an upload in parts, so the refusal is the proxy's.
    proxy.inject(Fault("status", status=412, method="POST", query="uploadType=resumable&ifGenerationMatch=0"))
    with pytest.raises(FileExists):
        await store.write("file", pieces(LARGE), if_absent=True)
    assert proxy.hits == 1
    condition = f"uploadType=resumable&ifGenerationMatch={first.etag}"
    proxy.inject(Fault("status", status=412, method="POST", query=condition))
    with pytest.raises(FileChanged):
        await store.write("file", pieces(LARGE), if_match=first.etag)
    assert proxy.hits == 1
    # Google's servers look again when the last part is there.
    proxy.inject(Fault("status", status=412, method="PUT"))
    with pytest.raises(FileExists):
        await store.write("file", pieces(LARGE), if_absent=True)
    assert await store.read("file") == b"old"


async def test_a_slow_answer_is_waited_for(store: GoogleCloudFileStore, proxy: FaultProxy) -> None:
    await store.write("file", b"content")
    slow: list[Any] = [store.write("written", b""), store.read("file"), store.stat("file"), store.list()]
    proxy.inject(Fault("delay", delay_s=2.0, times=len(slow)))
    await asyncio.gather(*slow)
    assert proxy.hits == len(slow)


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        (Fault("status", status=404), FileNotFound),  # what comes next tells that the bucket is there
        (Fault("status", status=401, times=9), FileAccessDenied),
        (Fault("status", status=403, times=9), FileAccessDenied),
        (Fault("status", status=429, times=9999), FileStoreThrottled),
        (Fault("status", status=507, times=9), FileStoreFull),
        (Fault("status", status=400, times=9), FileStoreError),
        (Fault("status", status=503, times=9999), FileStoreUnavailable),
        (Fault("status", status=500, times=9999), FileStoreUnavailable),
        (Fault("lost", times=9999), FileStoreUnavailable),
    ],
    ids=in_short,
)
async def test_every_refusal_has_its_own_error_and_leaves_the_old_content(
    store: GoogleCloudFileStore, bucket: str, proxy: FaultProxy, fault: Fault, expected: type[StorageError]
) -> None:
    await store.write("file", b"old")
    async with GoogleCloudFileStore(bucket, endpoint_url=proxy.url, retries=HASTY) as refused:
        await refused.stat("file")  # now it knows that there is such a bucket
        proxy.inject(fault)
        asking: list[Any] = [refused.read("file"), refused.copy("file", "copy")]
        if expected is not FileNotFound:
            asking += [refused.stat("file"), refused.exists("file"), refused.list()]
            if fault.kind != "lost":
                asking += [refused.write("file", b"new"), refused.write("file", pieces(LARGE))]
        for each in asking:
            proxy.inject(fault)
            with pytest.raises(expected) as raised:
                await each
            assert type(raised.value) is expected
        proxy.inject()
    assert await store.read("file") == b"old"


async def test_a_bucket_that_is_gone_is_told_from_a_missing_file(proxy: FaultProxy) -> None:
    async with GoogleCloudFileStore("no-such-bucket", endpoint_url=proxy.url, retries=QUICK) as nowhere:
        for content in (b"", pieces(LARGE)):
            with pytest.raises(BucketNotFound):
                await nowhere.write("file", content)


async def test_a_source_that_fails_leaves_nothing(store: GoogleCloudFileStore) -> None:
    async def breaking() -> AsyncIterator[bytes]:
        yield LARGE
        yield bytes(PART_BYTES)
        raise RuntimeError("the source broke")

    with pytest.raises(RuntimeError, match="the source broke"):
        await store.write("broken", breaking())
    assert await store.list() == []


@pytest.mark.parametrize(("status", "expected"), [(500, FileStoreUnavailable), (401, FileAccessDenied)])
async def test_what_fails_while_a_missing_file_is_told_from_a_missing_bucket_has_its_own_error(
    bucket: str, proxy: FaultProxy, status: int, expected: type[StorageError]
) -> None:
    async with GoogleCloudFileStore(bucket, endpoint_url=proxy.url, retries=HASTY) as store:
        proxy.inject(Fault("status", status=404), Fault("status", status=status, times=9999))
        with pytest.raises(expected):
            await store.read("file")


async def test_a_bucket_that_was_deleted_since_is_no_missing_file(
    store: GoogleCloudFileStore, proxy: FaultProxy
) -> None:
    await store.exists("file")  # there is such a bucket
    proxy.inject(Fault("status", status=404, times=9))
    with pytest.raises(BucketNotFound):
        await store.list()


async def test_what_a_source_gave_before_it_broke_in_an_outage_never_becomes_the_file(
    store: GoogleCloudFileStore, proxy: FaultProxy
) -> None:
    await store.write("file", b"old")

    async def breaking() -> AsyncIterator[bytes]:
        yield LARGE
        proxy.inject(Fault("lost", method="DELETE", times=9999))
        raise RuntimeError("the source broke")

    with pytest.raises(RuntimeError, match="the source broke"):
        await store.write("file", breaking())
    assert proxy.hits
    proxy.inject()  # the outage is over
    gc.collect()  # Google's writer would end its upload, and so make a file, when it is collected
    assert proxy.requests == 0
    assert await store.read("file") == b"old"


async def test_nothing_is_asked_that_the_work_does_not_need(
    store: GoogleCloudFileStore, proxy: FaultProxy, bucket: str
) -> None:
    await store.write("file", b"content")
    assert await store.read("file") == b"content"
    await store.delete("file")
    await asyncio.sleep(0.3)  # Google's client would ask for the bucket in a thread of its own
    assert len(proxy.targets) >= 3
    assert [target for target in proxy.targets if f"/b/{bucket}/o" not in target] == []


async def test_a_writer_that_is_cancelled_while_the_upload_begins_ends_it(
    store: GoogleCloudFileStore, proxy: FaultProxy
) -> None:
    proxy.inject(
        Fault("delay", method="POST", query="uploadType=resumable", delay_s=0.5), Fault("delay", method="DELETE")
    )
    writing = asyncio.create_task(store.write("cancelled", pieces(LARGE)))
    while not proxy.hits:
        await asyncio.sleep(0.01)
    writing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await writing
    assert proxy.hits == 2  # the upload was begun, and then deleted
    assert not await store.exists("cancelled")
