"""The catalogue over a backend that fails: it shows what was acknowledged, and every file it shows can be read."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from storage.database.database import Database
from storage.errors import FileAccessDenied, FileStoreError, FileStoreThrottled, FileStoreUnavailable
from storage.files.backends.s3 import S3FileStore
from storage.files.catalog import FileCatalog
from storage.testing.files import pieces
from tests.files.backends.s3_buckets import QUICK, empty_bucket
from tests.servers.faults import PASSING, Fault, FaultProxy, in_short

LARGE = bytes(range(256)) * 4096 * 7  # 7 MiB: more than one part


@pytest.fixture
def proxy(seaweed_proxy: FaultProxy) -> FaultProxy:
    seaweed_proxy.inject()
    return seaweed_proxy


@pytest.fixture
async def files(
    database: Database, user_id: str, proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[FileCatalog]:
    with empty_bucket(proxy.url, monkeypatch) as name:
        async with S3FileStore(name, endpoint_url=proxy.url, retries=QUICK) as store:
            yield FileCatalog(database, store, user_id)


async def contents(files: FileCatalog) -> dict[str, bytes]:
    """Every file that is shown, read."""
    return {file.path: await files.read(file.path) async for file in files.walk()}


@pytest.mark.parametrize("fault", PASSING, ids=str)
async def test_what_may_pass_is_not_noticed(files: FileCatalog, proxy: FaultProxy, fault: Fault) -> None:
    proxy.inject(fault)
    await files.write("file", b"old")
    proxy.inject(fault)
    await files.write("file", b"new")
    proxy.inject(fault)
    await files.write("streamed", pieces(b"in ", b"pieces"))
    proxy.inject(fault)
    assert await files.read("file") == b"new"
    proxy.inject(fault)
    assert b"".join([chunk async for chunk in files.stream("streamed", 3)]) == b"pieces"
    proxy.inject(fault)
    await files.copy("file", "copy")
    await files.delete("file")
    assert await contents(files) == {"copy": b"new", "streamed": b"in pieces"}


async def test_a_large_file_gets_over_a_failure_of_each_of_its_requests(files: FileCatalog, proxy: FaultProxy) -> None:
    proxy.inject(
        Fault("lost", method="POST", query="uploads"),
        Fault("cut request", method="PUT", query="partNumber=1"),
        Fault("status", status=503, code="SlowDown", method="PUT", query="partNumber=2", times=2),
        Fault("cut answer", method="GET"),
    )
    await files.write("large", pieces(LARGE))
    assert await files.read("large") == LARGE
    assert proxy.hits == 5
    assert await files.list() == ["large"]


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        (Fault("status", status=403, code="AccessDenied", times=1000), FileAccessDenied),
        (Fault("status", status=500, times=1000), FileStoreUnavailable),
        (Fault("status", status=503, code="SlowDown", times=1000), FileStoreThrottled),
        (Fault("lost", times=1000), FileStoreUnavailable),
        (Fault("cut request", times=1000), FileStoreUnavailable),
    ],
    ids=in_short,
)
async def test_a_write_that_fails_for_good_changes_nothing_that_is_shown(
    files: FileCatalog, proxy: FaultProxy, fault: Fault, expected: type[FileStoreError]
) -> None:
    await files.write("file", b"old")
    proxy.inject(fault)
    outcomes = await asyncio.gather(
        files.write("file", b"new"),
        files.write("another", b"new"),
        files.write("streamed", pieces(LARGE)),
        files.read("file"),
        return_exceptions=True,
    )
    assert {type(outcome) for outcome in outcomes} == {expected}, outcomes
    # What is known of the files is in the database, and still there.
    assert await files.list() == ["file"]
    assert (await files.stat("file")).size == 3
    proxy.inject()
    assert await contents(files) == {"file": b"old"}
    await files.write("file", b"new")
    assert await contents(files) == {"file": b"new"}


async def test_a_slow_answer_is_waited_for(files: FileCatalog, proxy: FaultProxy) -> None:
    await files.write("file", b"old")
    proxy.inject(Fault("delay", delay_s=2.0, times=3))
    _, _, seen = await asyncio.gather(files.write("file", b"new"), files.write("other", b"new"), files.read("file"))
    assert proxy.hits == 3
    assert seen in (b"old", b"new")
    assert await contents(files) == {"file": b"new", "other": b"new"}
